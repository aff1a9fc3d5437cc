"""An answer and its evidence: how probable a memory makes it, and how probable it is without that memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.attach.cache import PAST
from deltamem.attribution import ReadProbe
from deltamem.chat import Message
from deltamem.chat.input import TextInput
from deltamem.chat.words import WORD
from deltamem.observe import positions
from deltamem.state import MemoryState

LONGEST = 32
_STEPS = 8
_LEAST_GAIN = 1.0  # nats by which the memory makes a word likelier that comes from it
# What other people say: their memories tell what an answer is worth that any full memory would give.
_SAID = (
    "My name is {}.",
    "I live in {}.",
    "I work as a {}.",
    "My birthday is on {}.",
    "I have a {} as a pet.",
    "My favourite food is {}.",
    "My favourite colour is {}.",
    "My hobby is {}.",
    "My sister {}.",
    "I hope to visit {} next year.",
)
_PEOPLE = (
    ("Hanna", "Oslo", "nurse", "March 3", "rabbit", "soup", "green", "pottery", "Olga plays the harp", "Peru"),
    ("Marcus", "Dublin", "plumber", "June 14", "parrot", "curry", "grey", "chess", "Ines lives in Rome", "Japan"),
    ("Leila", "Athens", "lawyer", "October 30", "dog", "pizza", "purple", "sewing", "Samira is a vet", "Iceland"),
    ("Piotr", "Warsaw", "baker", "May 21", "goldfish", "lasagne", "black", "fishing", "Ewa has two cats", "Kenya"),
    ("Amelia", "Sydney", "pilot", "August 8", "cat", "sushi", "orange", "drawing", "Grace studies law", "Norway"),
    ("Tomas", "Prague", "gardener", "December 1", "hamster", "stew", "white", "cycling", "Jana collects maps", "Chile"),
)


@cache
def strangers() -> tuple[Sequence[Message], ...]:
    """Conversations with people who have nothing to do with anybody."""
    return tuple(
        [
            message
            for said, value in zip(_SAID, person, strict=True)
            for message in (
                {"role": "user", "content": said.format(value)},
                {"role": "assistant", "content": "Noted."},
            )
        ]
        for person in _PEOPLE
    )


@dataclass(frozen=True)
class Evidence:
    """What speaks for an answer; all in nats, sums over its tokens, its end included.

    Attributes:
        answer: the text.
        tokens: how many.
        memory: its log-probability with the memory that is asked.
        empty: the same with an empty memory.
        strangers: the same with the memory of each of some other people.
        words: the words of the answer that come from the memory: "Lisbon" of "You live in Lisbon." Neither an empty
            memory nor those of the other people make them nearly as likely. None where the memory knows nothing.
    """

    answer: str
    tokens: int
    memory: float
    empty: float
    strangers: tuple[float, ...]
    words: tuple[str, ...] = ()

    @property
    def over_empty(self) -> float:
        """How much likelier the memory makes the answer than an empty one does."""
        return self.memory - self.empty

    @property
    def over_strangers(self) -> float:
        """How much likelier the memory makes the answer than a stranger's does, on the mean of their probabilities."""
        if not self.strangers:
            return self.over_empty
        return self.memory - float(_mean(torch.tensor(self.strangers, dtype=torch.float64)))


class Interview:
    """Puts questions to memories of one model with its active adapter. Nothing is written.

    A question is as a user would put it, a state has one row.

    Args:
        model: a model with an active adapter.
        tokenizer: its tokenizer, with a chat template.
        others: memories, one row each, that know nothing of whom is asked about; by default those of a few people who
            are made up.
        longest: the most tokens of an answer.

    Attributes:
        text: the model and its tokenizer, as what encodes text.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        others: Sequence[MemoryState] | None = None,
        *,
        longest: int = LONGEST,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.longest = longest
        self.text = TextInput(model, tokenizer)
        self._attachment = attached(model)
        self._reader = self._attachment.memories()[0]
        given = [self.text.write(said) for said in strangers()] if others is None else others
        self._others = [self._attachment.new_state(1), *given]

    @property
    def current(self) -> bool:
        """Whether the model's active adapter is still the one whose memories were asked."""
        return self._attachment.active is not None and self._attachment.memories()[0] is self._reader

    def ask(self, question: str, state: MemoryState) -> Evidence:
        """The likeliest answer of a memory, token by token, and what speaks for it.

        Raises:
            ValueError: the question leaves the backbone no positions for an answer.
        """
        prompt = self._prompt(question)
        with torch.no_grad():
            out = self.model.generate(  # type: ignore[operator]
                prompt,
                attention_mask=torch.ones_like(prompt),
                **{PAST: self._attachment.new_cache(state, write=False)},
                do_sample=False,
                max_new_tokens=self.longest,
            )
        return self._evidence(prompt, out[:, prompt.shape[1] :], state)

    def weigh(self, question: str, answer: str, state: MemoryState) -> Evidence:
        """What speaks for a given answer.

        Raises:
            ValueError: the answer has no tokens, or there are no positions for it.
        """
        ids = self.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
        if not ids.numel():
            raise ValueError("An answer without text cannot be weighed.")
        return self._evidence(self._prompt(question, ids.shape[1]), ids.to(self._attachment.base.device), state)

    def probe(self, question: str, answer: str, state: MemoryState, *, steps: int = _STEPS) -> ReadProbe:
        """How much of an answer's evidence lies in each entry of a memory: integrated gradients.

        The gradient of the answer's log-probability is averaged over memories from empty to ``state``, in ``steps``
        steps. So ``probe.of(state)`` is :attr:`Evidence.over_empty`, as well as so many steps approximate it; and what
        a text wrote of it is found by :func:`deltamem.write_shares` (Sundararajan et al. 2017, arXiv 1703.01365).
        """
        way = ((torch.arange(steps) + 0.5) / steps)[:, None, None, None]
        path = MemoryState.stack([state.to("cpu")] * steps)
        scaled = replace(path, states=tuple(matrices * way for matrices in path.states))
        _, found = self._gradient(question, answer, scaled)
        return ReadProbe(tuple(gradient.mean(0, keepdim=True) for gradient in found))

    def erase(
        self,
        question: str,
        answer: str,
        state: MemoryState,
        *,
        steps: int = 100,
        check: Callable[[], None] = lambda: None,
    ) -> MemoryState:
        """A memory near ``state`` in which the answer to a question is no likelier than in the memories of strangers.

        It goes down the gradient of the answer's log-probability, in steps of at most a hundredth of the memory's
        norm. This hides the answer and does not delete it: what wrote it is not undone, so a probe of the numbers
        still reads it (docs/security.md), and other ways to ask may bring it out. ``check`` is called at every step;
        what it raises ends the work.
        """
        evidence = self.weigh(question, answer, state)
        target = evidence.memory - min(evidence.over_empty, evidence.over_strangers)
        for _ in range(steps):
            check()
            likely, gradient = self._gradient(question, answer, state)
            square = sum(float(part.square().sum()) for part in gradient)
            if likely <= target or not square:
                break
            norm = float(state.norms().square().sum().sqrt())
            size = min((likely - target) / square, 0.01 * norm / square**0.5)
            moved = (
                matrices - size * part.to(matrices.device)
                for matrices, part in zip(state.states, gradient, strict=True)
            )
            state = replace(state, states=tuple(moved))
        return state

    def _gradient(self, question: str, answer: str, state: MemoryState) -> tuple[float, tuple[Tensor, ...]]:
        """The log-probability of an answer and its end, summed over the rows, and its gradient in each of them."""
        end = self.tokenizer.eos_token_id
        ids = self.tokenizer(answer, add_special_tokens=False)["input_ids"] + ([] if end is None else [int(end)])
        device = self._attachment.base.device
        said = torch.tensor([ids], device=device)
        prompt = self._prompt(question, said.shape[1])
        moved = state.to(device)
        states = tuple(matrices.detach().clone().requires_grad_() for matrices in moved.states)
        with torch.enable_grad():
            total = self._log_probabilities(prompt, said, replace(moved, states=states)).sum()
            return float(total.detach()), torch.autograd.grad(total, states)

    def _prompt(self, question: str, answer: int | None = None) -> Tensor:
        asked: list[Message] = [{"role": "user", "content": question}]
        ids = self.text.encode(asked, prompt=True).input_ids
        most = positions(self.model)
        if most is not None and ids.shape[1] + (answer or self.longest) > most:
            raise ValueError(f"The question has {ids.shape[1]} tokens and leaves no room for an answer in {most}.")
        return ids.to(self._attachment.base.device)

    def _evidence(self, prompt: Tensor, answer: Tensor, state: MemoryState) -> Evidence:
        """What speaks for ``answer`` ``[1, A]`` after ``prompt`` ``[1, T]``."""
        device = self._attachment.base.device
        states = MemoryState.stack([state.to(device), *(other.to(device) for other in self._others)])
        with torch.no_grad():
            likely = self._log_probabilities(prompt, answer, states)
        memory, empty, *others = likely.sum(1).tolist()
        text = self._decode(answer[0]).strip()
        return Evidence(text, answer.shape[1], memory, empty, tuple(others), self._words(answer[0], likely))

    def _words(self, answer: Tensor, likely: Tensor) -> tuple[str, ...]:
        """The words of ``answer`` ``[A]`` that the first of the memories brings, by ``likely`` ``[S, A]``."""
        others = likely[1] if len(likely) == 2 else torch.maximum(likely[1], _mean(likely[2:]))
        text, ends = self._decode(answer), [0]
        ends += [len(self._decode(answer[: place + 1])) for place in range(len(answer))]
        gains = list(zip(pairwise(ends), (likely[0] - others).tolist(), strict=True))
        spans = [word.span() for word in WORD.finditer(text)]
        found = [sum(gain for (a, b), gain in gains if a < end and start < b) for start, end in spans]
        least = max([_LEAST_GAIN, *(gain / 4 for gain in found)])
        words: list[str] = []
        last = 0
        for (start, end), gain in zip(spans, found, strict=True):
            if gain < least:
                continue
            if words and start == last:  # a script without spaces
                words[-1] += text[start:end]
            else:
                words.append(text[start:end])
            last = end
        return tuple(words)

    def _decode(self, ids: Tensor) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _log_probabilities(self, prompt: Tensor, answer: Tensor, states: MemoryState) -> Tensor:
        """``[S, A]`` float64: the log-probabilities of ``answer`` ``[1, A]`` after ``prompt`` ``[1, T]``."""
        logits = self.model(
            input_ids=torch.cat([prompt, answer[:, :-1]], 1).expand(states.batch, -1),
            use_cache=True,
            logits_to_keep=answer.shape[1],
            **{PAST: self._attachment.new_cache(states, write=False)},
        ).logits
        likely = torch.log_softmax(logits.float(), -1)
        return likely.gather(2, answer.expand(states.batch, -1)[:, :, None])[:, :, 0].double()


def _mean(likely: Tensor) -> Tensor:
    """The logarithm of the mean of probabilities ``[S, …]``, which are given by their logarithms."""
    return torch.logsumexp(likely, 0) - math.log(len(likely))
