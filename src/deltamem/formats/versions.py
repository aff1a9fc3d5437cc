"""Files of older versions: a format is a chain of upgrades, each from one version to the next.

A new version of a format is one more function at the end of its chain, and a recorded file of that version in
``tests/recorded``. Nothing else asks what version a file has.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Upgrade = Callable[[dict[str, Any], dict[str, Tensor]], None]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        name: what a file calls it.
        upgrades: the first makes a file of version 1 one of version 2, the next that one of version 3, and so on. Each
            changes the file's description and its tensors in place. What an adapter's fingerprint covers must stay.
    """

    name: str
    upgrades: tuple[Upgrade, ...] = ()

    @property
    def version(self) -> int:
        """What is written."""
        return len(self.upgrades) + 1

    @property
    def label(self) -> dict[str, Any]:
        """What a file says of its format."""
        return {"format": self.name, "format_version": self.version}

    def check(self, description: dict[str, Any]) -> None:
        """Refuses a file of another format, or of a newer version.

        Raises:
            ValueError: this is one; the message continues from the file's name.
        """
        if description.get("format") != self.name:
            raise ValueError(f"is not a {self.name} file: its format is {description.get('format')!r}.")
        version = description.get("format_version")
        if type(version) is not int or version < 1:
            raise ValueError(f"is damaged: its format version is {version!r}.")
        if version > self.version:
            raise ValueError(
                f"has format version {version}, and this deltamem reads versions up to {self.version}. Update deltamem."
            )

    def upgrade(self, description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Makes a file that :meth:`check` takes one of the current version, in place."""
        for change in self.upgrades[description["format_version"] - 1 :]:
            change(description, tensors)
        description["format_version"] = self.version
