"""LoCoMo from the memory alone, beside the question alone, the controls, BM25, a window, and the text that fits."""

from collections.abc import Mapping
from pathlib import Path

from deltamem_lab.backbone import Backbone
from deltamem_lab.methods import MethodOptions
from deltamem_lab.real.chat import STATIC, Chat
from deltamem_lab.real.told import Rates, as_data
from deltamem_lab.records import read_run
from deltamem_lab.runner import Job, run_jobs
from deltamem_lab.summary import summarise
from deltamem_lab.tasks.locomo import LoCoMo

_TURNS = 10


def measure_locomo(chat: Chat, data: Path, folder: Path, conversations: int, questions: int) -> Rates:
    """F1 by method, by the release's protocol, with so many conversations of ``locomo10.json`` written as turns.

    The folder keeps the answers, so that a stopped run goes on. They have the data's text in them, whose licence
    (CC BY-NC 4.0) is not this package's.
    """
    backbone = Backbone(chat.model, chat.tokenizer, name=chat.name)
    main = chat.memories[0]
    names: Mapping[str, str] = {
        "none": "none",
        "full": "full",
        "window": "window",
        "bm25": "bm25",
        **{name: name for name in chat.methods},
        f"empty:{main}": "empty",
        f"shuffled:{main}": "stranger",
    }
    run_jobs(
        [Job(LoCoMo(data), "release", limit=conversations, questions=questions)],
        list(names),
        backbone,
        folder,
        options=MethodOptions(turns=_TURNS),
    )
    (task,) = summarise(read_run(folder))
    found = {names[method.method]: as_data(method.mean, method.questions) for method in task.methods}
    share = _share(found, main, STATIC if STATIC in found else "stranger")
    return {**found, "share": share, "conversations": conversations}


def _share(found: Rates, main: str, control: str) -> Rates:
    """The way from the question alone to the full text that fits, and how far the memory and its control are on it."""
    gap = found["full"]["value"] - found["none"]["value"]
    if gap <= 0:
        return {"why_none": "the full text does not help this model"}
    return {
        "control": control,
        **{name: round((found[name]["value"] - found["none"]["value"]) / gap, 4) for name in (main, control)},
    }
