"""The mechanism in plain Python, one token at a time, from its specification and not from the package's code."""

from typing import Any

import torch
from torch import Tensor, nn

from deltamem import DeltaMemConfig, MemoryState
from deltamem.memory import DeltaMemory
from deltamem.step import Step


def layer(config: DeltaMemConfig, hidden: int = 6, seed: int = 0) -> DeltaMemory:
    """One layer's memory with random weights throughout, correcting projections of different widths."""
    memory = DeltaMemory(config, hidden, {"q": 10, "k": 4, "v": 5, "o": hidden})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return memory


def forward(memory: DeltaMemory, x: Tensor, step: Step) -> tuple[dict[str, Tensor], Step]:
    """One call of a layer alone, as the only adapted layer of a model."""
    step.begin(memory.config, x.shape[0], x.shape[1], x.device)
    corrections, state, pending = memory(x, *step.take(0, x.device))
    step.put(0, state, pending)
    return corrections, step  # type: ignore[return-value]


def start(config: DeltaMemConfig, rows: int) -> MemoryState:
    """One layer's memory that holds something."""
    generator = torch.Generator().manual_seed(2)
    empty = MemoryState.zeros(1, rows, config.states, config.rank, key_tokens=config.key_tokens)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in empty.tensors().items()
    }
    return MemoryState.from_tensors(tensors)


def address(config: DeltaMemConfig, weight: Tensor, x: Tensor, adds: Tensor | float = 0.0) -> Tensor:
    """A normalised address ``[N, R]`` of one token ``[D]``."""
    raw = (weight @ x + adds).view(config.states, config.rank)
    if not config.normalize_qk:
        return raw
    bounded = raw.tanh()
    return torch.stack([u / u.norm().clamp(min=1e-6) for u in bounded])


def gate(config: DeltaMemConfig, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A gate of one token, one value a row of each state: ``[N, R]``."""
    values = torch.sigmoid(weight @ x + bias)
    if config.rowwise_gates:
        return values.view(config.states, config.rank)
    return values.view(config.states, 1).expand(-1, config.rank)


def write(
    config: DeltaMemConfig, parts: dict[str, Tensor], state: Tensor, x: Tensor, adds: Tensor | float = 0.0
) -> Tensor:
    """The state ``[N, R, R]`` after writing one vector ``[D]``; the token before ``adds`` ``[N·R]`` to its address."""
    key = address(config, parts["k_proj"], x, adds)
    value = (parts["v_proj"] @ x).view(config.states, config.rank)
    if config.gates == "fixed":
        beta = torch.sigmoid(torch.full((config.states, config.rank), float(config.gate_bias)))
    else:
        beta = gate(config, parts["beta_proj"], parts["beta_bias"], x)
    keep = 1 - beta if config.coupled_gates else gate(config, parts["lambda_proj"], parts["lambda_bias"], x)
    keep, erase = {
        "standard": (keep, beta),
        "lambda_outside": (keep, keep * beta),
        "no_lambda": (torch.ones_like(beta), beta),
        "leaky": (1 - 0.02 * beta, beta),
        "hebbian": (keep, torch.zeros_like(beta)),
        "accumulate": (torch.ones_like(beta), torch.zeros_like(beta)),
    }[config.update_rule]
    rows = []
    for n in range(config.states):
        for row in range(config.rank):
            found = state[n, row] @ key[n]
            rows.append(keep[n, row] * state[n, row] + (beta[n, row] * value[n, row] - erase[n, row] * found) * key[n])
    return torch.stack(rows).view_as(state)


def read(config: DeltaMemConfig, parts: dict[str, Tensor], state: Tensor, x: Tensor) -> Tensor:
    """What one token ``[D]`` reads: ``[N·R]``."""
    query = address(config, parts["q_proj"], x)
    return torch.cat([state[n] @ query[n] for n in range(config.states)])


def corrections(config: DeltaMemConfig, parts: dict[str, Tensor], reads: Tensor) -> dict[str, Tensor]:
    """The corrections of one token from its reads ``[N·R]``."""
    out = {}
    for place, head in enumerate("qkvo"):
        if head not in config.heads:
            continue
        delta = config.alpha / config.rank * (parts[f"delta_{head}"] @ reads)
        if config.scale != "none":
            raw = parts["scale"][place if config.scale == "head" else 0]
            delta = delta * torch.sigmoid(raw) * config.scale_max
        if head == "o" and config.output_norm:
            delta = delta / (delta.pow(2).mean() + config.output_norm_eps).sqrt() * parts["output_norm"]
        out[head] = delta
    return out


def segment_walk(
    memory: nn.Module, x: Tensor, ids: Any, mask: Any, state: Tensor, *, close: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Segment writes for one row ``[T, D]``: the reads, the state and the tokens of the segment left open."""
    config, parts = memory.config, memory.named_parts()  # type: ignore[operator]
    reads, members, current = [], [], -1
    for token, segment, real in zip(x, ids, mask, strict=True):
        if not real:
            reads.append(torch.zeros(config.width))  # type: ignore[union-attr,arg-type]
            continue
        if segment != current:
            if members:
                state = write(config, parts, state, torch.stack(members).mean(0))  # type: ignore[arg-type]
            members, current = [], segment
        reads.append(read(config, parts, state, token))  # type: ignore[arg-type]
        if segment != -1:
            members.append(token)
    if close and members:
        state, members = write(config, parts, state, torch.stack(members).mean(0)), []  # type: ignore[arg-type]
    return torch.stack(reads), state, members
