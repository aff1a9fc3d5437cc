import httpx
import pytest
import torch
from scripts import benchmark
from serving import make_server, running

from deltamem.attach import attached
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.serve.engine.batch import RowBatch
from deltamem.serve.engine.jobs import Row, Ticket
from deltamem.serve.engine.sampling import Sampling
from deltamem.serve.engine.text import TextStream
from deltamem.store import ApiKeys


def test_sessions_that_are_served_together_learn_nothing_of_one_another() -> None:
    isolation = benchmark("isolation")
    report = isolation.measure(sessions=12, tenants=4, turns=36, rounds=2)
    assert isolation.isolated(report), report
    assert report["turns"] == 2 * 36
    assert report["states_compared"] == 2 * (36 + 12)
    # They are told facts that the backbone can keep, so a canary that were nowhere would be a test of nothing.
    assert report["canaries_recalled"] >= 0.9 * report["canaries_asked_for"] > 10


ROUTES = [
    ("GET", "", None),
    ("GET", "/memory", None),
    ("GET", "/timeline", None),
    ("GET", "/messages", None),
    ("GET", "/export", None),
    ("GET", "/export?format=file", None),
    ("PATCH", "", {"label": "mine now"}),
    ("POST", "/fork", {"session": "stolen"}),
    ("POST", "/rollback", {"version": 1}),
    ("POST", "/freeze", {}),
    ("DELETE", "", None),
]


def test_another_tenants_session_is_not_there_by_any_route() -> None:
    server = make_server(require_keys=True)
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as http:
        made = {tenant: ApiKeys(server.store).create(tenant).secret for tenant in ("acme", "rival")}
        keys = {tenant: {"Authorization": f"Bearer {secret}"} for tenant, secret in made.items()}
        http.post("/v1/sessions/ravi/observe", json={"text": "I live in Lisbon."}, headers=keys["acme"])
        exported = http.get("/v1/sessions/ravi/export", headers=keys["acme"]).json()["state"]
        before = server.store.load("acme", "ravi")
        for method, path, body in ROUTES:
            there = http.request(method, f"/v1/sessions/ravi{path}", json=body, headers=keys["rival"])
            nowhere = http.request(method, f"/v1/sessions/nobody{path}", json=body, headers=keys["rival"])
            assert there.status_code == nowhere.status_code == 404, (method, path)
            assert there.text == nowhere.text.replace("nobody", "ravi")
        ask = {"messages": [{"role": "user", "content": "Where do I live?"}], "temperature": 0}
        for memory in ({"session": "ravi", "mode": "read_only"}, {"session": "ravi", "must_exist": True}):
            reply = http.post("/v1/chat/completions", json=ask | {"memory": memory}, headers=keys["rival"])
            assert reply.status_code == 404
        carried = http.post("/v1/chat/completions", json=ask | {"memory": {"state": exported}}, headers=keys["rival"])
        assert (carried.status_code, carried.json()["error"]["code"]) == (400, "invalid_state")
        taken = http.post("/v1/sessions/ravi/import", json={"state": exported}, headers=keys["rival"])
        assert taken.status_code == 400
        assert http.get("/v1/sessions", headers=keys["rival"]).json()["data"] == []
        # The same name is another session: what is written to it changes nothing of the first.
        told = http.post("/v1/sessions/ravi/observe", json={"text": "I live in Rome."}, headers=keys["rival"])
        assert told.json()["version"] == 2
        after = server.store.load("acme", "ravi")
        assert (after.number, after.state) == (before.number, before.state)
        mine = http.post("/v1/chat/completions", json=ask | {"memory": {"session": "ravi"}}, headers=keys["acme"])
        assert mine.json()["choices"][0]["message"]["content"] == "Lisbon."


def test_a_neighbour_that_leaves_harms_nobody() -> None:
    server = make_server()
    said = [{"role": "user", "content": "I live in Lisbon."}]
    turn = {"messages": said, "temperature": 0, "max_tokens": 6, "ignore_eos": True}
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as http:
        http.post("/v1/chat/completions", json=turn | {"memory": {"session": "alone"}}).raise_for_status()
        for number in range(3):
            endless = turn | {"max_tokens": 400, "stream": True, "memory": {"session": f"left{number}"}}
            with http.stream("POST", "/v1/chat/completions", json=endless) as left:
                next(left.iter_lines())
                beside = turn | {"memory": {"session": f"beside{number}"}}
                http.post("/v1/chat/completions", json=beside).raise_for_status()
    # The server has finished what it took in; what was left before its end was never written.
    assert not server.engine.alive


@pytest.mark.parametrize("fed", [(), (0,), (1,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_rows_leave_a_batch_before_and_after_they_are_fed(fed: tuple[int, ...], gone: int) -> None:
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    state = attached(model).new_state(1)
    prompts = [
        tokenizer(text)["input_ids"]
        for text in ("I live in Lisbon, and you?", "My pet is a big red dog.", "In Rome we eat pizza.")
    ]

    def row(ids: list[int]) -> Row:
        how = Sampling(max_tokens=4, temperature=0)
        return Row(
            Ticket(lambda event: None, None), state, list(ids), len(ids), how, how.draws(), TextStream(tokenizer)
        )

    with torch.inference_mode():
        rows, batch = [row(ids) for ids in prompts], RowBatch(model, 512)
        for number in sorted(range(3), key=lambda number: number not in fed):
            batch.add(rows[number])
            if number in fed:
                batch.feed(1)
        batch.remove(rows[gone])
        left = [number for number in range(3) if number != gone]
        logits: dict[int, torch.Tensor] = {}
        while len(logits) < 2:
            ready, last = batch.feed(4)
            for place, done in enumerate(ready):
                assert last is not None
                logits[rows.index(done)] = last[place]
                batch.remove(done)
        for number in left:
            alone = RowBatch(model, 512)
            alone.add(row(prompts[number]))
            _, expected = alone.feed(512)
            assert expected is not None
            torch.testing.assert_close(logits[number], expected[0], atol=1e-4, rtol=0)
