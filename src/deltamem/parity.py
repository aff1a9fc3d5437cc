"""Numerical parity with recorded runs: the tool for whoever ports δ-mem.

A case is a folder with an adapter and ``expected.safetensors``, which holds some or all of the steps of
:data:`RECIPES`. Its backbone lies beside it in a folder ``backbone_NAME``: that with the longest NAME that the
case's own begins with (``qwen3_tsw_qo`` uses ``backbone_qwen3``), else the only one there is.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltamem.attach import Attachment, memory_cache, new_state
from deltamem.attach.cache import PAST
from deltamem.formats.adapter import AdapterFileError, read_tensors
from deltamem.formats.hub import add_adapter, read_adapter_from
from deltamem.state import MemoryState
from deltamem.step import Step
from deltamem.wording import some

TOLERANCE = 1e-4
EXPECTED_FILE = "expected.safetensors"
BACKBONE_PREFIX = "backbone_"


class ParityError(ValueError):
    """A case that cannot be run: a folder or its recorded tensors are not laid out as they should be."""


@dataclass(frozen=True)
class RecordedStep:
    """How one recorded step was run.

    Attributes:
        name: the step's name in the recording.
        start: the step whose memory it starts from; ``None`` starts empty.
        write: whether it writes.
        cached: whether it continues from the keys and values of ``start``.
    """

    name: str
    start: str | None = None
    write: bool = True
    cached: bool = False


RECIPES = (
    RecordedStep("prefill"),
    RecordedStep("read_only", "prefill", write=False),
    RecordedStep("continue", "prefill"),
    RecordedStep("right_padded"),
    RecordedStep("left_padded"),
    RecordedStep("cached_prefill", cached=True),
    RecordedStep("cached_step0", "cached_prefill", cached=True),
    *(RecordedStep(f"cached_step{i}", f"cached_step{i - 1}", cached=True) for i in range(1, 5)),
)


@dataclass(frozen=True)
class StepDifference:
    """The largest absolute differences of one step, over all unmasked positions and all layers."""

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
        raise ParityError(f"{folder} is not a parity case and holds none: there is no {EXPECTED_FILE}.")
    return cases


def run_case(folder: str | Path) -> list[StepDifference]:
    """Runs every recorded step of a case in float32 on the CPU and compares it with the recording.

    Raises:
        ParityError: the backbone, a step that another starts from, or a step's tensor is missing, unknown,
            or of another shape.
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
        self.recipes = self._recorded()

    def _recorded(self) -> list[RecordedStep]:
        """The steps that were recorded, each of them whole."""
        path, found = self.folder / EXPECTED_FILE, self.expected.keys()
        wanted = ("input_ids", "logits", *(f"state.{layer}" for layer in self.attachment.layer_numbers("token")))
        optional = ("attention_mask", "message_ids", "sentence_ids")
        if unknown := found - {f"{recipe.name}.{tensor}" for recipe in RECIPES for tensor in (*wanted, *optional)}:
            raise ParityError(f"{path} holds the unknown {some(unknown)}.")
        steps = {name.partition(".")[0] for name in found}
        if not steps:
            raise ParityError(f"{path} holds no recorded step.")
        recorded = [recipe for recipe in RECIPES if recipe.name in steps]
        if missing := {f"{recipe.name}.{tensor}" for recipe in recorded for tensor in wanted} - found:
            raise ParityError(f"{path} lacks {some(missing)}.")
        if missing := {recipe.start for recipe in recorded if recipe.start is not None} - steps:
            raise ParityError(f"{path} lacks the step {some(missing)}, which others start from.")
        return recorded

    def run(self) -> list[StepDifference]:
        memories: dict[str | None, MemoryState] = {}
        cache: Any = None
        differences = []
        for recipe in self.recipes:
            ids = self.expected[f"{recipe.name}.input_ids"]
            mask = self.expected.get(f"{recipe.name}.attention_mask")
            segments = self.expected.get(f"{recipe.name}.{self.ids_name}")
            self.attachment.activate(self.strategies[segments is not None])
            state = new_state(self.model, ids.shape[0])
            if recipe.start is not None:
                # The two strategies differ in what they keep open: only an equal one can continue from it.
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
                    **{PAST: cache if recipe.cached else None},
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
        return read_tensors(path)
    except AdapterFileError as error:
        raise ParityError(str(error)) from None


def _backbone(case: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        _backbone_folder(case), dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()


def _backbone_folder(case: Path) -> Path:
    folders = [path.parent for path in case.parent.glob(f"{BACKBONE_PREFIX}*/config.json")]
    named = [path for path in folders if f"{BACKBONE_PREFIX}{case.name}_".startswith(f"{path.name}_")]
    if named:
        return max(named, key=lambda path: len(path.name))
    if not folders:
        wanted = case.parent / f"{BACKBONE_PREFIX}{case.name.partition('_')[0]}"
        raise ParityError(f"The backbone of {case.name} is missing: it should be at {wanted}.")
    if len(folders) > 1:
        raise ParityError(
            f"Which backbone does {case.name} belong to? Its name must begin with what follows {BACKBONE_PREFIX!r} in "
            f"one of {', '.join(sorted(path.name for path in folders))}."
        )
    return folders[0]
