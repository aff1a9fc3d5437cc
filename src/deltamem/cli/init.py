"""``deltamem init``: a fresh adapter for a model of one's own."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    model: Annotated[str, typer.Argument(help="smollm2, embedded, or a Hub id, folder or GGUF file.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the adapter; created if needed.")],
    rank: Annotated[int, typer.Option(min=1, help="The side of a state matrix.")] = 8,
    states: Annotated[int, typer.Option(min=1, help="States in each layer.")] = 4,
    force: Annotated[bool, typer.Option("--force", help="Replace the adapter that is there.")] = False,
) -> None:
    """Write an adapter that leaves your model as it is until you train it, and say what to do next.

    This shows whether your model's architecture is supported, and how large the adapter and a memory are. The heads are
    zero: the memory is written, and the model answers exactly as it does without.

    Example: deltamem init Qwen/Qwen3-0.6B my-adapter
    """
    from deltamem.models.catalog import MODELS, find_source

    find_source(model)
    if folder.exists() and any(folder.iterdir()) and not force:
        raise FileExistsError(f"{folder} is not empty; give another folder, or --force.")
    from deltamem.attach import attach
    from deltamem.config import DeltaMemConfig
    from deltamem.formats.hub import save_adapter
    from deltamem.models.loading import load_weights, quiet_transformers

    quiet_transformers()
    backbone = load_weights(model)
    attachment = attach(backbone, DeltaMemConfig(rank=rank, states=states, init="zero"))
    pullable = MODELS[model].pullable if model in MODELS else None
    save_adapter(backbone, folder, base_model=pullable.hub if pullable else None)
    size = attachment.new_state(1).nbytes
    print(f"Wrote {folder}: {attachment.report().adapter:,} parameters, {size:,} bytes of memory for each session.")
    print(f"Talk:  deltamem chat --model {model} --adapter {folder}   (nothing is remembered yet)")
    print("Train: docs/own-model.md")
