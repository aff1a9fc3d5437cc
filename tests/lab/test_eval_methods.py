"""Every method does what it says, on the embedded backbone."""

from collections.abc import Sequence
from importlib.resources import files

import pytest
import torch

from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Answer, Ask, Item
from deltamem_lab.loading import embedded_backbone
from deltamem_lab.methods import MethodOptions, build_method, default_methods, describe_method, is_control, lacking
from deltamem_lab.methods.memory import StateMemory, noise_like
from deltamem_lab.tasks.world import WorldTask

TASK = WorldTask(seed=3)
ITEMS = list(TASK.items("world", 6))
FOUR, LATER = ITEMS[1], ITEMS[5]
TOLD = FOUR.history[0]["content"]  # type: ignore[index]


def answers(
    name: str, backbone: Backbone, item: Item = FOUR, *, read: Item | None = None, options: MethodOptions | None = None
) -> list[Answer]:
    method = build_method(name, backbone, options)
    method.reset(0)
    method.observe((read or item).history)
    return method.answer(asks(item, backbone))


def asks(item: Item, backbone: Backbone) -> list[Ask]:
    decoding = TASK.decoding(item, item.questions[0], "world")
    return [
        Ask(q, lambda history, budget, q=q: TASK.prompt(item, q, history, "world", budget), decoding)  # type: ignore[misc]
        for q in item.questions
    ]


def right(said: Sequence[Answer], item: Item = FOUR) -> int:
    return sum(one.text in q.answers for one, q in zip(said, item.questions, strict=True) if q.category != "never told")


def test_replay_shows_the_text_beside_the_memory_and_writes_neither_prompt_nor_answer(backbone: Backbone) -> None:
    name = "multi+replay"
    assert name not in default_methods(backbone)
    assert describe_method(name) == "δ-mem multi and the text again"
    said, alone = answers(name, backbone), answers("multi", backbone)
    assert all(entry["content"] in one.prompt for one in said for entry in FOUR.history)  # type: ignore[index]
    assert said[0].notes["state_norm"] == alone[0].notes["state_norm"] > 0
    assert said[0].cost.write_tokens == alone[0].cost.write_tokens
    assert said[0].cost.stored_bytes > alone[0].cost.stored_bytes
    assert right(said) == 4


def test_no_context_sees_the_question_alone(backbone: Backbone) -> None:
    said = answers("none", backbone)
    assert all(TOLD not in one.prompt and one.cost.stored_bytes == 0 for one in said)
    assert right(said) == 0


def test_full_context_sees_everything(backbone: Backbone) -> None:
    said = answers("full", backbone)
    assert all(entry["content"] in one.prompt for one in said for entry in FOUR.history)  # type: ignore[index]
    assert right(said) == 4
    assert said[0].cost.prompt_tokens > said[0].cost.new_tokens > 0


def test_beyond_the_window_the_end_is_left(backbone: Backbone) -> None:
    said = answers("full", backbone, LATER)
    assert all(one.notes["cut"] and one.cost.prompt_tokens <= 512 for one in said)
    assert LATER.history[-1]["content"] in said[0].prompt  # type: ignore[index]
    assert LATER.history[0]["content"] not in said[0].prompt  # type: ignore[index]


def test_the_window_is_as_long_as_asked(backbone: Backbone) -> None:
    said = answers("window", backbone, LATER, options=MethodOptions(window=100))
    assert all(60 < one.cost.prompt_tokens <= 100 for one in said)


def test_bm25_brings_back_the_turn_that_answers(backbone: Backbone) -> None:
    said = answers("bm25", backbone, LATER, options=MethodOptions(turns=2))
    assert all(len(one.notes["retrieved"]) <= 2 and one.cost.prompt_tokens < 150 for one in said)
    assert right(said, LATER) >= 2


@pytest.mark.parametrize("name", ["token", "segment", "multi"])
def test_a_memory_answers_when_the_text_is_gone(backbone: Backbone, name: str) -> None:
    said = answers(name, backbone)
    assert all(TOLD not in one.prompt for one in said)
    assert right(said) >= 2
    assert said[0].cost.write_tokens > 60
    assert said[0].cost.stored_bytes == backbone.empty(name).nbytes


def test_a_memory_beside_the_full_text(backbone: Backbone) -> None:
    said = answers("multi+context", backbone)
    assert all(TOLD in one.prompt for one in said)
    assert right(said) >= 3


def test_an_empty_memory_is_the_bare_backbone(backbone: Backbone) -> None:
    empty, none = answers("empty", backbone), answers("none", backbone)
    assert [one.text for one in empty] == [one.text for one in none]


def test_shuffled_reads_what_it_is_given(backbone: Backbone) -> None:
    assert build_method("shuffled", backbone).stranger
    strange = answers("shuffled", backbone, read=ITEMS[3])
    assert [one.text for one in strange] == [one.text for one in answers("multi", backbone, read=ITEMS[3])]
    assert right(strange) < right(answers("multi", backbone))


def test_noise_has_the_norms_of_the_memory(backbone: Backbone) -> None:
    state = backbone.write("multi", FOUR.history)  # type: ignore[arg-type]
    noise = noise_like(state, 5)
    torch.testing.assert_close(noise.norms(), state.norms())
    assert not torch.equal(noise.states[0], state.states[0])
    assert all(torch.equal(a, b) for a, b in zip(noise.states, noise_like(state, 5).states, strict=True))
    assert right(answers("noise", backbone)) <= 1


def test_hybrids_know_what_either_part_knows(backbone: Backbone) -> None:
    memory, prompt, state = (answers(name, backbone) for name in ("multi", "hybrid", "hybrid_state"))
    assert all(TOLD not in one.prompt for one in state)
    assert any(len(one.prompt) > len(other.prompt) for one, other in zip(prompt, memory, strict=True))
    for one, other in zip(state, memory, strict=True):
        assert (one.cost.prompt_tokens > other.cost.prompt_tokens) == bool(one.notes["retrieved"])
    assert min(right(prompt), right(state)) >= 3


def test_observing_twice_is_observing_more(backbone: Backbone) -> None:
    method = build_method("multi", backbone)
    assert isinstance(method, StateMemory)
    method.reset(0)
    method.observe(FOUR.history[:4])
    method.observe(FOUR.history[4:])
    assert right(method.answer(asks(FOUR, backbone))) >= 3
    method.reset(0)
    assert right(method.answer(asks(FOUR, backbone))) == 0


def test_retrieval_brings_back_as_many_units_as_chosen_of_the_size_chosen(backbone: Backbone) -> None:
    """With room for everything, larger units and more of them show more of the history."""
    shown = {}
    for turns, unit in ((1, 0), (3, 0), (1, 60), (1, 10_000)):
        found = answers("bm25", backbone, ITEMS[2], options=MethodOptions(turns=turns, unit=unit))
        assert all(len(answer.notes["retrieved"]) <= turns for answer in found)
        shown[turns, unit] = sum(answer.cost.prompt_tokens for answer in found)
    assert shown[1, 0] < shown[3, 0] < shown[1, 10_000]
    assert shown[1, 0] < shown[1, 60] < shown[1, 10_000]


def test_names(backbone: Backbone) -> None:
    names = default_methods(backbone)
    assert {"none", "full", "bm25", "multi", "token+context", "empty", "shuffled", "noise"} <= set(names)
    assert build_method("shuffled:token", backbone).adapter == "token"  # type: ignore[attr-defined]
    for wrong in ("other", "bm25:multi", "multi+text", "static"):
        with pytest.raises(ValueError, match="There is no method"):
            build_method(wrong, backbone)
    with pytest.raises(ValueError, match="not loaded"):
        build_method("shuffled:other", backbone)


def test_static_adapters_take_their_places_in_the_table() -> None:
    token = str(files("deltamem.demo").joinpath("assets", "adapters", "token"))
    control = embedded_backbone([token, f"token={token}"])
    assert default_methods(control)[-2:] == ("static", "static-token")
    assert {"empty:token", "shuffled:segment"} <= set(default_methods(control))
    assert build_method("static", control).adapter == "static"  # type: ignore[attr-defined]
    assert build_method("static-token", control).adapter == "static-token"  # type: ignore[attr-defined]
    assert build_method("shuffled", control).adapter == "multi"  # type: ignore[attr-defined]
    assert all(map(is_control, ("static", "static-token", "static-token+context", "empty:token")))
    assert describe_method("static-token") == "control: trained on strangers' memories (token)"
    assert "--static-adapter segment=FOLDER" in lacking("static-segment", control, MethodOptions())
