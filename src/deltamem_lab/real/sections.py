"""The sections of the measurement, each written as soon as it is done, so that a stopped run can continue."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deltamem.files import write_json
from deltamem.train.data.told.chats import Chats, conversations
from deltamem_lab.machine import machine
from deltamem_lab.real import texts, told
from deltamem_lab.real.chat import Chat
from deltamem_lab.real.locomo import measure_locomo
from deltamem_lab.real.replies import measure_replies
from deltamem_lab.real.told import Rates

Measure = Callable[[], Any]
# Everything, by the file that it needs beside the model.
SECTIONS: Mapping[str, str] = {
    "told": "",
    "corrected": "",
    "replies": "",
    "absence": "",
    "formats": "",
    "bytes": "",
    "gallery": "",
    "chat": "chats",
    "forgetting": "chats",
    "harm": "chats",
    "stories": "stories",
    "persona": "chats",
    "locomo": "locomo",
}
FILES = {
    "chats": "Synthetic-Persona-Chat, one chat a line",
    "stories": "FairytaleQA, one story a line",
    "locomo": "locomo10.json",
}
# Their results stand together.
_SHARES = ("stories", "persona")


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        dialogues: about how many questions a cell of told facts has.
        texts: stories, and persona chats.
        conversations: of LoCoMo.
        questions: about each conversation of LoCoMo.
    """

    dialogues: int = 120
    texts: int = 12
    conversations: int = 3
    questions: int = 12


def choose_sections(only: str, files: Mapping[str, Path]) -> list[str]:
    """The sections asked for, by commas; all whose file is there if none is.

    Raises:
        ValueError: there is no such section, or its file was not given.
    """
    chosen = [name for name in only.split(",") if name]
    if unknown := sorted(set(chosen) - set(SECTIONS)):
        raise ValueError(f"There is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}.")
    for name in chosen:
        if (need := SECTIONS[name]) and need not in files:
            raise ValueError(f"The section {name} needs the file {need} ({FILES[need]}).")
    return chosen or [name for name, need in SECTIONS.items() if not need or need in files]


class Results:
    """The results of a model and its adapters in a JSON file; of earlier adapters or extents they are replaced.

    Args:
        path: of the file; ``None`` keeps nothing.
        about: what the results depend on.

    Raises:
        ValueError: the file is not such results.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, dict(about)
        self.data: Rates = {}
        if path is not None and path.exists():
            try:
                self.data = json.loads(path.read_text("utf-8"))
                self.data["sections"] = dict(self.data.get("sections", {}))
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} is not a file of these results: {error}. Give another file.") from None

    def begin(self, name: str) -> None:
        """Drops what a section has of other adapters or another extent."""
        if not self._own(name):
            self.put(name, None, seconds=0.0, done=False)

    def done(self, name: str) -> bool:
        """Whether a section is measured, with the same adapters and to the same extent."""
        return bool(self._own(name).get("done"))

    def get(self, name: str) -> Any:
        """What a section has."""
        return self._place(name).get(name)

    def put(self, name: str, found: Any, *, seconds: float, done: bool) -> None:
        """Keeps what a section has so far."""
        place = self._place(name)
        if found is None:
            place.pop(name, None)
        else:
            place[name] = found
        spent = round(self._own(name).get("seconds", 0.0) + seconds, 1)
        self.data["sections"][name] = {"about": self.about, "seconds": spent, "done": done, "machine": machine()}
        if self.path is not None:
            write_json(self.path, self.data, indent=1, ensure_ascii=False)

    def _place(self, name: str) -> Rates:
        place: Rates = self.data.setdefault("share", {}) if name in _SHARES else self.data
        return place

    def _own(self, name: str) -> Rates:
        """What is noted of a section that has the same adapters and the same extent; nothing of another."""
        state: Rates = self.data.setdefault("sections", {}).get(name, {})
        return state if state.get("about") == self.about else {}


def measure(
    chat: Chat,
    sections: list[str],
    files: Mapping[str, Path],
    extent: Extent,
    path: Path | None,
    *,
    answers: Path,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Rates:
    """Measures the sections that the file does not have yet, and gives all results.

    Args:
        chat: the model with its adapters.
        sections: see :func:`choose_sections`.
        files: of real text, by the names of :data:`FILES`.
        extent: how much.
        path: the results' JSON file; ``None`` keeps nothing.
        answers: the folder for answers that have somebody else's text in them.
        say: is told each result as a line.

    Raises:
        BadDataError: a file is not what it should be.
    """
    about = {
        "model": chat.name,
        "adapters": chat.fingerprints,
        "trained_words": len(chat.trained),
        **asdict(extent),
    }
    results = Results(path, about)
    locomo = answers / f"locomo-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]}"
    talks = conversations(files["chats"]) if "chats" in files else []
    chats = Chats(talks, chat.renderer.count) if talks else None
    each: dict[str, Measure] = {
        "corrected": lambda: told.measure_corrected(chat, extent.dialogues),
        "replies": lambda: measure_replies(chat, extent.dialogues),
        "absence": lambda: told.measure_absence(chat, extent.dialogues),
        "formats": lambda: told.measure_formats(chat, extent.dialogues),
        "bytes": lambda: told.measure_bytes(chat, extent.dialogues, chats),
        "gallery": lambda: told.measure_gallery(chat),
        "locomo": lambda: measure_locomo(chat, files["locomo"], locomo, extent.conversations, extent.questions),
        "stories": lambda: texts.measure_share(chat, texts.story_texts(files["stories"], extent.texts)),
        "persona": lambda: texts.measure_share(chat, texts.persona_texts(files["chats"], extent.texts)),
        "harm": lambda: texts.measure_harm(chat, talks, extent.dialogues),
    }
    if chats is not None:
        each["chat"] = lambda: told.measure_chat(chat, extent.dialogues, chats)
        each["forgetting"] = lambda: told.measure_forgetting(chat, extent.dialogues, chats)
    for name in sections:
        if results.done(name):
            say(f"{name:10} is there")
            continue
        results.begin(name)
        if name == "told":
            _measure_told(chat, extent.dialogues, results, say)
            continue
        started = time.monotonic()
        found = each[name]()
        results.put(name, found, seconds=time.monotonic() - started, done=True)
        say(f"{name:10} {_line(found)}")
    return results.data


def _measure_told(chat: Chat, dialogues: int, results: Results, say: Callable[[str], None]) -> None:
    """Recall by split, method and number of facts, a cell after the other."""
    table: Rates = results.get("told") or {}
    for split, facts in told.CELLS:
        if str(facts) in table.get(split, {}).get("none", {}):
            continue
        started = time.monotonic()
        rates = told.measure_told(chat, dialogues, split, facts)
        for method, found in rates.items():
            table.setdefault(split, {}).setdefault(method, {})[str(facts)] = found
        results.put("told", table, seconds=time.monotonic() - started, done=(split, facts) == told.CELLS[-1])
        say(f"told       {split} {facts}  {_line(rates)}")


def _line(found: Any) -> str:
    """The values of a result in a line."""
    if isinstance(found, dict) and "value" in found:
        return f"{found['value']:.3f}"
    if isinstance(found, dict):
        return "  ".join(f"{name} {_line(one)}" for name, one in found.items() if one is not None)
    return f"({len(found)})" if isinstance(found, list) else str(found)
