"""What the embedded backbone can do with the text still in its window: recall, corrections, abstention, small talk."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from deltamem.demo.lessons import WINDOW, LessonTokens, Turn
from deltamem.demo.world import Utterance, chat, sample_dialogue, unanswerable_question
from deltamem.train.passes import answers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

FACT_COUNTS = (1, 2, 4, 8, 16)
_BATCH = 16
_QUESTIONS = 4


@dataclass(frozen=True)
class Probe:
    """A history and the exchange that should follow it."""

    history: tuple[Utterance, ...]
    ask: str
    answer: str


def evaluate_in_context(
    model: "Qwen3ForCausalLM", tokenizer: "PreTrainedTokenizerFast", *, questions: int = 400, seed: int = 1
) -> dict[str, dict[str, float]]:
    """Rates of exact answers on held-out dialogues: about ``questions`` for each row.

    ``recall`` is by number of facts, ``corrected`` asks for corrected facts only, ``abstention`` is by number of
    facts about something else, and ``small_talk`` is the share of replies the world itself would give. Dialogues
    that do not fit in the window are drawn again.
    """
    rng = random.Random(seed)
    tokens = LessonTokens(tokenizer)

    def rate(probes: list[Probe]) -> float:
        right = answered_exactly(model, tokenizer, probes)
        return sum(right) / len(right)

    def rows(counts: tuple[int, ...], kind: str) -> dict[str, float]:
        return {str(facts): rate(_probes(rng, tokens, facts, questions, kind)) for facts in counts}

    return {
        "recall": rows(FACT_COUNTS, "told"),
        "corrected": rows(FACT_COUNTS, "corrected"),
        "abstention": rows((0, *FACT_COUNTS), "unknown"),
        "small_talk": rows((0, 4), "small talk"),
    }


def prompt_tokens(tokenizer: "PreTrainedTokenizerFast", *, dialogues: int = 100) -> dict[str, dict[str, float]]:
    """Mean and largest number of tokens of a held-out history with one question, by number of facts."""
    rng = random.Random(0)
    tokens = LessonTokens(tokenizer)
    lengths = {
        facts: [len(tokens.encode(_turns(probe)).ids) for probe in _probes(rng, tokens, facts, dialogues, "told")]
        for facts in FACT_COUNTS
    }
    return {str(facts): {"mean": sum(row) / len(row), "most": max(row)} for facts, row in lengths.items()}


def answered_exactly(
    model: "Qwen3ForCausalLM", tokenizer: "PreTrainedTokenizerFast", probes: list[Probe]
) -> list[bool]:
    """Whether greedy decoding gives each answer to the letter.

    One forward pass over history, question and answer decides it: greedy decoding follows the answer exactly when
    every token of it, the end included, is the likeliest one. Raises ValueError for a probe beyond the window.
    """
    tokens = LessonTokens(tokenizer)
    rows = [tokens.encode(_turns(probe)) for probe in probes]
    if any(len(row.ids) >= WINDOW for row in rows):
        raise ValueError(f"a probe does not fit in the window of {WINDOW} tokens")
    order = sorted(range(len(rows)), key=lambda row: len(rows[row].ids))
    right: dict[int, bool] = {}
    for first in range(0, len(order), _BATCH):
        chunk = order[first : first + _BATCH]
        batch = tokens.pad([rows[row] for row in chunk])
        with torch.inference_mode():
            hidden = model.model(batch.ids, use_cache=False).last_hidden_state
            wrong = set(answers(model, hidden, batch).wrong().tolist())
        right |= {row: place not in wrong for place, row in enumerate(chunk)}
    return [right[row] for row in range(len(rows))]


def _turns(probe: Probe) -> list[Turn]:
    return [
        *[Turn(message, 0.0) for message in probe.history],
        Turn(Utterance("user", probe.ask), 0.0),
        Turn(Utterance("assistant", probe.answer), 1.0),
    ]


def _probes(rng: random.Random, tokens: LessonTokens, facts: int, count: int, kind: str) -> list[Probe]:
    probes: list[Probe] = []
    while len(probes) < count:
        corrections = (facts + 3) // 4 if kind == "corrected" else 0
        dialogue = sample_dialogue(rng, facts=facts, corrections=corrections, split="test")
        if kind == "small talk":
            said, reply = chat(rng, 1)
            asked = [(said.text, reply.text)]
        elif kind == "unknown":
            unknown = unanswerable_question(rng, dialogue.facts, dialogue.people, "test")
            asked = [(unknown.ask, unknown.answer)]
        else:
            wanted = [q for q in dialogue.questions if kind == "told" or (q.fact and q.fact.replaces)]
            chosen = rng.sample(wanted, min(_QUESTIONS, len(wanted)))
            asked = [(question.ask, question.answer) for question in chosen]
        drawn = [Probe(dialogue.messages, ask, answer) for ask, answer in asked]
        probes += [probe for probe in drawn if len(tokens.encode(_turns(probe)).ids) < WINDOW]
    return probes[:count]
