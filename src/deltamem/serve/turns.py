"""The memory of a request: where it comes from, and how its turn is written and committed."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from deltamem.chat.input import WriteInput
from deltamem.serve.access import Caller
from deltamem.serve.bridge import Jobs
from deltamem.serve.engine.jobs import Written
from deltamem.serve.errors import ApiError, invalid
from deltamem.serve.schema.completions import MemoryOptions
from deltamem.serve.server import Server
from deltamem.serve.traces import span
from deltamem.state import MemoryState
from deltamem.store import Commit, ConflictError, NotFoundError, Version


@dataclass
class Turn:
    """A turn under way.

    Attributes:
        state: the memory that it reads; ``None`` for none, which is the bare backbone.
        version: of the session, or 0 where it is new or there is none.
        fresh: whether the session's memory is left behind by what is committed.
    """

    server: Server
    caller: Caller
    deadline: float
    options: MemoryOptions
    state: MemoryState | None
    version: int
    fresh: bool = False

    async def write(self, written: WriteInput, kind: str, messages: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Writes tokens to the memory and commits it; gives what the answer says of the memory.

        Raises:
            ConflictError, FrozenError: another process was first; nothing was changed.
            ApiError: the memory overflowed.
            EngineError: the engine could not write them.
        """
        server, options = self.server, self.options
        report: dict[str, Any] = {"session": options.session, "mode": options.mode if options.uses_memory else "off"}
        if not options.writes:
            return report | self._returned(self.state)
        turn = kind == "turn"  # its generation was let in already
        jobs = Jobs(
            server.inbox,
            [lambda d: server.engine.write(*written, d, state=self.state, deadline=self.deadline, admitted=turn)],
        )
        try:
            with span("memory.write"):
                (after,) = [e.state async for _, e in jobs.events() if isinstance(e, Written)]
        finally:
            jobs.cancel()
        before = self.state if self.state is not None else server.engine.new_state()
        tokens = int(after.tokens[0])
        count = tokens - int(before.tokens[0])
        server.metrics.tokens.labels("written").inc(count)
        change = float(after.diff(before).norm())
        if not math.isfinite(change):
            raise ApiError(500, "The memory overflowed; the turn was not written.", "memory_overflow")
        report |= {"written_tokens": count, "tokens": tokens, "change": change}
        if options.session is not None:
            report["version"] = await self.commit(after, kind, messages)
        return report | self._returned(after)

    async def commit(self, state: MemoryState, kind: str, messages: Sequence[Mapping[str, Any]] = ()) -> int:
        """Makes a memory the session's next version, and gives its number.

        A client that leaves meanwhile is too late: the session stays this turn's until the transaction is over.

        Raises:
            ConflictError, FrozenError: another process was first; nothing was changed.
        """
        server = self.server
        # An import or a forget follows any memory. A turn needs one of its own adapter to follow.
        begins = self.version == 0 or (self.fresh and kind in ("turn", "observe"))

        def prepare() -> Commit:
            return Commit(
                self.caller.tenant,
                str(self.options.session),
                parent=self.version,
                state=server.states.pack(state),
                tokens=int(state.tokens[0]),
                kind=kind,
                messages=messages,
                fingerprint=server.states.fingerprint,
                begin=server.states.pack(server.engine.new_state()) if begins else None,
                user=self.caller.user,
            )

        try:
            with span("store.commit"):
                version = await server.commits.commit(prepare)
        except ConflictError:
            server.metrics.conflicts.inc()
            raise
        server.metrics.writes.labels(kind).inc()
        self.version, self.fresh = version.number, False
        return version.number

    def _returned(self, state: MemoryState | None) -> dict[str, str]:
        if not self.options.return_state:
            return {}
        if self.options.state is not None and not self.options.writes:
            return {"state": self.options.state}
        data = self.server.states.pack(state if state is not None else self.server.engine.new_state())
        return {"state": self.server.signer.sign(data, self.caller.tenant)}


@asynccontextmanager
async def open_turn(server: Server, caller: Caller, options: MemoryOptions, deadline: float) -> AsyncIterator[Turn]:
    """A turn on the memory that a request names; a session that it may write is its own until the block ends.

    Raises:
        ApiError: the state does not belong here, the options do not belong together, or the caller may not write.
        StoreError: the session cannot be used so.
    """
    if options.session is not None and options.mode != "off":
        caller.touch("write" if options.writes else "read", options.session)
        caller.need("write" if options.writes else "read")
    if options.fresh and (options.session is None or options.mode != "read_write"):
        raise invalid(
            "fresh leaves a session's memory behind: it needs a session and the mode read_write.", "memory.fresh"
        )
    if options.must_exist and (options.session is None or options.mode == "off"):
        raise invalid("must_exist asks for a session: name one, and a mode other than off.", "memory.must_exist")
    # With the mode off it is handed back, so then too it has to be one.
    state = None if options.state is None else received_state(server, caller, options.state)
    if options.mode == "off":
        if options.return_state and options.session is not None:
            raise invalid("The mode off uses no memory, so there is none to return.", "memory.return_state")
        yield Turn(server, caller, deadline, options, None, 0)
    elif options.session is None:
        yield Turn(server, caller, deadline, options, state, 0)
    elif options.mode == "read_only":
        with span("store.load"):
            found = await asyncio.to_thread(
                server.store.load, caller.tenant, options.session, expect=server.states.fingerprint
            )
        yield Turn(server, caller, deadline, options, server.states.unpack(found.state), found.number)
    else:
        async with server.exclusively(caller.tenant, options.session, deadline):
            with span("store.load"):
                head = await asyncio.to_thread(_writable, server, caller, options.session, options)
            if head is None:
                yield Turn(server, caller, deadline, options, None, 0)
            elif options.fresh or head.fingerprint != server.states.fingerprint:
                yield Turn(server, caller, deadline, options, None, head.number, fresh=True)
            else:
                yield Turn(server, caller, deadline, options, server.states.unpack(head.state), head.number)


def received_state(server: Server, caller: Caller, text: str) -> MemoryState:
    """The memory in a signed state.

    Raises:
        ApiError, StateFileError: it is malformed, forged, or another's.
    """
    return server.states.unpack(server.signer.verify(text, caller.tenant))


def _writable(server: Server, caller: Caller, session: str, options: MemoryOptions) -> Version | None:
    """The head of a session that may be written; ``None`` if it is to be made."""
    expect = None if options.fresh or server.settings.start_fresh else server.states.fingerprint
    try:
        return server.store.load(caller.tenant, session, expect=expect, writable=True)
    except NotFoundError:
        if options.must_exist:
            raise
        return None
