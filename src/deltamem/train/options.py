"""What is minimised and how histories are written, as a recipe says it: names and numbers that need no torch."""

import math
from dataclasses import dataclass, field

_WEIGHTS = ("cross_entropy", "sparsity", "distillation", "contrast_empty", "contrast_other", "preservation")


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How histories are written.

    Attributes:
        chunk: tokens in each forward pass; ``None`` writes each passage in one pass.
        recompute: keep of each chunk only the memory it starts from, and run it again in the backward pass.
        truncate: gradients flow through the memory back over at most this many chunks, and over all of the last
            so many; ``None`` for no bound. The chunks of all passages count.
        local: gradients reach what is written through the projections and the scan of its own layer, and not through
            the backbone below: the passages need no backward pass of it. Left out is how an earlier write changes the
            inputs of later ones. Passages with trained tokens are written as without it.
    """

    chunk: int | None = None
    recompute: bool = False
    truncate: int | None = None
    local: bool = False

    def __post_init__(self) -> None:
        for name in ("chunk", "truncate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None; it is {value}.")


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """What is minimised: the weighted sum of the terms. A term of weight 0 costs nothing.

    Attributes:
        cross_entropy: weight of the answers' cross-entropy.
        sparsity: weight of the write sparsity; 0.01 in the published runs of Qwen3.
        sparsity_target: the mean write gate that it pulls each layer towards.
        distillation: weight of the KL divergence from the bare backbone that sees the history's text.
        temperature: the temperature of both sides of the distillation.
        contrast_empty: weight of the hinge against an empty memory.
        contrast_other: weight of the hinge against another episode's memory.
        margin: the margin of both hinges, in nats per token.
        preservation: weight of the KL divergence from the bare backbone on prompts that need no memory.
        state_and_text: the share of episodes whose queries see the history's text beside the memory.
        no_memory: the share whose queries see the text and begin with an empty memory. The rest see the memory alone.
        seed: for drawing the views.
        writing: how histories are written, for long ones.
    """

    cross_entropy: float = 1.0
    sparsity: float = 0.0
    sparsity_target: float = 0.05
    distillation: float = 0.0
    temperature: float = 1.0
    contrast_empty: float = 0.0
    contrast_other: float = 0.0
    margin: float = 1.0
    preservation: float = 0.0
    state_and_text: float = 0.0
    no_memory: float = 0.0
    seed: int = 0
    writing: Writing = field(default_factory=Writing)

    def __post_init__(self) -> None:
        for name in _WEIGHTS:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"The weight {name} must be a number of at least 0; it is {value}.")
        if not any(getattr(self, name) for name in _WEIGHTS):
            raise ValueError(f"All terms have weight 0; give one of {', '.join(_WEIGHTS)}.")
        for name in ("temperature", "margin"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be above 0; it is {value}.")
        if not 0 <= self.sparsity_target <= 1:
            raise ValueError(f"sparsity_target is a gate, in [0, 1]; it is {self.sparsity_target}.")
        shares = (self.state_and_text, self.no_memory)
        if not (min(shares) >= 0 and sum(shares) <= 1):
            raise ValueError(f"state_and_text and no_memory are shares of the episodes; they are {shares}.")
