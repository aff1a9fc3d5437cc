"""One request's generations: started together, followed to their end, and then written as a turn."""

import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.requests import Request

from deltamem.serve.access import Caller
from deltamem.serve.bridge import Jobs, Start
from deltamem.serve.engine.constraint import Form
from deltamem.serve.engine.interface import PromptError
from deltamem.serve.engine.jobs import Done, Piece
from deltamem.serve.engine.sampling import Chosen, Sampling
from deltamem.serve.engine.text import CONTEXT
from deltamem.serve.errors import ApiError, invalid
from deltamem.serve.schema.completions import MemoryOptions
from deltamem.serve.server import Server
from deltamem.serve.traces import begin_span
from deltamem.serve.turns import Turn, open_turn


@dataclass(frozen=True)
class Token:
    """A token of an answer.

    Attributes:
        chosen: the token.
        begin: at which character of the answer its text begins.
        after: the last few tokens that the text had before it.
    """

    chosen: Chosen
    begin: int
    after: list[int]


@dataclass
class Choice:
    """What one generation has come to.

    Attributes:
        prompt_tokens: tokens read.
        before: the last few tokens of the text, or those that it continues from.
        text: its text so far.
        tokens: those whose text is in it; the end token, and what a stop text cut into, are not among them.
        reason: why it ended; ``None`` while it continues.
        completion_tokens: tokens generated so far.
    """

    prompt_tokens: int
    before: list[int]
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    reason: str | None = None
    completion_tokens: int = 0
    # Tokens by the length of the text with them: some are held back, and a character takes up to four.
    _waiting: deque[tuple[int, list[Token]]] = field(default_factory=deque, init=False)
    _incomplete: list[Token] = field(default_factory=list, init=False)
    _length: int = field(default=0, init=False)

    def add(self, piece: Piece) -> list[Token]:
        """Takes a generated token in, and gives the tokens that became certain with it."""
        self.text += piece.text
        self.completion_tokens += 1
        self._incomplete.append(Token(piece.chosen, self._length, self.before))
        self.before = [*self.before, piece.chosen.token][-CONTEXT:]
        if piece.length > self._length:
            self._complete(piece.length)
        return self._certain()

    def end(self, done: Done) -> list[Token]:
        """Takes the end in, and gives the tokens that became certain with it."""
        self.text += done.text
        self.reason, self.completion_tokens = done.reason, done.completion_tokens
        self._complete(self._length)
        return self._certain()

    def _complete(self, length: int) -> None:
        self._waiting.append((length, self._incomplete))
        self._incomplete, self._length = [], length

    def _certain(self) -> list[Token]:
        given: list[Token] = []
        while self._waiting and self._waiting[0][0] <= len(self.text):
            given += self._waiting.popleft()[1]
        self.tokens += given
        return given


class Generations:
    """The generations of one request.

    Args:
        turn: the memory they read.
        prompts: the token ids of each prompt.
        samplings: how each answer to a prompt is sampled; the answers to one prompt are neighbours.
        continues: the answers continue from the prompts' texts.
        form: that every answer must have; any by default.

    Raises:
        ApiError: a prompt does not fit, or the engine does not do what is asked.
        QueueFullError: too much is waiting.
    """

    def __init__(
        self,
        turn: Turn,
        prompts: Sequence[list[int]],
        samplings: Sequence[Sampling],
        continues: bool,
        form: Form | None = None,
    ) -> None:
        self.turn = turn
        self._form = form
        self.continues = continues
        self.held = AsyncExitStack()
        self._answers = len(samplings)
        self.choices = [Choice(len(ids), ids[-CONTEXT:] if continues else []) for ids in prompts for _ in samplings]
        self._started = time.monotonic()
        self._end_span = begin_span("generate")
        try:
            self._jobs = Jobs(
                turn.server.inbox, [self._start(ids, sampling) for ids in prompts for sampling in samplings]
            )
        except PromptError as error:
            raise ApiError(400, str(error), "context_length_exceeded") from None
        except ValueError as error:
            raise invalid(str(error)) from None

    @classmethod
    async def open(
        cls,
        server: Server,
        caller: Caller,
        request: Request,
        options: MemoryOptions,
        prompts: Sequence[list[int]],
        samplings: Sequence[Sampling],
        *,
        continues: bool = False,
        form: Form | None = None,
    ) -> "Generations":
        """Opens the memory and starts; ``held`` ends both. The refusals come before anything is sent."""
        async with AsyncExitStack() as stack:
            turn = await stack.enter_async_context(open_turn(server, caller, options, server.deadline(request)))
            generations = cls(turn, prompts, samplings, continues, form)
            stack.callback(generations._close, request)
            generations.held = stack.pop_all()
        return generations

    async def pieces(self) -> AsyncIterator[tuple[int, str, list[Token]]]:
        """What becomes certain: the number of the choice, text, and tokens. Each may come without the other."""
        metrics, first = self.turn.server.metrics, True
        async for number, event in self._jobs.events():
            choice = self.choices[number]
            if isinstance(event, Piece):
                if first:
                    metrics.first_token.observe(time.monotonic() - self._started)
                    first = False
                yield number, event.text, choice.add(event)
            elif isinstance(event, Done):
                tokens = choice.end(event)
                spent = max(time.monotonic() - self._started, 1e-9)
                metrics.rate.observe(event.completion_tokens / spent)
                yield number, event.text, tokens

    @property
    def usage(self) -> dict[str, int]:
        """What was read, each prompt once, however many answers it gets; and generated: in OpenAI's terms."""
        prompt = sum(choice.prompt_tokens for choice in self.choices[:: self._answers])
        made = sum(choice.completion_tokens for choice in self.choices)
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}

    def _close(self, request: Request) -> None:
        """Frees the rows, and counts what they cost."""
        self._jobs.cancel()
        server, usage = self.turn.server, self.usage
        server.metrics.tokens.labels("prompt").inc(usage["prompt_tokens"])
        server.metrics.tokens.labels("completion").inc(usage["completion_tokens"])
        server.rates.charge(self.turn.caller, usage["total_tokens"])
        noted: dict[str, Any] = {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
        request.scope["deltamem_usage"] = noted
        self._end_span(noted)

    def _start(self, ids: list[int], sampling: Sampling) -> Start:
        turn, server = self.turn, self.turn.server
        return partial(
            server.engine.generate,
            ids,
            sampling,
            state=turn.state,
            deadline=turn.deadline,
            continues=self.continues,
            constraint=None if self._form is None else server.forms().begin(self._form),
        )
