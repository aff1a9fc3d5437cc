"""``deltamem doctor``: what this machine has, and which kernels will be used on it."""

import json
from typing import Annotated, Any

import typer

_PACKAGES = ("torch", "transformers", "safetensors", "huggingface_hub", "numba", "triton", "peft", "matplotlib")


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """Print versions, devices, threads, and which kernel runs the memory on each device and why.

    Paste its output into a bug report.

    Example: deltamem doctor --json
    """
    found = _examine()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, section in found.items():
        table = Table(box=None, show_header=False, title=title, title_justify="left", min_width=40)
        for name, value in section.items():
            table.add_row(name, "not installed" if value is None else str(value))
        console.print(table)


def _examine() -> dict[str, dict[str, Any]]:
    import os
    import platform

    import torch

    import deltamem
    from deltamem.ops import backend_for, backend_reason

    devices = _devices()
    return {
        "versions": {"deltamem": deltamem.__version__, "python": platform.python_version()}
        | {name: _version(name) for name in _PACKAGES},
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "torch threads": torch.get_num_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        },
        "devices": devices,
        "kernels": {device: f"{backend_for(device)}: {backend_reason(device)}" for device in devices},
        "embedded assets": _assets(),
    }


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    import platform

    import torch

    devices = {"cpu": platform.processor() or platform.machine()}
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        devices[f"cuda:{i}"] = f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _assets() -> dict[str, str]:
    from importlib.resources import files

    folder = files("deltamem") / "demo" / "assets"
    found = sorted((entry.name for entry in folder.iterdir()), key=str) if folder.is_dir() else []
    if not found:
        return {"demo": "missing: this installation is incomplete, or a source tree without the trained files"}
    return dict.fromkeys(found, "present")
