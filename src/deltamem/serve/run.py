"""Running a server until it is told to stop."""

import logging
import sys
from socket import socket

import uvicorn

from deltamem.serve.app import create_app
from deltamem.serve.engine.interface import warm_up
from deltamem.serve.server import Server

_log = logging.getLogger(__name__)
_GRACE = 30  # seconds for turns under way


class _Web(uvicorn.Server):
    """Uvicorn that tells where it listens; the system may have chosen the port."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._serves = server

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            settings, port = self._serves.settings, self.servers[0].sockets[0].getsockname()[1]
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            place = self._serves.store.database.place
            if sys.stdout.isatty():
                print(f"{settings.model_name} is at http://{host}:{port}/, sessions in {place}", flush=True)
            _log.info("serving %s at http://%s:%d, sessions in %s", settings.model_name, host, port, place)


def run(server: Server, port: int) -> None:
    """Serves at the host of the server's settings, and closes the server.

    Args:
        server: what to serve.
        port: where; 0 has the system choose.

    Raises:
        SystemExit: it cannot listen there; the log says why.
    """
    warm_up(server.engine)
    config = uvicorn.Config(
        create_app(server),
        host=server.settings.host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE,
    )
    web = _Web(config, server)
    web.run()
    if not web.started:
        raise SystemExit(3)
