"""Several replicas of deltamem behind Ray Serve, over one store: each serves any session, and may die.

    pip install "ray[serve]"
    python examples/ray_serve.py --store postgresql://user@host/database

A turn is acknowledged when the store has it, so what a replica that dies takes along was not acknowledged: its clients
ask again, and another replica goes on from the last committed memory. Two turns of one session at once, on two
replicas, are one too many: the second is refused with 409, and asked again too.
"""

import argparse
import os
import secrets
import time
from typing import Any

from fastapi import FastAPI
from ray import serve


def build_app(model: str, adapter: str, store: str, engine: str, secret: bytes) -> FastAPI:
    """A replica's application: what `deltamem serve` serves."""
    from deltamem.models.loading import load_model
    from deltamem.serve.app import create_app
    from deltamem.serve.engine.engine import Engine
    from deltamem.serve.engine.interface import MakeEngine, warm_up
    from deltamem.serve.server import Server
    from deltamem.serve.settings import Settings
    from deltamem.store import SessionStore

    make: MakeEngine = Engine
    if engine == "vllm":
        from deltamem.vllm.engine import open_hollow, vllm_engine

        loaded: Any = open_hollow(model, adapter)
        make = vllm_engine(model, adapter)
    else:
        loaded = load_model(model, adapter)
    settings = Settings(secret=secret, model_name=model)
    server = Server(*loaded, SessionStore.open(store), settings, engine=make)
    warm_up(server.engine)
    return create_app(server)


def deployment(options: argparse.Namespace, secret: bytes) -> serve.Application:
    """The replicas: two, and more while each has much to do."""
    scaling = {"min_replicas": options.replicas, "max_replicas": options.most, "target_ongoing_requests": 8}
    replica = (options.model, options.adapter, options.store, options.engine, secret)

    @serve.deployment(autoscaling_config=scaling, max_ongoing_requests=64, ray_actor_options={"num_cpus": options.cpus})
    @serve.ingress(lambda: build_app(*replica))
    class Replica:
        """Its application does everything."""

    return Replica.bind()


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="a database that all replicas reach")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--adapter", default="multi")
    parser.add_argument("--engine", choices=("own", "vllm"), default="own")
    parser.add_argument("--replicas", type=int, default=2, help="at least so many")
    parser.add_argument("--most", type=int, default=4, help="at most so many")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs that Ray keeps for each")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    # Replicas that share it take the states that the others signed.
    secret = os.environ.get("DELTAMEM_STATE_SECRET", "").encode() or secrets.token_bytes(32)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    serve.run(deployment(options, secret), name="deltamem")
    print(f"Serving at http://127.0.0.1:{options.port}/v1", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
