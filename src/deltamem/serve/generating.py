"""One request's generations: started together, followed to their end, and then written as a turn."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from deltamem.serve.auth import Caller
from deltamem.serve.bridge import Jobs, Start
from deltamem.serve.errors import ApiError
from deltamem.serve.jobs import Deliver, Done, Piece, Ticket
from deltamem.serve.memories import Turn, open_turn
from deltamem.serve.sampling import Chosen, Sampling
from deltamem.serve.schema import MemoryOptions
from deltamem.serve.server import Server


@dataclass
class Choice:
    """What one generation has come to.

    Attributes:
        prompt_tokens: tokens read.
        text: its text so far.
        chosen: its tokens so far, the end token left out.
        reason: why it ended; ``None`` while it goes on.
        completion_tokens: tokens generated, once it ended.
    """

    prompt_tokens: int
    text: str = ""
    chosen: list[Chosen] = field(default_factory=list)
    reason: str | None = None
    completion_tokens: int = 0


class Generations:
    """The generations of one request.

    Args:
        turn: the memory they read.
        prompts: the token ids of each prompt.
        samplings: how each answer to a prompt is sampled; the answers to one prompt are neighbours.

    Raises:
        ApiError: a prompt does not fit.
        QueueFullError: too much is waiting.
    """

    def __init__(self, turn: Turn, prompts: Sequence[list[int]], samplings: Sequence[Sampling]) -> None:
        self.turn = turn
        self._answers = len(samplings)
        self.choices = [Choice(len(ids)) for ids in prompts for _ in samplings]
        self._started = time.monotonic()
        try:
            self._jobs = Jobs(
                turn.server.inbox, [self._start(ids, sampling) for ids in prompts for sampling in samplings]
            )
        except ValueError as error:
            raise ApiError(400, str(error), "context_length_exceeded") from None

    @classmethod
    async def open(
        cls,
        held: AsyncExitStack,
        server: Server,
        caller: Caller,
        request: Request,
        options: MemoryOptions,
        prompts: Sequence[list[int]],
        samplings: Sequence[Sampling],
    ) -> "Generations":
        """Opens the memory and starts; ``held`` ends both. The refusals come before anything is sent."""
        turn = await held.enter_async_context(open_turn(server, caller, options, server.deadline(request)))
        generations = cls(turn, prompts, samplings)
        held.callback(generations.close, request)
        return generations

    async def pieces(self) -> AsyncIterator[tuple[int, str, Chosen | None]]:
        """What comes, each with the number of its choice: a text and its token, or a rest of text alone."""
        metrics, first = self.turn.server.metrics, True
        async for number, event in self._jobs.events():
            choice = self.choices[number]
            if isinstance(event, Piece):
                if first:
                    metrics.first_token.observe(time.monotonic() - self._started)
                    first = False
                choice.chosen.append(event.chosen)
                choice.text += event.text
                yield number, event.text, event.chosen
            elif isinstance(event, Done):
                choice.text += event.text
                choice.reason, choice.completion_tokens = event.reason, event.completion_tokens
                spent = max(time.monotonic() - self._started, 1e-9)
                metrics.rate.observe(event.completion_tokens / spent)
                if event.text:
                    yield number, event.text, None

    @property
    def usage(self) -> dict[str, int]:
        """What was read and generated, in OpenAI's terms."""
        prompt, made = self.prompt_tokens, sum(self._made(choice) for choice in self.choices)
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}

    @property
    def prompt_tokens(self) -> int:
        """Tokens read: each prompt once, however many answers it gets."""
        return sum(choice.prompt_tokens for choice in self.choices[:: self._answers])

    def close(self, request: Request) -> None:
        """Frees the rows, and counts what they cost."""
        self._jobs.cancel()
        server, usage = self.turn.server, self.usage
        server.metrics.tokens.labels("prompt").inc(usage["prompt_tokens"])
        server.metrics.tokens.labels("completion").inc(usage["completion_tokens"])
        server.rates.charge(self.turn.caller, usage["total_tokens"])
        noted: dict[str, Any] = {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
        request.scope["deltamem_usage"] = noted

    def _made(self, choice: Choice) -> int:
        return choice.completion_tokens or len(choice.chosen)

    def _start(self, ids: list[int], sampling: Sampling) -> Start:
        turn = self.turn

        def start(deliver: Deliver) -> Ticket:
            return turn.server.engine.generate(ids, sampling, deliver, state=turn.state, deadline=turn.deadline)

        return start
