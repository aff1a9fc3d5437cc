"""``deltamem bench``: what a memory costs its backbone."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

bench = typer.Typer(
    no_args_is_help=True,
    help="Measure what a memory costs.\n\n"
    "Example: deltamem bench generation --shape small --prompt 512,2048 --decode 64",
)


@bench.command("generation")
def generation(
    model: Annotated[str, typer.Option(help="smollm2, embedded, or a Hub id, folder or GGUF file.")] = "",
    shape: Annotated[
        str, typer.Option(help="Random weights instead: qwen3-0.6b, qwen3-4b, qwen3-8b, smollm3-3b or small.")
    ] = "",
    adapter: Annotated[
        str | None,
        typer.Option(
            help="A δ-mem adapter: a name such as multi, a folder or Hub id; by default fresh, in the published shape."
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="Lengths of the prompt in tokens.")] = "512,2048,4096",
    decode: Annotated[str, typer.Option(help="How many tokens to generate.")] = "64,256",
    runs: Annotated[int, typer.Option(min=1, help="Timed runs, after one warm-up.")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda; a GPU if there is one.")] = "",
    logits_to_keep: Annotated[
        bool,
        typer.Option(
            "--logits-to-keep/--all-logits", help="Compute the logits of the prompt's last token, or of all its tokens."
        ),
    ] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures to this PNG file.")] = None,
) -> None:
    """Speed and peak memory of generation: the bare backbone, with δ-mem, and with a LoRA of rank 8, in turn.

    It follows the published protocol: one row, greedy, an exact number of tokens, prefill and decoding separate.
    Lengths beyond the window are skipped. Figures depend on this machine and its other work; compare within a run.

    Example: deltamem bench generation --shape qwen3-0.6b --prompt 512,2048 --decode 64 --json generation.json
    """
    from deltamem.models.catalog import find_source

    if bool(model) == bool(shape):
        raise typer.BadParameter("Give --model (smollm2, embedded, a Hub id, a folder or a GGUF file) or --shape.")
    prompts, decodes = _lengths(prompt, "--prompt"), _lengths(decode, "--decode")
    if model:
        find_source(model)
    from deltamem.attach import attached
    from deltamem.figures import figure_class
    from deltamem.files import write_json
    from deltamem.models.loading import find_adapter, quiet_transformers
    from deltamem_lab.generation.protocol import measure_generation
    from deltamem_lab.generation.report import draw_outcome, machine_data, outcome_data, print_outcome
    from deltamem_lab.generation.sides import sides_of

    if plot is not None:
        figure_class("demo")
    quiet_transformers()
    place = _device(device)
    backbone, tokenizer = _backbone(model, shape, place)
    sides, missing = sides_of(backbone, adapter and str(find_adapter(model, adapter)))
    if missing:
        print(f"Without LoRA. {missing}", file=sys.stderr)
    outcome = measure_generation(
        sides,
        prompts,
        decodes,
        tokenizer=tokenizer,
        runs=runs,
        all_logits=not logits_to_keep,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print_outcome(outcome)
    if json_file is not None:
        facts: dict[str, Any] = {
            "model": model or f"{shape}, random weights",
            "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "adapter": json.loads(attached(sides[1].model).config.to_json()),
            "adapter_mib": {side.name: round(side.adapter_bytes / 2**20, 2) for side in sides},
            "runs": runs,
            "prompt_logits": "last" if logits_to_keep else "all",
            "without": {"lora": missing} if missing else {},
        }
        found = {**facts, **outcome_data(outcome), "machine": machine_data(place)}
        write_json(json_file, found)
    if plot is not None:
        draw_outcome(outcome, plot)


def _lengths(text: str, option: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(f"{option} takes numbers of tokens with commas between them, not {text!r}.")
    return sorted({int(part) for part in parts})


def _device(name: str) -> "torch.device":
    import torch

    if name not in ("", "cpu", "cuda"):
        raise typer.BadParameter(f"--device is cpu or cuda, not {name!r}.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch sees no CUDA device; leave --device out, or install a build of PyTorch for it.")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _backbone(model: str, shape: str, device: "torch.device") -> tuple[Any, Any]:
    """A bare backbone on a device, in bfloat16 on a GPU, and its tokenizer if it has one."""
    import torch

    from deltamem.models.loading import load_tokenizer, load_weights

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if shape:
        from deltamem_lab.generation.shapes import random_backbone

        return random_backbone(shape, device, dtype), None
    loaded = load_weights(model, dtype=str(dtype).removeprefix("torch."), device=device)
    return loaded, load_tokenizer(model)
