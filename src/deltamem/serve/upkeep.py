"""What a running server does for its store: deleting what has expired, and counting what is there."""

import asyncio
import logging

from deltamem.serve.server import Server

_log = logging.getLogger(__name__)


async def look_after(server: Server) -> None:
    """Purges and counts, again and again, until it is cancelled.

    A store that is out of reach is tried again the next time; meanwhile nobody knows how many sessions there are.
    """
    while True:
        held = float("nan")
        try:
            purged = await asyncio.to_thread(server.store.purge_expired)
            held = await asyncio.to_thread(server.store.count)
        except Exception as error:
            _log.warning("the store was not looked after", exc_info=error)
        else:
            if purged:
                _log.info("deleted %d expired sessions", purged)
        server.metrics.sessions.set(held)
        await asyncio.sleep(server.settings.upkeep_every)
