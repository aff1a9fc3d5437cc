"""Which model on the Hugging Face Hub a backbone was loaded from."""

import re
from pathlib import Path

from torch import nn

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def find_origin(model: nn.Module) -> tuple[str | None, str | None]:
    """The Hub id and commit that a model was loaded from; ``None`` for a local folder.

    A relative folder looks like an id, and is told from one by being there: ask before the working directory changes.
    """
    config = getattr(model, "config", None)
    origin = getattr(config, "_name_or_path", None) or ""
    if not HUB_ID.fullmatch(origin) or Path(origin).exists():
        return None, None
    return origin, getattr(config, "_commit_hash", None)
