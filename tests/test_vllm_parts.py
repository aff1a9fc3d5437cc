"""The parts of the plugin for vLLM that need no vLLM: what a request says, and the rings of those that run."""

import ast
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from torch import Tensor

import deltamem
import tiny
from deltamem.formats.state import state_to_bytes
from deltamem.ops.packed import PASSES, READS, WRITES
from deltamem.vllm import check
from deltamem.vllm.request import MemoryRequest, stacked, unstacked
from deltamem.vllm.rings import MemoryLostError, Rings
from deltamem.vllm.routes import Refusals

LAYERS, STATES, RANK = 2, 1, 3


def rings(speculated: int = 0) -> Rings:
    made = Rings(LAYERS, STATES, RANK, requests=2, speculated=speculated)
    made.set_pages(10)
    return made


def memory(value: float) -> Tensor:
    return torch.full((LAYERS, STATES, RANK, RANK), value)


def flags(prompt: int, write: bool | bytes = True) -> Tensor:
    return MemoryRequest(write=write).flags(prompt)


def step(rings: Rings, *fed: tuple[int, int, int]) -> Any:
    """A step that feeds requests: their first page, how many tokens they had, how many more they are fed."""
    pages, had, more = (torch.tensor(column, dtype=torch.int32) for column in zip(*fed, strict=True))
    starts = torch.cat([torch.zeros(1, dtype=torch.int32), more.cumsum(0, dtype=torch.int32)])
    batch = rings.batch(SimpleNamespace(block_table=pages[:, None], query_start_loc=starts, seq_lens=had + more))
    for slot, count, start, end in zip(batch.slots, batch.counts, starts[:-1], starts[1:], strict=True):
        for place in range(int(end - start)):  # a scan that counts what is written
            before, after = ((int(count) + place + n) % rings.places for n in (0, 1))
            writes = batch.writes[int(start) + place] == WRITES
            rings.values[:, slot, after] = rings.values[:, slot, before] + writes
    return batch


def test_requests_of_a_batch_have_rings_of_their_own():
    held = rings()
    held.begin(1, 4, memory(10), flags(5), "a")
    held.begin(2, 7, None, flags(2, bytes([1, 0])), "b", written=3)
    assert step(held, (7, 0, 2), (4, 0, 3)).writes.tolist() == [WRITES, PASSES, *[WRITES] * 3]
    step(held, (4, 3, 2), (7, 2, 1))
    step(held, (4, 5, 1))
    held.keep("a", 6)
    assert torch.equal(held.take("a", 6).value, memory(16))
    taken = held.take("b", 3)  # before the step that keeps it
    assert torch.equal(taken.value, memory(1))
    assert (taken.fed, taken.written) == (3, 4)
    with pytest.raises(MemoryLostError, match="taken before"):
        held.take("a", 6)


def test_a_token_too_many_is_taken_back():
    held = rings(speculated=2)
    held.begin(1, 4, None, flags(3), "a")
    step(held, (4, 0, 3))
    step(held, (4, 3, 3))  # one token and two drafts, of which the last is refused
    step(held, (4, 5, 3))
    held.keep("a", 5)
    assert torch.equal(held.take("a", 5).value, memory(5))


def test_a_preempted_request_begins_again():
    held = rings()
    held.begin(1, 4, memory(10), flags(3), "a")
    step(held, (4, 0, 3))
    held.begin(1, 6, memory(10), flags(3), "a")
    held.begin(2, 4, None, flags(1), None)  # its page is another's now
    step(held, (6, 0, 4), (4, 0, 1))
    held.keep("a", 4)
    assert torch.equal(held.take("a", 4).value, memory(14))


def test_a_memory_that_is_not_there_fails_its_request_alone():
    held = rings()
    held.begin(1, 4, None, flags(3), "a")
    held.begin(2, 5, None, flags(3), "b")
    held.refuse(3, 6, "nonsense", "c")
    step(held, (4, 7, 1), (5, 0, 3), (6, 0, 2))
    assert held.lost == {4, 6}
    for ticket, problem in (("a", "continues after 7 tokens"), ("c", "nonsense")):
        with pytest.raises(MemoryLostError, match=problem):
            held.take(ticket, 8)
    assert torch.equal(held.take("b", 3).value, memory(3))
    held.begin(1, 4, None, flags(1), "d")
    held.drop("d")
    with pytest.raises(MemoryLostError):
        held.take("d", 0)


def test_what_a_request_says_comes_back_and_nonsense_is_refused():
    model = tiny.adapted("qwen3")
    state = tiny.live_state(model)
    fingerprint, shape = deltamem.adapter_fingerprint(model), (3, 1, 4, 4)
    said = MemoryRequest(state_to_bytes(state, model), bytes([1, 0, 1]), "t")
    assert MemoryRequest.of(said.params()) == said
    value, written = said.read_state(fingerprint, shape)
    assert value is not None
    assert torch.equal(value, torch.cat(state.states))
    assert written == int(state.tokens[0])
    assert said.flags(3).tolist() == [WRITES, PASSES, WRITES, READS]
    assert MemoryRequest(write=True).flags(2).tolist() == [WRITES] * 3
    assert MemoryRequest().flags(2).tolist() == [READS] * 3
    with pytest.raises(ValueError, match="another adapter"):
        said.read_state("0" * 64, shape)
    with pytest.raises(ValueError, match=r"the adapter wants 2"):
        said.read_state(fingerprint, (2, 1, 4, 4))
    with pytest.raises(ValueError, match="damaged"):
        MemoryRequest(b"no file").read_state(fingerprint, shape)


def test_a_memory_with_addresses_of_two_tokens_comes_back():
    state = tiny.live_state(tiny.adapted("qwen3", key_tokens=2, states=2))
    before = tuple(torch.randn(adds.shape) for adds in state.before or ())
    state = replace(state, before=before, tokens=torch.tensor([7]))
    tensor = stacked(state, (3, 2, 5, 4))
    tiny.assert_same_state(unstacked(tensor, torch.tensor([7])), state, 0)
    with pytest.raises(ValueError, match="nothing else to be pending"):
        stacked(state, (3, 2, 4, 4))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"n": 2}, "n is 1, not 2"),
        ({"n": "2"}, "n is 1, not '2'"),
        ({"sampling_params": {"n": 3}}, "n is 1, not 3"),
        ({"prompt": ["one", "two"]}, "there are 2 prompts"),
        ({"prompt": [[5], [6]]}, "there are 2 prompts"),
        ({"use_beam_search": True}, "no memory"),
        ({"kv_transfer_params": {"deltamem": {"tickets": "a"}}}, "not ['tickets']"),
    ],
)
def test_a_request_to_vllms_server_whose_memory_would_be_wrong_never_reaches_it(more: dict[str, Any], said: str):
    reached = []
    app = FastAPI()
    app.add_middleware(Refusals)

    @app.post("/v1/completions")
    async def complete(request: Request) -> None:
        reached.append(await request.json())

    body = {"prompt": [5, 6], "kv_transfer_params": {"deltamem": {"ticket": "a"}}}
    with TestClient(app) as client:
        refused = client.post("/v1/completions", json=body | more)
        assert refused.status_code == 400
        assert said in refused.json()["error"]["message"]
        assert reached == []
        fine = [body, body | {"n": 1}, {"prompt": ["one", "two"], "n": 2, "kv_transfer_params": {"deltamem": {}}}]
        fine += [{**more, "kv_transfer_params": None}, {**more, "kv_transfer_params": {"another": {"ticket": "a"}}}]
        for each in fine:
            assert client.post("/v1/completions", json=each).status_code == 200
        assert reached == fine
        with pytest.raises(json.JSONDecodeError):  # passed on as it is
            client.post("/v1/completions", content=b'{"kv_transfer_params": ')


def test_without_vllm_the_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    from deltamem.vllm import engine

    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    hollow = engine.open_hollow("embedded", "multi")
    with pytest.raises(ValueError, match=r"vLLM is not installed here.*docs/vllm\.md"):
        engine.vllm_engine("embedded", "multi")(*hollow, None, watch=lambda *_: None, delivered=lambda: None)


def test_the_check_at_the_start_knows_all_that_is_imported_of_vllm():
    known = check._LEANT_ON | check._LEANT_ON_IN_FRONT
    imported = set()
    for file in Path(check.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                imported |= {f"{node.module}:{name.name}" for name in node.names}
    assert len(imported) > 10
    assert imported <= set(known)
