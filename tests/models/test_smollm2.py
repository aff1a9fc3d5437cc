"""The real model, where it has been pulled (``deltamem pull smollm2``, as ``make test`` does)."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import deltamem
from deltamem.models.catalog import MODELS

PULLED = Path(os.environ["DELTAMEM_TESTS_PULLED"])
pytestmark = pytest.mark.skipif(
    not (PULLED / "models" / "smollm2" / "config.json").exists(), reason="smollm2 has not been pulled"
)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTAMEM_HOME", str(PULLED))


@pytest.fixture(scope="module")
def bare() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELTAMEM_HOME", str(PULLED))
        start = time.process_time()
        loaded = deltamem.load_model("smollm2", adapter=None)
        assert time.process_time() - start < 20  # a second or two on an idle core
        return loaded


def test_it_is_a_chat_model_that_reads_its_window(bare: Any) -> None:
    model, tokenizer = bare
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    messages = [{"role": "user", "content": "My pet's name is Bento. What is my pet's name?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, do_sample=False, max_new_tokens=12)
    assert "Bento" in tokenizer.decode(out[0, ids["input_ids"].shape[1] :])


def test_a_fresh_adapter_leaves_it_as_it_is_and_the_memory_is_written(bare: Any) -> None:
    model, tokenizer = bare
    ids = tokenizer("I moved to Lisbon last spring.", return_tensors="pt").input_ids
    with torch.no_grad():
        before = model(ids).logits
        deltamem.attach(model, deltamem.DeltaMemConfig(states=4, init="zero"))
        try:
            assert torch.equal(model(ids).logits, before)
            state = deltamem.observe(model, ids)
        finally:
            deltamem.detach(model)
    assert state.nbytes == 30 * 4 * 8 * 8 * 4
    assert float(state.norms().min()) > 0


@pytest.mark.parametrize("name", list(MODELS["smollm2"].shipped()))
def test_a_shipped_adapter_is_small_and_changes_what_is_said(name: str) -> None:
    folder = MODELS["smollm2"].shipped()[name]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8 * 2**20
    model, tokenizer = deltamem.load_model("smollm2", name)
    session = deltamem.Session(model, tokenizer, window=0)
    session.observe("My dog is called Bento.")
    own = session.ask("What is my dog called?", do_sample=False, max_new_tokens=16)
    assert own != session.ask("What is my dog called?", memory=False, do_sample=False, max_new_tokens=16)


def test_of_an_answer_in_a_sentence_the_words_from_memory_are_known_and_their_turn_is_forgotten() -> None:
    model, tokenizer = deltamem.load_model("smollm2")
    session = deltamem.Session(model, tokenizer, window=0, keep_messages=True)
    for said in ("My dog is called Bento.", "The bus was late on Monday."):
        session.observe([{"role": "user", "content": said}, {"role": "assistant", "content": "Noted."}])
    (dog,) = session.recall(["What is my dog called?"], threshold=0)
    assert (dog.answer, dog.words) == ("Your dog is called Bento.", ("Bento",))
    assert session.forget(dog).turns == 1
    assert [turn.messages[0]["content"] for turn in session.kept if turn.messages] == ["The bus was late on Monday."]
