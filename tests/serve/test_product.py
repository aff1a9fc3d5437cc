"""The server behind the interface of memory products."""

import pytest
from serving import make_server, running

from deltamem_lab.interface import Ask, Budget, Decoding, Question, as_text
from deltamem_lab.loading import embedded_backbone
from deltamem_lab.methods import MethodOptions, build_method
from deltamem_lab.products import DeltaMemServer, searched


@pytest.fixture(scope="module")
def address():
    with running(make_server()) as url:
        yield url


def test_what_a_user_said_is_found_by_asking_the_memory(address):
    product = DeltaMemServer(address)
    product.add([{"role": "user", "content": "I live in Lisbon."}], user_id="ada/1")
    assert searched(product, "Where do I live?", "ada/1", 3) == ["Lisbon."]
    assert searched(product, "Where do I live?", "bruno", 3) == []
    sure = DeltaMemServer(address, threshold=1.0)
    assert searched(sure, "Where do I live?", "ada/1", 3) == []
    product.delete_all(user_id="ada/1")
    assert searched(product, "Where do I live?", "ada/1", 3) == []
    with pytest.raises(ValueError, match="refuses to observe"):
        product.add([{"role": "user", "content": " "}], user_id="ada/1")


def test_the_server_is_a_method_of_the_evaluation(address, monkeypatch):
    backbone = embedded_backbone()
    monkeypatch.setenv("DELTAMEM_URL", address)
    method = build_method("product", backbone, MethodOptions(product="deltamem_lab.products:server"))
    method.reset(0)
    method.observe([{"role": "user", "content": "I live in Lisbon."}])

    def render(shown, budget: Budget):
        return [{"role": "user", "content": "\n".join([*map(as_text, shown), "Where do I live?"])}]

    (answer,) = method.answer([Ask(Question("q", "Where do I live?", ("Lisbon.",)), render, Decoding(8))])
    assert "Lisbon.\nWhere do I live?" in answer.prompt
