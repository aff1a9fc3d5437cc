"""Long histories: chunks, recomputation and truncation change the memory they need, and not what they compute."""

import dataclasses

import pytest
import torch
from pairs import small_model
from torch import Tensor
from transformers import Qwen3ForCausalLM

from deltamem import attached, observe
from deltamem.train import Episode, EpisodeBatch, EpisodeObjective, ObjectiveOptions, Text, Writing, collate, read
from deltamem.train.episodes import UNWRITTEN
from deltamem.train.long import write_history
from deltamem.train.passes import answers


def history(lengths: tuple[int, ...], *, trained: bool = False, seed: int = 0) -> EpisodeBatch:
    """Histories of random tokens, a segment each 7 of them, and a query for each."""
    generator = torch.Generator().manual_seed(seed)
    episodes = []
    for length in lengths:
        ids = tuple(torch.randint(1, 40, (length,), generator=generator).tolist())
        weights = tuple(0.5 if trained and i % 5 == 4 else 0.0 for i in range(length))
        told = Text(ids, weights, tuple(i // 7 for i in range(length)))
        episodes.append(Episode((told,), (Text((3, 4, ids[0]), (0.0, 0.0, 1.0), (0, 0, -1)),)))
    return collate(episodes, 0)


def gradients(model: Qwen3ForCausalLM, batch: EpisodeBatch, writing: Writing) -> tuple[float, list[Tensor]]:
    loss = EpisodeObjective(model, ObjectiveOptions(writing=writing))(batch).loss
    parameters = [p for memory in attached(model).memories() for p in memory.parameters()]
    return loss.item(), list(torch.autograd.grad(loss, parameters))


@pytest.mark.parametrize("kind", ["token", "message"])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("truncate", [None, 2])
def test_recomputation_changes_no_gradient(kind: str, trained: bool, truncate: int | None) -> None:
    model, batch = small_model(kind, init_gain=0.5), history((45, 17), trained=trained)
    kept = gradients(model, batch, Writing(chunk=10, truncate=truncate))
    again = gradients(model, batch, Writing(chunk=10, truncate=truncate, recompute=True))
    assert kept[0] == again[0]
    torch.testing.assert_close(again[1], kept[1])


def test_recomputation_works_inside_gradient_checkpointing() -> None:
    model, batch = small_model(init_gain=0.5), history((45, 17))
    expected = gradients(model, batch, Writing(chunk=10))
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    torch.testing.assert_close(gradients(model, batch, Writing(chunk=10, recompute=True))[1], expected[1])


@pytest.mark.parametrize("kind", ["token", "message"])
def test_chunks_write_what_observing_writes(kind: str) -> None:
    model, batch = small_model(kind, init_gain=0.5), history((45, 17))
    told = batch.passages[0]
    state = observe(model, told.ids, attention_mask=told.mask.long(), segment_ids=told.segments, chunk_size=10)
    asked = answers(model, read(model, state, batch.queries), batch.queries)
    loss, _ = gradients(model, batch, Writing(chunk=10))
    assert loss == pytest.approx(asked.losses().mean().item(), rel=1e-5)


def test_truncation_as_far_back_as_the_history_truncates_nothing() -> None:
    model, batch = small_model(init_gain=0.5), history((45, 45))
    whole = gradients(model, batch, Writing(chunk=10))
    torch.testing.assert_close(gradients(model, batch, Writing(chunk=10, truncate=5)), whole)
    torch.testing.assert_close(gradients(model, batch, Writing(chunk=10, truncate=99)), whole)


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_truncation_is_a_detached_memory_that_many_chunks_before_the_end(chunks: int) -> None:
    model, batch = small_model(init_gain=0.5), history((45, 45))
    loss, truncated = gradients(model, batch, Writing(chunk=10, truncate=chunks))
    # By hand: the beginning is observed without gradients, and the rest is a history that starts from there.
    told = batch.passages[0]
    start = 10 * (5 - chunks)
    before = observe(model, told.ids[:, :start], chunk_size=10)
    rest = dataclasses.replace(batch, passages=(told[:, start:45],))
    attachment = attached(model)
    empty, attachment.new_state = attachment.new_state, lambda batch=1: before  # type: ignore[method-assign]
    by_hand = gradients(model, rest, Writing(chunk=10))
    attachment.new_state = empty  # type: ignore[method-assign]
    assert loss == pytest.approx(by_hand[0], rel=1e-5)
    torch.testing.assert_close(truncated, by_hand[1], rtol=1e-4, atol=1e-7)
    _, whole = gradients(model, batch, Writing(chunk=10))
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(truncated, whole, strict=True))


def test_trained_tokens_before_the_cut_keep_their_gradient() -> None:
    model, batch = small_model(init_gain=0.5), history((45, 45), trained=True)
    told = batch.passages[0]
    early = dataclasses.replace(told, weights=told.weights * (torch.arange(45) < 20))
    silent = dataclasses.replace(batch.queries, weights=torch.zeros_like(batch.queries.weights))
    batch = dataclasses.replace(batch, passages=(early,), queries=silent)
    # Their losses reach back to the cut before them: here, chunk by chunk, to the start of their own.
    _, truncated = gradients(model, batch, Writing(chunk=10, truncate=1))
    _, whole = gradients(model, batch, Writing(chunk=10))
    assert all(gradient.abs().max() > 0 for gradient in truncated)
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(truncated, whole, strict=True))


def test_chunks_of_all_passages_count() -> None:
    model = small_model(init_gain=0.5)
    first, second = history((20,), seed=1), history((20,), seed=2)
    both = dataclasses.replace(second, passages=(*first.passages, *second.passages))
    last, all_four = (gradients(model, both, Writing(chunk=10, truncate=k))[1] for k in (2, 4))
    before = observe(model, first.passages[0].ids, chunk_size=10)
    attachment = attached(model)
    empty, attachment.new_state = attachment.new_state, lambda batch=1: before  # type: ignore[method-assign]
    expected = gradients(model, second, Writing(chunk=10))[1]
    attachment.new_state = empty  # type: ignore[method-assign]
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(all_four, gradients(model, both, Writing(chunk=10))[1])


def saved_bytes(model: Qwen3ForCausalLM, length: int, writing: Writing) -> int:
    """Bytes that the forward pass keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = EpisodeObjective(model, ObjectiveOptions(writing=writing))(history((length,)))
    assert result.loss.requires_grad
    return sum(kept.values())


def test_what_is_kept_for_the_backward_pass_grows_with_one_pass_and_hardly_with_chunks() -> None:
    model = small_model(init_gain=0.5)
    growth = {}
    for name, writing in {
        "one pass": Writing(),
        "recomputed": Writing(chunk=16, recompute=True),
        "truncated": Writing(chunk=16, truncate=2),
    }.items():
        growth[name] = saved_bytes(model, 512, writing) - saved_bytes(model, 128, writing)
    assert growth["one pass"] > 500_000
    assert growth["recomputed"] < 0.05 * growth["one pass"]
    assert growth["truncated"] < 0.05 * growth["one pass"]


@pytest.mark.parametrize("field", ["chunk", "truncate"])
def test_numbers_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        Writing(**{field: 0})


@pytest.mark.parametrize("kind", ["token", "message"])
def test_local_gradients_of_one_adapted_layer_are_the_whole_ones(kind: str) -> None:
    """With no trained layer below, nothing is left out; the chunks are several, so the memory carries gradients."""
    model, batch = small_model(kind, init_gain=0.5, layers=(1,)), history((45, 17))
    whole, local = gradients(model, batch, Writing(chunk=10)), gradients(model, batch, Writing(chunk=10, local=True))
    assert local[0] == pytest.approx(whole[0], rel=1e-6)
    torch.testing.assert_close(local[1], whole[1])


@pytest.mark.parametrize("kind", ["token", "message"])
def test_what_no_adapter_writes_is_not_written_with_local_gradients_either(kind: str) -> None:
    model, batch = small_model(kind, init_gain=0.5), history((45, 17))
    batch.passages[0].segments[:, :5] = UNWRITTEN
    state = attached(model).new_state(2)
    whole, local = (write_history(model, state, batch.passages, Writing(local=one))[0] for one in (False, True))
    assert whole.tokens.tolist() == [40, 12]
    torch.testing.assert_close(local.tensors(), whole.tensors())


def test_local_gradients_leave_out_only_the_way_through_the_backbone() -> None:
    model, batch = small_model(init_gain=0.5), history((45, 17))
    whole, local = gradients(model, batch, Writing()), gradients(model, batch, Writing(local=True))
    assert local[0] == pytest.approx(whole[0], rel=1e-6)
    half = len(whole[1]) // 2
    # The upper layer reads into nothing that is written later; what the lower one reads changes what the upper writes.
    torch.testing.assert_close(local[1][half:], whole[1][half:])
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(local[1][:half], whole[1][:half], strict=True))


def test_trained_tokens_of_a_history_are_written_with_all_gradients() -> None:
    model, batch = small_model(init_gain=0.5), history((45, 17), trained=True)
    whole, local = gradients(model, batch, Writing()), gradients(model, batch, Writing(local=True))
    torch.testing.assert_close(local[1], whole[1])
