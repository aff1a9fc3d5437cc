"""The model and adapter that a command works with."""

from typing import Any, NamedTuple


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


def open_model(model: str, adapter: str, device: str = "cpu", dtype: str = "auto") -> Chosen:
    """The model and adapter of ``--model`` and ``--adapter``.

    Without a name it is ``smollm2`` if that has been pulled, and the embedded toy if not.

    Raises:
        ValueError: an adapter without a model, or a model of one's own without an adapter.
        OSError: the model is not there; the message names the command that fetches it.
    """
    from deltamem.models.catalog import MODELS
    from deltamem.models.loading import MAIN_ADAPTER, load_model

    if adapter and not model:
        raise ValueError("--adapter needs the --model that it is for.")
    name = model or default_model()
    if not adapter and name not in MODELS:
        raise ValueError(
            f"--model {name} needs an --adapter. To try one that is not trained: deltamem init {name} my-adapter. "
            "How to train one: docs/own-model.md."
        )
    return Chosen(name, *load_model(name, adapter or MAIN_ADAPTER, device=device, dtype=dtype))


def default_model() -> str:
    """``smollm2`` if it is on this machine and the package has its main adapter, else the embedded toy."""
    from deltamem.models.catalog import EMBEDDED, MODELS
    from deltamem.models.loading import MAIN_ADAPTER

    real = MODELS["smollm2"]
    return real.name if real.here and MAIN_ADAPTER in real.shipped() else EMBEDDED
