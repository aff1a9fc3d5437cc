"""The configuration of an adapter: everything that fixes its tensors and its arithmetic."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

from deltamem.extensions import Table
from deltamem.rules import UPDATE_RULES, WRITE_STRATEGIES, UpdateRule, WriteStrategy

Head = Literal["q", "k", "v", "o"]
HEADS: tuple[Head, ...] = get_args(Head)

Init = Literal["base_slice_fixed", "base_slice", "random", "zero"]
Gates = Literal["learned", "fixed"]
SegmentReads = Literal["closed", "call"]
Scale = Literal["none", "layer", "head"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "init": get_args(Init),
    "gates": get_args(Gates),
    "segment_reads": get_args(SegmentReads),
    "scale": get_args(Scale),
}
# Above any rank, so that no product of sizes in a malformed file overflows.
_MOST = 2**16
_PLACES = ("all", "front", "middle", "back")


class ConfigError(ValueError):
    """A field with a value that no adapter can have.

    Attributes:
        field: its name.
        problem: what is wrong with the value; the message is both.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field} {self.problem}"


def _check_known(field: str, table: Table[Any], name: str, register: str) -> None:
    if table.find(name) is None:
        raise ConfigError(
            field,
            f"must be one of {', '.join(table.names())}, not {name!r}. For one of your own call "
            f"deltamem.{register}() first, or declare it as an entry point.",
        )


@dataclass(frozen=True, kw_only=True)
class DeltaMemConfig:
    """What an adapter is. The defaults are the published ones (arXiv 2605.12357, section 4).

    Args:
        rank: R, the side of one state matrix.
        states: N, how many states a layer keeps (more than one is the paper's multi-state write).
        alpha: corrections are multiplied by ``alpha / rank``.
        heads: which projections of the attention are corrected, any of ``q k v o``.
        layers: ``"all"``; or ``"front:n"``, ``"middle:n"``, ``"back:n"``; or layer numbers.
        write: the name of a :class:`deltamem.WriteStrategy`. ``"token"`` writes at every token; ``"message"`` and
            ``"sentence"`` write once per segment and need segment ids.
        segment_reads: what the tokens of an open segment read. ``"closed"``: every segment closed so
            far, however the input is cut. ``"call"``: the state before the forward call, as in
            the published release.
        update_rule: the name of a :class:`deltamem.UpdateRule`, how a write changes the state. ``standard``,
            ``lambda_outside`` and ``no_lambda`` are the paper's delta rule, and differ in how the keep gate enters it.
            ``leaky`` is ``no_lambda`` with a little forgetting, so that states stay small however much is written.
            Two more are for comparison: ``hebbian`` adds without looking up what the address held, and forgets by the
            keep gate alone; ``accumulate`` only adds, so its state grows with every token. These three are not the
            paper's.
        gates: ``"learned"``: a token's input decides how much is written. ``"fixed"``: every token writes the same,
            ``sigmoid(gate_bias)``, and the gates have no weights; not the paper's either.
        coupled_gates: the keep gate is one minus the write gate; otherwise it has weights of its own.
        rowwise_gates: one gate for each row of a state; otherwise one for each state.
        normalize_qk: addresses pass through tanh and are scaled to unit length.
        gate_bias: initial bias of the write gate (the uncoupled keep gate starts at minus this).
        key_tokens: how many tokens' inputs a write address is made from: the token's own (1), or also that of the one
            before it (2), for token writes; not the paper's.
        init: how the correction heads start: ``base_slice_fixed`` and ``base_slice`` take columns of the
            backbone's own weights, ``random`` is Kaiming-uniform, ``zero`` leaves the backbone's answers as they were,
            bit for bit, until you train it.
        init_gain: multiplies the first three.
        init_columns: the most columns that ``base_slice_fixed`` fills.
        output_norm: RMS-normalise the output correction, with a learned weight.
        output_norm_eps: the epsilon of that norm.
        scale: a trained multiplier of the corrections: ``none``, one for a ``layer``, one for each ``head``.
        scale_init: its initial value; must lie strictly between 0 and ``scale_max``.
        scale_max: its upper bound; the multiplier is ``sigmoid(raw) * scale_max``.

    Raises:
        ConfigError: a field has an invalid value; the message names it. It is a ValueError.
    """

    rank: int = 8
    states: int = 1
    alpha: float = 16.0
    heads: tuple[Head, ...] = ("q", "o")
    layers: str | tuple[int, ...] = "all"
    write: str = "token"
    segment_reads: SegmentReads = "closed"
    update_rule: str = "standard"
    gates: Gates = "learned"
    coupled_gates: bool = True
    rowwise_gates: bool = True
    normalize_qk: bool = True
    gate_bias: float = -1.5
    key_tokens: int = 1
    init: Init = "base_slice_fixed"
    init_gain: float = 0.05
    init_columns: int = 8
    output_norm: bool = False
    output_norm_eps: float = 1e-6
    scale: Scale = "none"
    scale_init: float = 1.0
    scale_max: float = 2.0

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("alpha", "output_norm_eps", "scale_max"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be above 0, not {getattr(self, name)!r}.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(name, f"must be one of {', '.join(choices)}, not {getattr(self, name)!r}.")
        _check_known("write", WRITE_STRATEGIES, self.write, "register_write_strategy")
        _check_known("update_rule", UPDATE_RULES, self.update_rule, "register_update_rule")
        if not 0 < self.scale_init < self.scale_max:
            raise ConfigError(
                "scale_init", f"must lie between 0 and scale_max ({self.scale_max}), not {self.scale_init!r}."
            )
        if self.gates == "fixed" and not self.coupled_gates:
            raise ConfigError(
                "coupled_gates",
                "must be true with gates='fixed', because fixed gates have no weights for a separate keep gate.",
            )
        if self.key_tokens > 2 or (self.key_tokens == 2 and self.writes_segments):
            raise ConfigError("key_tokens", f"must be 1, or 2 with write='token', not {self.key_tokens!r}.")
        chosen = tuple(head for head in HEADS if head in self.heads)
        if not chosen or len(chosen) != len(self.heads):
            raise ConfigError("heads", f"must be distinct letters of {' '.join(HEADS)}, not {self.heads!r}.")
        object.__setattr__(self, "heads", chosen)
        if not isinstance(self.layers, str):
            object.__setattr__(self, "layers", tuple(self.layers))
        self._parse_layers()

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if field.name in ("heads", "layers"):
                fits, wanted = isinstance(value, (str, list, tuple)), "text or a list"
            elif kind is int:
                fits, wanted = number and isinstance(value, int) and value > 0, "a positive integer"
                if fits and value > _MOST:
                    fits, wanted = False, f"at most {_MOST}"
            elif kind is float:
                fits, wanted = number and abs(value) <= sys.float_info.max, "a finite number"
            else:
                fits, wanted = isinstance(value, kind), f"of type {kind.__name__}"
            if not fits:
                raise ConfigError(field.name, f"must be {wanted}, not {value!r}.")

    @property
    def width(self) -> int:
        """N·R, the width of everything a layer reads and writes at one token."""
        return self.states * self.rank

    @property
    def strategy(self) -> WriteStrategy:
        """When this adapter writes, and how text becomes segments."""
        return WRITE_STRATEGIES[self.write]

    @property
    def rule(self) -> UpdateRule:
        """How a write changes the state."""
        return UPDATE_RULES[self.update_rule]

    @property
    def writes_segments(self) -> bool:
        """Whether this adapter writes once per segment, and so needs segment ids."""
        return self.strategy.segmented

    def _parse_layers(self) -> tuple[str, int] | tuple[int, ...]:
        if isinstance(self.layers, tuple):
            bad = [i for i in self.layers if not isinstance(i, int) or isinstance(i, bool) or i < 0]
            if bad or not self.layers or list(self.layers) != sorted(set(self.layers)):
                raise ConfigError("layers", f"must be distinct ascending layer numbers, not {self.layers!r}.")
            return self.layers
        place, _, count = self.layers.partition(":")
        if place not in _PLACES or (place == "all") == bool(count) or (count and not count.isdecimal()):
            raise ConfigError(
                "layers", f"must be 'all', 'front:n', 'middle:n', 'back:n' or layer numbers, not {self.layers!r}."
            )
        return place, int(count or 0)

    def select_layers(self, total: int) -> tuple[int, ...]:
        """The numbers of the adapted layers in a backbone of ``total`` attention layers.

        Raises:
            ValueError: the backbone has too few layers.
        """
        parsed = self._parse_layers()
        if isinstance(self.layers, tuple):
            if self.layers[-1] >= total:
                raise ValueError(
                    f"layers names layer {self.layers[-1]}, but this backbone has layers 0 to {total - 1}."
                )
            return self.layers
        place, count = parsed
        if place == "all":
            return tuple(range(total))
        if not 1 <= int(count) <= total:
            raise ValueError(f"layers={self.layers!r} asks for {count} of a backbone's {total} layers.")
        start = {"front": 0, "middle": (total - int(count)) // 2, "back": total - int(count)}[str(place)]
        return tuple(range(start, start + int(count)))

    def to_json(self) -> str:
        """This configuration as an indented JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "DeltaMemConfig":
        """A configuration from the fields of :meth:`to_json`.

        Raises:
            ValueError: a field is unknown or has an impossible value.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise ValueError(
                f"Unknown adapter configuration field {', '.join(map(repr, unknown))}; "
                "was it written by a newer deltamem? Known fields: " + ", ".join(sorted(known))
            )
        return cls(**fields)
