"""``deltamem convert``: an adapter from one file format to the other."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from deltamem.wording import counted


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="An adapter folder in either format, or a Hub id.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write; created if needed.")],
    to: Annotated[Literal["deltamem", "release"], typer.Option(help="The format to write.")] = "deltamem",
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the backbone to record; the release's files do not name one.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="How to store numbers in this package's format; bfloat16 rounds and halves the file."),
    ] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Replace the adapter that is there.")] = False,
) -> None:
    """Convert an adapter between this package's format and the published release's.

    The release keeps its tensors in a pickle; they are read without running any code from it, and
    written as safetensors. The command says what the release's format cannot keep.

    Example: deltamem convert declare-lab/delta-mem_qwen3_4b-instruct my-adapter
    --base-model Qwen/Qwen3-4B-Instruct-2507
    """
    from deltamem.files import HUB_ID

    if to == "release" and dtype != "float32":
        raise ValueError("The release's format keeps float32; leave --dtype out, or convert --to deltamem.")
    if not Path(source).exists() and not HUB_ID.fullmatch(source):
        raise FileNotFoundError(f"There is no adapter folder {source}. Give a folder or a Hub id (owner/name).")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise FileExistsError(f"{target} is not empty; give another folder, or --force.")
    from dataclasses import replace

    import torch

    from deltamem.formats.adapter import model_card, read_adapter, write_adapter, write_card
    from deltamem.formats.hub import read_adapter_from
    from deltamem.formats.release import lost_in_release, write_release

    adapter = read_adapter_from(source)
    if base_model is not None:
        adapter = replace(adapter, base_model=base_model, base_revision=None)
    if to == "release":
        write_release(adapter, target)
    else:
        write_adapter(adapter, target, getattr(torch, dtype))
        write_card(model_card(read_adapter(target)), target)
    lost = lost_in_release(adapter) if to == "release" else {}
    for name, (ours, theirs) in lost.items():
        print(f"Not kept: {name} is {ours!r} here, and the release's format gives {theirs!r} back.")
    if lost:
        print(
            "So the fingerprint changes, and memories of this adapter are refused by what is converted back. Keep it."
        )
    layers = len(adapter.layer_numbers)
    print(
        f"Wrote {target}: {counted(adapter.parameters, 'parameter')} on {counted(layers, 'layer')}, in the {to} format."
    )
