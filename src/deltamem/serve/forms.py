"""The form that a request wants its answer in: from what it says to what the engine follows."""

import asyncio
from collections.abc import Callable

from deltamem.serve.engine.constraint import Form, Forms, UnsupportedGrammarError
from deltamem.serve.errors import ApiError, invalid
from deltamem.serve.schema.completions import ChatRequest, Generation, StructuredOutputs
from deltamem.serve.server import Server

# Calls of one answer where several are allowed.
_MOST_CALLS = 8


async def form_of(server: Server, body: Generation) -> Form | None:
    """The form of a request's answers; ``None`` for text.

    Raises:
        ApiError: it cannot be followed, or a package is missing.
    """
    if isinstance(body, ChatRequest):
        schema = None if body.response_format is None else body.response_format.schema_of_answer
        tools = {tool.function.name: tool.function.parameters for tool in body.required_tools or body.shown_tools}
        shape = server.prompts.syntax
        if body.required_tools:
            most = _MOST_CALLS if body.parallel_tool_calls else 1
            return await _made(server, "tools", lambda forms: forms.calls(tools, shape, most))
        if schema is not None:
            if tools:
                return await _made(server, "response_format", lambda forms: forms.calls(tools, shape, 1, schema))
            return await _made(server, "response_format", lambda forms: forms.schema(schema))
    wanted = body.wanted
    return None if wanted is None else await _made(server, "structured_outputs", lambda forms: _form(forms, wanted))


def _form(forms: Forms, wanted: StructuredOutputs) -> Form:
    if wanted.json_schema is not None:
        return forms.schema(wanted.json_schema)
    if wanted.regex is not None:
        return forms.regex(wanted.regex)
    if wanted.choice is not None:
        return forms.choice(wanted.choice)
    if wanted.grammar is not None:
        return forms.lark(wanted.grammar)
    return forms.schema({"type": "object"})


async def _made(server: Server, field: str, make: Callable[[Forms], Form]) -> Form:
    try:
        return await asyncio.to_thread(lambda: make(server.forms()))
    except UnsupportedGrammarError as error:
        raise invalid(f"{field} cannot be followed: {error}", field) from None
    except ImportError:  # its text tells the operator a command, perhaps with a folder of this machine
        said = f"{field} needs llguidance, which this server has not installed: it is in the extra 'structured'."
        raise ApiError(501, said, "not_installed", field) from None
