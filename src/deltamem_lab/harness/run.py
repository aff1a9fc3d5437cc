"""Any task of lm-evaluation-harness with a model that has a memory: IFEval, GPQA and whatever else it knows.

IFEval's scores are the harness's own checkers'. They differ from the release's in one point: the release replaces
the detection of languages by a list of stop words, which concerns 95 of the 834 instructions.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deltamem.extensions import from_extra
from deltamem.observe import positions

# What the release evaluates, with its answer lengths, where the harness's own differ.
ANSWER_TOKENS = {"ifeval": 1500}
_SEED = 42


def run_harness(
    model: Any,
    tokenizer: Any,
    task: str,
    *,
    data: Path | None = None,
    limit: int | None = None,
    batch_size: int = 1,
    lengths: Sequence[int] = (),
    **model_options: Any,
) -> dict[str, Any]:
    """Runs a task of lm-evaluation-harness, and gives its results: scores by task, versions and samples.

    Args:
        model: bare, or with an active adapter.
        tokenizer: its tokenizer.
        task: its name.
        data: a file of JSON lines instead of the Hub's data.
        limit: the most items.
        batch_size: requests a forward pass.
        lengths: of the texts that RULER makes and that BABILong has, in tokens, such as 4,096; the task's own by
            default.
        model_options: further arguments of the harness's ``HFLM``, such as ``enable_thinking=False``.

    Raises:
        ImportError: lm-eval is not installed; the message names the extra.
        ValueError: there is no such task, or no such file.
        OSError: the task's data is on the Hub and cannot be had.
    """
    if data is not None and not data.is_file():
        raise ValueError(f"{data}: no such file.")
    with from_extra("harness", "Tasks of lm-evaluation-harness need lm-eval"):
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    from deltamem_lab.harness.model import MemoryLM

    with tempfile.TemporaryDirectory() as folder:
        known = TaskManager(metadata=_metadata(task, lengths, tokenizer, Path(folder)))
        if task not in known.all_tasks:
            raise ValueError(f"lm-evaluation-harness has no task {task}; `lm-eval ls tasks` lists them.")
        language_model = MemoryLM(model, tokenizer, batch_size=batch_size, **model_options)
        changed = _changed(task, known.task_index[task].yaml_path, data, _answer_tokens(task, model), Path(folder))
        try:
            results = simple_evaluate(
                language_model,
                tasks=[changed],
                limit=limit,
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
            said = " ".join(str(error).split())
            raise OSError(
                f"lm-evaluation-harness could not get what {task} reads, which is on the Hub unless the task makes it "
                f"({said}). Fetch it once online, or give a file with --data TASK=FILE where the task "
                "has a single data set."
            ) from error
    return dict(results) if results else {}


def _metadata(task: str, lengths: Sequence[int], tokenizer: Any, folder: Path) -> dict[str, Any]:
    """What RULER and BABILong are told: the tokenizer that texts are measured by, in a folder, and their lengths."""
    tokenizer.save_pretrained(place := folder / "tokenizer")
    told: dict[str, Any] = {"tokenizer": str(place)}
    if not lengths:
        return told
    if not task.startswith("babilong"):
        return told | {"max_seq_lengths": list(lengths)}
    if len(lengths) > 1:
        raise ValueError("BABILong takes texts of one length at a time; run it without other tasks.")
    return told | {"max_seq_lengths": f"{lengths[0] // 1024}k"}


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
        greedy = {"until": [], "do_sample": False, "temperature": 0.0}
        changes["generation_kwargs"] = {**greedy, "max_gen_toks": tokens}
    if not changes:
        return name
    if base is None:
        raise ValueError(f"{name} is several tasks, and a file can be the data of only one.")
    # JSON is YAML too.
    text = json.dumps({"include": str(base), "task": name, **changes})
    file = folder / f"{name}.yaml"
    file.write_text(text, "utf-8")
    return str(file)
