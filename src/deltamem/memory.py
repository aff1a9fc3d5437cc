"""The memory of one attention layer: its projections, gates and correction heads (arXiv 2605.12357, section 3)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deltamem.config import DeltaMemConfig, Head
from deltamem.ops import decode, reference, scan
from deltamem.ops.packed import PackedScan
from deltamem.writing import ReadPlan, SegmentPlan, TokenPlan, WritePlan

Corrections = dict[Head, Tensor]


class DeltaMemory(nn.Module):
    """Reads an associative memory at every token, corrects the attention, and writes the token back.

    All that the layer projects its input to is one packed parameter, and so are its correction heads: one
    product each, whatever is switched on. :meth:`named_parts` gives the tensors of MECHANISM's table.

    Args:
        config: the adapter's configuration.
        hidden_size: D, the width of the attention's input and output.
        outputs: for each corrected head the width of the projection it corrects.
    """

    def __init__(self, config: DeltaMemConfig, hidden_size: int, outputs: dict[Head, int]) -> None:
        super().__init__()
        self.config = config
        self.outputs = {head: outputs[head] for head in config.heads}
        self.widths = list(self.outputs.values())
        width = config.width
        self.gates = width if config.rowwise_gates else config.states
        self.gate_kinds = 0 if config.gates == "fixed" else 1 if config.coupled_gates else 2
        self.fixed_gate = (1 + math.tanh(config.gate_bias / 2)) / 2  # the sigmoid, without overflow
        self.form = decode.Form(
            states=config.states,
            rank=config.rank,
            rowwise_gates=config.rowwise_gates,
            coupled_gates=config.coupled_gates,
            normalize_qk=config.normalize_qk,
            learned_gates=self.gate_kinds > 0,
            gain=config.alpha / config.rank,
            fixed_gate=self.fixed_gate,
            rule=config.rule.gates,
        )
        columns = (2 + config.key_tokens) * width + self.gate_kinds * self.gates
        self.projection = nn.Parameter(torch.zeros(columns, hidden_size))
        if self.gate_kinds:
            self.gate_bias = nn.Parameter(torch.zeros(self.gate_kinds * self.gates))
        self.heads = nn.Parameter(torch.zeros(sum(self.outputs.values()), width))
        if config.output_norm and "o" in self.outputs:
            self.output_norm = nn.Parameter(torch.ones(self.outputs["o"]))
        if config.scale != "none":
            self.scale = nn.Parameter(torch.zeros(1 if config.scale == "layer" else 4))
        self.reset_memory()

    @property
    def pending_width(self) -> int:
        """P, the width of what an open segment sums up: everything projected but the read address."""
        return self.projection.shape[0] - self.config.width

    def reset_memory(self) -> None:
        """Initialises projections, gates and scale; the correction heads are left alone."""
        config, width = self.config, self.config.width
        if self.projection.is_meta:
            return
        with torch.no_grad():
            for part in range(3):
                nn.init.kaiming_uniform_(self.projection[part * width : (part + 1) * width], a=math.sqrt(5))
            self.projection[3 * width :].zero_()
            if self.gate_kinds:
                self.gate_bias[: self.gates].fill_(config.gate_bias)
                self.gate_bias[self.gates :].fill_(-config.gate_bias)
            if config.scale != "none":
                ratio = config.scale_init / config.scale_max
                self.scale.fill_(math.log(ratio / (1 - ratio)))

    def named_parts(self) -> dict[str, Tensor]:
        """The layer's tensors by name, as views into the packed parameters.

        ``q_proj k_proj v_proj`` ``[N·R, D]`` and ``delta_{q,k,v,o}`` ``[out, N·R]`` for the chosen heads; where the
        configuration has them, ``beta_proj`` and ``lambda_proj`` ``[G, D]`` with ``beta_bias`` and ``lambda_bias``
        ``[G]``, ``k_before_proj`` ``[N·R, D]``, ``output_norm`` ``[D]`` and ``scale`` ``[1 or 4]``.
        """
        width, gates = self.config.width, self.gates
        parts: dict[str, Tensor] = {}
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            parts[name] = self.projection[i * width : (i + 1) * width]
        for i, name in enumerate(("beta", "lambda")[: self.gate_kinds]):
            start = 3 * width + i * gates
            parts[f"{name}_proj"] = self.projection[start : start + gates]
            parts[f"{name}_bias"] = self.gate_bias[i * gates : (i + 1) * gates]
        if self.config.key_tokens == 2:
            parts["k_before_proj"] = self.projection[-width:]
        for head, weight in zip(self.outputs, torch.split(self.heads, self.widths), strict=True):
            parts[f"delta_{head}"] = weight
        for name in ("output_norm", "scale"):
            if hasattr(self, name):
                parts[name] = getattr(self, name)
        return parts

    def forward(
        self, hidden_states: Tensor, state: Tensor, plan: WritePlan, pending: Tensor | None
    ) -> tuple[Corrections, Tensor, Tensor | None]:
        """One call of the layer.

        Args:
            hidden_states: ``[B, T, D]``, the input of the attention block.
            state: ``[B, N, R, R]`` float32.
            plan: what writes, and when.
            pending: what the call before left for this one: the running sum of an open segment ``[B, P]``, for segment
                writes; or what its last token adds to the write address after it, ``[B, N·R]``, for ``key_tokens=2``.

        Returns:
            the corrections ``[B, T, out]`` of each head, the new state, and what is pending now.
        """
        decodes = not isinstance(plan, SegmentPlan) and plan.decoding and self.projection.dtype == torch.float32
        if decodes and decode.compiles(self.form):
            bias = self.gate_bias if self.gate_kinds else None
            layer, writes = (self.projection, bias, self.heads), isinstance(plan, TokenPlan)
            corrections, state, pending = decode.token(
                hidden_states, *layer, state, plan.mask, self.form, writes=writes, adds=pending
            )
            return self._unpack(corrections), state, pending
        projected, pending = self._project_and_join(hidden_states, plan, pending)
        reads, state, pending = self._read_and_write(projected, state, plan, pending)
        return self.correct(reads.flatten(-2) * self.form.gain), state, pending

    def write_weighted(
        self, hidden_states: Tensor, weights: Tensor, state: Tensor, plan: WritePlan, pending: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The state and what is pending of :meth:`forward`, each token's value taken times its weight ``[B, T]``.

        Addresses and gates are as they are, so the state is linear in the weights: its gradient tells who wrote what.
        """
        projected, pending = self._project_and_join(hidden_states, plan, pending)
        addresses, value, gates = projected.split_with_sizes(
            [2 * self.config.width, self.config.width, self.gate_kinds * self.gates], -1
        )
        projected = torch.cat([addresses, value * weights[..., None], gates], -1)
        _, state, pending = self._read_and_write(projected, state, plan, pending)
        return state, pending

    def write_gates(self, hidden_states: Tensor) -> Tensor:
        """The write gates β of every token, ``[B, T, G]`` float32 in (0, 1), from the input ``[B, T, D]`` of the layer.

        :meth:`forward` computes its own; these are for looking at, and for training to keep them low.
        """
        if not self.gate_kinds:
            return self._fixed(hidden_states)
        start = 3 * self.config.width
        rows = self.projection[start : start + self.gates]
        raw = F.linear(hidden_states.to(rows.dtype), rows).float()
        return reference.gate(raw, self.gate_bias[: self.gates])

    def reads(self, hidden_states: Tensor, state: Tensor) -> Tensor:
        """What every token reads of a state, ``[B, T, N, R]`` float32, from the input ``[B, T, D]`` of the layer.

        The state is ``[B, N, R, R]``. :meth:`forward` makes corrections of them; these are for looking at.
        """
        rows = self.projection[: self.config.width]
        query = self._address(self._by_state(F.linear(hidden_states.to(rows.dtype), rows).float()))
        return torch.einsum("bnij,btnj->btni", state, query)

    def project(self, hidden_states: Tensor) -> Tensor:
        """Read address, write address, value and gates of every token, ``[B, T, N·R + P]`` float32.

        With ``key_tokens=2`` then comes what each token adds to the write address after it.
        """
        return F.linear(hidden_states.to(self.projection.dtype), self.projection).float()

    def _project_and_join(
        self, hidden_states: Tensor, plan: WritePlan, pending: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """:meth:`project` with each write address complete, and what is pending after the call."""
        projected = self.project(hidden_states)
        if self.config.key_tokens == 1 or not isinstance(plan, TokenPlan):
            return projected, pending
        assert pending is not None
        width = self.config.width
        own, adds = projected[..., :-width], projected[..., -width:]
        known = torch.cat([pending[:, None], adds], 1)
        # Place 0 is the call before; place t + 1 is token t. A token follows the last real one, not padding.
        places = torch.arange(1, known.shape[1], device=known.device).expand(known.shape[0], -1)
        real = (places if plan.mask is None else places.where(plan.mask, 0)).cummax(1).values
        at = F.pad(real, (1, 0))[..., None].expand(-1, -1, width)
        known = known.gather(1, at)
        return own + F.pad(known[:, :-1], (width, own.shape[-1] - 2 * width)), known[:, -1]

    def _read_and_write(
        self, projected: Tensor, state: Tensor, plan: WritePlan, pending: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The reads ``[B, T, N, R]``, the new state and what is pending, from what is projected of each token."""
        config, width = self.config, self.config.width
        if isinstance(plan, TokenPlan):
            both = torch.unflatten(projected[..., : 2 * width], -1, (2, config.states, config.rank))
            query, key = self._address(both).unbind(-3)
            value, keep, erase, write = self._value_and_gates(projected[..., 2 * width :])
            if plan.writable is not None:
                keep, erase, write = _only(plan.writable, keep, erase, write)
            reads, state = scan(query, key, value, keep, erase, write, state, plan.mask)
            return reads, state, pending
        query = self._address(self._by_state(projected[..., :width]))
        if isinstance(plan, ReadPlan):
            reads = _masked(torch.einsum("bnij,btnj->btni", state, query), plan.mask)
            return reads, state, pending
        assert pending is not None
        return self._segments(query, projected[..., width:], state, plan, pending)

    def _segments(
        self, query: Tensor, written: Tensor, state: Tensor, plan: SegmentPlan, pending: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = written.shape
        # Projections are linear, so the mean of the tokens' projections is the projection of their mean.
        members = written * plan.member[..., None]
        sums = written.new_zeros(batch, length + 1, width)
        sums = sums.scatter_add(1, plan.run[..., None].expand(-1, -1, width), members)
        sums = sums + F.pad(pending[:, None], (0, 0, 0, length))
        means = sums / plan.count.clamp(min=1)[..., None]
        at_slots = means.gather(1, plan.slot_run[..., None].expand(-1, -1, width))
        key = self._address(self._by_state(at_slots[..., : self.config.width]))
        value, keep, erase, write = self._value_and_gates(at_slots[..., self.config.width :])
        keep, erase, write = _only(plan.closes, keep, erase, write)
        # The slot before a token comes first, so slot t writes at place t and token t reads at place t + 1.
        later = F.pad(query, (0, 0, 0, 0, 1, 0))
        reads, new_state = scan(later, key, value, keep, erase, write, state)
        reads = torch.einsum("bnij,btnj->btni", state, query) if plan.reads_call_start else reads[:, 1:]
        last = sums.gather(1, plan.last_run[:, None, None].expand(-1, 1, width))[:, 0]
        still_open = last * (plan.open_count > 0)[:, None]
        return _masked(reads, plan.mask), new_state, still_open

    def _by_state(self, projected: Tensor) -> Tensor:
        return torch.unflatten(projected, -1, (self.config.states, self.config.rank))

    def _address(self, raw: Tensor) -> Tensor:
        if not self.config.normalize_qk:
            return raw
        address = reference.bounded(raw)
        return reference.scaled(address, torch.linalg.vector_norm(address, dim=-1, keepdim=True))

    def _value_and_gates(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Value and the three gates, each ``[B, T, N, R]``, from the projections that follow the addresses."""
        config, width = self.config, self.config.width
        value = self._by_state(projected[..., :width])
        gates = reference.gate(projected[..., width:], self.gate_bias) if self.gate_kinds else self._fixed(projected)
        if config.coupled_gates:
            beta = self._by_row(gates)
            keep = 1 - beta
        else:
            beta, keep = self._by_row(gates[..., : self.gates]), self._by_row(gates[..., self.gates :])
        gated = (g if isinstance(g, Tensor) else torch.full_like(beta, g) for g in config.rule.gates(keep, beta))
        keep, erase, write = gated
        return value, keep, erase, write

    def _fixed(self, tokens: Tensor) -> Tensor:
        """The same write gate for all tokens ``[B, T, ...]``: ``[B, T, G]`` float32."""
        return tokens.new_full((*tokens.shape[:2], self.gates), self.fixed_gate, dtype=torch.float32)

    def _by_row(self, gate: Tensor) -> Tensor:
        if self.config.rowwise_gates:
            return self._by_state(gate)
        return gate[..., None].expand(*gate.shape, self.config.rank)

    def correct(self, scaled: Tensor) -> Corrections:
        """The corrections ``[B, T, out]`` from the reads ``[B, T, N·R]`` times α/R."""
        return self._unpack(F.linear(scaled.to(self.heads.dtype), self.heads))

    def correction_weights(self) -> Corrections:
        """What :meth:`correct` multiplies its input with for each head, ``[out, N·R]``, scale included.

        Only a norm of o is left to do then, with :meth:`normed`.
        """
        return self._scaled(torch.split(self.heads, self.widths))

    def normed(self, correction: Tensor) -> Tensor:
        """The correction ``[..., D]`` of o, normalised; for a configuration that says so."""
        return F.rms_norm(correction, self.output_norm.shape, self.output_norm, self.config.output_norm_eps)

    def packed(self, rings: Tensor) -> PackedScan:
        """What reads and writes the rings of many requests; :class:`PackedScan` says what those are.

        It takes :meth:`project`'s ``[T, N·R + P]`` and gives the reads ``[T, N·R]`` times α/R; :meth:`correct` and
        :meth:`correction_weights` make corrections of them.
        """
        bias = self.gate_bias if self.gate_kinds else None
        return PackedScan(bias, rings, self.form, self.config.key_tokens)

    def _unpack(self, packed: Tensor) -> Corrections:
        """The corrections of each head from all of them ``[B, T, C]``."""
        corrections = self._scaled(torch.split_with_sizes(packed, self.widths, dim=-1))
        if self.config.output_norm and "o" in corrections:
            corrections["o"] = self.normed(corrections["o"])
        return corrections

    def _scaled(self, pieces: Sequence[Tensor]) -> Corrections:
        """A piece for each head, times the head's scale."""
        found: Corrections = dict(zip(self.outputs, pieces, strict=True))
        if self.config.scale == "none":
            return found
        scale = torch.sigmoid(self.scale) * self.config.scale_max
        return {head: piece * scale["qkvo".index(head) % len(scale)] for head, piece in found.items()}


def _only(writes: Tensor, keep: Tensor, erase: Tensor, write: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gates ``[B, T, N, R]``, shut where ``writes`` ``[B, T]`` is false."""
    shut = ~writes[..., None, None]
    return keep.masked_fill(shut, 1), erase.masked_fill(shut, 0), write.masked_fill(shut, 0)


def _masked(reads: Tensor, mask: Tensor | None) -> Tensor:
    return reads if mask is None else reads.masked_fill(~mask[..., None, None], 0)
