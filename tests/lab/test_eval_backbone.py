"""Batches, shared beginnings and sampling leave every answer what it is alone."""

from dataclasses import replace

import pytest

from deltamem.attach import attached
from deltamem.chat import Message
from deltamem.formats.hub import add_adapter
from deltamem.train.module import gather_adapter
from deltamem_lab.backbone import Backbone, Generated
from deltamem_lab.interface import Budget, Decoding, Item, as_messages
from deltamem_lab.loading import embedded_backbone
from deltamem_lab.tasks.world import WorldTask

GREEDY = Decoding(12)
BUDGET = Budget(None, len)
TASK = WorldTask()
ITEM = list(TASK.items("world", 3))[2]


def prompts(item: Item, *, text: bool) -> list[list[Message]]:
    return [TASK.prompt(item, q, item.history if text else (), "world", BUDGET) for q in item.questions]


def texts(said: list[Generated]) -> list[str]:
    return [one.text for one in said]


@pytest.mark.parametrize("adapter", [None, "multi", "segment"])
def test_a_batch_with_a_shared_beginning_answers_as_one_by_one(backbone: Backbone, adapter: str | None) -> None:
    asked = prompts(ITEM, text=True)
    together = backbone.generate(asked, GREEDY, adapter=adapter, write=adapter is not None)
    alone = [backbone.generate([one], GREEDY, adapter=adapter, write=adapter is not None)[0] for one in asked]
    assert together == alone
    assert len(set(texts(together))) > 2
    assert together[0].prompt_tokens == backbone.length(asked[0])


def test_what_a_segment_is_depends_on_the_adapter_that_writes_and_no_other() -> None:
    backbone = embedded_backbone()
    attachment = attached(backbone.model)
    attachment.activate("segment")
    messages = gather_adapter(backbone.model)
    add_adapter(backbone.model, replace(messages, config=replace(messages.config, write="sentence")), "sentence")
    asked = prompts(ITEM, text=True)
    for adapter in ("segment", "sentence"):
        said = []
        for active in ("segment", "sentence"):
            attachment.activate(active)
            said.append(texts(backbone.generate(asked, GREEDY, adapter=adapter, write=True)))
        assert said[0] == said[1]


def test_every_prompt_can_have_a_memory_of_its_own(backbone: Backbone) -> None:
    full = backbone.write("multi", as_messages(ITEM.history))
    state = type(full).stack([full, backbone.empty("multi")])
    asked = prompts(ITEM, text=False)[0]
    told, empty = texts(backbone.generate([asked, asked], GREEDY, adapter="multi", state=state))
    assert told == ITEM.questions[0].answers[0]
    assert told != empty == backbone.generate([asked], GREEDY)[0].text


def test_reading_does_not_change_the_memory(backbone: Backbone) -> None:
    state = backbone.write("multi", as_messages(ITEM.history))
    before = [matrices.clone() for matrices in state.states]
    backbone.generate(prompts(ITEM, text=False), GREEDY, adapter="multi", state=state, write=True)
    assert all((now == then).all() for now, then in zip(state.states, before, strict=True))


def test_sampling_is_each_questions_own(backbone: Backbone) -> None:
    asked = prompts(ITEM, text=False)
    decoding = Decoding(8, temperature=3.0, seed=7)
    together = texts(backbone.generate(asked, decoding))
    assert together == [backbone.generate([one], decoding)[0].text for one in asked]
    assert together != texts(backbone.generate(asked, Decoding(8, temperature=3.0, seed=8)))


def test_a_prompt_beyond_the_positions_is_an_error(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="longer than this backbone can read"):
        backbone.generate([[{"role": "user", "content": "hello " * 600}]], GREEDY)


def test_an_unknown_adapter_is_an_error(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="no adapter 'other'"):
        backbone.generate([[{"role": "user", "content": "hello"}]], GREEDY, adapter="other")
