"""Reads dialogues into memories or into the window, and grades the answers that greedy decoding would give."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from deltamem.attach import attached
from deltamem.attach.cache import PAST
from deltamem.chat.input import using
from deltamem.demo.lessons import WINDOW, DialogueTokens
from deltamem.demo.world import Utterance
from deltamem.state import MemoryState
from deltamem.train.episodes import Text, TextBatch
from deltamem.train.passes import answers, read, write

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

ASSISTANT = "assistant"
_BATCH_TOKENS = 4096
_NOTHING = Text((), (), ())

History = Sequence[Utterance]


@dataclass(frozen=True)
class Asked:
    """A question to the memory or the history in row ``row``, and the answer that counts as right."""

    row: int
    ask: str
    answer: str


class Reader:
    """The embedded backbone with its adapters, of which each call names one; ``None`` is the bare backbone.

    An answer is right when greedy decoding gives it to the letter. That is so exactly when every token of it, the
    end included, is the likeliest one, so one forward pass over question and answer decides it.
    """

    def __init__(self, model: "Qwen3ForCausalLM", tokenizer: "PreTrainedTokenizerFast") -> None:
        self.model = model
        self._tokens = DialogueTokens(tokenizer)

    def length(self, history: History) -> int:
        """How many tokens the messages are."""
        return len(self._text(history).ids)

    def bytes_per_session(self, adapter: str) -> int:
        """The size of one session's memory."""
        with using(self.model, adapter):
            return attached(self.model).new_state().nbytes

    @torch.inference_mode()
    def remember(self, adapter: str, histories: Sequence[History], state: MemoryState | None = None) -> MemoryState:
        """Writes one history a row to memory and keeps nothing else.

        A history longer than the window is read in passages of whole messages, each without the text before it.
        """
        rows = [self._tokens.passages([(message, 0.0) for message in history]) for history in histories]
        with using(self.model, adapter):
            state = attached(self.model).new_state(len(rows)) if state is None else state
            for number in range(max(map(len, rows))):
                passages = [row[number] if number < len(row) else _NOTHING for row in rows]
                state, _ = write(self.model, state, self._tokens.pad(passages))
        return state

    @torch.inference_mode()
    def recall(self, adapter: str | None, state: MemoryState | None, asked: Sequence[Asked]) -> list[bool]:
        """Which answers come out right with nothing but the question in the window."""
        texts = [self._question(question) for question in asked]
        # Like lengths together: less padding.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place].ids))
        right: dict[int, bool] = {}
        with using(self.model, adapter):
            for group in _groups([len(texts[place].ids) for place in order]):
                places = order[group.start : group.stop]
                questions = self._tokens.pad([texts[place] for place in places])
                if state is None:
                    hidden = self.model.model(questions.ids, use_cache=False).last_hidden_state
                else:
                    hidden = read(self.model, state.select([asked[place].row for place in places]), questions)
                right |= zip(places, self._right(hidden, questions), strict=True)
        return [right[place] for place in range(len(asked))]

    @torch.inference_mode()
    def read(self, adapter: str | None, histories: Sequence[History], asked: Sequence[Asked]) -> list[bool]:
        """Which answers come out right with a history in the window before the question.

        Of a history that does not fit, the last tokens are in the window. An adapter starts empty, and reads and
        writes all along.
        """
        questions = self._tokens.pad([self._question(question) for question in asked])
        room = WINDOW - questions.ids.shape[1]
        contexts = [self._text(history)[-room:] for history in histories]
        right: dict[int, bool] = {}
        with using(self.model, adapter):
            for rows in _groups([len(context.ids) for context in contexts]):
                places = [place for place, question in enumerate(asked) if question.row in rows]
                if not places:
                    continue
                group = self._tokens.pad(contexts[rows.start : rows.stop])
                within = [asked[place].row - rows.start for place in places]
                hidden = self._continue(group, within, questions.ids[places])
                right |= zip(places, self._right(hidden, questions[places]), strict=True)
        return [right[place] for place in range(len(asked))]

    @torch.inference_mode()
    def loss(self, adapter: str | None, histories: Sequence[History]) -> float:
        """Mean cross-entropy in nats over the assistant's tokens in the window.

        An adapter starts empty, and reads and writes all along.
        """
        batch = self._tokens.pad([self._text(history)[-WINDOW:] for history in histories])
        with using(self.model, adapter):
            hidden = self.model.model(batch.ids, use_cache=False).last_hidden_state
        return answers(self.model, hidden, batch).losses().mean().item()

    def _continue(self, contexts: TextBatch, rows: list[int], ids: Tensor) -> Tensor:
        """Hidden states ``[Q, T, D]`` of texts ``ids`` ``[Q, T]``, each after the context in its row of ``rows``."""
        cache = self.model.model(contexts.ids, attention_mask=contexts.mask.long(), use_cache=True)[PAST]
        cache.batch_select_indices(torch.tensor(rows))
        before = contexts.mask[rows].long()
        hidden: Tensor = self.model.model(
            ids,
            attention_mask=F.pad(before, (0, ids.shape[1]), value=1),
            position_ids=before.sum(1, keepdim=True) + torch.arange(ids.shape[1]),
            **{PAST: cache},
        ).last_hidden_state
        return hidden

    def _right(self, hidden: Tensor, questions: TextBatch) -> list[bool]:
        """Whether all weighted tokens of each row are the likeliest ones, given ``hidden`` ``[B, T, D]``."""
        wrong = set(answers(self.model, hidden, questions).wrong().tolist())
        return [row not in wrong for row in range(len(hidden))]

    def _text(self, history: History) -> Text:
        return self._tokens.text([(message, float(message.role == ASSISTANT)) for message in history])

    def _question(self, question: Asked) -> Text:
        return self._tokens.exchange([(question.ask, question.answer)])


def _groups(lengths: list[int]) -> Iterator[range]:
    """Runs of rows that make batches of bounded size."""
    start = 0
    while start < len(lengths):
        end = start + 1
        while end < len(lengths) and (end + 1 - start) * max(lengths[start : end + 1]) <= _BATCH_TOKENS:
            end += 1
        yield range(start, end)
        start = end
