"""Real text: how much of what a text adds to an answer's likelihood a memory adds, and what a memory does to harm."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deltamem.chat import Message
from deltamem.state import MemoryState
from deltamem.train.data.converters.example import Example, Row, Style
from deltamem.train.data.converters.persona import persona
from deltamem.train.data.lines import BadDataError
from deltamem.train.data.told.texts import AskedText, asked_texts
from deltamem_lab.real.chat import STATIC, Chat
from deltamem_lab.real.told import Rates, measure_window_harm, rounded
from deltamem_lab.statistics import Interval

_DRAWS = 10_000
# Of a text, so that a few long ones are not most of them.
_QUESTIONS = 8
_CROWD = 2000
_TURNS = 12


def story_texts(path: Path, count: int) -> list[AskedText]:
    """Stories of a file of FairytaleQA with their explicit questions; each section is a message.

    Raises:
        BadDataError: a row is no such story.
    """
    found = []
    for number, row in enumerate(_rows(path), start=1):
        try:
            history: tuple[Message, ...] = tuple({"role": "user", "content": str(s["text"])} for s in row["sections"])
            asked = [(str(q["question"]), str(q["answers"][0])) for q in row["questions"] if q["explicit"]]
        except (KeyError, TypeError, IndexError) as error:
            raise BadDataError(f"{path}, row {number}: not a story of FairytaleQA ({error}).") from None
        if asked:
            found.append(AskedText(history, tuple(asked[:_QUESTIONS])))
    return found[:count]


def persona_texts(path: Path, count: int) -> list[AskedText]:
    """Chats of a file of Synthetic-Persona-Chat, each asked for what a speaker, who is the user, said of himself.

    Raises:
        BadDataError: a row is no such chat, or none has anything to ask for.
    """
    lines: list[tuple[Message, ...]] = []
    for number, row in enumerate(_rows(path), start=1):
        try:
            lines += [one.messages for one in persona(row, Style()) if isinstance(one, Example)]
        except ValueError as error:
            raise BadDataError(f"{path}, row {number}: {error}.") from None
    found = asked_texts(lines)
    if not found:
        raise BadDataError(f"{path} has no chat of Synthetic-Persona-Chat with anything to ask about.")
    return [text._replace(questions=text.questions[:_QUESTIONS]) for text in found[:count]]


def measure_share(chat: Chat, texts: Sequence[AskedText]) -> Rates:
    """Mean losses of answers, and the share of the gap between nothing and the full text that each memory closes.

    ``own``, ``stranger`` and ``static`` are (nothing − it) / (nothing − full). ``memory`` is what is memory in it:
    (control − own) / (nothing − full), where the control is the static one, or a stranger's state if that was not
    given; ``control`` says which. Intervals are 95 %, by a bootstrap over texts. Those at the top are the main
    adapter's; other adapters have theirs by name.
    """
    losses: dict[str, list[float]] = {"nothing": [], "full": []}
    asked: list[list[Message]] = [[{"role": "user", "content": ask} for ask, _ in text.questions] for text in texts]
    targets = [[chat.tokens(answer + chat.ending) for _, answer in text.questions] for text in texts]
    prompts = [[chat.tokens(chat.prompt([question])) for question in questions] for questions in asked]
    for text, questions, alone, wanted in zip(texts, asked, prompts, targets, strict=True):
        pairs = zip(alone, wanted, strict=True)
        losses["nothing"] += [chat.loss(prompt, target, None) for prompt, target in pairs]
        losses["full"] += chat.losses_with_text(text.history, questions, wanted)
    for name in chat.methods:
        chat.use(name)
        states = [chat.write([text.history]) for text in texts]
        # Half of the texts away, as neighbours may be the same chat with the other speaker as the user.
        for whose, step in (("own", 0), ("stranger", max(1, len(texts) // 2))):
            if name != STATIC or whose == "stranger":
                losses[name if name == STATIC else f"{name} {whose}"] = [
                    chat.loss(prompt, target, states[(place + step) % len(states)])
                    for place, (alone, wanted) in enumerate(zip(prompts, targets, strict=True))
                    for prompt, target in zip(alone, wanted, strict=True)
                ]
    sums = _by_text(losses, [len(text.questions) for text in texts])
    shares = {name: _shares(sums, name, STATIC in losses) for name in chat.memories}
    main, *others = chat.memories
    return {
        **shares[main],
        **{name: shares[name] for name in others},
        "nats": {form: round(sum(values) / len(values), 4) for form, values in losses.items()},
        "texts": len(texts),
        "questions": len(losses["nothing"]),
    }


def _shares(sums: dict[str, NDArray[np.float64]], name: str, static: bool) -> Rates:
    gap = sums["nothing"] - sums["full"]
    own, stranger = sums[f"{name} own"], sums[f"{name} stranger"]
    control = sums[STATIC] if static else stranger
    found: Rates = {
        "own": ratio(sums["nothing"] - own, gap),
        "stranger": ratio(sums["nothing"] - stranger, gap),
        **({"static": ratio(sums["nothing"] - control, gap)} if static else {}),
        "memory": ratio(control - own, gap),
    }
    return {**found, "control": STATIC if static else "stranger"}


def ratio(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> dict[str, float] | None:
    """The ratio of two sums over texts, with its interval; ``None`` where the whole is not above zero."""
    if wholes.sum() <= 0:
        return None
    drawn = np.random.default_rng(0).integers(len(parts), size=(_DRAWS, len(parts)))
    below = wholes[drawn].sum(1)
    draws = parts[drawn].sum(1)[below > 0] / below[below > 0]
    low, high = np.quantile(draws, (0.025, 0.975))
    return rounded(Interval(float(parts.sum() / wholes.sum()), float(low), float(high)))


def measure_harm(chat: Chat, talks: Sequence[Sequence[Message]], dialogues: int, count: int = 24) -> Rates:
    """What a memory does to what does not need it.

    The loss a token on the second half of real chats, bare, with an empty memory, and after 2,000 unrelated tokens,
    each written along; and recall of a fact whose text is in the window, of the same three.
    """
    chat.use(chat.memories[0])
    rng = random.Random("harm")
    state, written = chat.empty(), 0
    while written < _CROWD:
        state, more = chat.write_more(state, rng.choice(talks)[:_TURNS])
        written += more
    memories: dict[str, MemoryState | None] = {"bare": None, "empty": chat.empty(), "after 2,000 tokens": state}
    halves = []
    for talk in rng.sample(list(talks), min(count, len(talks))):
        tokens = chat.tokens_of(talk[:_TURNS])
        halves.append((tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]))
    losses = {
        form: np.array([chat.loss(first, second, memory, write=True) for first, second in halves])
        for form, memory in memories.items()
    }
    return {
        "chats": len(halves),
        **{
            form: {"nats": round(float(one.mean()), 4), "ratio": ratio(one, losses["bare"])}
            for form, one in losses.items()
        },
        "in context": measure_window_harm(chat, dialogues, state),
    }


def _by_text(losses: dict[str, list[float]], counts: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """The losses of each form, summed over the questions of each text."""
    ends = np.cumsum(counts)[:-1]
    return {form: np.array([part.sum() for part in np.split(np.array(v), ends)]) for form, v in losses.items()}


def _rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadDataError(f"{path}, line {number}: not JSON ({error}).") from None
        if not isinstance(row, dict):
            raise BadDataError(f"{path}, line {number}: not a JSON object.")
        yield row
