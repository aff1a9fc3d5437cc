"""Running a server until it is told to stop."""

import asyncio
import logging
import sys
from socket import socket

import uvicorn

from deltamem.serve.app import create_app
from deltamem.serve.engine.interface import warm_up
from deltamem.serve.server import Server

_log = logging.getLogger(__name__)
_GRACE = 30.0  # seconds for turns under way
_LAST_WORDS = 5  # seconds to tell those that were not done by then
# Seconds that an unused connection stays open: longer than the 5 to 60 of clients and proxies. One that keeps it longer
# than the server can send a request just when the server closes it, which then has no answer.
_IDLE = 75


class Web(uvicorn.Server):
    """Uvicorn that tells where it listens, and tells those whose turns it does not wait for.

    Args:
        server: what to serve.
        port: where; 0 has the system choose.
        grace: seconds that turns under way have to finish once it is told to stop.
    """

    def __init__(self, server: Server, port: int, grace: float = _GRACE) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(server),
                host=server.settings.host,
                port=port,
                log_config=None,
                access_log=False,
                timeout_keep_alive=_IDLE,
                timeout_graceful_shutdown=round(grace) + _LAST_WORDS,
            )
        )
        self._serves = server
        self._grace = grace

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stops. What the engine has not finished in time fails, so that its clients are told in words."""
        ending = asyncio.get_running_loop().call_later(self._grace, self._serves.engine.stop)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Starts to listen; the system may have chosen the port."""
        await super().startup(sockets)
        if self.started:
            settings, port = self._serves.settings, self.servers[0].sockets[0].getsockname()[1]
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            place = self._serves.store.database.place
            if sys.stdout.isatty():
                print(f"{settings.model_name} is at http://{host}:{port}/, sessions in {place}", flush=True)
            _log.info("serving %s at http://%s:%d, sessions in %s", settings.model_name, host, port, place)


def run(server: Server, port: int) -> None:
    """Serves at the host of the server's settings, and closes the server; for port 0 the system chooses one.

    Raises:
        SystemExit: it cannot listen there; the log says why.
    """
    warm_up(server.engine)
    web = Web(server, port)
    web.run()
    if not web.started:
        raise SystemExit(3)
