"""Replicas of deltamem on Ray Serve over one store: each serves any session, and may die.

    pip install "ray[serve]"
    python examples/ray_serve.py --store postgresql://user@host/database

Ray adds replicas while each has much to do, and starts another when one has died. A turn is acknowledged when the store
has it, so what a replica that dies takes along was not acknowledged: its clients ask again, and another replica goes
on from the last committed memory. Requests that name their session in X-Memory-Session stay at one replica as long as
it is there, so that turns of one session wait for one another. Without it two turns of one session may meet at two
replicas; one of them is refused with 409, and asked again too.

On a cluster that is there already, start Ray itself with RAY_SERVE_SESSION_ID_HEADER_KEY=x-memory-session.
"""

import argparse
import logging
import os
import secrets
import time
from typing import Any

from fastapi import FastAPI

os.environ.setdefault("RAY_SERVE_SESSION_ID_HEADER_KEY", "x-memory-session")  # Ray reads it when it is imported
import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

STAYS = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""How Ray keeps a session at one replica."""


def build_app(options: argparse.Namespace, secret: bytes) -> FastAPI:
    """A replica's application: what `deltamem serve` serves."""
    from deltamem.models.loading import load_model
    from deltamem.serve.app import create_app
    from deltamem.serve.engine.engine import Engine
    from deltamem.serve.engine.interface import MakeEngine, warm_up
    from deltamem.serve.server import Server
    from deltamem.serve.settings import Settings
    from deltamem.store import SessionStore

    make: MakeEngine = Engine
    if options.engine == "vllm":
        os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")  # vLLM would close the replica's log
        from deltamem.vllm.engine import open_hollow, vllm_engine

        loaded: Any = open_hollow(options.model, options.adapter)
        make = vllm_engine(options.model, options.adapter)
    else:
        loaded = load_model(options.model, options.adapter)
    kept = {"keep_messages": options.keep_messages, "keep_versions": options.keep_versions or None}
    store = SessionStore.open(options.store, **kept)
    server = Server(*loaded, store, Settings(secret=secret, model_name=options.model), engine=make)
    warm_up(server.engine)
    return create_app(server)


def deployment(options: argparse.Namespace, secret: bytes) -> serve.Application:
    """The replicas, as Ray Serve deploys them."""
    scaling = {
        "min_replicas": options.replicas,
        "max_replicas": options.most,
        "target_ongoing_requests": options.target,
        "upscale_delay_s": 10,
    }

    def build() -> FastAPI:
        logging.getLogger("ray.serve").info("Process %d", os.getpid())  # for whoever looks for it by its replica's log
        return build_app(options, secret)

    deployed = serve.deployment(
        name="Replica",
        autoscaling_config=scaling,
        request_router_config=RequestRouterConfig(request_router_class=STAYS),
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": options.cpus},
        health_check_timeout_s=120,
    )
    return deployed(serve.ingress(build)()).bind()


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="a database that all replicas reach")
    parser.add_argument("--keep-messages", action="store_true", help="store what is said, not only memories")
    parser.add_argument("--keep-versions", type=int, default=20, help="of each session; 0 keeps all")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--adapter", default="multi")
    parser.add_argument("--engine", choices=("own", "vllm"), default="own")
    parser.add_argument("--replicas", type=int, default=2, help="at least so many")
    parser.add_argument("--most", type=int, default=4, help="at most so many")
    parser.add_argument("--target", type=float, default=8, help="requests under way at a replica before Ray adds one")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs that Ray keeps for each")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    # Replicas that share it take the states that the others signed.
    secret = os.environ.get("DELTAMEM_STATE_SECRET", "").encode() or secrets.token_bytes(32)
    ray.init()  # a cluster that is there already, else one on this machine
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    serve.run(deployment(options, secret), name="deltamem")
    print(f"Serving at http://127.0.0.1:{options.port}/v1", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
