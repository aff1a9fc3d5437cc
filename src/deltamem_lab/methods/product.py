"""A memory product as a method: it takes in the history, and the prompt shows what it finds for the question."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Ask, Document, Entry, as_messages
from deltamem_lab.methods.base import BackboneMethod, MethodOptions, Size
from deltamem_lab.methods.fitting import chunks
from deltamem_lab.methods.registry import method
from deltamem_lab.products import Product, describe_product, load_product, searched

# Of a passage that is added at a time.
_CHARACTERS = 2000


@method("product", "memory product", "excerpt", on_demand=True)
class ProductMethod(BackboneMethod):
    """The bare backbone with what a product finds: it gets the history turn by turn, each item as a user of its own.

    Args:
        about: what the product is, for the run.
    """

    # What else a product keeps is not told.
    keeps_text = True

    def __init__(
        self, name: str, backbone: Backbone, product: Product, options: MethodOptions | None = None, about: str = ""
    ) -> None:
        super().__init__(name, backbone)
        self.product = product
        self.most = (options or MethodOptions()).turns
        self._about = about
        self._user = ""
        self._users = 0

    @classmethod
    def build(cls, name: str, backbone: Backbone, adapter: str, options: MethodOptions, **arguments: Any) -> Self:
        """With the product that was chosen."""
        if reason := cls.lacks(backbone, options):
            raise ValueError(f"The method {name} {reason}.")
        return cls(name, backbone, load_product(options.product), options, describe_product(options.product))

    @classmethod
    def lacks(cls, backbone: Backbone, options: MethodOptions) -> str:
        """The product, where none was named."""
        return "" if options.product else "needs --product, as module:function or a file with mem0's configuration"

    def forget(self) -> None:
        """Goes on as another user; what the last one said is deleted, if the product can."""
        delete = getattr(self.product, "delete_all", None)
        if self._user and callable(delete):
            delete(user_id=self._user)
        self._users += 1
        self._user = f"deltamem-{self._seed}-{self._users}"

    def keep(self, history: Sequence[Entry]) -> int:
        """Adds it, a turn or passage at a time; what models the product asks is its own business."""
        for unit in chunks(history, _CHARACTERS):
            self.product.add(as_messages(unit), user_id=self._user)
        return 0

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """What it finds, best first."""
        found = [searched(self.product, ask.question.text, self._user, self.most) for ask in asks]
        return [([Document(text) for text in texts], {"found": len(texts)}) for texts in found]

    def estimate(self, size: Size) -> tuple[int, int]:
        """Some memories and the question are read."""
        return 0, size.with_found(self.most, _CHARACTERS)

    @property
    def fingerprint(self) -> str:
        """Of the product's name or configuration."""
        return hashlib.sha256(self._about.encode()).hexdigest() if self._about else ""
