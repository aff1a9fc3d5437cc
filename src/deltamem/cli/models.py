"""The model and adapter that a command works with."""

from pathlib import Path
from typing import Annotated, Any

import typer

from deltamem.models.catalog import EMBEDDED, MODELS, find_source, lacks_adapter

Model = Annotated[
    str, typer.Option(help="smollm2, embedded, or a Hub id, folder or GGUF file; smollm2 if it is here, else embedded.")
]
Adapter = Annotated[
    str, typer.Option(help="Hub id or folder of an adapter for it; of one in the package its name, such as token.")
]
ChatTemplate = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="A Jinja file that makes text of messages; the model's by default."),
]
Device = Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1, mps.")]


def choose_model(model: str, adapter: str) -> tuple[str, str]:
    """The names of ``--model`` and ``--adapter``, or those that are taken without them; loads nothing.

    Without a name the model is ``smollm2`` if that has been pulled, and the embedded toy if not.

    Raises:
        ValueError: an adapter without a model, or a model of one's own without an adapter.
        OSError: one of the two is not there; the message says what to do.
    """
    if adapter and not model:
        raise ValueError("--adapter needs the --model that it is for.")
    name = model or default_model()
    find_source(name)  # a model that is not here is the first thing to say
    if not adapter and name not in MODELS:
        raise ValueError(
            f"--model {name} needs an --adapter. To try one that is not trained: deltamem init {name} my-adapter. "
            "How to train one: docs/own-model.md."
        )
    adapter = adapter or MODELS[name].main_adapter
    if lacking := lacks_adapter(name, adapter):
        raise FileNotFoundError(lacking)
    return name, adapter


def open_model(
    model: str, adapter: str, device: str = "cpu", dtype: str = "auto", chat_template: Path | None = None
) -> tuple[str, Any, Any]:
    """The name of a model, the model of ``--model`` with its ``--adapter``, to talk to, and its tokenizer.

    Raises:
        ValueError, OSError: as :func:`choose_model` and :func:`set_template` do.
    """
    name, adapter = choose_model(model, adapter)
    from deltamem.models.loading import load_model

    backbone, tokenizer = load_model(name, adapter, device=device, dtype=dtype)
    set_template(tokenizer, name, chat_template)
    return name, backbone, tokenizer


def set_template(tokenizer: Any, name: str, file: Path | None) -> None:
    """Gives a tokenizer the chat template of ``--chat-template``, if there is one.

    Raises:
        ValueError: it has none then, and every message would be refused.
    """
    if file is not None:
        tokenizer.chat_template = file.read_text("utf-8")
    if not tokenizer.chat_template:
        raise ValueError(
            f"{name} has no chat template, which makes text of messages; base models often have none. Give one with "
            "--chat-template FILE, or put it into the model's folder as chat_template.jinja."
        )


def default_model() -> str:
    """``smollm2`` if it is on this machine and the package has its main adapter, else the embedded toy."""
    real = MODELS["smollm2"]
    return real.name if real.here and real.main_adapter in real.shipped() else EMBEDDED
