"""What requests did, on its way to the audit log and to webhooks: those that end together are written together."""

import asyncio
from dataclasses import dataclass, field

from starlette.types import Scope

from deltamem.serve.access import Caller
from deltamem.serve.bridge import settled
from deltamem.serve.webhooks import Courier
from deltamem.store import Act


@dataclass
class _Batch:
    acts: list[Act] = field(default_factory=list)
    error: Exception | None = None


class Acts:
    """Notes what requests did, for one event loop."""

    def __init__(self, courier: Courier, *, audit: bool) -> None:
        self._courier = courier
        self._audit = audit
        self._next = _Batch()
        self._turn = asyncio.Lock()

    async def record(self, scope: Scope, status: int) -> None:
        """Notes what a request did, once, and durably before this returns; one that touched nothing leaves no note.

        Raises:
            StoreError: it could not be noted.
        """
        caller: Caller | None = scope.get("deltamem_caller")
        if caller is None or caller.touched.recorded or caller.touched.action is None:
            return
        if not self._audit and caller.tenant not in self._courier.wanted:
            return
        caller.touched.recorded = True
        await self._write(
            Act(
                caller.tenant,
                caller.touched.action,
                route=f"{scope['method']} {getattr(scope.get('route'), 'path', 'other')}",
                status=status,
                key=caller.key,
                session=caller.touched.session,
                user=scope["path_params"].get("user", caller.user),
                request_id=scope["deltamem_request_id"],
            )
        )

    async def _write(self, act: Act) -> None:
        batch = self._next
        batch.acts.append(act)
        async with self._turn:
            if self._next is batch:
                self._next = _Batch()
                try:
                    await settled(asyncio.to_thread(self._courier.hooks.add, batch.acts, audit=self._audit))
                except Exception as error:
                    batch.error = error
        if batch.error is not None:
            raise batch.error
