"""Each term of the objective: its value, worked out by hand, and what its gradient does."""

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from pairs import pair_batch, small_model
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3ForCausalLM

from deltamem import Step, attached, disabled
from deltamem.train import (
    Episode,
    EpisodeBatch,
    EpisodeObjective,
    ObjectiveOptions,
    ObjectiveResult,
    Text,
    TextBatch,
    collate,
    episode_loss,
)

ALONE = ("cross_entropy", "sparsity", "distillation", "contrast_empty", "contrast_other", "preservation")


@pytest.fixture
def model() -> Qwen3ForCausalLM:
    return small_model(init_gain=0.5)


def only(**options: float) -> ObjectiveOptions:
    return ObjectiveOptions(**{"cross_entropy": 0.0, **options})  # type: ignore[arg-type]


def plain_prompts() -> TextBatch:
    return TextBatch.pad([Text((5, 6, 7, 8), (0.0, 1.0, 1.0, 1.0), (0,) * 4)] * 3, 0)


def with_plain(batch: EpisodeBatch) -> EpisodeBatch:
    return dataclasses.replace(batch, plain=plain_prompts())


def run(model: Qwen3ForCausalLM, options: ObjectiveOptions, batch: EpisodeBatch, step: int = 0) -> ObjectiveResult:
    result: ObjectiveResult = EpisodeObjective(model, options)(batch, step)
    return result


def parameters(model: Qwen3ForCausalLM) -> list[Tensor]:
    return [p for memory in attached(model).memories() for p in memory.parameters()]


def descend(model: Qwen3ForCausalLM, options: ObjectiveOptions, steps: int, rate: float = 3e-3) -> Iterator[float]:
    """The loss of one batch, step by step, as the adapter is trained on it."""
    optimizer = torch.optim.Adam(parameters(model), lr=rate)
    batch = with_plain(pair_batch(0))
    for _ in range(steps):
        result = run(model, options, batch)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        yield result.loss.item()


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("kind", ["token", "message"])
def test_training_on_a_term_alone_lowers_it(name: str, kind: str) -> None:
    losses = list(descend(small_model(kind, init_gain=0.5), only(**{name: 1.0}), 8))
    assert losses[0] > 0
    assert losses[-1] < losses[0]


def test_the_loss_is_the_sum_of_the_parts_by_weight_and_so_is_its_gradient(model: Qwen3ForCausalLM) -> None:
    weights = {name: 0.3 + 0.1 * place for place, name in enumerate(ALONE)}
    batch = with_plain(pair_batch(0))
    result = run(model, ObjectiveOptions(**weights), batch)  # type: ignore[arg-type]
    assert set(result.parts) == set(ALONE)
    assert not any(part.requires_grad for part in result.parts.values())
    assert result.loss.item() == pytest.approx(sum(weights[n] * part.item() for n, part in result.parts.items()))
    whole = torch.autograd.grad(result.loss, parameters(model))
    summed = [torch.zeros_like(p) for p in parameters(model)]
    for name, weight in weights.items():
        alone = run(model, only(**{name: weight}), batch)
        assert set(alone.parts) == {name}
        for total, grad in zip(
            summed, torch.autograd.grad(alone.loss, parameters(model), allow_unused=True), strict=True
        ):
            total += 0 if grad is None else grad
    torch.testing.assert_close(whole, tuple(summed))


def test_by_default_it_is_the_plain_episode_loss(model: Qwen3ForCausalLM) -> None:
    batch = pair_batch(0)
    result, plain = run(model, ObjectiveOptions(), batch), episode_loss(model, batch)
    assert result.loss.item() == plain.loss.item() == result.parts["cross_entropy"].item()
    assert result.recall == plain.recall


@pytest.mark.parametrize("fields", [{}, {"states": 3}, {"rowwise_gates": False}, {"write": "message"}])
def test_sparsity_is_the_published_formula_over_the_tokens_of_the_read_pass(fields: dict[str, object]) -> None:
    model = small_model(**fields)  # type: ignore[arg-type]
    for memory in attached(model).memories():
        torch.nn.init.normal_(memory.projection, std=0.3)
    batch = pair_batch(0)
    longer = batch.queries.ids.shape[1] + 3
    queries = TextBatch.pad(
        [Text(tuple(range(1, longer + 1)), (0.0,) * (longer - 1) + (1.0,), (0,) * longer)]
        + [Text(tuple(ids.tolist()), (0.0, 0.0, 0.0, 1.0), (0,) * 4) for ids in batch.queries.ids[1:]],
        0,
    )
    batch = dataclasses.replace(batch, queries=queries)
    inputs: list[Tensor] = []
    hooks = [
        memory.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        for memory in attached(model).memories()
    ]
    value = run(model, only(sparsity=1.0), batch).parts["sparsity"].item()
    for hook in hooks:
        hook.remove()
    expected = []
    for memory, hidden in zip(attached(model).memories(), inputs[-2:], strict=True):  # the last pass reads the queries
        parts = memory.named_parts()
        gates = torch.sigmoid(hidden[queries.mask] @ parts["beta_proj"].t() + parts["beta_bias"])
        expected.append((gates.mean() - 0.05) ** 2)
    assert value == pytest.approx((sum(expected) / len(expected)).item(), rel=1e-5)


def test_the_gates_that_are_looked_at_are_those_that_write() -> None:
    model = small_model(update_rule="no_lambda")
    memory = attached(model).memories()[0]
    torch.nn.init.normal_(memory.projection, std=0.3)
    gates: dict[int, Tensor] = {}
    inputs: list[Tensor] = []
    hook = memory.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    step = Step(attached(model).new_state(1), gates=gates)
    model(torch.tensor([[3]]), memory=step, use_cache=False)
    hook.remove()
    # From an empty state one token writes β · v kᵀ, and k has unit length.
    value = inputs[0][0, 0] @ memory.named_parts()["v_proj"].t()
    torch.testing.assert_close(step.new_state.states[0][0, 0].norm(dim=-1), (gates[0][0, 0] * value).abs())


def test_sparsity_has_its_gradient_under_gradient_checkpointing(model: Qwen3ForCausalLM) -> None:
    batch, options = pair_batch(0), ObjectiveOptions(sparsity=5.0)
    expected = torch.autograd.grad(run(model, options, batch).loss, parameters(model))
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    result = run(model, options, batch)
    torch.testing.assert_close(torch.autograd.grad(result.loss, parameters(model)), expected)


def test_sparsity_draws_the_gates_to_its_target(model: Qwen3ForCausalLM) -> None:
    options = only(sparsity=1.0, sparsity_target=0.3)
    losses = list(descend(model, options, 60, rate=0.05))
    assert losses[0] == pytest.approx((1 / (1 + math.exp(1.5)) - 0.3) ** 2, rel=1e-4)
    assert losses[-1] < 1e-4


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distillation_is_the_divergence_from_the_backbone_that_sees_the_text(
    model: Qwen3ForCausalLM, temperature: float
) -> None:
    batch = pair_batch(0)
    value = run(model, only(distillation=1.0, temperature=temperature), batch).parts["distillation"].item()
    told = batch.passages[0]
    step = Step(attached(model).new_state(8), segment_ids=told.segments, close=True)
    model(told.ids, memory=step, use_cache=False)
    expected = []
    for row, episode in enumerate(batch.episode_of.tolist()):
        ids = batch.queries.ids[row : row + 1]
        reading = Step(step.new_state.row(episode), write=False)
        student = model(ids, memory=reading, use_cache=False).logits[0, -2] / temperature
        with disabled(model):
            seen = torch.cat([told.ids[episode : episode + 1], ids], 1)
            teacher = model(seen, use_cache=False).logits[0, -2] / temperature
        p = teacher.softmax(-1)
        expected.append((p * (p.log() - student.log_softmax(-1))).sum().item() * temperature**2)
    assert value == pytest.approx(sum(expected) / len(expected), rel=1e-3)


def test_the_teacher_is_neither_trained_nor_adapted(model: Qwen3ForCausalLM) -> None:
    for memory in attached(model).memories():
        memory.heads.data.zero_()
    batch = pair_batch(0)
    same = dataclasses.replace(batch, full=batch.queries)
    assert run(model, only(distillation=1.0), same).loss.item() == pytest.approx(0, abs=1e-6)
    assert run(model, only(distillation=1.0), batch).loss.item() > 1e-4


def test_a_full_text_with_other_answers_is_refused(model: Qwen3ForCausalLM) -> None:
    batch = pair_batch(0)
    other = dataclasses.replace(batch.queries, ids=batch.queries.ids + 1)
    with pytest.raises(ValueError, match="the same tokens with their history"):
        run(model, only(distillation=1.0), dataclasses.replace(batch, full=other))


def test_an_over_long_history_is_cut_from_the_left_for_the_teacher(model: Qwen3ForCausalLM) -> None:
    query = Text((7, 8, 9), (0.0, 0.0, 1.0), (0,) * 3)
    long = Text(tuple(1 + i % 30 for i in range(200)), (0.0,) * 200, (0,) * 200)
    kept = Text(long.ids[-125:] + query.ids, (0.0,) * 127 + (1.0,), (0,) * 128)
    batch = collate([Episode((long,), (query,))], 0)
    given = dataclasses.replace(batch, full=TextBatch.pad([kept], 0))
    cut, expected = (run(model, only(distillation=1.0), b).loss.item() for b in (batch, given))
    assert cut == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("against", ["empty", "other"])
def test_contrast_is_the_hinge_of_the_losses(model: Qwen3ForCausalLM, against: str) -> None:
    batch = pair_batch(0)
    state = attached(model).new_state(8)
    told = batch.passages[0]
    step = Step(state, segment_ids=told.segments, close=True)
    model(told.ids, memory=step, use_cache=False)

    def losses(memory: object) -> Tensor:
        logits = model(batch.queries.ids, memory=Step(memory, write=False), use_cache=False).logits[:, -2]
        return F.cross_entropy(logits, batch.queries.ids[:, -1], reduction="none")

    own = losses(step.new_state.select(batch.episode_of))
    rows = (batch.episode_of + 1) % 8
    false = losses(step.new_state.select(rows) if against == "other" else state.select(rows))
    hinge = (0.02 + own - false).relu()
    assert 0 < (hinge > 0).sum() < len(hinge)
    value = run(model, only(**{f"contrast_{against}": 1.0, "margin": 0.02}), batch).loss.item()
    assert value == pytest.approx(hinge.mean().item(), rel=1e-4)


def test_contrast_with_another_memory_moves_own_and_false_loss_apart(model: Qwen3ForCausalLM) -> None:
    batch, options = pair_batch(0), only(contrast_other=1.0, margin=2.0)
    swapped = dataclasses.replace(batch, episode_of=(batch.episode_of + 1) % 8)
    before = episode_loss(model, swapped).loss.item() - episode_loss(model, batch).loss.item()
    list(descend(model, options, 15))
    after = episode_loss(model, swapped).loss.item() - episode_loss(model, batch).loss.item()
    assert after > before + 0.05


def test_the_other_memory_is_of_another_history_or_there_is_none(model: Qwen3ForCausalLM) -> None:
    def told(first: int, query: int) -> Episode:
        return Episode((Text((first, 2), (0.0, 0.0), (0, 0)),), (Text((3, query), (0.0, 1.0), (0, 0)),))

    # Two questions about one text, and one about another: the first meets the third row's memory, not the second's.
    batch, options = collate([told(1, 4), told(1, 5), told(7, 6)], 0), only(contrast_other=1.0, margin=5.0)
    assert batch.strangers().tolist() == [2, 2, 0]  # type: ignore[union-attr]
    pairs = [collate([told(1, 4), told(7, 6)], 0), collate([told(1, 5), told(7, 6)], 0)]
    (first, last), (second, _) = ([result.item() for result in hinges(model, pair)] for pair in pairs)
    assert run(model, options, batch).loss.item() == pytest.approx(5 + (first + second + last) / 3, rel=1e-5)
    same = collate([told(1, 4), told(1, 5)], 0)
    assert same.strangers() is None
    for alone in (same, collate([told(1, 4)], 0)):
        result = run(model, options, alone)
        assert result.loss.item() == 0
        result.loss.backward()
    assert run(model, only(contrast_empty=1.0), same).loss.item() > 0


def hinges(model: Qwen3ForCausalLM, pair: EpisodeBatch) -> Tensor:
    """The own loss less that under the other's memory, of a batch of two."""
    step = Step(attached(model).new_state(2), segment_ids=pair.passages[0].segments, close=True)
    model(pair.passages[0].ids, memory=step, use_cache=False)
    losses = []
    for rows in ([0, 1], [1, 0]):
        memory = Step(step.new_state.select(torch.tensor(rows)), write=False)
        logits = model(pair.queries.ids, memory=memory, use_cache=False).logits[:, -2]
        losses.append(F.cross_entropy(logits, pair.queries.ids[:, -1], reduction="none"))
    return losses[0] - losses[1]


def test_preservation_is_nothing_until_the_adapter_changes_a_plain_prompt(model: Qwen3ForCausalLM) -> None:
    batch, options = with_plain(pair_batch(0)), only(preservation=1.0)
    changed = run(model, options, batch).loss.item()
    assert changed > 1e-5
    for memory in attached(model).memories():
        memory.heads.data.zero_()
    assert run(model, options, batch).loss.item() == pytest.approx(0, abs=1e-7)


def test_preservation_holds_back_what_cross_entropy_would_change() -> None:
    drift = {}
    for weight in (0.0, 5.0):
        model = small_model(init_gain=0.5)
        list(descend(model, ObjectiveOptions(preservation=weight), 25, rate=1e-2))
        drift[weight] = run(model, only(preservation=1.0), with_plain(pair_batch(0))).loss.item()
    assert drift[5.0] < 0.5 * drift[0.0]


def test_preservation_without_plain_prompts_says_what_is_missing(model: Qwen3ForCausalLM) -> None:
    with pytest.raises(ValueError, match=r"EpisodeBatch\.plain"):
        run(model, only(preservation=1.0), pair_batch(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": -0.1}, "weight sparsity"),
        ({"distillation": math.nan}, "weight distillation"),
        ({"cross_entropy": 0.0}, "All terms have weight 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"margin": -1.0}, "margin must be above 0"),
        ({"sparsity_target": 1.5}, "sparsity_target"),
        ({"state_and_text": 0.7, "no_memory": 0.5}, "shares of the episodes"),
        ({"no_memory": -0.5}, "shares of the episodes"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveOptions(**options)  # type: ignore[arg-type]
