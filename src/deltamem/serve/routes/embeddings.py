"""``/v1/embeddings``: texts as vectors, if the server was started with a model for that."""

import asyncio
import base64
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field, Tag

from deltamem.serve.errors import invalid
from deltamem.serve.routes.common import AskerOf, ServerOf
from deltamem.serve.schema.body import Options, SomeText, by_form

router = APIRouter(prefix="/v1", tags=["openai"])


class EmbeddingsRequest(Options):
    """The body of ``/v1/embeddings``."""

    model: str = ""
    input: Annotated[
        Annotated[SomeText, Tag("str")] | Annotated[list[SomeText], Field(min_length=1, max_length=2048), Tag("list")],
        by_form("Input should be a text or a list of texts"),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, description="Nothing, or the encoder's own.")
    user: str | None = Field(default=None, description="Accepted and not used.")


class Embedding(BaseModel):
    """A text's vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Vectors, one for each text."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@router.post("/embeddings", summary="Texts as vectors, where the server has a model for them")
async def embeddings(body: EmbeddingsRequest, server: ServerOf, caller: AskerOf) -> EmbeddingList:
    """Unit vectors; of a text longer than the model takes only the beginning counts.

    Raises:
        ApiError: 404, there is no model for embeddings; 400, its vectors have another size.
    """
    encoder = server.needs_encoder()
    if body.dimensions not in (None, encoder.width):
        raise invalid(f"{encoder.name} makes vectors of {encoder.width}.", "dimensions")
    texts = [body.input] if isinstance(body.input, str) else body.input
    rows, tokens = await asyncio.to_thread(encoder.encode, texts)
    server.rates.charge(caller, tokens)
    packed = body.encoding_format == "base64"
    vectors = [base64.b64encode(row.astype("<f4").tobytes()).decode() if packed else row.tolist() for row in rows]
    data = [Embedding(index=place, embedding=vector) for place, vector in enumerate(vectors)]
    usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
    return EmbeddingList(data=data, model=encoder.name, usage=usage)
