"""What was trained for a method as a folder: weights, and a description of them that names their backbone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from deltamem.files import from_json, write_atomically, write_json
from deltamem.version import __version__
from deltamem_lab.methods.bare import backbone_fingerprint


@dataclass(frozen=True)
class DescriptionFile:
    """The JSON file that describes ``what``, in fields of its own too. Written last, so that half a folder is none."""

    what: str
    name: str
    format: str
    version: int
    fields: tuple[str, ...]

    def write(self, folder: Path, model: nn.Module, base: str, **fields: Any) -> None:
        """Describes weights for the backbone ``model``, whose Hub id or folder is ``base``, if it has one."""
        kind = {"format": self.format, "format_version": self.version, "deltamem_version": __version__}
        backbone = {"base_model": base or None, "backbone": backbone_fingerprint(model)}
        write_json(folder / self.name, {**kind, **backbone, **fields})

    def read(self, folder: Path, model: Any) -> dict[str, Any]:
        """The description; on a model without weights, so that a run can be planned, the backbone is not compared.

        Raises:
            ValueError: the file is missing or damaged, or the weights belong to another backbone.
        """
        path = folder / self.name
        try:
            found = from_json(path.read_bytes())
        except FileNotFoundError:
            raise ValueError(f"{folder} is not {self.what}: it has no {self.name}.") from None
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON: {error}.") from None
        kind = (self.format, self.version)
        if not isinstance(found, dict) or (found.get("format"), found.get("format_version")) != kind:
            raise ValueError(f"{path} is not of the format {self.format} {self.version}; train {self.what} again.")
        if missing := {"base_model", "backbone", *self.fields} - set(found):
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; train {self.what} again.")
        if model.device.type != "meta" and found["backbone"] != backbone_fingerprint(model):
            trained = found["base_model"] or f"the one with the fingerprint {str(found['backbone'])[:12]}…"
            raise ValueError(f"{folder} belongs to another backbone: it was trained on {trained}; train one on this.")
        return found


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a module's weights as safetensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    write_atomically(path, save(tensors, {"format": "pt"}))


def load_weights(module: nn.Module, path: Path) -> None:
    """Gives a module, which may be on the meta device, the weights of a file.

    Raises:
        ValueError: the file is missing, damaged or of another shape.
    """
    try:
        module.load_state_dict(load(path.read_bytes()), assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged, missing or of another shape ({error}); train it again.") from None
