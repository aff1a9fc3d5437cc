"""``deltamem mcp``: a memory as tools of the Model Context Protocol."""

from typing import Annotated, Literal

import typer

from deltamem.cli.models import Adapter, ChatTemplate, Device, Model, choose_model, open_model
from deltamem.cli.places import StoreUrl, open_store, state_secret


def mcp(
    transport: Annotated[
        Literal["stdio", "http"],
        typer.Option(help="stdio for a client that starts this command, http for streamable HTTP."),
    ] = "stdio",
    session: Annotated[str, typer.Option(help="The session that tools use if the client names none.")] = "default",
    server: Annotated[
        str, typer.Option(help="Address of a running deltamem serve to use instead of a model in this process.")
    ] = "",
    key: Annotated[str, typer.Option(envvar="DELTAMEM_API_KEY", help="API key for that server.")] = "",
    model: Model = "",
    adapter: Adapter = "",
    store: StoreUrl = "",
    keep_messages: Annotated[
        bool,
        typer.Option(
            "--keep-messages/--no-keep-messages",
            help="Also store the text: recall can then name its source, and forget is exact.",
        ),
    ] = True,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for http, on 127.0.0.1.")] = 8001,
    device: Device = "auto",
    chat_template: ChatTemplate = None,
) -> None:
    """Serve memories to agents: remember, recall, ask, forget, list, export.

    With --transport http it answers at http://127.0.0.1:8001/mcp.

    Example: deltamem mcp --store sqlite:///memories.db
    """
    import asyncio
    from contextlib import AbstractAsyncContextManager

    from deltamem.extensions import how_to_install
    from deltamem.serve.logs import configure_logging, take_over_libraries

    configure_logging()
    try:
        import httpx

        from deltamem.serve.mcp import local, mcp_server, remote
    except ModuleNotFoundError as missing:
        raise ImportError(f"The MCP server needs {missing.name}: {how_to_install('mcp')}") from None

    def opened() -> AbstractAsyncContextManager[httpx.AsyncClient]:
        if server:
            return remote(server, key)
        from deltamem.serve.settings import Settings

        choose_model(model, adapter)
        sessions = open_store(store, keep_messages=keep_messages)
        try:
            sessions.check_keys()
            take_over_libraries()
            from deltamem.serve.server import Server

            name, backbone, tokenizer = open_model(model, adapter, device, chat_template=chat_template)
            return local(Server(backbone, tokenizer, sessions, Settings(secret=state_secret(), model_name=name)))
        except BaseException:
            sessions.close()
            raise

    async def run() -> None:
        async with opened() as client:
            tools = mcp_server(client, session)
            if transport == "http":
                await tools.run_streamable_http_async(port=port)
            else:
                await tools.run_stdio_async()

    asyncio.run(run())
