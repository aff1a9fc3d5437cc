"""An adapter's first weights in closed form, from what the bare backbone computes while facts are told and asked.

Gradients need long before anything is recalled: as long as the addresses are random, no value that comes back is the
right one. But where a told token is written and where it is asked for is known from the data, so that good addresses
are a problem of linear algebra (canonical correlations), and so are values that tell which token was written (reduced
regression), gates that let told tokens in (a linear discriminant), and heads that raise the token's logit.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.memory import DeltaMemory
from deltamem.step import Step
from deltamem.train.attention import in_blocks
from deltamem.train.episodes import EpisodeBatch, TextBatch
from deltamem.train.fitoptions import FitOptions, check_fits

# Ridges, in shares of the mean variance of what they regularise.
_ADDRESS_RIDGE = 0.03
_VALUE_RIDGE = 0.03
_OUTPUT_RIDGE = 0.1


class ToldToken(NamedTuple):
    """A told token that is asked for: its passage, row and column, and the query's row and the column before it."""

    passage: int
    row: int
    column: int
    query: int
    before: int


def fit(model: PreTrainedModel, batches: Iterable[EpisodeBatch], options: FitOptions | None = None) -> int:
    """Gives the active adapter weights computed from episodes whose answers repeat tokens of their history.

    Args:
        model: an attached model; the heads ``k``, ``q`` and ``v``, where there are any, become zero.
        batches: the first ``options.batches`` of them are read.
        options: how.

    Returns:
        how many told tokens the weights come from.

    Raises:
        ValueError: the adapter has no output head or writes segments; or fewer told tokens are found in answers than
            an address has dimensions.
    """
    options, attachment = options or FitOptions(), attached(model)
    config = attachment.config
    check_fits(config)
    memories = attachment.memories()
    with torch.no_grad():
        for memory in memories:
            memory.heads.zero_()
        statistics = [_Statistics(memory.projection, config.key_tokens) for memory in memories]
        outputs = _Outputs(model, statistics[0])
        for batch, _ in zip(batches, range(options.batches), strict=False):
            _observe(model, batch, statistics, outputs)
        if outputs.count < config.width:
            raise ValueError(
                f"A fit needs answers that repeat tokens of their history. This adapter needs {config.width} such "
                f"tokens, and there are {outputs.count}. Raise fit.batches, or leave fit out."
            )
        bases = outputs.bases(len(memories), config.width, options)
        for number, (memory, statistic, basis) in enumerate(zip(memories, statistics, bases, strict=True)):
            _fill(memory, statistic, basis, outputs, options, number)
    return outputs.count


class _Statistics:
    """Sums over tokens of one layer's inputs ``[D]``: all written ones, the told ones, and where those are asked for.

    A write address is made from K tokens' inputs, ``[K·D]``: the token's own first.

    Args:
        like: a tensor ``[·, D]`` on the layer's device.
        key_tokens: K.
    """

    def __init__(self, like: Tensor, key_tokens: int) -> None:
        size = like.shape[1]

        def zeros(*shape: int) -> Tensor:
            return like.new_zeros(shape, dtype=torch.float32)

        self.size, keyed = size, key_tokens * size
        self.keyed, self.keyed_sum, self.pairs = zeros(keyed, keyed), zeros(keyed), zeros(keyed, size)
        self.told, self.asked, self.outputs = zeros(size, size), zeros(size, size), zeros(size, size)
        self.told_sum, self.asked_sum = zeros(size), zeros(size)
        self.count, self.scale = 0, 0.0

    def add(self, keyed: Tensor, outputs: Tensor, told: Tensor, asked: Tensor) -> None:
        """Tokens written ``[W, K·D]`` with their output directions, M told ones, and where those are asked for."""
        self.keyed += keyed.T @ keyed
        self.keyed_sum += keyed.sum(0)
        self.pairs += told.T @ asked
        self.outputs += keyed[:, : self.size].T @ outputs
        self.told += told[:, : self.size].T @ told[:, : self.size]
        self.told_sum += told[:, : self.size].sum(0)
        self.asked += asked.T @ asked
        self.asked_sum += asked.sum(0)
        self.count += len(keyed)

    @property
    def written(self) -> Tensor:
        """The sum ``[D, D]`` of the squares of all written tokens' own inputs."""
        return self.keyed[: self.size, : self.size]

    @property
    def written_sum(self) -> Tensor:
        """The sum ``[D]`` of all written tokens' own inputs."""
        return self.keyed_sum[: self.size]


class _Outputs:
    """The directions that raise tokens' logits, ``[V, D]``, and their mean and covariance over told tokens."""

    def __init__(self, model: PreTrainedModel, like: _Statistics) -> None:
        weight = model.get_output_embeddings().weight
        norm = getattr(attached(model).base, "norm", None)
        ones = weight.new_ones(weight.shape[1])
        # Of an input of equal numbers a root-mean-square norm leaves its own weights.
        self.vectors = weight.float() * (norm(ones) if isinstance(norm, nn.Module) else ones).float()
        self.sum, self.squares = torch.zeros_like(like.told_sum), torch.zeros_like(like.told)
        self.count = 0

    def add(self, tokens: Tensor) -> None:
        """Told tokens ``[M]``."""
        vectors = self.vectors[tokens]
        self.sum += vectors.sum(0)
        self.squares += vectors.T @ vectors
        self.count += len(tokens)

    @property
    def mean(self) -> Tensor:
        return self.sum / self.count

    @property
    def covariance(self) -> Tensor:
        return self.squares / self.count - torch.outer(self.mean, self.mean)

    def bases(self, layers: int, width: int, options: FitOptions) -> list[Tensor]:
        """For each layer orthonormal columns ``[D, width]``; together they cover what tells tokens apart."""
        main = torch.linalg.eigh(self.covariance)[1].flip(-1)[:, : max(options.subspace, width)]
        generator = torch.Generator().manual_seed(options.seed)
        found: list[Tensor] = []
        while len(found) < layers:
            turned = main @ _rotation(main.shape[1], generator).to(main)
            found += torch.split(turned, width, dim=1)[: main.shape[1] // width]
        return found[:layers]


def _observe(model: PreTrainedModel, batch: EpisodeBatch, statistics: list[_Statistics], outputs: _Outputs) -> None:
    """Adds a batch to the statistics, read by the bare backbone: the heads are zero."""
    told = told_tokens(batch)
    asked, scales = _inputs(model, batch.queries)
    passages = [_inputs(model, passage)[0] for passage in batch.passages]
    if attached(model).config.key_tokens == 2:
        passages = [[torch.cat([x, F.pad(x, (0, 0, 1, -1))], -1) for x in inputs] for inputs in passages]
    outputs.add(torch.tensor([int(batch.passages[t.passage].ids[t.row, t.column]) for t in told], dtype=torch.int64))
    written = [passage.mask & passage.writes for passage in batch.passages]
    tokens = torch.cat([passage.ids[mask] for passage, mask in zip(batch.passages, written, strict=True)])
    for layer, statistic in enumerate(statistics):
        states = torch.cat([inputs[layer][mask] for inputs, mask in zip(passages, written, strict=True)])
        empty = states[:0]
        statistic.add(
            states,
            outputs.vectors[tokens],
            torch.stack([passages[t.passage][layer][t.row, t.column] for t in told]) if told else empty,
            torch.stack([asked[layer][t.query, t.before] for t in told]) if told else empty[:, : statistic.size],
        )
        statistic.scale = scales[layer]


def _inputs(model: PreTrainedModel, text: TextBatch) -> tuple[list[Tensor], list[float]]:
    """Each adapted layer's input ``[B, T, D]`` float32 for a text, and the root mean square of its residual stream."""
    attachment = attached(model)
    found: dict[int, Tensor] = {}
    step = Step(attachment.new_state(text.ids.shape[0]), write=False, inputs=found)
    with in_blocks(attachment.base):
        result = attachment.base(text.ids, use_cache=False, memory=step, output_hidden_states=True)
    numbers = attachment.layer_numbers()
    streams = [result.hidden_states[number][text.mask].float() for number in numbers]
    scales = [float(stream.square().mean(-1).sqrt().median()) for stream in streams]
    return [found[layer].float() for layer in range(len(numbers))], scales


def told_tokens(batch: EpisodeBatch) -> list[ToldToken]:
    """The tokens of answers that stand in their history as they are answered: the last such place of each.

    Of a query, the tokens of the greatest weight count, run by run.
    """
    found = []
    weights = batch.queries.weights
    for query, row in enumerate(batch.episode_of.tolist()):
        wanted = weights[query] == weights[query].max()
        places = [place for place in range(1, len(wanted)) if wanted[place]]
        for _, group in groupby(enumerate(places), lambda pair: pair[1] - pair[0]):
            run = [place for _, place in group]
            at = _last_place(batch, row, batch.queries.ids[query, run])
            if at is not None:
                passage, column = at
                found += [
                    ToldToken(passage, row, column + offset, query, place - 1) for offset, place in enumerate(run)
                ]
    return found


def _last_place(batch: EpisodeBatch, row: int, tokens: Tensor) -> tuple[int, int] | None:
    """The passage and column at which tokens stand last in an episode's history."""
    for number in reversed(range(len(batch.passages))):
        passage = batch.passages[number]
        ids = passage.ids[row][passage.mask[row]]
        if len(ids) >= len(tokens):
            places = (ids.unfold(0, len(tokens), 1) == tokens).all(1).nonzero()
            if len(places):
                return number, int(places[-1])
    return None


def _fill(
    memory: DeltaMemory, statistic: _Statistics, basis: Tensor, outputs: _Outputs, options: FitOptions, number: int
) -> None:
    """Writes a layer's weights."""
    parts, told = memory.named_parts(), outputs.count
    parts["q_proj"].copy_((addresses := _addresses(memory, statistic, told, options.seed + number))[0])
    for part, weight in zip(("k_proj", "k_before_proj"), addresses[1].split(statistic.size, 1), strict=False):
        parts[part].copy_(weight)
    value, head = _value_and_head(statistic, basis, outputs)
    parts["v_proj"].copy_(value)
    parts["delta_o"].copy_(head * options.gain * statistic.scale)
    if memory.gate_kinds:
        row, bias = _gate(statistic, told, options)
        parts["beta_proj"].copy_(row.expand_as(parts["beta_proj"]))
        parts["beta_bias"].fill_(bias)


def _addresses(memory: DeltaMemory, statistic: _Statistics, told: int, seed: int) -> tuple[Tensor, Tensor]:
    """Read addresses ``[N·R, D]`` and write addresses ``[N·R, K·D]``.

    They are the canonical correlations of where tokens are asked for and told. The write side is
    whitened by all written tokens, so that a told token's address is unlike those around it. The means are left out: a
    constant part would make all addresses alike.
    """
    written_mean, asked_mean = statistic.keyed_sum / statistic.count, statistic.asked_sum / told
    size, rest = len(asked_mean), len(written_mean) - len(asked_mean)
    whiten_written = _centred_whitening(statistic.keyed / statistic.count, written_mean, F.pad(asked_mean, (0, rest)))
    whiten_asked = _centred_whitening(statistic.asked / told, written_mean[:size], asked_mean)
    correlations = whiten_written @ (statistic.pairs / told) @ whiten_asked.T
    left, strengths, right = torch.linalg.svd(correlations, full_matrices=False)
    width = memory.config.width
    turn = _rotation(width, torch.Generator().manual_seed(seed)).to(left)
    scale = turn * strengths[:width].sqrt()
    return scale @ right[:width] @ whiten_asked, scale @ left[:, :width].T @ whiten_written


def _centred_whitening(squares: Tensor, *means: Tensor) -> Tensor:
    """The whitening of what is left once the directions of some means are taken out."""
    axes = torch.linalg.qr(torch.stack(means, 1))[0]
    centre = torch.eye(len(axes), device=axes.device) - axes @ axes.T
    whitening: Tensor = _whitening(centre @ squares @ centre, _ADDRESS_RIDGE) @ centre
    return whitening


def _value_and_head(statistic: _Statistics, basis: Tensor, outputs: _Outputs) -> tuple[Tensor, Tensor]:
    """Values ``[N·R, D]`` that tell which token was written, and the head ``[D, N·R]`` that raises its logit."""
    whitening = _whitening(outputs.covariance, _OUTPUT_RIDGE)
    centred = statistic.outputs - torch.outer(statistic.written_sum, outputs.mean)
    ridge = _VALUE_RIDGE * statistic.written.diagonal().mean() * torch.eye(len(basis), device=basis.device)
    value = (torch.linalg.solve(statistic.written + ridge, centred) @ whitening @ basis).T
    told = statistic.told / outputs.count
    spread = (value @ told * value).sum(1).clamp(min=torch.finfo(told.dtype).tiny).sqrt()
    head = whitening @ basis * spread
    return value / spread[:, None], head / head.norm(dim=0).mean()


def _gate(statistic: _Statistics, told: int, options: FitOptions) -> tuple[Tensor, float]:
    """The row ``[D]`` and bias of a write gate that is open for told tokens."""
    ridge = _VALUE_RIDGE * statistic.written.diagonal().mean() * torch.eye(len(statistic.told_sum))
    row = torch.linalg.solve(statistic.written + ridge.to(statistic.written), statistic.told_sum)
    inside = float(statistic.told_sum @ row / told)
    outside = float((statistic.written_sum - statistic.told_sum) @ row / max(statistic.count - told, 1))
    scale = 2 * options.contrast / max(inside - outside, 1e-6)
    return row * scale, float(torch.tensor(options.gate).logit()) - scale * (inside + outside) / 2


def _whitening(covariance: Tensor, ridge: float) -> Tensor:
    """The inverse square root ``[D, D]`` of a covariance and a share of its mean variance."""
    variances, axes = torch.linalg.eigh(covariance)
    variances = variances.clamp(min=0)
    whitening: Tensor = axes * (variances + ridge * variances.mean()).rsqrt() @ axes.T
    return whitening


def _rotation(size: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix."""
    rotation: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
    return rotation
