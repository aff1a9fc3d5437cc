"""Told facts as training batches: dialogues are sampled as the training goes, so none comes twice."""

import random
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch.utils.data import Dataset

from deltamem.state import NO_SEGMENT
from deltamem.train.data.told.dialogues import UNKNOWN, Dialogue, Mix, Question, Split, sample_dialogue
from deltamem.train.episodes import Episode, EpisodeBatch, Text, collate, evenly

# How words are put is learned soon, and each trained token costs a pass through the output layer.
_LEAD_SHARE = 0.25
_USER = {"role": "user", "content": "?"}
_ASSISTANT = {"role": "assistant", "content": "."}


class Renderer:
    """Dialogues and questions as the tokens of a chat template.

    A history is rendered without what the template puts before a first message. A question is rendered with it, with
    another system message, or without any; its answer's tokens have loss weights.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        lead: the weight of an answer's tokens that are not of the value.
        unknown: the weight of the tokens of an answer that nothing is known.
    """

    def __init__(self, tokenizer: Any, *, lead: float = 0.05, unknown: float = 0.3) -> None:
        self.tokenizer, self.lead, self.unknown = tokenizer, lead, unknown
        alone, pair = self._text([_USER]), self._text([_USER, _ASSISTANT])
        turn = self._text([_USER, _ASSISTANT, _USER])[len(pair) :]
        if not alone.endswith(turn):
            raise ValueError("The chat template renders a first message otherwise than a later one; it is not supported.")
        self.opening = alone[: len(alone) - len(turn)]

    def history(self, messages: Sequence[dict[str, str]]) -> Text:
        """The tokens of messages, each message a segment."""
        ids: list[int] = []
        segments: list[int] = []
        before = ""
        for number in range(len(messages)):
            upto = self._text(messages[: number + 1]).removeprefix(self.opening)
            part = self.tokenizer(upto[len(before) :], add_special_tokens=False)["input_ids"]
            ids += part
            segments += [number] * len(part)
            before = upto
        return Text(tuple(ids), (0.0,) * len(ids), tuple(segments))

    def query(self, question: Question, system: str | None = "", *, lead: bool = True) -> Text:
        """The tokens of a question and its answer.

        Args:
            question: what is asked.
            system: the system message before it; ``None`` for the template's own opening, empty for none at all.
            lead: whether the answer's tokens that are not of the value are trained.
        """
        asked = [{"role": "user", "content": question.ask}]
        if system:
            asked.insert(0, {"role": "system", "content": system})
        prompt = self._text(asked, prompt=True)
        whole = self._text([*asked, {"role": "assistant", "content": question.answer}])
        if system == "":
            prompt, whole = prompt.removeprefix(self.opening), whole.removeprefix(self.opening)
        encoded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        begin = len(prompt) + question.answer.rfind(question.value)
        end = begin + len(question.value)
        base = self.unknown if question.answer == UNKNOWN else self.lead * lead
        close = len(prompt) + len(question.answer)
        ids, weights = [], []
        for token, (start, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            of_value = question.value and start < end and stop > begin
            trained = stop > len(prompt) and start <= close
            ids.append(token)
            weights.append(1.0 if of_value else base * trained)
            if start >= close:  # the end of the turn is learned, what follows it is never asked for
                break
        return Text(tuple(ids), tuple(weights), (NO_SEGMENT,) * len(ids))

    def episode(self, dialogue: Dialogue, system: str | None = "", *, lead: bool = True) -> Episode:
        """A dialogue as one passage, and its questions."""
        queries = tuple(self.query(question, system, lead=lead) for question in dialogue.questions)
        return Episode((self.history(dialogue.messages),), queries)

    def _text(self, messages: Sequence[dict[str, str]], *, prompt: bool = False) -> str:
        return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))


class ToldBatches(Dataset[EpisodeBatch]):
    """The batches of each update, sampled when they are asked for.

    Args:
        renderer: makes the tokens.
        stages: ``(updates, questions, mix)``: how many updates, how many questions each, of what dialogues.
        parts: batches an update, each of dialogues of like length.
        opened: the share of updates whose questions come after the template's own opening.
        seed: another seed, other dialogues.
    """

    def __init__(
        self, renderer: Renderer, stages: Sequence[tuple[int, int, Mix]], *, parts: int, opened: float, seed: int
    ) -> None:
        self.renderer, self.stages, self.parts, self.opened, self.seed = renderer, tuple(stages), parts, opened, seed
        self.updates = sum(updates for updates, _, _ in self.stages)
        self._last: tuple[int, list[list[Episode]]] = (-1, [])

    def __len__(self) -> int:
        return self.updates * self.parts

    def __getitem__(self, index: int) -> EpisodeBatch:
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} of {len(self)}.")
        update, part = divmod(index, self.parts)
        if self._last[0] != update:
            self._last = (update, self._episodes(update))
        return collate(self._last[1][part], int(self.renderer.tokenizer.pad_token_id or 0))

    def _episodes(self, update: int) -> list[list[Episode]]:
        rng = random.Random(f"told {self.seed}/{update}")
        left = update
        for updates, questions, mix in self.stages:
            if left < updates:
                break
            left -= updates
        system = None if rng.random() < self.opened else ""
        found: list[Episode] = []
        while sum(len(episode.queries) for episode in found) < questions:
            found.append(self.renderer.episode(sample_dialogue(rng, mix), system, lead=rng.random() < _LEAD_SHARE))
        return evenly(found, self.parts)


class ToldEpisodes(Dataset[Episode]):
    """Held-out dialogues with their questions."""

    def __init__(self, episodes: Sequence[Episode]) -> None:
        self.episodes = episodes

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]


def training_batches(
    tokenizer: Any,
    *,
    stages: Sequence[dict[str, Any]],
    parts: int = 2,
    opened: float = 0.2,
    lead: float = 0.05,
    seed: int = 0,
) -> ToldBatches:
    """Batches of told facts for a recipe's ``data.source``.

    Args:
        tokenizer: of the backbone.
        stages: each with ``updates``, ``questions`` an update, and the fields of :class:`Mix`.
        parts: batches an update: the recipe's ``schedule.batch``.
        opened: the share of updates whose questions come after the template's own opening.
        lead: the loss weight of an answer's words other than the value.
        seed: another seed, other dialogues.

    Raises:
        ValueError: a stage has an unknown key.
    """
    known = {field.name for field in fields(Mix)}
    made = []
    for number, given in enumerate(stages, start=1):
        stage = dict(given)
        updates, questions = int(stage.pop("updates")), int(stage.pop("questions"))
        if unknown := sorted(set(stage) - known):
            raise ValueError(f"Stage {number} has no {', '.join(unknown)}; its keys are {', '.join(sorted(known))}.")
        stage["facts"] = tuple(stage.get("facts", (1, 1)))
        made.append((updates, questions, Mix(**stage)))
    return ToldBatches(Renderer(tokenizer, lead=lead), made, parts=parts, opened=opened, seed=seed)


def held_out_episodes(
    tokenizer: Any,
    *,
    split: Split = "known",
    facts: int = 1,
    dialogues: int = 48,
    corrected: float = 0.0,
    opened: bool = False,
    seed: int = 0,
) -> ToldEpisodes:
    """Dialogues that hold out what ``split`` says, each asked about all its facts.

    Args:
        tokenizer: of the backbone.
        split: what is held out.
        facts: in each dialogue.
        dialogues: how many.
        corrected: the share of facts that are corrected.
        opened: whether questions come after the template's own opening.
        seed: another seed, other dialogues.
    """
    rng, renderer = random.Random(f"told {split}/{facts}/{seed}"), Renderer(tokenizer, lead=0.0)
    mix = Mix(facts=(facts, facts), corrected=corrected)
    return ToldEpisodes(
        [renderer.episode(sample_dialogue(rng, mix, split), None if opened else "") for _ in range(dialogues)]
    )
