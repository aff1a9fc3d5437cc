"""The backbone of a run: the package's own, or a model with adapters from folders or the Hub."""

import os
from collections.abc import Sequence
from typing import Any

import torch

from deltamem.attach import attach
from deltamem.config import DeltaMemConfig
from deltamem.formats.hub import load_adapter, read_adapter_from
from deltamem.models.catalog import MODELS
from deltamem.models.loading import load_config, load_tokenizer, load_weights
from deltamem_lab.backbone import Backbone
from deltamem_lab.methods.base import Weights
from deltamem_lab.methods.registry import known_weights, static_of
from deltamem_lab.names import STATIC


def embedded_backbone(statics: Sequence[str] = (), *, batch: int = 32, adapters: Sequence[str] = ()) -> Backbone:
    """The package's own backbone with its adapters, their static controls if there are any, and further adapters.

    The arguments are as :func:`load_backbone` has them; a static control without a name is that of ``multi``.

    Raises:
        AdapterFileError: an adapter belongs to another backbone.
        ValueError: two adapters have one name, or a LoRA belongs to another backbone.
    """
    from deltamem.demo.show import load_demo

    model, tokenizer = load_demo()
    for name, place in (*_named(adapters), *map(static_name, statics)):
        _load(model, place, name)
    return Backbone(model, tokenizer, batch=batch, name="embedded")


def load_backbone(
    model: str,
    adapters: Sequence[str] = (),
    statics: Sequence[str] = (),
    *,
    revision: str | None = None,
    batch: int = 16,
    weights: bool = True,
    template: dict[str, Any] | None = None,
    dtype: str | None = None,
    attention: str | None = None,
    device_map: str | None = None,
) -> Backbone:
    """A model with its adapters.

    Args:
        model: Hub id, folder, GGUF file, or a name of ours such as ``smollm2``.
        adapters: folders or Hub ids, each as ``NAME=PLACE`` or named by what it writes: token, segment or multi.
            A model with a name of ours has those that come with the package, by their names, and all by default.
            Folders with a LoRA that PEFT has saved are for Context2LoRA, those with an MLP for MLP Memory, those with a
            weaver for MemGen.
        statics: adapters that were trained on strangers' memories, as ``ADAPTER=PLACE`` where they are the control of
            that adapter, or as ``PLACE``: that of the last one.
        revision: of the model.
        batch: the most prompts answered at once.
        weights: without, the model has shapes and no weights, which is enough to plan a run.
        template: further variables of the chat template.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``; by default bfloat16 on a GPU and float32 elsewhere.
        attention: the implementation, as transformers names it.
        device_map: where its parts go, as transformers has it; by default all to one GPU if there is one.

    Raises:
        OSError: the model is not there.
        AdapterFileError: an adapter is not there, or belongs to another backbone.
        ValueError: two adapters have one name.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(model, revision=revision)
    config = load_config(model, revision=revision)
    loaded: Any
    if weights:
        gpu = torch.cuda.is_available()
        loaded = load_weights(
            model,
            revision=revision,
            dtype=dtype or ("bfloat16" if gpu else "float32"),
            device=torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else "cpu",
            attention=attention,
            device_map=device_map,
        )
    else:
        with torch.device("meta"):
            loaded = AutoModelForCausalLM.from_config(config)
    # Static controls come first, so that none is the main adapter.
    for name, place in (*map(static_name, statics), *_named(_shipped(model, adapters))):
        if weights or _weights_of(place) is not None:
            _load(loaded, place, name)
        else:
            attach(loaded, read_adapter_from(place).config, name=name)
    return Backbone(
        loaded,
        tokenizer,
        batch=batch,
        name=model,
        revision=str(getattr(config, "_commit_hash", None) or revision or ""),
        template=template,
    )


def _shipped(model: str, adapters: Sequence[str]) -> list[str]:
    """The adapters given, those of the package by their folders; all of these if none is given."""
    there = MODELS[model].shipped() if model in MODELS else {}
    if not adapters:
        return [f"{name}={folder}" for name, folder in there.items()]
    return [f"{given}={there[given]}" if given in there else given for given in adapters]


def _load(model: Any, place: str, name: str) -> None:
    weights = _weights_of(place)
    (weights.load if weights is not None else load_adapter)(model, place, name)


def _weights_of(place: str) -> Weights | None:
    """What lies there, if it was trained for a method and is no adapter."""
    return next((one for one in known_weights() if one.found(place)), None)


def memory_kind(config: DeltaMemConfig) -> str:
    """What an adapter is called in tables: ``multi``, ``segment`` or ``token``."""
    return "multi" if config.states > 1 else "segment" if config.writes_segments else "token"


def adapter_kind(place: str) -> str:
    """What is called what lies there: as the weights of a method are, such as ``lora``, or the kind of a memory.

    Raises:
        AdapterFileError: there is none of these.
    """
    weights = _weights_of(place)
    return weights.kind if weights is not None else memory_kind(read_adapter_from(place).config)


def is_memory(place: str) -> bool:
    """Whether an adapter lies there, and not the weights of another method."""
    return _weights_of(place) is None


def static_name(given: str) -> tuple[str, str]:
    """The name of a static control that is given as ``ADAPTER=PLACE`` or ``PLACE``, and its place."""
    adapter, found, place = given.partition("=")
    return (static_of(adapter), place) if found else (STATIC, given)


def _named(adapters: Sequence[str]) -> list[tuple[str, str]]:
    """Each adapter's name and place."""
    named: list[tuple[str, str]] = []
    for given in adapters:
        name, found, place = given.partition("=")
        named.append((name, place) if found else (adapter_kind(given), given))
    names = [name for name, _ in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Several adapters are named {', '.join(twice)}; name them with --adapter NAME=FOLDER.")
    return named
