"""``deltamem baseline``: trains the published baselines that an adapter is compared with."""

import typer

from deltamem_lab.commands.baselines.compression import compression
from deltamem_lab.commands.baselines.lora import lora
from deltamem_lab.commands.baselines.memgen import memgen
from deltamem_lab.commands.baselines.mlp_memory import mlp_memory

baseline = typer.Typer(
    no_args_is_help=True,
    help="Train what an adapter is compared with, on its own data, for deltamem eval.\n\n"
    "Example: deltamem baseline lora recipes/embedded.yaml --output runs/lora",
)
baseline.command("compression")(compression)
baseline.command("lora")(lora)
baseline.command("memgen")(memgen)
baseline.command("mlp-memory")(mlp_memory)
