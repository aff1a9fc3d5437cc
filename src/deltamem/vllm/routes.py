"""A route for plain `vllm serve`: the memory of a request that is over. vLLM finds it as an endpoint plugin."""

from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response

router = APIRouter()


class MemoryRoutes:
    """What `VLLM_PLUGINS=deltamem` adds to vLLM's server."""

    name = "deltamem"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Adds the route."""
        app.include_router(router)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Remembers how the engine is reached."""
        state.deltamem_engine = engine_client


@router.get("/v1/deltamem/memories/{ticket}")
async def take_memory(ticket: str, tokens: int, request: Request) -> Response:
    """The memory, as the file that `deltamem.load_state` reads, of the request with this ticket; only once.

    Args:
        ticket: what the request called it.
        tokens: how many tokens were fed: those of the prompt and of the answer but one, which the answer's usage tells.
        request: vLLM's.
    """
    found, *_ = await request.app.state.deltamem_engine.collective_rpc("deltamem_take_file", args=(ticket, tokens))
    if isinstance(found, str):
        raise HTTPException(404, found)
    return Response(found, media_type="application/octet-stream")
