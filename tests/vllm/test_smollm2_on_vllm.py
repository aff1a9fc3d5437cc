"""The real chat model, where it has been pulled: on vLLM it answers and remembers as on the own engine."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from serving import PATIENCE_S, SECRET, running
from talk import content, make_vllm_server, matrices, say

import deltamem
from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.store import SessionStore

PULLED = Path(os.environ["DELTAMEM_TESTS_PULLED"])
pytestmark = pytest.mark.skipif(
    not (PULLED / "models" / "smollm2" / "config.json").exists(), reason="smollm2 has not been pulled"
)


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[httpx.Client]]:
    """One over vLLM, and one over the own engine."""
    monkeypatch.setenv("DELTAMEM_HOME", str(PULLED))
    model, tokenizer = deltamem.load_model("smollm2", "multi")
    own = Server(model, tokenizer, SessionStore.open("sqlite://"), Settings(secret=SECRET, model_name="demo"))
    with (
        running(make_vllm_server("sqlite://", "smollm2")) as first,
        running(own) as second,
        httpx.Client(base_url=first, timeout=PATIENCE_S) as over_vllm,
        httpx.Client(base_url=second, timeout=PATIENCE_S) as over_own,
    ):
        yield [over_vllm, over_own]


def test_what_was_told_is_recalled_and_all_is_as_with_the_own_engine(clients: list[httpx.Client]):
    for text in ("My dog is called Bento.", "What is my dog called?"):
        answers = [say(client, "dog", text, logprobs=True) for client in clients]
        assert content(answers[0]) == content(answers[1])
        chances = [[one["logprob"] for one in answer["choices"][0]["logprobs"]["content"]] for answer in answers]
        assert chances[0] == pytest.approx(chances[1], abs=1e-4)
    assert "Bento" in content(answers[0])
    mine, theirs = (matrices(client, "dog") for client in clients)
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
