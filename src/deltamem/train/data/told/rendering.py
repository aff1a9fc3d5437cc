"""Told facts as tokens: dialogues and questions by a chat template, with loss weights on the answers."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from deltamem.chat.template import ANSWER, ASK, Message
from deltamem.state import NO_SEGMENT
from deltamem.train.data.told.dialogues import Dialogue, Question
from deltamem.train.data.told.texts import AskedText
from deltamem.train.episodes import Episode, Text


class Renderer:
    """Dialogues and questions as the tokens of a chat template.

    A history is rendered without what the template puts before a first message. A question is rendered with it, with
    another system message, or without any; its answer's tokens have loss weights.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        lead: the weight of an answer's tokens that are not of the value.
        unknown: the weight of the tokens of an answer that nothing is known.

    Attributes:
        opening: what the template puts before a first message.

    Raises:
        ValueError: the tokenizer is not fast, has no chat template, or one that renders a first message otherwise.
    """

    def __init__(self, tokenizer: Any, *, lead: float = 0.05, unknown: float = 0.3) -> None:
        if not getattr(tokenizer, "is_fast", False) or not tokenizer.chat_template:
            raise ValueError(
                "The told facts need a fast tokenizer with a chat template, as instruction-tuned models have."
            )
        self.tokenizer, self.lead, self.unknown = tokenizer, lead, unknown
        alone, pair = self._text([ASK]), self._text([ASK, ANSWER])
        turn = self._text([ASK, ANSWER, ASK])[len(pair) :]
        if not alone.endswith(turn):
            raise ValueError(
                "The chat template renders a first message differently from a later one, so it cannot render the told "
                "facts; set tokenizer.chat_template to one that only appends."
            )
        self.opening = alone[: len(alone) - len(turn)]

    def history(self, messages: Sequence[Message]) -> Text:
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

    def passages(self, messages: Sequence[Message], limit: int) -> tuple[Text, ...]:
        """The tokens of messages in passages of at most ``limit``, cut between messages where none is longer."""
        groups: list[list[Message]] = []
        room = 0
        for message in messages:
            size = self.count(message)
            if size > room or not groups:
                groups.append([])
                room = limit
            groups[-1].append(message)
            room -= size
        found = (self.history(group) for group in groups)
        return tuple(text[start : start + limit] for text in found for start in range(0, len(text.ids), limit))

    def count(self, message: Message) -> int:
        """About how many tokens a message has: those of its text, and what the template puts around one."""
        return len(self.tokenizer(message["content"], add_special_tokens=False)["input_ids"]) + self._frame

    @cached_property
    def _frame(self) -> int:
        pair = self.history([ASK, ANSWER])
        return max(map(pair.segments.count, (0, 1))) - 1

    def query(self, question: Question, system: str | None = "", *, lead: bool = True) -> Text:
        """The tokens of a question and its answer, up to the end of the turn.

        Args:
            question: what is asked.
            system: the system message before it; ``None`` for the template's own opening, empty for none at all.
            lead: whether the answer's tokens that are not of the value are trained.
        """
        prompt, whole = self._answered([{"role": "user", "content": question.ask}], question.answer, system)
        encoded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        begin, close = len(prompt), len(prompt) + len(question.answer)
        # A name before the value may have it within ("Anabel lives in Ana"); no answer has it after the value.
        value_begin = begin + question.answer.rfind(question.value)
        value_end = value_begin + len(question.value)
        base = self.lead * lead if question.value else self.unknown
        ids, weights = [], []
        for token, (start, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            of_value = question.value and start < value_end and stop > value_begin
            ids.append(token)
            weights.append(1.0 if of_value else base * (begin < stop and start <= close))
            if start >= close:  # the end of the turn is learned; what follows it is never asked for
                break
        return Text(tuple(ids), tuple(weights), (NO_SEGMENT,) * len(ids))

    def reply(self, messages: Sequence[Message], system: str | None = "") -> Text:
        """The tokens of a conversation whose last reply has weights, up to the end of its turn."""
        prompt, whole = self._answered(messages[:-1], messages[-1]["content"], system)
        close = len(prompt) + len(messages[-1]["content"])
        encoded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        kept = [
            (token, float(stop > len(prompt)))
            for token, (start, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            if start <= close
        ]
        ids, weights = zip(*kept, strict=True)
        return Text(ids, weights, (NO_SEGMENT,) * len(ids))

    def episode(
        self, dialogue: Dialogue, system: str | None = "", *, lead: bool = True, passage: int | None = None
    ) -> Episode:
        """A dialogue and its questions.

        Args:
            dialogue: what was said, and what is asked.
            system: the system message before each question, as in :meth:`query`.
            lead: whether the answers' tokens that are not of a value are trained.
            passage: the most tokens that are written by one forward pass; all of them if not given.
        """
        queries = tuple(self.query(question, system, lead=lead) for question in dialogue.questions)
        messages = dialogue.messages
        return Episode((self.history(messages),) if passage is None else self.passages(messages, passage), queries)

    def asked(self, text: AskedText, system: str | None = "", *, passage: int) -> Episode:
        """A real text and its questions; all tokens of the answers have weights. The rest is as for :meth:`episode`."""
        queries = (
            self.reply([{"role": "user", "content": ask}, {"role": "assistant", "content": answer}], system)
            for ask, answer in text.questions
        )
        return Episode(self.passages(text.history, passage), tuple(queries))

    def _answered(self, asked: Sequence[Message], answer: str, system: str | None) -> tuple[str, str]:
        """The prompt of messages after a system message, and the prompt with its answer."""
        before = [{"role": "system", "content": system}, *asked] if system else list(asked)
        prompt = self._text(before, prompt=True)
        whole = self._text([*before, {"role": "assistant", "content": answer}])
        if system == "":
            return prompt.removeprefix(self.opening), whole.removeprefix(self.opening)
        return prompt, whole

    def _text(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))
