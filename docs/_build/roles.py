"""Docstrings name other objects by Sphinx's roles, as in :class:`Session`; on the site they are links or code."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([^`]+)`")


class Roles(griffe.Extension):
    """Puts plain code in place of each role, without the path that ``~`` hides."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrites a docstring."""
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(_code, obj.docstring.value)


def _code(match: re.Match[str]) -> str:
    shown = match[2].rsplit(".", 1)[-1] if match[1] else match[2]
    return f"`{shown}`"
