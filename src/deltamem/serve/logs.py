"""Logs as JSON lines that hold no text of any message."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from deltamem.store import SchemaError, UnavailableError

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
            if isinstance(record.exc_info[1], (UnavailableError, SchemaError)):
                line["reason"] = str(record.exc_info[1])  # names the database, which the client is not told
            # Where it came from. Its message may quote what was sent, so that is left out.
            places = traceback.walk_tb(record.exc_info[2])
            line["trace"] = [f"{at.f_code.co_filename}:{number} {at.f_code.co_name}" for at, number in places]
        return json.dumps(line)


class _StandardError(logging.Handler):
    """Writes to what is standard error at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def configure_logging() -> None:
    """Sends all logs to standard error as JSON: the server's from the level info on, its libraries' warnings.

    Before a model is loaded, :func:`take_over_libraries` takes away what its libraries write on their own.
    """
    root = logging.getLogger()
    if not any(isinstance(handler, _StandardError) for handler in root.handlers):
        handler = _StandardError()
        handler.setFormatter(JsonFormatter())
        root.addHandler(handler)
    logging.captureWarnings(True)
    for name in ("deltamem", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)


def take_over_libraries() -> None:
    """Has the logs of a model's libraries, which it imports, go where all others go, and no bars be drawn."""
    import torch  # noqa: F401 - makes the handlers that are taken away here, as the next ones do
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar, get_logger

    get_logger()
    disable_progress_bar()
    disable_progress_bars()
    for name in ("torch", "transformers", "huggingface_hub"):
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True
