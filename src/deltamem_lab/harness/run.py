"""Any task of lm-evaluation-harness with a model that has a memory: IFEval, GPQA and whatever else it knows.

IFEval's scores are the harness's own checkers'. They differ from the release's in one point: the release replaces
the detection of languages by a list of stop words, which concerns 95 of the 834 instructions.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltamem.extensions import from_extra
from deltamem.observe import positions

# What the release evaluates, with its answer lengths, where the harness's own differ.
ANSWER_TOKENS = {"ifeval": 1500}
_SEED = 42


@dataclass(frozen=True)
class HarnessOptions:
    """How the harness is run.

    Attributes:
        tasks: names of its tasks.
        data: a file of JSON lines for a single task, instead of the Hub's data.
        limit: the most items a task.
        batch_size: requests a forward pass.
        lengths: of the texts that RULER makes and that BABILong has, in tokens, such as 4,096; the tasks' own by
            default.
    """

    tasks: tuple[str, ...]
    data: Path | None = None
    limit: int | None = None
    batch_size: int = 1
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("Name at least one task of lm-evaluation-harness, such as ifeval.")
        if self.data is not None and len(self.tasks) != 1:
            raise ValueError(f"A file is the data of one task, not of {', '.join(self.tasks)}.")
        if self.data is not None and not self.data.is_file():
            raise ValueError(f"{self.data}: no such file.")


def run_harness(model: Any, tokenizer: Any, options: HarnessOptions, **model_options: Any) -> dict[str, Any]:
    """Runs tasks of lm-evaluation-harness, and gives its results: scores by task, versions and samples.

    ``model_options`` are further arguments of the harness's ``HFLM``, such as ``enable_thinking=False``.

    Raises:
        ImportError: lm-eval is not installed; the message names the extra.
        ValueError: there is no such task.
        OSError: a task's data is on the Hub and cannot be had.
    """
    with from_extra("harness", "Tasks of lm-evaluation-harness need lm-eval"):
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    from deltamem_lab.harness.model import MemoryLM

    with tempfile.TemporaryDirectory() as folder:
        known = TaskManager(metadata=_metadata(options, tokenizer, Path(folder)))
        if unknown := sorted(set(options.tasks) - set(known.all_tasks)):
            raise ValueError(f"lm-evaluation-harness has no task {', '.join(unknown)}; `lm-eval ls tasks` lists them.")
        language_model = MemoryLM(model, tokenizer, batch_size=options.batch_size, **model_options)
        tasks = [
            _changed(name, known.task_index[name].yaml_path, options.data, _answer_tokens(name, model), Path(folder))
            for name in options.tasks
        ]
        try:
            results = simple_evaluate(
                language_model,
                tasks=tasks,
                limit=options.limit,
                task_manager=known,
                apply_chat_template=True,
                log_samples=True,
                bootstrap_iters=0,
                random_seed=_SEED,
                numpy_random_seed=_SEED,
                torch_random_seed=_SEED,
                fewshot_random_seed=_SEED,
            )
        except OSError as error:
            said, names = " ".join(str(error).split()), ", ".join(options.tasks)
            raise OSError(
                f"lm-evaluation-harness could not get what {names} reads, which is on the Hub unless the task makes it "
                f"({said}). Fetch it once online, or give a file with --data TASK=FILE where the task "
                "has a single data set."
            ) from error
    return dict(results) if results else {}


def _metadata(options: HarnessOptions, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """What RULER and BABILong are told: the tokenizer that texts are measured by, in a folder, and their lengths."""
    tokenizer.save_pretrained(place := folder / "tokenizer")
    told: dict[str, Any] = {"tokenizer": str(place)}
    if not options.lengths:
        return told
    names = [name for name in options.tasks if name.startswith("babilong")]
    if names and (len(names) < len(options.tasks) or len(options.lengths) > 1):
        raise ValueError("BABILong takes texts of one length at a time; run it without other tasks.")
    return told | {"max_seq_lengths": f"{options.lengths[0] // 1024}k" if names else list(options.lengths)}


def _answer_tokens(name: str, model: Any) -> int | None:
    """The most tokens of an answer where the harness's own number is not taken: at most half of the positions."""
    if name not in ANSWER_TOKENS:
        return None
    most = positions(model)
    return min(ANSWER_TOKENS[name], (most or 2 * ANSWER_TOKENS[name]) // 2)


def _changed(name: str, base: Path | None, data: Path | None, tokens: int | None, folder: Path) -> str:
    """A task's name, or the file of one like it with other data or another answer length, written to ``folder``."""
    changes: dict[str, Any] = {}
    if data is not None:
        # Whatever split the task asks for is the whole file.
        files = dict.fromkeys(("train", "validation", "test"), str(data.resolve()))
        changes = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
    if tokens is not None:
        changes["generation_kwargs"] = {
            "until": [],
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": tokens,
        }
    if not changes:
        return name
    if base is None:
        raise ValueError(f"{name} is several tasks, and a file can be the data of only one.")
    # JSON is YAML too.
    text = json.dumps({"include": str(base), "task": name, **changes})
    file = folder / f"{name}.yaml"
    file.write_text(text, "utf-8")
    return str(file)
