"""Looking again at what was said: how strongly a turn's tokens were written and read, and where an answer came from.

A turn is gone through again on the memory that it began with, beside the engine and changing nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from starlette.requests import Request
from torch import Tensor, nn

from deltamem.attribution import Check, ReadProbe, read_probe, read_strengths, write_shares, write_strengths
from deltamem.chat import Message, encode_chat
from deltamem.chat.input import WriteInput
from deltamem.observe import observe
from deltamem.recall import WrittenTurn
from deltamem.serve.access import Caller
from deltamem.serve.bridge import settled, unless_disconnected
from deltamem.serve.engine.jobs import Ticket
from deltamem.serve.errors import ApiError, invalid
from deltamem.serve.prompts import Prompts, answer_message, new_messages, without_oldest
from deltamem.serve.schema.body import Role
from deltamem.serve.schema.messages import ChatMessage
from deltamem.serve.server import Server
from deltamem.state import MemoryState

T = TypeVar("T")
MOST_WEIGHED = 1024  # tokens of a turn that is weighed token by token
# Batches round differently, so a turn done again does not lead to quite the same numbers. Another text leads far away.
DRIFT = 0.05


@dataclass(frozen=True)
class SeenToken:
    """A token of a message's content.

    Attributes:
        text: what it adds to the content.
        write: the norm of its change to the memory, or its share of what an answer read.
        read: the norm of all that it read; ``None`` where that is not known.
    """

    text: str
    write: float
    read: float | None = None


@dataclass(frozen=True)
class SeenMessage:
    """A message of a past turn.

    Attributes:
        role: whose.
        share: the sum of ``write`` of all its tokens, those too that the chat template puts around its content.
        tokens: those of its content.
    """

    role: str
    share: float
    tokens: list[SeenToken]


@dataclass(frozen=True)
class AnswerTrace:
    """Where what an answer read came from.

    Attributes:
        read: the sum, over the answer's tokens, of the norm of all that was read where the token was chosen.
        before: the share of the memory that the first of the turns began with.
        turns: for each turn its messages; ``write`` of their tokens is the share of what was read.
    """

    read: float
    before: float
    turns: list[list[SeenMessage]]


async def beside_engine(server: Server, caller: Caller, request: Request, work: Callable[[Check], T]) -> T:
    """What ``work`` gives, done in a thread while no other such work runs.

    Args:
        server: whose model it is.
        caller: who asked. A tenant has one request at a time in line for the model, however many it sends.
        request: what was asked; its deadline counts, and a client that leaves ends the work.
        work: gets a function that it calls between its steps, and that raises when the work is to end.

    Raises:
        ApiError: 501, the engine's model cannot be called; 429, the tenant has enough such requests; 499, the client
            left.
        EngineError: the deadline passed.
    """
    if not server.engine.computes:
        raise ApiError(
            501, "This server's model runs on vLLM, which cannot look back; deltamem's own engine can.", "not_supported"
        )
    deadline = server.deadline(request)
    ticket = Ticket(lambda event: None, deadline)

    def check() -> None:
        problem = ticket.problem()
        if problem is not None:
            raise problem

    async def alone() -> T:
        async with server.looking_back.hold(caller.tenant, deadline), server.model_again.hold("model", deadline):
            return await settled(asyncio.to_thread(work, check), stop=ticket.cancel)

    return await unless_disconnected(request, alone())


@dataclass(frozen=True)
class PastTurn(WrittenTurn):
    """A turn, or a text that was observed: what became memory of it, and where the store has it.

    Attributes:
        session: whose.
        version: the one that it made.
        answered: whether its last message is an answer.
        sent: what it was sent, and the answer.
        after: the memory that it left.
    """

    session: str
    version: int
    answered: bool
    sent: Sequence[Message]
    after: MemoryState

    def check(self, reached: MemoryState) -> None:
        """Compares the memory with the one that its text leads to now.

        Raises:
            ApiError: they differ, so this is not the text.
        """
        if float(reached.diff(self.after).norm()) > DRIFT * float(self.after.diff(self.before).norm()) + 1e-6:
            raise _not_the_turn(self.version, "they lead to another memory")


def past_turn(
    server: Server,
    caller: Caller,
    session: str,
    number: int,
    messages: Sequence[ChatMessage] | None,
    roles: Sequence[Role],
) -> PastTurn:
    """The turn that made a version, from its messages or from those that the server kept of it.

    Raises:
        ApiError: no text was written in the version, none was kept, or the messages do not end with an answer.
        StoreError: a version cannot be had.
    """
    fingerprint = server.states.fingerprint
    after = server.store.load(caller.tenant, session, number, expect=fingerprint)
    if after.kind not in ("turn", "observe") or after.parent is None:
        raise invalid(f"Version {number} is a {after.kind}: no text was written in it.", "version")
    before = server.store.load(caller.tenant, session, after.parent, expect=fingerprint)
    sent: list[Message] = [*map(ChatMessage.plain, messages)] if messages else _kept(server, caller, session, number)
    answered = after.kind == "turn"
    if answered and sent[-1]["role"] != "assistant":
        raise _not_the_turn(number, "its last message is not an answer")
    if answered:
        sent = [*sent[:-1], answer_message(sent[-1]["content"])]
    added = [*new_messages(sent[:-1]), sent[-1]] if answered else list(sent)
    tokens = server.prompts.to_write(added)
    written, unpack = WriteInput.of(tokens, added, roles), server.states.unpack
    return PastTurn(added, tokens, written, unpack(before.state), session, number, answered, sent, unpack(after.state))


def visible_messages(prompts: Prompts, sent: Sequence[Message]) -> list[Message]:
    """What a turn's model saw of the messages that it was sent, and its answer."""
    asked = list(sent[:-1])
    _, dropped = prompts.chat(asked, shorten=True)
    return without_oldest(sent, dropped)


def _kept(server: Server, caller: Caller, session: str, number: int) -> list[Message]:
    log = server.store.messages(caller.tenant, session, version=number, limit=1000)
    mine = [stored.message for stored in log if stored.version == number]
    kept: list[Message] = [{"role": message["role"], "content": message["content"]} for message in mine]
    if not kept:
        raise invalid(f"The text of version {number} was not kept: send its messages along.", "messages")
    return kept


def _not_the_turn(version: int, why: str) -> ApiError:
    return invalid(f"These are not the messages that version {version} was made of: {why}.", "messages")


def weigh(server: Server, turn: PastTurn, check: Check) -> list[SeenMessage]:
    """How strongly the tokens of a turn were written, and read; message by message.

    Raises:
        ApiError: the messages are not those of the turn, or too long.
        EngineError: nobody waits for them any more.
    """
    if turn.length > MOST_WEIGHED:
        raise invalid(f"The turn has {turn.length} tokens; up to {MOST_WEIGHED} can be weighed.", "version")
    model, (ids, segments, flags) = server.engine.model, turn.written
    write, reached = write_strengths(model, ids, turn.before, segment_ids=segments, write=flags, check=check)
    turn.check(reached)
    reads = _reads(server, turn, check) if turn.answered else {}
    return _seen(turn, write, reads)


def _reads(server: Server, turn: PastTurn, check: Check) -> dict[int, tuple[list[int], Tensor]]:
    """For each message that the turn added, by its number, its tokens as they were read and what each read."""
    visible = visible_messages(server.prompts, turn.sent)
    earlier = max((i for i, m in enumerate(visible[:-1]) if m["role"] == "assistant"), default=-1)
    numbers = [i for i in range(earlier + 1, len(visible)) if visible[i]["role"] != "system"]
    try:
        tokens = encode_chat(server.engine.tokenizer, visible)
    except ValueError:  # a template that shows these messages so that their tokens cannot be told apart
        return {}
    ids = tokens.input_ids[0]
    read = read_strengths(server.engine.model, ids.tolist(), turn.before, check)
    mine = [tokens.of([i])[0] for i in numbers]
    return {number: (ids[at].tolist(), read[at]) for number, at in enumerate(mine)}


def trace(server: Server, answer: PastTurn, past: Sequence[PastTurn], check: Check) -> AnswerTrace:
    """What an answer read, by its sources in the turns before it.

    Raises:
        ApiError: the turns did not follow one another, or are not made of their messages.
        EngineError: nobody waits for it any more.
    """
    model, tokenizer = server.engine.model, server.engine.tokenizer
    for turn, following in pairwise((*past, answer)):
        if turn.after.diff(following.before).any():
            raise invalid(
                f"Version {following.version} did not begin with the memory that version {turn.version} left.", "past"
            )
    ids, segments, write = answer.written
    answer.check(observe(model, ids, answer.before, segment_ids=segments, write=write))
    try:
        probe = answer_probe(model, tokenizer, visible_messages(server.prompts, answer.sent), answer.before)
    except ValueError as error:
        raise invalid(f"The answer's tokens cannot be found: {error}", "messages") from None
    read = probe.of(answer.before)
    turns: list[list[SeenMessage]] = []
    for turn in reversed(past):
        check()
        ids, segments, write = turn.written
        shares = write_shares(model, ids, turn.before, probe, segment_ids=segments, write=write)
        turn.check(shares.state)
        turns.insert(0, _seen(turn, shares.tokens, {}))
        probe = shares.probe
    begun = past[0].before if past else answer.before
    return AnswerTrace(read, probe.of(begun), turns)


def _seen(turn: PastTurn, write: Tensor, reads: dict[int, tuple[list[int], Tensor]]) -> list[SeenMessage]:
    """The messages of a turn, with ``write`` ``[T]`` of their tokens, and what these read as :func:`_reads` gives."""
    seen = []
    for number, message in enumerate(turn.messages):
        places = turn.tokens.of([number])[0].nonzero()[:, 0].tolist()
        read_ids, read = reads.get(number, ([], None))
        # A template may show a message otherwise where it is written.
        known = read if read_ids == turn.tokens.input_ids[0, places].tolist() else None
        tokens = [
            SeenToken(text, float(write[place]), None if known is None else float(known[places.index(place)]))
            for place, text in turn.tokens.content(number)
        ]
        seen.append(SeenMessage(message["role"], float(write[places].sum()), tokens))
    return seen


def answer_probe(model: nn.Module, tokenizer: Any, messages: Sequence[Message], state: MemoryState) -> ReadProbe:
    """How much was read of each entry of a memory where the tokens of an answer were chosen.

    A token is chosen at the token before it, so the reads that count are of what ends the prompt and of the answer but
    its last token. The last message is the answer; the memory has one row.

    Raises:
        ValueError: the tokens of the messages cannot be told apart.
    """
    encoded = encode_chat(tokenizer, messages)
    chosen_at = torch.zeros_like(encoded.input_ids, dtype=torch.bool)
    chosen_at[0, [place - 1 for place, _ in encoded.content(len(messages) - 1)]] = True
    return read_probe(model, encoded.input_ids, state, chosen_at)
