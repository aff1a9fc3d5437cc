"""How vLLM has to be started for a backbone to remember.

    python -m deltamem.vllm.flags MODEL ADAPTER

prints the command.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from deltamem.models.catalog import find_source
from deltamem.models.loading import find_adapter, load_config
from deltamem.vllm import ARCHITECTURES
from deltamem.vllm.check import ADAPTER, CONNECTOR, MODULE, UnfitError


def engine_arguments(model: str | Path, adapter: str | Path) -> dict[str, Any]:
    """The arguments of vLLM's `EngineArgs` that make a backbone remember; add others as you like.

    Args:
        model: a name that deltamem knows, a folder or a Hub id.
        adapter: one that comes with the package for a model with a name, a folder or a Hub id.

    Raises:
        UnfitError: its architecture is not one that can remember on vLLM.
        OSError: the model is not there.
        AdapterFileError: the adapter is not there.
    """
    named = load_config(model).architectures or []
    found = [ARCHITECTURES[name] for name in named if name in ARCHITECTURES]
    if not found:
        raise UnfitError(
            f"{model} is a {', '.join(named) or 'model of unknown architecture'}; on vLLM these can remember: "
            f"{', '.join(ARCHITECTURES)}. Serve it with deltamem's own engine (--engine own)."
        )
    source = find_source(model)
    if source.options:
        raise UnfitError(f"{model} is a GGUF file; give vLLM a folder of safetensors, or use --engine own.")
    return {
        "model": source.place,
        "hf_overrides": {"architectures": found[:1]},
        "dtype": "float32" if source.known else "auto",
        "enable_prefix_caching": False,
        "kv_transfer_config": {
            "kv_connector": CONNECTOR,
            "kv_connector_module_path": MODULE,
            "kv_role": "kv_both",
            "kv_connector_extra_config": {ADAPTER: str(find_adapter(model, adapter))},
            "kv_load_failure_policy": "fail",
        },
        "worker_extension_cls": f"{MODULE}.MemoryWorker",
    }


def serve_command(model: str | Path, adapter: str | Path) -> list[str]:
    """The command of vLLM's own server with the flags that make a backbone remember; see :func:`engine_arguments`.

    It is what `vllm serve` runs, which in the package for CPUs does not find its own name.
    """
    arguments = engine_arguments(model, adapter)
    return [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        arguments["model"],
        "--dtype",
        arguments["dtype"],
        "--no-enable-prefix-caching",
        "--enforce-eager",
        "--hf-overrides",
        json.dumps(arguments["hf_overrides"]),
        "--worker-extension-cls",
        arguments["worker_extension_cls"],
        "--kv-transfer-config",
        json.dumps(arguments["kv_transfer_config"]),
    ]


if __name__ == "__main__":
    print(shlex.join(serve_command(*sys.argv[1:3])))
