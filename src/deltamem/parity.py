"""Numerical parity with recorded runs: the tool for whoever ports δ-mem.

A case is a folder with an adapter and ``expected.safetensors``; its backbone lies beside it, named after
what precedes the case's first underscore (``qwen3_tsw_qo`` uses ``backbone_qwen3``).
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from deltamem.adapters import add_adapter, read_adapter_from
from deltamem.attach import Attachment, memory_cache, new_state
from deltamem.state import MemoryState
from deltamem.step import Step

TOLERANCE = 1e-4
EXPECTED_FILE = "expected.safetensors"


class ParityError(ValueError):
    """A case that cannot be run: a folder or its recorded tensors are not laid out as they should be."""


@dataclass(frozen=True)
class Recipe:
    """How one recorded step was run.

    Attributes:
        name: the step's name in the recording.
        start: the step whose memory it starts from; ``None`` starts empty.
        write: whether it writes.
        cached: whether it goes on from the keys and values of ``start``.
    """

    name: str
    start: str | None = None
    write: bool = True
    cached: bool = False


RECIPES = (
    Recipe("prefill"),
    Recipe("read_only", "prefill", write=False),
    Recipe("continue", "prefill"),
    Recipe("right_padded"),
    Recipe("left_padded"),
    Recipe("cached_prefill", cached=True),
    Recipe("cached_step0", "cached_prefill", cached=True),
    *(Recipe(f"cached_step{i}", f"cached_step{i - 1}", cached=True) for i in range(1, 5)),
)


@dataclass(frozen=True)
class StepDifference:
    """The largest absolute differences of one step, over all unmasked positions and all layers.

    Attributes:
        case: the folder's name.
        step: the step's name.
        logits: the difference of the logits.
        states: the difference of the states after the step.
    """

    case: str
    step: str
    logits: float
    states: float

    @property
    def passed(self) -> bool:
        """Whether both are within :data:`TOLERANCE`; not-a-number never is."""
        return self.logits <= TOLERANCE and self.states <= TOLERANCE


def find_cases(folder: str | Path) -> list[Path]:
    """The folder itself if it is a case, else the cases in it, by name.

    Raises:
        ParityError: there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ParityError(f"There is no folder {folder}.")
    if (folder / EXPECTED_FILE).exists():
        return [folder]
    cases = sorted(path.parent for path in folder.glob(f"*/{EXPECTED_FILE}"))
    if not cases:
        raise ParityError(f"{folder} is no parity case and holds none: there is no {EXPECTED_FILE}.")
    return cases


def run_case(folder: str | Path) -> list[StepDifference]:
    """Runs every step of a case in float32 on the CPU and compares it with the recording.

    Raises:
        ParityError: the backbone or a recorded tensor is missing, unknown, or of another shape.
        AdapterFileError: the adapter is damaged or does not fit the backbone.
    """
    return _Case(Path(folder).resolve()).run()


class _Case:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.expected = _recording(folder / EXPECTED_FILE)
        adapter = read_adapter_from(folder)
        self.model = _backbone(folder)
        self.ids_name = f"{adapter.config.write}_ids"
        # The release writes tokens wherever it gets no segment ids, so a segment case holds both kinds.
        by_token = replace(adapter, config=replace(adapter.config, write="token"))
        self.attachment: Attachment = add_adapter(self.model, by_token, "token")
        self.strategies: dict[bool, str] = {False: "token", True: "token"}
        if adapter.config.writes_segments:
            add_adapter(self.model, adapter, "segment")
            self.strategies[True] = "segment"
        self._check_names()

    def _check_names(self) -> None:
        layers = self.attachment.layer_numbers("token")
        tensors = ("input_ids", "logits", *(f"state.{layer}" for layer in layers))
        wanted = {f"{recipe.name}.{tensor}" for recipe in RECIPES for tensor in tensors}
        optional = {
            f"{recipe.name}.{tensor}"
            for recipe in RECIPES
            for tensor in ("attention_mask", "message_ids", "sentence_ids")
        }
        if missing := wanted - self.expected.keys():
            raise ParityError(f"{self.folder / EXPECTED_FILE} lacks {_some(missing)}.")
        if unknown := self.expected.keys() - wanted - optional:
            raise ParityError(f"{self.folder / EXPECTED_FILE} holds the unknown {_some(unknown)}.")

    def run(self) -> list[StepDifference]:
        memories: dict[str | None, MemoryState] = {}
        cache: Any = None
        differences = []
        for recipe in RECIPES:
            ids = self.expected[f"{recipe.name}.input_ids"]
            mask = self.expected.get(f"{recipe.name}.attention_mask")
            segments = self.expected.get(f"{recipe.name}.{self.ids_name}")
            self.attachment.activate(self.strategies[segments is not None])
            state = new_state(self.model, ids.shape[0])
            if recipe.start is not None:
                # The two strategies differ in what they keep open: only an equal one can go on from it.
                before = memories[recipe.start]
                opened = before.open if state.open is not None and before.open is not None else state.open
                state = replace(before, open=opened)
            if recipe.cached and recipe.start is None:
                cache = memory_cache(self.model)
            step = Step(state, write=recipe.write, segment_ids=segments)
            with torch.no_grad():
                output = self.model(
                    ids,
                    attention_mask=mask,
                    memory=step,
                    use_cache=recipe.cached,
                    past_key_values=cache if recipe.cached else None,
                )
            memories[recipe.name] = step.new_state
            differences.append(self._compare(recipe.name, output.logits, mask, step.new_state))
        return differences

    def _compare(self, step: str, logits: Tensor, mask: Tensor | None, state: MemoryState) -> StepDifference:
        delta = self._difference(f"{step}.logits", logits)
        if mask is not None:
            delta = delta[mask.bool()]
        changes = [
            self._difference(f"{step}.state.{layer}", found).max().item()
            for layer, found in zip(self.attachment.layer_numbers(), state.states, strict=True)
        ]
        worst: float = math.nan if any(map(math.isnan, changes)) else max(changes)
        return StepDifference(self.folder.name, step, delta.max().item(), worst)

    def _difference(self, name: str, found: Tensor) -> Tensor:
        wanted = self.expected[name]
        if found.dim() == 4 and wanted.dim() == 3 and found.shape[1] == 1:
            found = found[:, 0]
        if found.shape != wanted.shape:
            raise ParityError(
                f"{self.folder / EXPECTED_FILE}: {name} has shape {list(wanted.shape)}; "
                f"this model gives {list(found.shape)}."
            )
        return (found.float() - wanted.float()).abs()


def _recording(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise ParityError(f"Cannot read {path}: {error.strerror}.") from None
    except SafetensorError as error:
        raise ParityError(f"{path} is truncated or damaged ({error}).") from None


def _backbone(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    path = folder.parent / f"backbone_{folder.name.partition('_')[0]}"
    if not (path / "config.json").exists():
        raise ParityError(f"The backbone of {folder.name} should be at {path}, and is not there.")
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
