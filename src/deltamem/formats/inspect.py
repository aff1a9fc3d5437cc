"""What an adapter or a saved memory is, as plain data and as a picture."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltamem.figures import figure_class, write_png
from deltamem.formats.adapter import AdapterFile
from deltamem.formats.hub import read_adapter_from
from deltamem.formats.state import StateInfo, read_state
from deltamem.state import MemoryState

Inspected = AdapterFile | tuple[MemoryState, StateInfo]


def open_file(path: str | Path) -> Inspected:
    """An adapter if the path is a folder, else a saved memory.

    Raises:
        AdapterFileError, StateFileError: it is neither, or damaged.
    """
    return read_adapter_from(path) if Path(path).is_dir() else read_state(path)


def describe(found: Inspected) -> dict[str, Any]:
    """Shapes, norms and origin, ready for JSON.

    Norms are Frobenius norms: of each part of each layer for an adapter, of each state of each layer and
    row for a memory.
    """
    return _describe_adapter(found) if isinstance(found, AdapterFile) else _describe_state(*found)


def draw(found: Inspected, path: str | Path) -> None:
    """Draws a heatmap as a PNG: the state matrices of a memory's first row, or the norms of an adapter's parts.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    figure_of = figure_class("demo")
    if isinstance(found, AdapterFile):
        figure = figure_of(figsize=(8, 1.5 + 0.25 * len(found.layer_numbers)), layout="constrained")
        _draw_norms(figure, found)
    else:
        layers, states = len(found[0].states), found[0].states[0].shape[1]
        columns = states if states > 1 else min(layers, 6)
        rows = -(-layers * states // columns)
        figure = figure_of(figsize=(1.6 * columns + 1, 1.6 * rows + 0.5), layout="constrained")
        _draw_states(figure, found[0], rows, columns)
    write_png(figure, Path(path), dpi=120)


def _describe_adapter(adapter: AdapterFile) -> dict[str, Any]:
    return {
        "kind": "adapter",
        "config": dataclasses.asdict(adapter.config),
        "base_model": adapter.base_model,
        "base_revision": adapter.base_revision,
        "backbone": dataclasses.asdict(adapter.backbone),
        "layers": list(adapter.layer_numbers),
        "parameters": adapter.parameters,
        "bytes": sum(t.numel() * t.element_size() for t in adapter.tensors.values()),
        "state_bytes": len(adapter.layer_numbers) * adapter.config.width * adapter.config.rank * 4,
        "fingerprint": adapter.fingerprint,
        "norms": {str(layer): _part_norms(adapter, layer) for layer in adapter.layer_numbers},
        "shapes": {name: list(t.shape) for name, t in adapter.tensors.items()},
    }


def _describe_state(state: MemoryState, info: StateInfo) -> dict[str, Any]:
    described: dict[str, Any] = {
        "kind": "state",
        "adapter_fingerprint": info.fingerprint,
        "backbone": info.backbone,
        "layers": len(state.states),
        "rows": state.batch,
        "states": state.states[0].shape[1],
        "rank": state.states[0].shape[2],
        "bytes": state.nbytes,
        "tokens_written": list(info.tokens),
    }
    if state.open is not None:
        described["open_segment_tokens"] = state.open.count.tolist()
    return described | {"norms": state.norms().tolist()}


def _part_norms(adapter: AdapterFile, layer: int) -> dict[str, float]:
    prefix = f"layers.{layer}."
    return {n.removeprefix(prefix): t.norm().item() for n, t in adapter.tensors.items() if n.startswith(prefix)}


def _draw_norms(figure: Any, adapter: AdapterFile) -> None:
    norms = [_part_norms(adapter, layer) for layer in adapter.layer_numbers]
    parts = list(norms[0])
    axes = figure.subplots()
    image = axes.imshow([[layer[part] for part in parts] for layer in norms], aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(parts)), parts, rotation=45, ha="right")
    axes.set_yticks(range(len(norms)), [str(layer) for layer in adapter.layer_numbers])
    axes.set_ylabel("layer")
    axes.set_title("Frobenius norm of each part")
    figure.colorbar(image)


def _draw_states(figure: Any, state: MemoryState, rows: int, columns: int) -> None:
    matrices: list[tuple[str, Tensor]] = [
        (f"layer {layer}" + (f", state {n}" if len(states[0]) > 1 else ""), states[0, n])
        for layer, states in enumerate(state.states)
        for n in range(states.shape[1])
    ]
    peak = max(torch.stack([m for _, m in matrices]).abs().max().item(), 1e-12)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (title, matrix) in zip(grid.flat, matrices, strict=False):
        image = axes.imshow(matrix.tolist(), cmap="RdBu", vmin=-peak, vmax=peak)
        axes.set_title(title, fontsize=8)
    figure.colorbar(image, ax=grid, shrink=0.6)
