"""Errors as OpenAI's clients expect them, and Anthropic's: a status, and a body that says what was wrong."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from deltamem.formats.state import StateFileError
from deltamem.serve.engine.jobs import CancelledJobError, ClosedError, DeadlineError, EngineError, QueueFullError
from deltamem.store import (
    NAME_PATTERN,
    ConflictError,
    EncryptionError,
    ExistsError,
    FingerprintError,
    FrozenError,
    NotFoundError,
    SchemaError,
    StoreError,
    UnavailableError,
)

_log = logging.getLogger("deltamem.serve")


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: the HTTP status.
        message: what was wrong and what to do.
        code: a word that programs can tell apart.
        param: the field that was wrong.
        headers: further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self, path: str = "") -> dict[str, Any]:
        """The body of the answer to a request of a path, in the shape of its dialect."""
        message = self.message.encode("utf-8", "backslashreplace").decode()  # it may quote half a character
        anthropic = is_anthropic(path)
        kind = _kind_in_anthropic(self.status) if anthropic else _kind(self.status)
        error = {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}
        return {"type": "error", **error} if anthropic else error

    def response(self, path: str) -> JSONResponse:
        """The answer to a request of a path."""
        return JSONResponse(self.body(path), self.status, self.headers)


def invalid(message: str, param: str | None = None) -> ApiError:
    """The answer to a request with a value that does not fit, and the field that has it."""
    return ApiError(400, message, "invalid_value", param)


def is_anthropic(path: str) -> bool:
    """Whether a path is of Anthropic's dialect."""
    return f"{path}/".startswith("/v1/messages/")


_STORE: tuple[tuple[type[StoreError], int, str], ...] = (
    (NotFoundError, 404, "not_found"),
    (ExistsError, 409, "session_exists"),
    (ConflictError, 409, "session_conflict"),
    (FrozenError, 409, "session_frozen"),
    (FingerprintError, 409, "other_adapter"),
    (UnavailableError, 503, "store_unavailable"),
    (SchemaError, 503, "store_unavailable"),
    (EncryptionError, 503, "state_unreadable"),
    (StoreError, 400, "invalid_value"),
)


_START_FRESH = (
    " A turn does so with memory.fresh, and a server that is run with --start-fresh by itself. Servers without --store "
    "share the user's one store, whatever their model: give each a --store of its own."
)


def as_api_error(error: Exception) -> ApiError:
    """The answer to an error of the engine, the store or a state."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, StoreError):
        status, code = next((status, code) for kind, status, code in _STORE if isinstance(error, kind))
        hint = _START_FRESH if code == "other_adapter" else ""
        return ApiError(status, error.public + hint, code, headers={"Retry-After": "1"} if status == 503 else None)
    if isinstance(error, StateFileError):
        return ApiError(400, str(error), "invalid_state")
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), "queue_full", headers={"Retry-After": str(error.retry_after)})
    if isinstance(error, ClosedError):
        return ApiError(503, str(error), "shutting_down", headers={"Retry-After": "5"})
    if isinstance(error, DeadlineError):
        return ApiError(504, str(error), "deadline_exceeded")
    if isinstance(error, CancelledJobError):
        return ApiError(503, str(error), "cancelled")
    if isinstance(error, EngineError):
        return ApiError(500, str(error), "model_error")
    return ApiError(500, "The server failed; its log says why under this request's id.", "internal_error")


def too_many(message: str, code: str, seconds: float) -> ApiError:
    """The answer to a caller who is over a limit."""
    return ApiError(429, message, code, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


def install_error_handlers(app: FastAPI) -> None:
    """Makes every error of an application one of its dialect's shape."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        answer = as_api_error(error)
        if answer.status >= 500:
            log_failure(request, error)
        return answer.response(request.scope["path"])

    for kind in (ApiError, StoreError, EngineError, StateFileError):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def log_failure(request: Request, error: Exception) -> None:
    """Notes why a request failed, under its id."""
    level = logging.ERROR if as_api_error(error).status >= 500 else logging.WARNING
    _log.log(level, "request failed", exc_info=error, extra={"request_id": request.scope["deltamem_request_id"]})


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _of_invalid(error).response(request.scope["path"])


def _of_invalid(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        at = f" at character {first['loc'][-1]}" if isinstance(first["loc"][-1], int) else ""
        return _not_json(f"{first['ctx']['error']}{at}")
    if first["loc"] == ("body",) and not isinstance(error.body, dict):
        return _not_json("it must be an object, sent with Content-Type: application/json")
    where = (
        _field(first["loc"], error.body, missing=first["type"] == "missing")
        .encode("ascii", "backslashreplace")
        .decode()[:200]
    )
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch" and NAME_PATTERN in first["ctx"]["pattern"]:
        reason = "A session's name has 1 to 128 of A-Z a-z 0-9 . _ : and -"
    if first["type"] == "extra_forbidden":
        reason = "there is no such field here; /openapi.json lists those there are"
    message = f"{where}: {reason}." if where else f"{reason}."
    return invalid(message, where or None)


def _field(location: Sequence[str | int], body: Any, *, missing: bool) -> str:
    """The name of the field that was wrong; of a location, only what is a place in the body, a header or an address."""
    kind, *parts = location
    if kind != "body":
        return ".".join(map(str, parts))
    names, value = [], body
    for place, part in enumerate(parts, 1):
        if isinstance(value, dict) and (part in value or (missing and place == len(parts))):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        else:  # the form that a value was checked as
            continue
        names.append(str(part))
    return ".".join(names)


def _not_json(reason: str) -> ApiError:
    return ApiError(400, f"The body is not what this takes: {reason}.", "invalid_body")


# What FastAPI met while it read a body as JSON, and hides.
_UNREADABLE: tuple[tuple[type[Exception], str], ...] = (
    (UnicodeDecodeError, "its text is not UTF-8"),
    (RecursionError, "it is nested too deeply"),
    (ValueError, "a number in it has too many digits"),
)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    for kind, reason in _UNREADABLE:
        if isinstance(error.__cause__, kind):
            return _not_json(reason).response(request.scope["path"])
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    message, headers = str(error.detail), dict(error.headers or {})
    path = request.scope["path"]
    told = f"{request.method} {path}"[:200]
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request, path)) or headers.get("Allow", "GET")
        message = f"There is no {told}; this path takes {headers['Allow']}."
    elif error.status_code == 404:
        without_v1 = _methods(request, f"/v1{path}")
        hint = "the base URL for OpenAI's clients ends in /v1" if without_v1 else "/openapi.json lists what there is"
        message = f"There is nothing at {told}; {hint}."
    return ApiError(error.status_code, message, code, headers=headers).response(path)


def _methods(request: Request, path: str) -> list[str]:
    """What a path takes."""
    scope = {"type": "http", "path": path, "root_path": request.scope.get("root_path", "")}
    routes = request.app.router.routes
    return [
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        if any(one.matches({**scope, "method": method})[0] is Match.FULL for one in routes)
    ]


def _kind(status: int) -> str:
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    return kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")


def _kind_in_anthropic(status: int) -> str:
    kinds = {413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}
    return kinds.get(status, "api_error" if status >= 500 else _kind(status))
