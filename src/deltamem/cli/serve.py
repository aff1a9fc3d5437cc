"""``deltamem serve``: the HTTP server."""

import errno
import os
import socket
from typing import Annotated, Literal

import typer

from deltamem.cli.models import Adapter, ChatTemplate, Device, Model, choose_model, open_model, set_template
from deltamem.cli.places import StoreUrl, open_store, state_secret
from deltamem.extensions import how_to_install


def serve(
    model: Model = "",
    adapter: Adapter = "",
    host: Annotated[
        str, typer.Option(help="Address to bind to; an address that other machines reach needs API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    store: StoreUrl = "",
    max_batch: Annotated[int, typer.Option(min=1, help="How many answers to generate together.")] = 16,
    queue: Annotated[int, typer.Option(min=0, help="How many more requests may wait; further ones get 429.")] = 64,
    keep_messages: Annotated[
        bool, typer.Option("--keep-messages", help="Store messages too, not only memories.")
    ] = False,
    keep_versions: Annotated[int, typer.Option(min=0, help="Versions of each session to keep; 0 keeps all.")] = 20,
    start_fresh: Annotated[
        bool,
        typer.Option("--start-fresh", help="Let a session that another adapter wrote start empty at its next turn."),
    ] = False,
    traces: Annotated[
        bool, typer.Option("--traces", help="Send traces by OTLP; OpenTelemetry's own variables say where to.")
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Note in the store who read, wrote, exported and deleted what.")
    ] = False,
    embeddings: Annotated[
        str,
        typer.Option(
            help="Model for /v1/embeddings and for finding memories by meaning: minilm, or a Hub id or folder."
        ),
    ] = "",
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer in tokens, unless the request sets a limit.")
    ] = 256,
    max_body: Annotated[int, typer.Option(min=1, help="Largest request in bytes; larger ones get 413.")] = 4 * 2**20,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="How many seconds a request may take before it gets 504.")
    ] = 600.0,
    allow_origin: Annotated[list[str] | None, typer.Option(help="A web origin that browsers may call from.")] = None,
    device: Device = "auto",
    engine: Annotated[
        Literal["own", "vllm"],
        typer.Option(help="What runs the model: deltamem's own engine, or vLLM (docs/vllm.md)."),
    ] = "own",
    chat_template: ChatTemplate = None,
) -> None:
    """Serve OpenAI's API with memories that last, and an API for the memories.

    Example: deltamem serve, then point any OpenAI client at http://127.0.0.1:8000/v1 with the header X-Memory-Session:
    ravi. To let others in: deltamem keys create TENANT. To encrypt at rest, set DELTAMEM_KEYS. You can give each option
    as an environment variable, such as DELTAMEM_SERVE_PORT.
    """
    from deltamem.demo.world import SUGGESTIONS
    from deltamem.encoder import Encoder
    from deltamem.models.catalog import EMBEDDED
    from deltamem.serve.logs import configure_logging, take_over_libraries
    from deltamem.serve.settings import EngineLimits, Settings
    from deltamem.store import ApiKeys

    # What can be refused is refused before the model is loaded and all is imported, which takes long.
    name, adapter = choose_model(model, adapter)
    check_address(host, port)
    sessions = open_store(store, keep_messages=keep_messages, keep_versions=keep_versions or None)
    try:
        sessions.check_keys()
        settings = Settings(
            secret=state_secret(),
            model_name=name,
            host=host,
            require_keys=ApiKeys(sessions).any_active(),
            allow_origins=tuple(allow_origin or ()),
            suggestions=SUGGESTIONS if name == EMBEDDED else (),
            max_body=max_body,
            max_tokens=max_tokens,
            timeout=timeout,
            start_fresh=start_fresh,
            audit=audit,
        )
        limits = EngineLimits(max_batch=max_batch, queue=queue)
        configure_logging()
        take_over_libraries()
        try:
            from deltamem.serve.engine.engine import Engine
            from deltamem.serve.engine.interface import MakeEngine
            from deltamem.serve.run import run
            from deltamem.serve.server import Server
            from deltamem.serve.traces import send_traces
        except ModuleNotFoundError as missing:
            raise ImportError(f"The server needs {missing.name}: {how_to_install('serve')}") from None
        encoder = Encoder(embeddings) if embeddings else None
        make: MakeEngine = Engine
        if engine == "vllm":
            from deltamem.vllm.engine import open_hollow, vllm_engine

            backbone, tokenizer = open_hollow(name, adapter)
            make = vllm_engine(name, adapter)
            set_template(tokenizer, name, chat_template)
        else:
            _, backbone, tokenizer = open_model(name, adapter, device, chat_template=chat_template)
        end_traces = send_traces() if traces else None
        server = Server(backbone, tokenizer, sessions, settings, limits, make, encoder)
    except BaseException:
        sessions.close()
        raise
    try:
        run(server, port)
    finally:
        if end_traces is not None:
            end_traces()


def check_address(host: str, port: int) -> None:
    """Tries whether a server can listen there.

    Raises:
        OSError: it cannot; the message says why and what to do.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OSError(f"--host {host} is not an address or name that this machine knows ({error.strerror}).") from None
    refused: dict[int | None, OSError] = {}
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":  # elsewhere it would share the port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                refused[error.errno] = error
    if errno.EADDRINUSE in refused:
        raise OSError(f"Port {port} of {host} is in use. Give another --port (0 takes a free one), or stop its server.")
    if errno.EACCES in refused:
        raise PermissionError(f"You may not listen on port {port}; those below 1024 need rights. Give another --port.")
    if len(refused) == len(found):
        raise OSError(f"--host {host} is not an address of this machine.")
