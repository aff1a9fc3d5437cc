"""Attaching memories to a Hugging Face decoder, and taking them off again."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from deltamem.attach.cache import MemoryCache
from deltamem.attach.calls import ActiveAdapter, MemoryCalls
from deltamem.attach.families import (
    base_model,
    check_model,
    find_attention,
    find_origin,
    fresh_memory,
    put_module,
    sample_weights,
)
from deltamem.attach.steering import SteeredAttention
from deltamem.config import DeltaMemConfig
from deltamem.memory import DeltaMemory
from deltamem.state import MemoryState

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
    """The memories on one model. :func:`attach` makes it; :func:`attached` finds it again.

    Attributes:
        model: the model.
        base: its innermost model, which holds all attention layers.
        sites: those layers.
        origin: the Hub id and commit of the backbone, where known.
        sample: some of its weights, where they can be read; see :func:`deltamem.attach.families.sample_weights`.
        configs: the adapters' configurations by name.
    """

    def __init__(self, model: nn.Module) -> None:
        if any(isinstance(module, SteeredAttention) for module in model.modules()):
            raise ValueError(
                "A part of this model, or the model that it is part of, carries a memory already; use that one."
            )
        self.model = model
        self.sites = find_attention(model)
        self.base = base_model(model, self.sites)
        self._calls = MemoryCalls(model, self.base, self.sites)
        self.origin = find_origin(model)
        self.sample = sample_weights(self.sites)
        self.configs: dict[str, DeltaMemConfig] = {}
        self._put_on: dict[str, str] = {}
        self._steered: dict[int, SteeredAttention] = {}
        self._frozen = [p for p in model.parameters() if p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        setattr(model, _KEY, self)

    def __repr__(self) -> str:
        return f"Attachment({type(self.model).__name__}, adapters={sorted(self.configs)}, active={self.active!r})"

    @property
    def active(self) -> str | None:
        """The name of the active adapter; ``None`` while the memory is disabled."""
        return None if self._calls.adapter is None else self._calls.adapter.name

    @property
    def config(self) -> DeltaMemConfig:
        """The configuration of the active adapter.

        Raises:
            RuntimeError: none is active.
        """
        return self._adapter.config

    def add(self, name: str, config: DeltaMemConfig, *, replace: bool = False) -> None:
        """Adds an adapter with fresh weights and makes it active.

        Args:
            name: its name.
            config: its configuration.
            replace: replace an adapter of that name if it has not changed since it was added, so that nothing is lost.

        Raises:
            ValueError: the name is taken or unusable, or the configuration does not fit the backbone.
        """
        if name in self.configs and not (replace and self._put_on.get(name) == self._digest(name)):
            since = ", and it has changed since it was put on" if replace else ""
            raise ValueError(f"There is an adapter named {name!r} already{since}; choose another name or remove() it.")
        if not name or "." in name:
            raise ValueError(f"An adapter's name must not be empty or contain a dot: {name!r}.")
        if hasattr(nn.ModuleDict(), name):
            raise ValueError(f"PyTorch uses the name {name!r} in every module; choose another for the adapter.")
        numbers = config.select_layers(len(self.sites))
        memories = [fresh_memory(config, self.sites[number]) for number in numbers]
        if name in self.configs:
            self.remove(name)
        for place, (number, memory) in enumerate(zip(numbers, memories, strict=True)):
            self._steer(number).add(name, memory, place)
        self.configs[name] = config
        self.activate(name)
        self.settle(name)

    def settle(self, name: str) -> None:
        """Marks an adapter's weights as unchanged: it may be replaced while it has them."""
        self._put_on[name] = self._digest(name)

    def remove(self, name: str) -> None:
        """Takes one adapter off; if it was active, the newest one remaining takes over.

        Raises:
            ValueError: there is no such adapter.
        """
        self._known(name)
        del self.configs[name], self._put_on[name]
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
        self._calls.adapter = None if name is None else ActiveAdapter(name, tuple(self.memories(name)))
        for steered in self._steered.values():
            steered.active = name if name in steered.index else None

    def memories(self, name: str | None = None) -> list[DeltaMemory]:
        """The layers of an adapter (the active one by default), in order."""
        name = self._known(name or self.active)
        ordered = sorted(self._steered.items())
        return [steered.adapters[name] for _, steered in ordered if name in steered.adapters]  # type: ignore[misc]

    def layer_numbers(self, name: str | None = None) -> tuple[int, ...]:
        """The numbers of the attention layers that an adapter is on."""
        return self.configs[self._known(name or self.active)].select_layers(len(self.sites))

    def new_state(self, batch: int = 1) -> MemoryState:
        """An empty memory for ``batch`` sessions under the active adapter.

        Raises:
            RuntimeError: none is active.
        """
        return self._adapter.new_state(batch)

    def new_cache(
        self, state: MemoryState | None = None, *, write: bool = True, segment_ids: Tensor | None = None
    ) -> MemoryCache:
        """A cache for generation that starts from ``state`` (empty by default)."""
        return MemoryCache(self.base.config, state, write=write, segment_ids=segment_ids)

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
            put_module(self.model, self.sites[number].path, steered.unwrap())
        self._steered.clear()
        self.configs.clear()
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._calls.release()
        delattr(self.model, _KEY)

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256(self.configs[name].to_json().encode())
        for memory in self.memories(name):
            for parameter in memory.parameters():
                if not parameter.is_meta:
                    digest.update(parameter.detach().float().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def _adapter(self) -> ActiveAdapter:
        if self._calls.adapter is None:
            raise RuntimeError("No adapter is active: the memory is disabled.")
        return self._calls.adapter

    def _known(self, name: str | None) -> str:
        known = ", ".join(self.configs) or "none"
        if name is None:
            raise ValueError(f"No adapter is active, because the memory is disabled; name one of: {known}.")
        if name not in self.configs:
            raise ValueError(f"There is no adapter {name!r}; there are: {known}.")
        return name

    def _steer(self, number: int) -> SteeredAttention:
        if number not in self._steered:
            self._steered[number] = SteeredAttention(self.sites[number])
            put_module(self.model, self.sites[number].path, self._steered[number])
        return self._steered[number]


def attach(model: nn.Module, config: DeltaMemConfig | None = None, *, name: str = "default") -> Attachment:
    """Puts a fresh adapter on a decoder and freezes everything else.

    Called again with another name it adds a further adapter; the newest is active. Called again with the same name,
    as when you run a notebook's cell twice, it replaces the adapter only if that has not changed since.

    Args:
        model: a ``transformers`` causal language model, also one that carries a LoRA or is quantised.
        config: the adapter's configuration; the published one by default.
        name: the adapter's name.

    Raises:
        TypeError: this is not a model, or no configuration.
        ValueError: the attention class is unknown, the name is taken, or the configuration does not fit.
    """
    check_model(model)
    if config is not None and not isinstance(config, DeltaMemConfig):
        raise TypeError(f"Give a DeltaMemConfig, not {type(config).__name__}, as in DeltaMemConfig(rank=8).")
    attachment = getattr(model, _KEY, None)
    if attachment is None:
        attachment = Attachment(model)
        try:
            attachment.add(name, config or DeltaMemConfig())
        except Exception:
            attachment.detach()
            raise
    else:
        attachment.add(name, config or DeltaMemConfig(), replace=True)
    return attachment


def attached(model: nn.Module) -> Attachment:
    """The memories on ``model``.

    Raises:
        TypeError: this is not a model.
        ValueError: there are none.
    """
    check_model(model)
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
        state: one row for each prompt; empty by default.
        write: ``False`` answers from the memory and leaves it unchanged.
        segment_ids: ``[B, T]`` ids of the prompt's tokens, for adapters that write segments.
    """
    return attached(model).new_cache(state, write=write, segment_ids=segment_ids)
