"""How an adapter's first weights are computed, as a recipe says it; :mod:`deltamem.train.fit` computes them."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from deltamem.config import DeltaMemConfig


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How an adapter's first weights are computed.

    Attributes:
        batches: of the training data, that the statistics are of.
        subspace: the dimensions of the output space that the layers' values share. Fewer than layers times N·R, so
            that each is told by several layers and noise averages out; enough to tell the tokens apart.
        gate: the write gate in the middle between a told token's and any other's, in (0, 1).
        contrast: how far the two lie apart, in units of the gate's logit on either side of the middle.
        gain: the length of a head's columns, in units of the residual stream's root mean square.
        seed: of the rotations that give each state its share of the address.
    """

    batches: Annotated[int, Field(ge=1)] = 100
    subspace: Annotated[int, Field(ge=1)] = 128
    gate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    contrast: Annotated[float, Field(ge=0)] = 2.0
    gain: Annotated[float, Field(ge=0)] = 0.3
    seed: int = 0


def check_fits(config: DeltaMemConfig) -> None:
    """Refuses configurations that :func:`deltamem.train.fit.fit` has no weights for.

    Raises:
        ValueError: there is no output head, or the adapter writes segments.
    """
    if config.writes_segments or "o" not in config.heads:
        raise ValueError("A fit needs an adapter that writes tokens and has the head o; leave fit out for this one.")
