"""Logs as JSON lines that hold no text of any message."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_FIELDS = ("request_id", "method", "route", "status", "seconds", "tenant", "key", "prompt_tokens", "completion_tokens")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, event, and the fields of a request."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if getattr(record, name, None) is not None}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["trace"] = self._places(record)
        return json.dumps(line)

    def _places(self, record: logging.LogRecord) -> list[str]:
        """Where an error came from. Its message may quote what was sent, so that is left out."""
        places, trace = [], record.exc_info[2] if record.exc_info else None
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        return places


def configure_logging(level: int = logging.INFO) -> None:
    """Sends the server's and uvicorn's logs to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("deltamem", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = ([handler] if name != "uvicorn.error" else []), name == "uvicorn.error"
        logger.setLevel(level)
