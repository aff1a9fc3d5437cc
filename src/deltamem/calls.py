"""What happens around every call of a model that carries a memory: a step goes in, the new state comes out."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from deltamem.backbones import AttentionSite
from deltamem.cache import MemoryCache
from deltamem.config import DeltaMemConfig
from deltamem.state import MemoryState
from deltamem.step import Step

_PREFILL_CHUNK = 1024


class MemoryCalls(ABC):
    """Hooks on a model's base module, and a ``generate`` that puts a memory into its cache.

    Args:
        model: a causal language model.
        base: its innermost model, which holds all attention layers.
        sites: those layers.

    Raises:
        ValueError: the model cannot generate.
    """

    def __init__(self, model: nn.Module, base: PreTrainedModel, sites: list[AttentionSite]) -> None:
        if not hasattr(model, "generate"):
            raise ValueError(f"{type(model).__name__} cannot generate; attach to the causal language model.")
        self.model = model
        self.base = base
        self.sites = sites
        self.active: str | None = None
        self._arguments = list(inspect.signature(base.forward).parameters)
        self._hooks = [
            base.register_forward_pre_hook(self._before, with_kwargs=True),
            base.register_forward_hook(self._after, with_kwargs=True),
        ]
        self._generate: Callable[..., Any] = model.generate  # type: ignore[assignment]
        model.generate = self.generate  # type: ignore[assignment]

    @property
    @abstractmethod
    def config(self) -> DeltaMemConfig:
        """The configuration of the active adapter."""

    @abstractmethod
    def layer_numbers(self, name: str | None = None) -> tuple[int, ...]:
        """The numbers of the attention layers that an adapter is on, the active one by default."""

    @abstractmethod
    def new_state(self, batch: int = 1) -> MemoryState:
        """An empty memory under the active adapter."""

    def new_cache(
        self, state: MemoryState | None = None, *, write: bool = True, segment_ids: Tensor | None = None
    ) -> MemoryCache:
        """A cache for generation that starts from ``state`` (empty by default)."""
        config = self.base.config.get_text_config(decoder=True)
        return MemoryCache(config, state, write=write, segment_ids=segment_ids)

    def release(self) -> None:
        """Leaves the model's calls as they were."""
        for hook in self._hooks:
            hook.remove()
        del self.model.generate

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The model's own ``generate``, with a memory in its cache.

        A :class:`MemoryCache` is made unless one is passed as ``past_key_values``. Long prompts are
        taken in by chunks of 1,024 tokens unless ``prefill_chunk_size`` says otherwise.

        Raises:
            ValueError: the cache asked for cannot carry a memory, or its memory has not one row a prompt.
        """
        configs = (generation_config, getattr(self.model, "generation_config", None))

        def option(name: str) -> Any:
            if name in kwargs:
                return kwargs[name]
            return next((value for c in configs if (value := getattr(c, name, None)) is not None), None)

        cache = kwargs.get("past_key_values")
        if self.active is not None and option("use_cache") is not False:
            kind = option("cache_implementation")
            if kind not in (None, "dynamic", "hybrid"):
                raise ValueError(
                    f"cache_implementation={kind!r} cannot carry a memory; leave it out, or pass "
                    "past_key_values=deltamem.memory_cache(model)."
                )
            cache = kwargs["past_key_values"] = self._carrier(cache)
            if kind is not None:
                kwargs["cache_implementation"] = None
        prompt = inputs if inputs is not None else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        if self.active is None or prompt is None or not isinstance(cache, MemoryCache):
            return self._generate(inputs, generation_config, *args, **kwargs)
        if cache.memory is not None and cache.memory.batch != prompt.shape[0]:
            raise ValueError(
                f"The memory has {cache.memory.batch} rows for {prompt.shape[0]} prompts; it needs one row each."
            )
        length, mask = prompt.shape[1], kwargs.get("attention_mask")
        whole = mask is None or mask.shape[1] == length
        new = length - cache.position if whole else length
        if new > _PREFILL_CHUNK and option("prefill_chunk_size") is None:
            generation_config = copy.deepcopy(generation_config) or GenerationConfig()
            generation_config.prefill_chunk_size = _PREFILL_CHUNK
        # A row that other criteria stop is told by the padding it is fed from then on.
        padded = option("stop_strings") or kwargs.get("stopping_criteria")
        stops = _stop_tokens(option("eos_token_id"), option("pad_token_id") if padded else None)
        cache.begin_generation(cache.position + new, stops)
        try:
            return self._generate(inputs, generation_config, *args, **kwargs)
        finally:
            cache.begin_generation(0, set())

    def _before(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Gives every call of the base model a memory step, from the caller, the cache, or empty."""
        kwargs.update(zip(self._arguments[: len(args)], args, strict=True))
        step: Step | None = kwargs.pop("memory", None)
        if self.active is None:
            return (), kwargs
        self._refuse_reentrant()
        tokens = kwargs.get("input_ids")
        inputs = tokens if tokens is not None else kwargs.get("inputs_embeds")
        if inputs is None:
            return (), kwargs  # the model itself says what it misses
        batch, length = inputs.shape[:2]
        cache = self._cache_of(kwargs, carried=step is not None)
        mask = _padding(kwargs.get("attention_mask"), length, step)
        if step is None:
            state = None
            if cache is not None:
                cache.expand(batch)
                state = cache.memory
            state = state if state is not None else self.new_state(batch)
            step = Step(state, mask=mask) if cache is None else cache.new_step(state, tokens, mask, length)
        elif step.mask is None:
            step.mask = mask
        self._check_shape(step.state)
        step.begin(self.config, batch, length, inputs.device)
        if cache is not None:
            cache.step = step
        kwargs["memory"] = step
        return (), kwargs

    def _after(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        cache = kwargs.get("past_key_values")
        if isinstance(cache, MemoryCache) and cache.step is not None:
            cache.memory = cache.step.new_state
            cache.step = None

    def _cache_of(self, kwargs: dict[str, Any], *, carried: bool) -> MemoryCache | None:
        """The call's cache; an empty plain one is replaced by one that can carry the memory."""
        cache = kwargs.get("past_key_values")
        if isinstance(cache, MemoryCache):
            return cache
        needed = not all(site.family.keywords for site in self.sites)
        if cache is None:
            use_cache = kwargs.get("use_cache")
            wanted = self.base.config.use_cache if use_cache is None else use_cache
            if not (wanted or needed) or (self.base.training and getattr(self.base, "gradient_checkpointing", False)):
                return None
        elif carried and not needed:
            return None
        kwargs["past_key_values"] = fresh = self._carrier(cache)
        return fresh

    def _carrier(self, cache: Any) -> MemoryCache:
        """A cache that can carry the memory, in place of none or of an empty plain one."""
        if isinstance(cache, MemoryCache):
            return cache
        fresh = self.new_cache()
        if cache is None:
            return fresh
        if type(cache) is not DynamicCache or cache.get_seq_length():
            raise ValueError(
                f"This {type(cache).__name__} carries no memory. Pass past_key_values=deltamem.memory_cache(model), "
                "or memory=deltamem.Step(state) on every call."
            )
        cache.layers = fresh.layers  # no longer empty after the call: going on with it is refused, not misread
        return fresh

    def _refuse_reentrant(self) -> None:
        checkpoint = getattr(self.base, "_gradient_checkpointing_func", None)
        reentrant = getattr(checkpoint, "keywords", {}).get("use_reentrant")
        if reentrant and self.base.training and getattr(self.base, "gradient_checkpointing", False):
            raise ValueError(
                "Reentrant gradient checkpointing would lose the gradients of the memory; "
                "switch it on with use_reentrant=False."
            )

    def _check_shape(self, state: MemoryState) -> None:
        config = self.config
        layers, wanted = len(self.layer_numbers()), (config.states, config.rank, config.rank)
        if len(state.states) != layers or state.states[0].shape[1:] != wanted:
            raise ValueError(
                f"This memory has {len(state.states)} layers of {tuple(state.states[0].shape[1:])}; the adapter "
                f"{self.active!r} has {layers} of {wanted}. It belongs to another adapter."
            )


def _padding(attention_mask: Any, length: int, step: Step | None) -> Tensor | None:
    if attention_mask is None or (step is not None and step.mask is not None):
        return None
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        raise ValueError(
            "The memory cannot tell padding from this attention_mask; pass a two-dimensional one, or "
            "memory=deltamem.Step(state, mask=...) beside it."
        )
    return attention_mask[:, -length:].bool()


def _stop_tokens(*ids: int | list[int] | Tensor | None) -> set[int]:
    stops: set[int] = set()
    for one in ids:
        if one is not None:
            stops.update(torch.as_tensor(one).flatten().tolist())
    return stops
