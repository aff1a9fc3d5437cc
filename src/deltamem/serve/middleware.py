"""What every request passes: its id, its size, its log line and its metrics. Plain ASGI, so streams stay streams."""

import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deltamem.serve.errors import ApiError, as_api_error, is_anthropic
from deltamem.serve.server import Server
from deltamem.serve.settings import is_loopback
from deltamem.serve.traces import describe_request, request_span

_log = logging.getLogger("deltamem.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Gate:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self.app = app
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        # HEAD is answered as GET is, without the body.
        asks_head = scope["method"] == "HEAD"
        inner = {**scope, "method": "GET" if asks_head else scope["method"], "deltamem_request_id": request_id}
        started, status = time.monotonic(), 0
        begun: Message | None = None

        async def send_marked(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(scope=message)
                answered["X-Request-ID"] = request_id
                if is_anthropic(inner["path"]):  # where its clients look for it
                    answered["request-id"] = request_id
                if "content-length" in answered:  # a whole answer, which may still be refused
                    begun = message
                    return
            elif not message.get("more_body"):
                # An answer is complete only once what was done is in the audit log, if it is to be there.
                try:
                    await self.server.acts.record(inner, status)
                except Exception as error:
                    if begun is None:
                        raise
                    _log.error("not in the audit log", exc_info=error, extra={"request_id": request_id})
                    await as_api_error(error).response(inner["path"])(inner, receive, send_marked)
                    return
            if begun is not None:
                start, begun = begun, None
                await send(start)
            await send({**message, "body": b""} if asks_head and "body" in message else message)

        with request_span(headers) as span:
            try:
                refusal = self._refusal(headers)
                if refusal is not None:
                    await refusal.response(inner["path"])(inner, receive, send_marked)
                    return
                await self.app(inner, await self._read(receive), send_marked)
            except Exception as error:
                answer = as_api_error(error)
                if answer.status >= 500:
                    _log.error("request failed", exc_info=error, extra={"request_id": request_id})
                if not status or begun is not None:
                    await answer.response(inner["path"])(inner, receive, send_marked)
            finally:
                await self._record(inner, status)
                self._note(inner, _method(scope), status, time.monotonic() - started, span)

    def _refusal(self, headers: Headers) -> ApiError | None:
        length, most = headers.get("content-length", "0"), self.server.settings.max_body
        if length.isdecimal() and int(length[:20]) > most:
            return _too_large(most)
        host = headers.get("host", "").rsplit("@")[-1]
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        # A web page can give its own name this machine's address; it cannot choose the Host header.
        if not self.server.access.required and host and not is_loopback(name):
            return ApiError(403, "Without API keys this server answers to localhost and 127.0.0.1 only.", "wrong_host")
        return None

    async def _read(self, receive: Receive) -> Receive:
        """The whole body, read before anything is done with it, and after it what comes next.

        Raises:
            ApiError: 413, it is too large.
        """
        body, more, most = bytearray(), True, self.server.settings.max_body
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > most:
                raise _too_large(most)
        messages: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay

    async def _record(self, scope: Scope, status: int) -> None:
        """What was done for a client who left before it was answered."""
        try:
            await self.server.acts.record(scope, status or 499)
        except Exception as error:
            _log.error("not in the audit log", exc_info=error, extra={"request_id": scope["deltamem_request_id"]})

    def _note(self, scope: Scope, method: str, status: int, seconds: float, span: Any) -> None:
        route = getattr(scope.get("route"), "path", "other")
        status = status or 499  # nobody was there to be answered
        caller = scope.get("deltamem_caller")
        about = {
            "request_id": scope["deltamem_request_id"],
            "tenant": getattr(caller, "tenant", None),
            "key": getattr(caller, "key", None),
        }
        describe_request(span, method, route, status, **about)
        self.server.metrics.requests.labels(route, method, status).inc()
        self.server.metrics.latency.labels(route).observe(seconds)
        about |= {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
        _log.info("request", extra=about | scope.get("deltamem_usage", {}))


def _method(scope: Scope) -> str:
    known = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
    return str(scope["method"]) if scope["method"] in known else "other"


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"The body is larger than the {most} bytes this server takes.", "request_too_large")
