"""``/v1/embeddings``: texts as vectors, if the server was started with a model for that."""

import asyncio
import base64
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from deltamem.serve.errors import ApiError
from deltamem.serve.routes.common import AskerOf, ServerOf
from deltamem.serve.schema import EmbeddingsRequest

router = APIRouter(prefix="/v1", tags=["openai"])


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
        raise ApiError(400, f"{encoder.name} makes vectors of {encoder.width}.", "invalid_value", "dimensions")
    texts = [body.input] if isinstance(body.input, str) else body.input
    rows, tokens = await asyncio.to_thread(encoder.encode, texts)
    server.rates.charge(caller, tokens)
    packed = body.encoding_format == "base64"
    data = [
        Embedding(
            index=place,
            embedding=base64.b64encode(row.astype("<f4").tobytes()).decode() if packed else row.tolist(),
        )
        for place, row in enumerate(rows)
    ]
    usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
    return EmbeddingList(data=data, model=encoder.name, usage=usage)
