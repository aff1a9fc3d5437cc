"""Told facts as training batches: dialogues are sampled as the training goes, so none comes twice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from deltamem.chat import Message
from deltamem.train.data.told.chats import Chats, conversations
from deltamem.train.data.told.dialogues import Dialogue, Mix, Split, sample_dialogue
from deltamem.train.data.told.rendering import Renderer
from deltamem.train.data.told.replies import ToldReplies
from deltamem.train.data.told.texts import Texts
from deltamem.train.episodes import Episode, EpisodeBatch, collate, evenly
from deltamem.train.strangers import with_strangers

# The most tokens of a long history that are written by one forward pass.
_PASSAGE = 512


@dataclass(frozen=True)
class Stage:
    """A part of a curriculum.

    Attributes:
        updates: how many updates it has.
        questions: how many questions an update has at least.
        mix: what the dialogues are made of.
        filler: the fewest and the most tokens of real chat around and between the facts of a dialogue.
        filler_share: the share of dialogues that have such chat.
        texts: how many real texts with their questions an update has beside the dialogues.
    """

    updates: int
    questions: int
    mix: Mix
    filler: tuple[int, int] = (0, 0)
    filler_share: float = 1.0
    texts: int = 0

    @classmethod
    def from_options(cls, number: int, options: dict[str, Any]) -> "Stage":
        """A stage as a recipe gives it: its own attributes, and the fields of :class:`Mix`.

        Raises:
            ValueError: a key is missing or unknown, or has an impossible value.
        """
        known = ["updates", "questions", "filler", "filler_share", "texts", *(field.name for field in fields(Mix))]
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"Stage {number} has no {', '.join(unknown)}; its keys are {', '.join(known)}.")
        mix = dict(options)
        updates, questions, filler = (mix.pop(name, 0) for name in ("updates", "questions", "filler"))
        for name, value in (("updates", updates), ("questions", questions)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Stage {number} needs {name}, a whole number above 0.")
        fewest, most = (filler, filler) if isinstance(filler, int) else filler
        if not 0 <= fewest <= most:
            raise ValueError(f"Stage {number}: filler must be tokens, such as 2000 or [0, 4000], not {filler}.")
        share = mix.pop("filler_share", 1.0)
        if not 0 <= share <= 1:
            raise ValueError(f"Stage {number}: filler_share is a share and must be from 0 to 1, not {share}.")
        texts = mix.pop("texts", 0)
        if not isinstance(texts, int) or texts < 0:
            raise ValueError(f"Stage {number}: texts must be a whole number, not {texts}.")
        if "facts" in mix:
            mix["facts"] = tuple(mix["facts"])
        try:
            return cls(updates, questions, Mix(**mix), (fewest, most), share, texts)
        except ValueError as error:
            raise ValueError(f"Stage {number}: {error}") from None


class ToldBatches(Dataset[EpisodeBatch]):
    """The batches of each update, sampled when they are asked for.

    Args:
        renderer: makes the tokens.
        stages: the curriculum, one stage after the other.
        parts: this, ``opened``, ``lead_share``, ``seed`` and ``prompts`` are as for :func:`training_batches`.
        chats: what is put between the facts; the same facts are told with it and without.
        plain: conversations that need no memory, whose last replies are to stay as the backbone gives them.
        replies: what a backbone itself answers to told facts.
        texts: real texts with questions about them.
        strangers: whether every question meets the memory of another dialogue or text of its update.

    Raises:
        ValueError: a stage wants chat between the facts, a backbone's replies or texts, and there are none; or prompts,
            and there are no conversations.
    """

    def __init__(
        self,
        renderer: Renderer,
        stages: Sequence[Stage],
        *,
        parts: int,
        opened: float,
        lead_share: float,
        seed: int,
        chats: Chats | None = None,
        plain: Sequence[Sequence[Message]] = (),
        prompts: int = 0,
        replies: ToldReplies | None = None,
        texts: Texts | None = None,
        strangers: bool = False,
    ) -> None:
        if chats is None and any(stage.filler[1] for stage in stages):
            raise ValueError(
                "A stage has filler, tokens of real chat; give chat, a file of JSON lines to take it from."
            )
        if replies is None and any(stage.mix.replied for stage in stages):
            raise ValueError(
                "A stage has replied, a backbone's own replies; give replies, a file that `deltamem data make "
                "told-replies` made."
            )
        if texts is None and any(stage.texts for stage in stages):
            raise ValueError(
                "A stage has texts, real ones with questions; give texts, a file that `deltamem data convert` made."
            )
        if prompts and not plain:
            raise ValueError("prompts are conversations that need no memory; give plain, a file of JSON lines of them.")
        self.chats, self.lead_share = chats, lead_share
        self.plain, self.prompts = plain, prompts
        self.reply, self.texts, self.strangers = replies.draw if replies else None, texts, strangers
        self.renderer, self.stages, self.parts, self.opened, self.seed = renderer, tuple(stages), parts, opened, seed
        self.updates = sum(stage.updates for stage in self.stages)
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

    def dialogues(self, update: int) -> list[Dialogue]:
        """What is told and asked in an update, without the chat around it."""
        return [dialogue for dialogue, _ in self._drawn(update)[1]]

    def _drawn(self, update: int) -> tuple[str | None, list[tuple[Dialogue, bool]]]:
        """The system message of an update's questions; its dialogues, each with whether whole answers are trained."""
        stage, rng = self._stage(update), random.Random(f"told {self.seed}/{update}")
        system = None if rng.random() < self.opened else ""
        found: list[tuple[Dialogue, bool]] = []
        while sum(len(dialogue.questions) for dialogue, _ in found) < stage.questions:
            found.append((sample_dialogue(rng, stage.mix, reply=self.reply), rng.random() < self.lead_share))
        return system, found

    def _episodes(self, update: int) -> list[list[Episode]]:
        stage, chat_rng = self._stage(update), random.Random(f"chat {self.seed}/{update}")
        system, drawn = self._drawn(update)
        found: list[Episode] = []
        for dialogue, lead in drawn:
            passage = None
            if self.chats and stage.filler[1] and (stage.filler_share == 1 or chat_rng.random() < stage.filler_share):
                around = self.chats.around(chat_rng, dialogue.messages, chat_rng.randint(*stage.filler))
                dialogue, passage = replace(dialogue, messages=around), _PASSAGE
            found.append(self.renderer.episode(dialogue, system, lead=lead, passage=passage))
        if self.texts:
            text_rng = random.Random(f"texts {self.seed}/{update}")
            drawn_texts = [self.texts.draw(text_rng) for _ in range(stage.texts)]
            found += [self.renderer.asked(text, system, passage=_PASSAGE) for text in drawn_texts]
        if self.strangers:
            found = with_strangers(found, update)
        return [
            self._with_plain(part, random.Random(f"plain {self.seed}/{update}/{number}"))
            for number, part in enumerate(evenly(found, self.parts))
        ]

    def _with_plain(self, episodes: list[Episode], rng: random.Random) -> list[Episode]:
        """The episodes, the first with prompts that need no memory; half of these come after the template's opening."""
        if not self.prompts:
            return episodes
        drawn = rng.sample(range(len(self.plain)), self.prompts // self.parts)
        texts = tuple(self.renderer.reply(self.plain[place], rng.choice(("", None))) for place in drawn)
        return [replace(episodes[0], plain=texts), *episodes[1:]]

    def _stage(self, update: int) -> Stage:
        """The stage that an update is of."""
        for stage in self.stages:
            if update < stage.updates:
                return stage
            update -= stage.updates
        raise IndexError(f"Update {update} of {self.updates}.")


def training_batches(
    tokenizer: Any,
    *,
    stages: Sequence[dict[str, Any]],
    lead: float = 0.05,
    chat: str | Path | None = None,
    plain: str | Path | None = None,
    parts: int = 2,
    opened: float = 0.2,
    lead_share: float = 0.25,
    seed: int = 0,
    prompts: int = 0,
    replies: str | Path | None = None,
    texts: str | Path | None = None,
    longest_text: int = 1024,
    strangers: bool = False,
) -> ToldBatches:
    """Batches of told facts for a recipe's ``data.source``.

    Args:
        tokenizer: of the backbone.
        stages: each with ``updates``, ``questions`` an update, and the fields of :class:`Mix`; with ``filler`` too,
            tokens of real chat around and between a dialogue's facts, as one number or the fewest and the most, and
            ``filler_share``, the share of dialogues that have it; with ``texts``, real texts an update.
        lead: the loss weight of an answer's words other than the value, where they are trained.
        chat: a file of JSON lines of messages, or a folder or glob pattern, that ``filler`` is taken from. Such long
            histories are written in passages of at most 512 tokens.
        plain: JSON lines of conversations that need no memory and end with the backbone's own reply, for
            ``objective.preservation``: a file, a folder or a glob pattern.
        parts: batches an update, each of dialogues of like length: the recipe's ``schedule.batch``, with a
            ``micro_batch`` of 1.
        opened: the share of updates whose questions come after the template's own opening.
        lead_share: the share of dialogues in whose answers more than the value is trained: how words are put is learned
            soon, and each trained token costs a pass through the output layer. Where ``unknown`` is asked too, let both
            weigh alike at the first word (``lead: 0.3, lead_share: 1``), or the model says of everything that it was
            not told.
        seed: another seed, other dialogues.
        prompts: how many conversations of ``plain`` an update has.
        replies: JSON lines of what the backbone itself answers to told facts, errors too, for stages with ``replied``;
            ``deltamem data make told-replies`` makes them.
        texts: JSON lines of real texts, each with a question and its answer, for stages with ``texts``; ``deltamem data
            convert`` makes them. With several files each is drawn from equally often.
        longest_text: the most tokens of a text; longer ones are left out.
        strangers: whether every question meets the memory of another dialogue or text of its update, for a static
            control.

    Raises:
        BadDataError: ``chat``, ``plain``, ``replies`` or ``texts`` cannot be read.
        ValueError: a stage has an unknown key, lacks one, or has an impossible value; or the tokenizer will not do.
    """
    made = [Stage.from_options(number, stage) for number, stage in enumerate(stages, start=1)]
    renderer = Renderer(tokenizer, lead=lead)
    chats = None if chat is None else Chats(conversations(chat), renderer.count)
    kept = () if plain is None else conversations(plain)
    return ToldBatches(
        renderer,
        made,
        parts=parts,
        opened=opened,
        lead_share=lead_share,
        seed=seed,
        chats=chats,
        plain=kept,
        prompts=prompts,
        replies=None if replies is None else ToldReplies(replies),
        texts=None if texts is None else Texts(texts, renderer.count, longest_text),
        strangers=strangers,
    )


def static_batches(tokenizer: Any, **options: Any) -> ToldBatches:
    """The same batches for a static control, with ``strangers``.

    Raises:
        BadDataError: as :func:`training_batches`.
        ValueError: as :func:`training_batches`.
    """
    return training_batches(tokenizer, **options, strangers=True)


def held_out_episodes(
    tokenizer: Any,
    *,
    split: Split = "known",
    facts: int = 1,
    dialogues: int = 48,
    corrected: float = 0.0,
    opened: bool = False,
    strict: bool = False,
    seed: int = 0,
    chat: str | Path | None = None,
    filler: int = 0,
) -> list[Episode]:
    """Dialogues that hold out what ``split`` says, each asked about all its facts.

    Args:
        tokenizer: of the backbone.
        split: what is held out.
        facts: in each dialogue.
        dialogues: how many.
        corrected: the share of facts that are corrected.
        opened: whether questions come after the template's own opening.
        strict: whether held-out values occur in training in no other value or wording either, as in :class:`Mix`.
        seed: another seed, other dialogues.
        chat: what ``filler`` is taken from, as for :func:`training_batches`; take chats that training never has.
        filler: tokens of real chat around and between the facts.

    Raises:
        ValueError: there is ``filler`` and no ``chat``.
    """
    rng, chat_rng = (random.Random(f"{what} {split}/{facts}/{seed}") for what in ("told", "chat"))
    renderer, system = Renderer(tokenizer, lead=0.0), None if opened else ""
    mix = Mix(facts=(facts, facts), corrected=corrected, strict=strict)
    told = [sample_dialogue(rng, mix, split) for _ in range(dialogues)]
    if filler:
        if chat is None:
            raise ValueError("filler is tokens of real chat; give chat, a file of JSON lines to take it from.")
        chats = Chats(conversations(chat), renderer.count)
        told = [replace(dialogue, messages=chats.around(chat_rng, dialogue.messages, filler)) for dialogue in told]
    return [renderer.episode(dialogue, system, passage=_PASSAGE if filler else None) for dialogue in told]
