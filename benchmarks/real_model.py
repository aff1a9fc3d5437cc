"""What a real chat model recalls from its memory alone, beside every control.

    python benchmarks/real_model.py --json benchmarks/results/real_model.json

Answers are greedy, to a question alone in the window after the chat template's own opening; ``full`` has the dialogue
in its window, ``bm25`` the three turns it finds. An answer is right when the told value stands in it, word by word,
whatever else it says. Intervals are 95 %, by a bootstrap over dialogues. Files of real text are not in the repository:
``--chats`` is one chat a line as Synthetic-Persona-Chat's, ``--stories`` one story a line as FairytaleQA's. ``--only``
measures some sections and leaves the others of the file as they are.
"""

import argparse
import json
import random
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import deltamem
from common import machine
from deltamem.models.loading import find_adapter, load_tokenizer, load_weights
from deltamem.train.data.told.dialogues import UNKNOWN, Dialogue, Mix, Split, sample_dialogue
from deltamem.train.data.told.rendering import Renderer
from deltamem_lab.statistics import rate_interval

FACTS = (1, 4, 8)
SPLITS: tuple[Split, ...] = ("known", "values", "relations")
NEW_TOKENS = 24
BATCH = 32
METHODS = ("multi", "token", "static")
Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Asked:
    """A question of a dialogue: what is asked, what is right, and which dialogue it belongs to."""

    number: int
    ask: str
    value: str
    replaces: str


class Chat:
    """The frozen model, with at most one adapter active at a time.

    Args:
        model: its name or folder.
        adapters: names in the package or folders, by method.
    """

    def __init__(self, model: str, adapters: dict[str, str]) -> None:
        self.tokenizer = load_tokenizer(model)
        self.model = load_weights(model, dtype="bfloat16")
        for name, place in adapters.items():
            deltamem.load_adapter(self.model, find_adapter(model, place), name=name)
        self.renderer = Renderer(self.tokenizer)
        self.pad = int(self.tokenizer.pad_token_id)

    def use(self, name: str) -> None:
        """Makes an adapter the active one."""
        deltamem.attached(self.model).activate(name)

    @torch.no_grad()
    def write(self, histories: Sequence[Messages]) -> deltamem.MemoryState:
        """The memory of each history, one row each."""
        rows = [list(self.renderer.history(messages).ids) for messages in histories]
        states = []
        for start in range(0, len(rows), BATCH):
            ids, mask = self._padded(rows[start : start + BATCH], left=False)
            states.append(deltamem.observe(self.model, ids, attention_mask=mask))
        return deltamem.MemoryState.stack(states)

    @torch.no_grad()
    def answer(self, prompts: Sequence[Messages], state: deltamem.MemoryState | None) -> list[str]:
        """The greedy reply to each prompt: from a memory of one row each that is only read, or bare."""
        texts = [self._prompt(messages) for messages in prompts]
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found = [""] * len(texts)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            ids, mask = self._padded([self.tokenizer(texts[p], add_special_tokens=False).input_ids for p in places])
            options = {
                "attention_mask": mask,
                "max_new_tokens": NEW_TOKENS,
                "do_sample": False,
                "pad_token_id": self.pad,
            }
            if state is None:
                with deltamem.disabled(self.model):
                    out = self.model.generate(ids, **options)
            else:
                cache = deltamem.memory_cache(self.model, state.select(torch.tensor(places)), write=False)
                out = self.model.generate(ids, past_key_values=cache, **options)
            for place, row in zip(places, out[:, ids.shape[1] :], strict=True):
                found[place] = self.tokenizer.decode(row, skip_special_tokens=True)
        return found

    @torch.no_grad()
    def loss(
        self, context: Sequence[Tensor], target: Tensor, state: deltamem.MemoryState | None, *, writing: bool = False
    ) -> float:
        """The mean loss in nats of a target's tokens after a context, from a memory of one row or bare."""
        ids = torch.cat([*context, target])[None]
        if state is None:
            with deltamem.disabled(self.model):
                logits = self.model(ids, logits_to_keep=len(target) + 1).logits
        else:
            logits = self.model(ids, memory=deltamem.Step(state, write=writing), logits_to_keep=len(target) + 1).logits
        return F.cross_entropy(logits[0, :-1].float(), target).item()

    def _prompt(self, messages: Messages) -> str:
        return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

    def _padded(self, rows: Sequence[list[int]], *, left: bool = True) -> tuple[Tensor, Tensor]:
        longest = max(map(len, rows))
        fill = [[self.pad] * (longest - len(row)) for row in rows]
        ids = [[*f, *r] if left else [*r, *f] for f, r in zip(fill, rows, strict=True)]
        mask = [
            [*[0] * len(f), *[1] * len(r)] if left else [*[1] * len(r), *[0] * len(f)]
            for f, r in zip(fill, rows, strict=True)
        ]
        return torch.tensor(ids), torch.tensor(mask)


def plain_words(text: str) -> str:
    """Lower case, without accents and punctuation, single blanks, so that "7:30" and "7:30." are the same words."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return f" {' '.join(re.findall(r'[a-z0-9]+', letters))} "


def holds(answer: str, value: str) -> bool:
    """Whether the value stands in the answer, word by word."""
    wanted = plain_words(value)
    return bool(wanted.strip()) and wanted in plain_words(answer)


class Told:
    """Held-out dialogues and the answers of each method to their questions.

    Args:
        chat: the model.
        methods: adapters' names.
        dialogues: with their questions.
    """

    def __init__(self, chat: Chat, methods: Sequence[str], dialogues: Sequence[Dialogue]) -> None:
        self.chat, self.methods, self.dialogues = chat, methods, dialogues
        self.asked = [
            Asked(number, question.ask, question.value, question.fact.replaces if question.fact else "")
            for number, dialogue in enumerate(dialogues)
            for question in dialogue.questions
        ]
        self.prompts = [[{"role": "user", "content": asked.ask}] for asked in self.asked]
        self.rows = torch.tensor([asked.number for asked in self.asked])

    def answers(self, text_methods: bool = True) -> dict[str, list[str]]:
        """The answers by method."""
        found: dict[str, list[str]] = {"none": self.chat.answer(self.prompts, None)}
        if text_methods:
            found["full"] = self.chat.answer(
                [[*self.dialogues[asked.number].messages, *prompt] for asked, prompt in self._both()], None
            )
            found["bm25"] = self.chat.answer([self._retrieved(asked) for asked in self.asked], None)
        histories = [dialogue.messages for dialogue in self.dialogues]
        strange = (self.rows + 1) % len(self.dialogues)
        for name in self.methods:
            self.chat.use(name)
            state = self.chat.write(histories)
            if name == "static":
                found[name] = self.chat.answer(self.prompts, state.select(strange))
                continue
            found[name] = self.chat.answer(self.prompts, state.select(self.rows))
            if name == self.methods[0]:
                found["stranger"] = self.chat.answer(self.prompts, state.select(strange))
                found["empty"] = self.chat.answer(
                    self.prompts, deltamem.new_state(self.chat.model, batch=len(self.asked))
                )
        return found

    def _both(self) -> list[tuple[Asked, list[dict[str, str]]]]:
        return list(zip(self.asked, self.prompts, strict=True))

    def _retrieved(self, asked: Asked) -> list[dict[str, str]]:
        import bm25s

        said = [m["content"] for m in self.dialogues[asked.number].messages if m["role"] == "user"]
        retriever = bm25s.BM25()
        retriever.index(bm25s.tokenize(said, show_progress=False), show_progress=False)
        best = min(3, len(said))
        places, _ = retriever.retrieve(bm25s.tokenize([asked.ask], show_progress=False), k=best, show_progress=False)
        found = [said[place] for place in sorted(places[0].tolist())]
        return [{"role": "user", "content": "\n".join(["What I told you before:", *found, "", asked.ask])}]

    def rates(self, answers: dict[str, list[str]], value: Callable[[Asked], str]) -> dict[str, Any]:
        """The share of answers that hold a value, with intervals by dialogue."""
        clusters = [str(asked.number) for asked in self.asked]
        return {
            method: rate(
                [float(holds(text, value(asked))) for text, asked in zip(texts, self.asked, strict=True)], clusters
            )
            for method, texts in answers.items()
        }


def rate(values: Sequence[float], clusters: Sequence[str]) -> dict[str, float]:
    """A share with its interval and the number of questions."""
    found = rate_interval(values, clusters)
    return {
        "value": round(found.value, 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
        "questions": len(values),
    }


def sampled(split: Split, facts: int, count: int, **mix: Any) -> list[Dialogue]:
    """Held-out dialogues; the same ones each time."""
    rng = random.Random(f"real model {split}/{facts}/{sorted(mix.items())}")
    return [sample_dialogue(rng, Mix(facts=(facts, facts), strict=True, **mix), split) for _ in range(count)]


def measure_told(chat: Chat, methods: Sequence[str], dialogues: int) -> dict[str, Any]:
    """Recall by split, method and number of facts."""
    table: dict[str, Any] = {}
    for split in SPLITS:
        for facts in FACTS if split != "relations" else (1, 4):
            told = Told(chat, methods, sampled(split, facts, max(12, dialogues // facts)))
            rates = told.rates(told.answers(), lambda asked: asked.value)
            for method, found in rates.items():
                table.setdefault(split, {}).setdefault(method, {})[str(facts)] = found
            say(split, facts, rates)
    return table


def measure_corrected(chat: Chat, methods: Sequence[str], dialogues: int) -> dict[str, Any]:
    """Two facts, each corrected: how often the new value comes, and how often the old one."""
    told = Told(chat, methods, sampled("known", 2, max(12, dialogues // 2), corrected=1.0))
    answers = told.answers()
    new, old = told.rates(answers, lambda asked: asked.value), told.rates(answers, lambda asked: asked.replaces)
    say("corrected", 2, new)
    return {method: {"new": new[method], "old": old[method]} for method in answers}


def measure_absence(chat: Chat, methods: Sequence[str], dialogues: int) -> dict[str, Any]:
    """Three facts told, three not: how often it says so where nothing was told, and where something was."""
    told = Told(chat, methods, sampled("known", 3, max(12, dialogues // 3), unknown=1.0))
    answers = told.answers(text_methods=False)
    found: dict[str, Any] = {}
    for method, texts in answers.items():
        refused = {True: ([], []), False: ([], [])}  # type: ignore[var-annotated]
        for text, asked in zip(texts, told.asked, strict=True):
            values, clusters = refused[bool(asked.value)]
            values.append(float(holds(text, UNKNOWN)))
            clusters.append(str(asked.number))
        found[method] = {"untold": rate(*refused[False]), "told": rate(*refused[True])}
    say("absence", 3, {method: rates["untold"] for method, rates in found.items()})
    return found


def measure_formats(chat: Chat, name: str, dialogues: int) -> dict[str, Any]:
    """What a state loses in bfloat16 and in 8 bits a number with one scale a matrix; four facts, values unseen."""
    told = Told(chat, [], sampled("values", 4, max(12, dialogues // 4)))
    chat.use(name)
    state = chat.write([dialogue.messages for dialogue in told.dialogues])
    formats: dict[str, Callable[[Tensor], Tensor]] = {
        "float32": lambda s: s,
        "bfloat16": lambda s: s.bfloat16().float(),
        "int8": lambda s: (s / (step := s.abs().amax((-1, -2), keepdim=True).clamp(min=1e-12) / 127)).round() * step,
        "int4": lambda s: (s / (step := s.abs().amax((-1, -2), keepdim=True).clamp(min=1e-12) / 7)).round() * step,
    }
    answers = {}
    for form, rounded in formats.items():
        kept = deltamem.MemoryState(tuple(rounded(s) for s in state.states), state.tokens, state.open)
        answers[form] = chat.answer(told.prompts, kept.select(told.rows))
    rates = told.rates(answers, lambda asked: asked.value)
    say("formats", 4, rates)
    sizes = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
    numbers = sum(s[0].numel() for s in state.states)
    return {form: {"recall": found, "bytes": int(numbers * sizes[form])} for form, found in rates.items()}


def measure_bytes(chat: Chat, methods: Sequence[str]) -> dict[str, Any]:
    """Bytes of a session's state, and of the text it stands for by number of facts (as it is, and zstd or zlib)."""
    import zlib

    found: dict[str, Any] = {"state": {}}
    for name in methods:
        chat.use(name)
        found["state"][name] = deltamem.new_state(chat.model).nbytes
    for facts in FACTS:
        texts = ["\n".join(m["content"] for m in d.messages).encode() for d in sampled("known", facts, 50)]
        found[f"text of {facts} facts"] = round(sum(map(len, texts)) / len(texts))
        found[f"text of {facts} facts, zlib"] = round(sum(len(zlib.compress(t, 9)) for t in texts) / len(texts))
    return found


def chat_lines(path: str) -> list[list[str]]:
    """The turns of each chat of a file of Synthetic-Persona-Chat rows."""
    return [[text for _, text in json.loads(line)["turns"]] for line in Path(path).read_text("utf-8").splitlines()]


def as_chat(turns: Sequence[str]) -> list[dict[str, str]]:
    """Turns as messages of user and assistant by turns."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]


def measure_forgetting(chat: Chat, methods: Sequence[str], dialogues: int, chats: str) -> dict[str, Any]:
    """Four facts of unseen values, then real chat of other people."""
    lines = chat_lines(chats)
    rng = random.Random("forgetting")
    told = Told(chat, methods, sampled("values", 4, max(12, dialogues // 8), answered=1.0, talk=0.0))
    found: dict[str, Any] = {}
    for name in methods:
        if name == "static":
            continue
        chat.use(name)
        state = chat.write([dialogue.messages for dialogue in told.dialogues])
        done = 0
        for limit in (0, 250, 1000, 4000):
            while done < limit:
                filler = chat.renderer.history(as_chat(rng.choice(lines))).ids[:250]
                ids = torch.tensor([filler] * state.batch)
                state = deltamem.observe(chat.model, ids, state)
                done += len(filler)
            answers = {name: chat.answer(told.prompts, state.select(told.rows))}
            rates = told.rates(answers, lambda asked: asked.value)
            say("forgetting", done, rates)
            found.setdefault(name, {})[str(done)] = rates[name]
    return found


def measure_harm(chat: Chat, name: str, chats: str, count: int) -> dict[str, Any]:
    """The loss a token on the replies of real chats: bare, with an empty memory, and after 2,000 unrelated tokens."""
    chat.use(name)
    lines = chat_lines(chats)
    rng = random.Random("harm")
    state = deltamem.new_state(chat.model)
    written = 0
    while written < 2000:
        ids = torch.tensor([chat.renderer.history(as_chat(rng.choice(lines))).ids[:500]])
        state, written = deltamem.observe(chat.model, ids, state), written + ids.shape[1]
    losses: dict[str, list[float]] = {"bare": [], "empty": [], "after 2,000 tokens": []}
    for turns in rng.sample(lines, count):
        tokens = torch.tensor(chat.renderer.history(as_chat(turns[:12])).ids)
        half = len(tokens) // 2
        for form, memory in (("bare", None), ("empty", deltamem.new_state(chat.model)), ("after 2,000 tokens", state)):
            losses[form].append(chat.loss([tokens[:half]], tokens[half:], memory, writing=True))
    means = {form: sum(values) / len(values) for form, values in losses.items()}
    say("harm", count, {form: {"value": value} for form, value in means.items()})
    return {form: {"nats": round(v, 4), "ratio": round(v / means["bare"], 4)} for form, v in means.items()} | {
        "chats": count
    }


def measure_share(chat: Chat, methods: Sequence[str], items: Sequence[tuple[Messages, str, str]]) -> dict[str, Any]:
    """Mean losses of answers, and the share of the gap between nothing and the full text that each closes.

    Args:
        chat: the model.
        methods: adapters' names.
        items: history, question and answer.
    """
    losses: dict[str, list[float]] = {}
    encode = lambda text: torch.tensor(chat.tokenizer(text, add_special_tokens=False).input_ids)  # noqa: E731
    targets = [encode(answer + "<|im_end|>") for _, _, answer in items]
    alone = [encode(chat._prompt([{"role": "user", "content": ask}])) for _, ask, _ in items]
    for (history, ask, _), prompt, target in zip(items, alone, targets, strict=True):
        losses.setdefault("nothing", []).append(chat.loss([prompt], target, None))
        whole = encode(chat._prompt([*history, {"role": "user", "content": ask}]))
        losses.setdefault("full", []).append(chat.loss([whole[-7000:]], target, None))
    for name in methods:
        chat.use(name)
        states: list[deltamem.MemoryState] = []
        for place, (history, _, _) in enumerate(items):
            if place and history is items[place - 1][0]:
                states.append(states[-1])
                continue
            ids = torch.tensor([chat.renderer.history(history).ids])
            states.append(deltamem.observe(chat.model, ids))
        half = len(items) // 2
        for place, (prompt, target) in enumerate(zip(alone, targets, strict=True)):
            stranger = states[(place + half) % len(states)]
            if name != "static":
                losses.setdefault(f"{name} own", []).append(chat.loss([prompt], target, states[place]))
            losses.setdefault(f"{name} stranger", []).append(chat.loss([prompt], target, stranger))
    means = {form: sum(values) / len(values) for form, values in losses.items()}
    gap = means["nothing"] - means["full"]
    result: dict[str, Any] = {"nats": {form: round(v, 4) for form, v in means.items()}, "questions": len(items)}
    result["share"] = (
        {form: round((means["nothing"] - v) / gap, 4) for form, v in means.items()} if gap > 0.01 else None
    )
    say("share", len(items), {form: {"value": v} for form, v in means.items()})
    return result


def story_items(path: str, stories: int) -> list[tuple[Messages, str, str]]:
    """Explicit questions of FairytaleQA stories, each story told in messages of a section."""
    items = []
    for line in Path(path).read_text("utf-8").splitlines()[:stories]:
        row = json.loads(line)
        history = [{"role": "user", "content": section["text"]} for section in row["sections"]]
        for question in [q for q in row["questions"] if q["explicit"]][:8]:
            items.append((history, question["question"], question["answers"][0]))
    return items


def say(section: str, size: int, rates: dict[str, Any]) -> None:
    """A line of progress."""
    print(
        f"{section:10} {size:5}",
        "  ".join(f"{name} {found['value']:.3f}" for name, found in rates.items()),
        file=sys.stderr,
        flush=True,
    )


def main() -> int:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="the backbone: a name or a folder")
    for name in METHODS:
        parser.add_argument(f"--{name}", default="", help=f"the adapter {name}: its name in the package or a folder")
    parser.add_argument("--json", metavar="PATH")
    parser.add_argument("--dialogues", type=int, default=120, help="questions a cell, about")
    parser.add_argument("--stories", default="", help="FairytaleQA, one story a line")
    parser.add_argument("--chats", default="", help="Synthetic-Persona-Chat, one chat a line")
    parser.add_argument("--only", default="", help="sections, by commas")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    if not any(getattr(arguments, name) for name in METHODS):
        arguments.multi = "first"
    adapters = {name: place for name in METHODS if (place := getattr(arguments, name))}
    chat, methods = Chat(arguments.model, adapters), list(adapters)
    sections: dict[str, Callable[[], Any]] = {
        "told": lambda: measure_told(chat, methods, arguments.dialogues),
        "corrected": lambda: measure_corrected(chat, methods, arguments.dialogues),
        "absence": lambda: measure_absence(chat, methods, arguments.dialogues),
        "formats": lambda: measure_formats(chat, methods[0], arguments.dialogues),
        "bytes": lambda: measure_bytes(chat, methods),
    }
    if arguments.chats:
        sections["forgetting"] = lambda: measure_forgetting(chat, methods, arguments.dialogues, arguments.chats)
        sections["harm"] = lambda: measure_harm(chat, methods[0], arguments.chats, 24)
    if arguments.stories:
        sections["stories"] = lambda: measure_share(chat, methods, story_items(arguments.stories, 12))
    chosen = [name for name in arguments.only.split(",") if name] or list(sections)
    if unknown := sorted(set(chosen) - set(sections)):
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(sections)}")
    path = Path(arguments.json) if arguments.json else None
    data: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    for name in chosen:
        data[name] = sections[name]()
        data["seconds"] = {**data.get("seconds", {}), name: round(time.monotonic() - started, 1)}
        data["machine"] = machine()
        if path:
            path.write_text(json.dumps(data, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
