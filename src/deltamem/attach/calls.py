"""What happens around every call of a model that carries a memory: a step goes in, the new state comes out."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

from deltamem.attach.cache import PAST, MemoryCache, rename_past
from deltamem.attach.families import AttentionSite
from deltamem.config import DeltaMemConfig
from deltamem.memory import DeltaMemory
from deltamem.state import MemoryState
from deltamem.step import Step

_PREFILL_CHUNK = 1024


@dataclass(frozen=True)
class ActiveAdapter:
    """The adapter that a model's calls run with."""

    name: str
    memories: tuple[DeltaMemory, ...]

    @property
    def config(self) -> DeltaMemConfig:
        """Its configuration."""
        return self.memories[0].config

    def new_state(self, batch: int = 1) -> MemoryState:
        """An empty memory for ``batch`` sessions."""
        config, first = self.config, self.memories[0]
        pending = first.pending_width if config.writes_segments else 0
        return MemoryState.zeros(
            len(self.memories),
            batch,
            config.states,
            config.rank,
            pending=pending,
            key_tokens=config.key_tokens,
            device=first.projection.device,
        )

    def check(self, state: MemoryState) -> None:
        """Refuses a memory of another shape.

        Raises:
            ValueError: it is of another shape.
        """
        layers, wanted = len(self.memories), (self.config.states, self.config.rank, self.config.rank)
        if len(state.states) != layers or state.states[0].shape[1:] != wanted:
            raise ValueError(
                f"This memory has {len(state.states)} layers of {tuple(state.states[0].shape[1:])}; the adapter "
                f"{self.name!r} has {layers} of {wanted}. It belongs to another adapter."
            )


class GenerateOptions:
    """What a call of ``generate`` asks for, in the order in which transformers lets it count.

    Args:
        keywords: the call's; an option named here counts even if it is ``None``.
        config: the configuration passed along, if any. It is copied before it is changed.
        defaults: the model's own.
    """

    def __init__(
        self, keywords: dict[str, Any], config: GenerationConfig | None, defaults: GenerationConfig | None
    ) -> None:
        self.keywords = keywords
        self.config = config
        self.defaults = defaults

    def __getitem__(self, name: str) -> Any:
        """An option's value, ``None`` if nobody sets it."""
        if name in self.keywords:
            return self.keywords[name]
        configs = (self.config, self.defaults)
        return next((value for config in configs if (value := getattr(config, name, None)) is not None), None)

    def __setitem__(self, name: str, value: Any) -> None:
        """Sets an option; transformers warns of keywords beside a configuration, so then it is set there."""
        if self.config is None or name in self.keywords:
            self.keywords[name] = value
        else:
            self.config = copy.deepcopy(self.config)
            setattr(self.config, name, value)

    def set_default(self, name: str, value: Any) -> None:
        """Sets an option that nobody sets."""
        if name not in self.keywords and self[name] is None:
            self[name] = value

    def stop_tokens(self, *, beams: bool) -> set[int]:
        """The tokens by which a row that is fed one is known to have ended."""
        ids = [self["eos_token_id"]]
        # A row that other criteria stop is told by the padding it is fed from then on; a beam is fed none.
        if not beams and (self["stop_strings"] or self["stopping_criteria"]):
            ids.append(self["pad_token_id"])
        return {token for one in ids if one is not None for token in torch.as_tensor(one).flatten().tolist()}


class MemoryCalls:
    """Hooks on a model's base module, and a ``generate`` that puts a memory into its cache.

    Args:
        model: a causal language model.
        base: its innermost model, which holds all attention layers.
        sites: those layers.

    Attributes:
        adapter: the active adapter; ``None`` leaves the bare backbone.

    Raises:
        ValueError: the model cannot generate.
    """

    def __init__(self, model: nn.Module, base: PreTrainedModel, sites: list[AttentionSite]) -> None:
        if not hasattr(model, "generate"):
            raise ValueError(f"{type(model).__name__} cannot generate; attach to the causal language model.")
        self.adapter: ActiveAdapter | None = None
        self._model = model
        self._base = base
        self._carried_by_cache = not all(site.family.keywords for site in sites)
        self._arguments = list(inspect.signature(base.forward).parameters)
        self._hooks = [
            base.register_forward_pre_hook(self._before, with_kwargs=True),
            base.register_forward_hook(self._after, with_kwargs=True),
        ]
        self._generate: Callable[..., Any] = model.generate  # type: ignore[assignment]
        ours = {"generate": self.generate, "save_pretrained": self.save_pretrained}
        self._replaced = {name: vars(model).get(name) for name in ours}
        for name, method in ours.items():
            setattr(model, name, method)

    def release(self) -> None:
        """Leaves the model's calls as they were."""
        for hook in self._hooks:
            hook.remove()
        for name, method in self._replaced.items():
            if method is None:
                delattr(self._model, name)
            else:
                setattr(self._model, name, method)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Stands in for the model's own, which would store the backbone under names that no backbone has.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "This model carries a memory and would be stored under names that no backbone has. "
            "deltamem.save_adapter() stores the adapter; to store the backbone call deltamem.detach() first."
        )

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The model's own ``generate``, with a memory in its cache.

        A :class:`MemoryCache` is made unless one is passed as ``past_key_values``. Prompts of more than
        1,024 tokens are read in chunks unless ``prefill_chunk_size`` says otherwise.

        Raises:
            TypeError: a memory is passed as ``memory``.
            RuntimeError: transformers did not use the cache.
            ValueError: the cache asked for cannot carry a memory, or its memory has not one row a prompt.
        """
        if "memory" in kwargs:
            raise TypeError(
                "generate() takes a memory in its cache: cache = deltamem.memory_cache(model, state), then "
                "model.generate(..., past_key_values=cache), and cache.memory afterwards."
            )
        rename_past(kwargs)
        options = GenerateOptions(kwargs, generation_config, getattr(self._model, "generation_config", None))
        cache = self._generation_cache(options)
        if cache is None:
            return self._generate(inputs, generation_config, *args, **kwargs)
        prompt_end = _admit_prompt(inputs, cache, options)
        beams, as_dict = (options["num_beams"] or 1) > 1, options["return_dict_in_generate"]
        if beams:  # only the dictionary tells which beams the sequences come from
            options["return_dict_in_generate"] = True
        cache.begin_generation(prompt_end, options.stop_tokens(beams=beams), beams=beams)
        try:
            output = self._generate(inputs, options.config, *args, **options.keywords)
            if not cache.position:
                raise RuntimeError(
                    f"transformers {transformers.__version__} did not use the cache that carries the memory, so the "
                    "answer knows nothing of it. Install a version that this package was tested with."
                )
            if not isinstance(output, GenerateBeamDecoderOnlyOutput) or output.beam_indices is None:
                return output
            cache.keep_returned(output.beam_indices)
            return output if as_dict else output.sequences
        finally:
            cache.end_generation()

    def _generation_cache(self, options: GenerateOptions) -> MemoryCache | None:
        """The call's cache, put into its options; ``None`` if the memory is disabled or no cache is wanted."""
        if self.adapter is None:
            return None
        if options["use_cache"] is False:
            if options.keywords.get(PAST) is None:
                return None
            if options.keywords.get("use_cache") is False:
                raise ValueError("use_cache=False contradicts past_key_values; leave one of them out.")
            options["use_cache"] = True  # or every step would feed, and write, the whole text again
        kind = options["cache_implementation"]
        if kind not in (None, "dynamic", "hybrid"):
            raise ValueError(
                f"cache_implementation={kind!r} cannot carry a memory; leave it out, or pass "
                "past_key_values=deltamem.memory_cache(model)."
            )
        if kind is not None:
            options.keywords["cache_implementation"] = None
        cache = options.keywords[PAST] = self._carrier(options.keywords.get(PAST))
        return cache

    def _before(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Gives every call of the base model a memory step, from the caller, the cache, or empty."""
        kwargs.update(zip(self._arguments[: len(args)], args, strict=True))
        rename_past(kwargs)
        step: Step | None = kwargs.pop("memory", None)
        if step is not None and not isinstance(step, Step):
            raise TypeError(
                f"memory= takes a deltamem.Step, not a {type(step).__name__}: pass step = deltamem.Step(state), and "
                "read step.new_state afterwards."
            )
        adapter = self.adapter
        if adapter is None:
            return (), kwargs
        self._refuse_reentrant()
        tokens = kwargs.get("input_ids")
        inputs = tokens if tokens is not None else kwargs.get("inputs_embeds")
        if inputs is None:
            return (), kwargs  # the model itself says what it misses
        batch, length = inputs.shape[:2]
        cache = self._cache_of(kwargs, carried=step is not None)
        mask = _padding(kwargs.get("attention_mask"), length, step)
        _refuse_packed(kwargs, length, mask if step is None or step.mask is None else step.mask)
        if step is None:
            state = None
            if cache is not None:
                cache.expand(batch)
                state = cache.memory
            state = state if state is not None else adapter.new_state(batch)
            step = Step(state, mask=mask) if cache is None else cache.new_step(state, tokens, mask, length)
        elif step.mask is None:
            step.mask = mask
        adapter.check(step.state)
        step.begin(adapter.config, batch, length, inputs.device)
        if cache is not None:
            cache.step = step
        kwargs["memory"] = step
        return (), kwargs

    def _after(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        cache = kwargs.get(PAST)
        if isinstance(cache, MemoryCache) and cache.step is not None:
            cache.memory = cache.step.new_state
            cache.step = None

    def _cache_of(self, kwargs: dict[str, Any], *, carried: bool) -> MemoryCache | None:
        """The call's cache; an empty plain one is replaced by one that can carry the memory."""
        cache = kwargs.get(PAST)
        if isinstance(cache, MemoryCache):
            return cache
        needed = self._carried_by_cache
        if cache is None:
            use_cache = kwargs.get("use_cache")
            wanted = self._base.config.use_cache if use_cache is None else use_cache
            if not (wanted or needed) or (self._base.training and getattr(self._base, "gradient_checkpointing", False)):
                return None
        elif carried and not needed:
            return None
        kwargs[PAST] = fresh = self._carrier(cache)
        return fresh

    def _carrier(self, cache: Any) -> MemoryCache:
        """A cache that can carry the memory, in place of none or of an empty plain one."""
        if isinstance(cache, MemoryCache):
            return cache
        fresh = MemoryCache(self._base.config)
        if cache is None:
            return fresh
        if type(cache) is not DynamicCache or cache.get_seq_length():
            raise ValueError(
                f"This {type(cache).__name__} carries no memory. Pass past_key_values=deltamem.memory_cache(model), "
                "or memory=deltamem.Step(state) on every call."
            )
        cache.layers = fresh.layers  # no longer empty after the call: to go on with it is refused, not misread
        return fresh

    def _refuse_reentrant(self) -> None:
        if not (self._base.training and getattr(self._base, "gradient_checkpointing", False)):
            return
        checkpoint = getattr(self._base, "_gradient_checkpointing_func", None)
        if getattr(checkpoint, "keywords", {}).get("use_reentrant"):
            raise ValueError(
                "Reentrant gradient checkpointing would lose the gradients of the memory; "
                "switch it on with use_reentrant=False."
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


def _refuse_packed(kwargs: dict[str, Any], length: int, mask: Tensor | None) -> None:
    """Refuses a row that holds several texts: one memory would run through all of them."""
    if kwargs.get("cu_seq_lens_q") is not None:
        raise ValueError(f"cu_seq_lens_q says that {_PACKED}")
    positions = kwargs.get("position_ids")
    if length < 2 or not isinstance(positions, Tensor) or positions.dim() != 2 or torch.compiler.is_compiling():
        return
    again = positions.diff() <= 0
    if mask is not None and mask.shape[1] == length:
        real = mask.to(again.device).bool()
        again = again & real[:, 1:] & real[:, :-1]
    if bool(again.any()):
        raise ValueError(f"position_ids start again at token {int(again.any(0).nonzero()[0]) + 1}, so {_PACKED}")


_PACKED = (
    "a row holds several texts, and one memory would run through all of them. Give each text a row of its own, with "
    "padding and an attention_mask."
)


def _admit_prompt(inputs: Tensor | None, cache: MemoryCache, options: GenerateOptions) -> int:
    """The position in the cache that the prompt will end at; a long prompt is to be read in chunks."""
    keywords = options.keywords
    tokens, embeds = inputs if inputs is not None else keywords.get("input_ids"), keywords.get("inputs_embeds")
    prompt = tokens if embeds is None else embeds
    prompts, length = (1, 1) if prompt is None else prompt.shape[:2]  # without a prompt there is a start token
    rows = {
        "The memory": None if cache.memory is None else cache.memory.batch,
        "segment_ids": None if cache.segment_ids is None else len(cache.segment_ids),
    }
    for name, count in rows.items():
        if count not in (None, prompts):
            raise ValueError(f"{name} has {count} rows for {prompts} prompts; it needs one row each.")
    mask = keywords.get("attention_mask")
    new = length - cache.position if mask is None or mask.shape[1] == length else length
    if embeds is None and new > _PREFILL_CHUNK:  # transformers cannot read embeddings in chunks
        options.set_default("prefill_chunk_size", _PREFILL_CHUNK)
    return cache.position + new
