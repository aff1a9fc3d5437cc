"""Attaching memories to a Hugging Face decoder, and taking them off again."""

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from deltamem.backbones import AttentionSite, find_attention, projection_sizes, projection_weight
from deltamem.cache import MemoryCache
from deltamem.config import DeltaMemConfig
from deltamem.memory import DeltaMemory
from deltamem.state import MemoryState
from deltamem.steering import SteeredAttention
from deltamem.step import Step

_PREFILL_CHUNK = 1024
_KEY = "_deltamem_attachment"


@dataclass(frozen=True)
class ParameterReport:
    """How many parameters an attached model has.

    Attributes:
        adapter: those of the active adapter.
        trainable: all that train.
        total: everything, backbone and adapters.
    """

    adapter: int
    trainable: int
    total: int

    def __str__(self) -> str:
        share = 100 * self.adapter / max(self.total - self.adapter, 1)
        return (
            f"adapter {self.adapter:,} parameters ({share:.2f} % of the backbone), "
            f"trainable {self.trainable:,} of {self.total:,}"
        )


class Attachment:
    """The memories on one model. :func:`attach` makes it; :func:`attached` finds it again."""

    def __init__(self, model: nn.Module) -> None:
        if any(isinstance(module, SteeredAttention) for module in model.modules()):
            raise ValueError(
                "A part of this model, or the model that it is part of, carries a memory already; use that one."
            )
        self.model = model
        self.sites = find_attention(model)
        if not hasattr(model, "generate"):
            raise ValueError(f"{type(model).__name__} cannot generate; attach to the causal language model.")
        self.base = _base_model(model, self.sites)
        self._arguments = list(inspect.signature(self.base.forward).parameters)
        self.configs: dict[str, DeltaMemConfig] = {}
        self.active: str | None = None
        self._steered: dict[int, SteeredAttention] = {}
        self._frozen = [p for p in model.parameters() if p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        self._hooks = [
            self.base.register_forward_pre_hook(self._before, with_kwargs=True),
            self.base.register_forward_hook(self._after, with_kwargs=True),
        ]
        self._generate: Callable[..., Any] = model.generate  # type: ignore[assignment]
        model.generate = self.generate  # type: ignore[assignment]
        setattr(model, _KEY, self)

    @property
    def config(self) -> DeltaMemConfig:
        """The configuration of the active adapter.

        Raises:
            RuntimeError: none is active.
        """
        if self.active is None:
            raise RuntimeError("No adapter is active: the memory is disabled.")
        return self.configs[self.active]

    def add(self, name: str, config: DeltaMemConfig) -> None:
        """Adds an adapter with fresh weights and makes it active.

        Raises:
            ValueError: the name is taken or unusable, or the configuration does not fit the backbone.
        """
        if name in self.configs:
            raise ValueError(f"There is an adapter named {name!r} already; choose another name or remove() it.")
        if not name or "." in name:
            raise ValueError(f"An adapter's name must not be empty or contain a dot: {name!r}.")
        numbers = config.select_layers(len(self.sites))
        memories = [_fresh_memory(config, self.sites[number]) for number in numbers]
        for place, (number, memory) in enumerate(zip(numbers, memories, strict=True)):
            steered = self._steer(number)
            steered.adapters[name] = memory
            steered.index[name] = place
        self.configs[name] = config
        self.activate(name)

    def remove(self, name: str) -> None:
        """Takes one adapter off; if it was active, the newest one remaining takes over.

        Raises:
            ValueError: there is no such adapter.
        """
        self._known(name)
        del self.configs[name]
        for steered in self._steered.values():
            if name in steered.adapters:
                del steered.adapters[name], steered.index[name]
        if self.active == name:
            self.activate(next(reversed(self.configs), None))

    def activate(self, name: str | None) -> None:
        """Makes an adapter the active one; ``None`` leaves the bare backbone.

        Raises:
            ValueError: there is no such adapter.
        """
        if name is not None:
            self._known(name)
        self.active = name
        for steered in self._steered.values():
            steered.active = name if name in steered.index else None

    def memories(self, name: str | None = None) -> list[DeltaMemory]:
        """The layers of an adapter (the active one by default), in order."""
        name = self._known(name or self.active)
        ordered = sorted(self._steered.items())
        return [steered.adapters[name] for _, steered in ordered if name in steered.adapters]  # type: ignore[misc]

    def layer_numbers(self, name: str | None = None) -> tuple[int, ...]:
        """The numbers of the backbone's attention layers that an adapter is on."""
        return self.configs[self._known(name or self.active)].select_layers(len(self.sites))

    def new_state(self, batch: int = 1) -> MemoryState:
        """An empty memory for ``batch`` sessions under the active adapter."""
        config, memories = self.config, self.memories()
        return MemoryState.zeros(
            len(memories),
            batch,
            config.states,
            config.rank,
            pending=memories[0].pending_width if config.writes_segments else 0,
            device=memories[0].projection.device,
        )

    def new_cache(
        self, state: MemoryState | None = None, *, write: bool = True, segment_ids: Tensor | None = None
    ) -> MemoryCache:
        """A cache for generation that starts from ``state`` (empty by default)."""
        config = self.base.config.get_text_config(decoder=True)
        return MemoryCache(config, state, write=write, segment_ids=segment_ids)

    def report(self) -> ParameterReport:
        """Counts parameters; works on the meta device too."""
        adapter = sum(p.numel() for m in self.memories() for p in m.parameters()) if self.active else 0
        parameters = list(self.model.parameters())
        return ParameterReport(
            adapter=adapter,
            trainable=sum(p.numel() for p in parameters if p.requires_grad),
            total=sum(p.numel() for p in parameters),
        )

    def detach(self) -> None:
        """Restores the model as it was before."""
        for number, steered in self._steered.items():
            _put(self.model, self.sites[number].path, steered.unwrap())
        self._steered.clear()
        self.configs.clear()
        for hook in self._hooks:
            hook.remove()
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        del self.model.generate
        delattr(self.model, _KEY)

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

    def _known(self, name: str | None) -> str:
        if name not in self.configs:
            raise ValueError(f"There is no adapter {name!r}; there are: {', '.join(self.configs) or 'none'}.")
        return str(name)

    def _steer(self, number: int) -> SteeredAttention:
        if number not in self._steered:
            self._steered[number] = SteeredAttention(self.sites[number])
            _put(self.model, self.sites[number].path, self._steered[number])
        return self._steered[number]

    def _before(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Gives every call of the base model a memory step, from the caller, the cache, or empty."""
        kwargs |= zip(self._arguments, args, strict=False)
        step: Step | None = kwargs.pop("memory", None)
        if self.active is None:
            return (), kwargs
        self._refuse_reentrant()
        tokens = kwargs.get("input_ids")
        inputs = tokens if tokens is not None else kwargs["inputs_embeds"]
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


def attach(model: nn.Module, config: DeltaMemConfig | None = None, *, name: str = "default") -> Attachment:
    """Puts a fresh adapter on a decoder and freezes everything else.

    Called again with another name it adds a further adapter; the newest is active.

    Args:
        model: a ``transformers`` causal language model, also one that carries a LoRA or is quantised.
        config: the adapter's configuration; the published one by default.
        name: the adapter's name.

    Raises:
        ValueError: the attention class is unknown, the name is taken, or the configuration does not fit.
    """
    attachment = getattr(model, _KEY, None)
    if attachment is None:
        attachment = Attachment(model)
        try:
            attachment.add(name, config or DeltaMemConfig())
        except Exception:
            attachment.detach()
            raise
    else:
        attachment.add(name, config or DeltaMemConfig())
    return attachment


def attached(model: nn.Module) -> Attachment:
    """The memories on ``model``.

    Raises:
        ValueError: there are none.
    """
    attachment = getattr(model, _KEY, None)
    if attachment is None:
        raise ValueError("This model carries no memory: call deltamem.attach() or deltamem.load_adapter() first.")
    return attachment  # type: ignore[no-any-return]


def detach(model: nn.Module) -> None:
    """Takes every adapter off and restores the model bit for bit.

    Raises:
        ValueError: the model carries none.
    """
    attached(model).detach()


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within the block the model is its bare backbone.

    Raises:
        ValueError: the model carries no memory.
    """
    attachment = attached(model)
    active = attachment.active
    attachment.activate(None)
    try:
        yield
    finally:
        attachment.activate(active)


def new_state(model: nn.Module, batch: int = 1) -> MemoryState:
    """An empty memory for ``batch`` sessions, shaped for the model's active adapter."""
    return attached(model).new_state(batch)


def memory_cache(
    model: nn.Module, state: MemoryState | None = None, *, write: bool = True, segment_ids: Tensor | None = None
) -> MemoryCache:
    """A ``past_key_values`` for ``model.generate`` that starts from ``state`` and ends with the new one.

    Args:
        model: an attached model.
        state: one row a prompt; empty by default.
        write: ``False`` answers from the memory and leaves it unchanged.
        segment_ids: ``[B, T]`` ids of the prompt's tokens, for adapters that write segments.
    """
    return attached(model).new_cache(state, write=write, segment_ids=segment_ids)


def _fresh_memory(config: DeltaMemConfig, site: AttentionSite) -> DeltaMemory:
    hidden_size = projection_sizes(site)["o"]
    anchor = next(itertools.chain(site.module.parameters(), site.module.buffers()))
    with torch.device(anchor.device):
        memory = DeltaMemory(config, hidden_size, projection_sizes(site))
    if anchor.is_meta or config.init == "zero":
        return memory
    with torch.no_grad():
        for part, weight in memory.named_parts().items():
            if part.startswith("delta_"):
                _init_head(weight, config, site, part.removeprefix("delta_"))
    return memory


def _init_head(weight: Tensor, config: DeltaMemConfig, site: AttentionSite, head: Any) -> None:
    if config.init == "random":
        nn.init.kaiming_uniform_(weight, a=5**0.5).mul_(config.init_gain)
        return
    own = projection_weight(site, head)
    columns = min(config.rank, own.shape[1])
    if config.init == "base_slice_fixed":
        columns = min(columns, config.init_columns)
    unit = nn.functional.normalize(own[:, :columns], dim=0)
    weight[:, :columns] = unit * config.init_gain


def _base_model(model: nn.Module, sites: list[AttentionSite]) -> PreTrainedModel:
    """The innermost transformers model that holds all attention layers."""
    holders = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, PreTrainedModel)
        and all(site.path.startswith(f"{path}." if path else "") for site in sites)
    ]
    if not holders:
        raise ValueError(f"{type(model).__name__} is no transformers model; deltamem attaches to those.")
    return max(holders, key=lambda holder: len(holder[0]))[1]


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


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
