"""The model and adapter that a command works with."""

from typing import Annotated, Any, NamedTuple

import typer

from deltamem.models.catalog import EMBEDDED, MAIN_ADAPTER, MODELS, find_source, lacks_adapter

Model = Annotated[
    str, typer.Option(help="smollm2, embedded, or a Hub id, folder or GGUF file; smollm2 if it is here, else embedded.")
]
Adapter = Annotated[
    str, typer.Option(help="Hub id or folder of an adapter for it; for a model with a name also multi or token.")
]
Device = Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1, mps.")]


class Chosen(NamedTuple):
    """A model with its adapter, and its tokenizer.

    Attributes:
        name: what the model was called, or was chosen by default.
        model: with the adapter on.
        tokenizer: the model's.
    """

    name: str
    model: Any
    tokenizer: Any


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
    if lacking := lacks_adapter(name, adapter or MAIN_ADAPTER):
        raise FileNotFoundError(lacking)
    return name, adapter or MAIN_ADAPTER


def open_model(model: str, adapter: str, device: str = "cpu", dtype: str = "auto") -> Chosen:
    """The model and adapter of ``--model`` and ``--adapter``; raises as :func:`choose_model` does."""
    name, adapter = choose_model(model, adapter)
    from deltamem.models.loading import load_model

    return Chosen(name, *load_model(name, adapter, device=device, dtype=dtype))


def default_model() -> str:
    """``smollm2`` if it is on this machine and the package has its main adapter, else the embedded toy."""
    real = MODELS["smollm2"]
    return real.name if real.here and MAIN_ADAPTER in real.shipped() else EMBEDDED
