"""``/v1/completions``: OpenAI's bare continuation of a text, with a memory."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from deltamem.serve.errors import invalid
from deltamem.serve.forms import form_of
from deltamem.serve.generations import Choice, Generations, Token
from deltamem.serve.prompts import Prompts
from deltamem.serve.routes.answering import Shape, probed, respond
from deltamem.serve.routes.common import (
    WHOLE_OR_STREAMED,
    AskerOf,
    ServerOf,
    SessionHeader,
    check_biases,
    memory_options,
)
from deltamem.serve.schema.completions import CompletionRequest

router = APIRouter(prefix="/v1", tags=["openai"])
_MOST_CHOICES = 64


@router.post("/completions", summary="Continue a text, reading and writing a memory", responses=WHOLE_OR_STREAMED)
async def completions(
    body: CompletionRequest, request: Request, server: ServerOf, caller: AskerOf, session: SessionHeader = None
) -> Response:
    """Continues texts.

    The memory is used as in chat. A turn is the prompt and its continuation, as bare text; a log of messages shows them
    as a user's and the assistant's.
    """
    options = memory_options(body, session)
    prompts = await asyncio.to_thread(_prompts, body.prompt, server.prompts)
    if len(prompts) * body.n > _MOST_CHOICES:
        raise invalid(f"One request gives at most {_MOST_CHOICES} choices.", "prompt")
    if options.writes and len(prompts) > 1:
        raise invalid("Only one prompt at a time can be written to memory.", "prompt")
    check_biases(body, server.prompts.vocabulary)
    form = await form_of(server, body)
    samplings = [body.sampling(server.sampling, body.logprobs, i) for i in range(body.n)]
    opening = Generations.open(server, caller, request, options, prompts, samplings, continues=True, form=form)

    async def finish(generations: Generations) -> dict[str, Any]:
        choice = generations.choices[0]
        written = server.prompts.written_text([*prompts[0], *(token.chosen.token for token in choice.tokens)])
        first = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
        asked = first if isinstance(first, str) else server.prompts.plain(prompts[0])
        said = [{"role": "user", "content": asked}, {"role": "assistant", "content": choice.text}]
        return await generations.turn.write(written, "turn", said)

    return await respond(request, body, opening, _Text(server.engine.tokenizer, body.logprobs is not None), finish)


def _prompts(given: str | list[Any], prompts: Prompts) -> list[list[int]]:
    several = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    encoded = [prompts.text(one) if isinstance(one, str) else list(one) for one in several]
    if not all(encoded):
        raise invalid("A prompt has no tokens.", "prompt")
    if any(token >= prompts.vocabulary for ids in encoded for token in ids):
        raise invalid(f"Token ids go from 0 to {prompts.vocabulary - 1}.", "prompt")
    return encoded


class _Text(Shape):
    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def choice(self, choice: Choice) -> dict[str, Any]:
        return {"text": choice.text, "logprobs": self._logprobs(choice.tokens) if self.logprobs else None}

    def part(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        return {"text": text, "logprobs": self._logprobs(tokens) if self.logprobs and tokens else None}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        shown = [list(probed(self.tokenizer, token)) for token in tokens]
        return {
            "tokens": [own[0] for own, *_ in shown],
            "token_logprobs": [own[2] for own, *_ in shown],
            "top_logprobs": [{text: logprob for text, _, logprob in others} for _, *others in shown],
            "text_offset": [token.begin for token in tokens],
        }
