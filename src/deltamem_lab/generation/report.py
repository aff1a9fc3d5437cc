"""What the efficiency protocol found: as data, as a table, and as a picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from deltamem.figures import figure_class, write_png
from deltamem_lab.generation.protocol import MEASURES, Case, Outcome
from deltamem_lab.machine import machine

_MIB = 2**20
_WIDTH = 120
# Colours that stay apart for the colour-blind (M. Okabe and K. Ito, 2008).
_STYLES = {"bare": ("bare", "#000000", "--"), "delta-mem": ("δ-mem", "#0072B2", "-"), "lora": ("LoRA", "#E69F00", "-")}


def outcome_data(outcome: Outcome) -> dict[str, Any]:
    """What was measured as JSON values; memory in MiB, times in seconds."""
    return {
        "window": outcome.window,
        "skipped": [{"prompt": prompt, "decode": decode} for prompt, decode in outcome.skipped],
        "unmeasured": outcome.unmeasured,
        "cases": [_case_data(case) for case in outcome.cases],
    }


def machine_data(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", **machine()}


def print_outcome(outcome: Outcome) -> None:
    """Prints a row for each case: tokens a second, times the bare backbone's seconds, and peak memory."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for heading in ("prompt", "decode"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for heading in (*MEASURES, "peak, prefill", "peak, generate"):
        table.add_column(heading, justify="right")
    for case in outcome.cases:
        speed = case.tokens_per_second
        figures = [f"{speed[name]:,.2f}/s {case.times_bare[name]:6.3f}×" for name in MEASURES]
        peaks = ["–" if peak is None else f"{peak / _MIB:,.1f} MiB" for peak in case.peaks]
        table.add_row(f"{case.prompt:,}", f"{case.decode:,}", _STYLES[case.side][0], *figures, *peaks)
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)
    print("Tokens a second; × is the time by the bare backbone's in the same turn; peaks are beyond the weights.")
    for prompt, decode in outcome.skipped:
        print(f"Skipped: prompt {prompt:,} and decode {decode:,} do not fit the window of {outcome.window:,} tokens.")
    if outcome.unmeasured:
        print(f"No peak memory: {outcome.unmeasured}.")


def draw_outcome(outcome: Outcome, path: Path) -> None:
    """Draws speed and memory by the prompt's length as a PNG, for the most tokens that were generated.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    decode = max(case.decode for case in outcome.cases)
    panels: dict[str, Callable[[Case], float]] = {
        "prompt tokens read a second": lambda case: case.tokens_per_second["prefill_only"],
        f"tokens a second, {decode} generated": lambda case: case.tokens_per_second["decode_only"],
        "peak beyond the weights, MiB": lambda case: (case.peaks.generate or 0) / _MIB,
    }
    if outcome.unmeasured:
        panels.popitem()
    figure = figure_class("demo")(figsize=(4 * len(panels), 3.4), layout="constrained")
    for axes, (label, value) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for side, (name, colour, dashes) in _STYLES.items():
            cases = [case for case in outcome.cases if (case.side, case.decode) == (side, decode)]
            if cases:
                prompts, values = [case.prompt for case in cases], [value(case) for case in cases]
                axes.plot(prompts, values, dashes, color=colour, label=name, marker="o", markersize=4)
        axes.set(xlabel="prompt tokens", ylabel=label, ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee")
        axes.legend(frameon=False, fontsize=8)
    write_png(figure, path)


def _case_data(case: Case) -> dict[str, Any]:
    peaks = {name: None if peak is None else round(peak / _MIB, 1) for name, peak in case.peaks._asdict().items()}
    return {
        "prompt": case.prompt,
        "decode": case.decode,
        "side": case.side,
        "tokens_per_second": {name: round(value, 3) for name, value in case.tokens_per_second.items()},
        "times_bare": {name: round(value, 4) for name, value in case.times_bare.items()},
        "peak_mib": peaks,
        "seconds": [{name: round(value, 4) for name, value in run._asdict().items()} for run in case.seconds],
    }
