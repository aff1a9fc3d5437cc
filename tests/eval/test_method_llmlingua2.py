"""LLMLingua-2 keeps the words that its classifier calls telling, and the borders between turns."""

import random
from pathlib import Path

import pytest
import torch

from deltamem.eval.backbone import Backbone
from deltamem.eval.interface import Ask, Decoding, Document, Entry, Question, as_messages
from deltamem.eval.methods import MethodOptions, build_method
from deltamem.eval.methods.llmlingua2 import LLMLingua2

pytest.importorskip("llmlingua")

TELLING = ["rex", "lisbon", "may", "dog"]
OTHERS = ["the", "is", "called", "we", "flew", "to", "in", "my", "and", "then"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HISTORY: list[Entry] = [
    {"role": "user", "content": "my dog is called rex and then the"},
    {"role": "assistant", "content": "then the and my is"},
    Document("we flew to lisbon in may", title="A journey", date="3 May, 2023"),
]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token classifier of one matrix, which tells telling words from others."""
    from transformers import BertConfig, BertForTokenClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("models") / "bert-base-multilingual-cased-tiny"
    vocabulary = [*SPECIAL, *TELLING, *OTHERS, "<", ">", "entry", "?", "."]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=0, num_attention_heads=1, num_labels=2
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        for weight in (model.bert.embeddings.position_embeddings.weight, model.classifier.weight):
            weight.zero_()
        model.bert.embeddings.token_type_embeddings.weight.zero_()
        words = model.bert.embeddings.word_embeddings.weight
        for number, word in enumerate(vocabulary):
            words[number] = torch.eye(8)[0 if word in TELLING else 1]
        model.classifier.weight[1, 0] = 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ask(text: str) -> Ask:
    question = Question("0", text, ("",))
    return Ask(question, lambda shown, _: [*as_messages(shown), {"role": "user", "content": text}], Decoding(4))


def test_telling_words_are_kept_with_roles_titles_and_dates(backbone: Backbone, classifier: Path) -> None:
    method = build_method("llmlingua2", backbone, MethodOptions(compressor=str(classifier)))
    assert isinstance(method, LLMLingua2)
    before = torch.random.get_rng_state(), random.getstate()
    method.reset(0)
    method.observe(HISTORY)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert method._kept == [
        {"role": "user", "content": "dog rex"},
        {"role": "assistant", "content": ""},
        Document("lisbon may", title="A journey", date="3 May, 2023"),
    ]
    said = method.answer([ask("What is the dog called?")])[0]
    assert "dog rex" in said.prompt
    assert "flew" not in said.prompt
    assert 0 < said.notes["kept_words"] < 0.6
    # 8 + 5 + 6 words, and two borders of three pieces each.
    assert said.cost.write_tokens == 19 + 6
    assert said.cost.stored_bytes == len("dog rex" + "3 May, 2023\nA journey\nlisbon may")
    method.reset(0)
    method.observe([])
    assert method.answer([ask("What is the dog called?")])[0].cost.stored_bytes == 0


def test_a_larger_share_keeps_more(backbone: Backbone, classifier: Path) -> None:
    kept = []
    for rate in (0.1, 0.33, 1.0):
        method = LLMLingua2("llmlingua2", backbone, str(classifier), rate)
        method.reset(0)
        method.observe([*HISTORY, Document("we flew to " * 400 + "<entry> rex")])
        kept.append(method.stored_bytes)
        assert len(method._kept) == 4
        assert "rex" in str(method._kept[3])
    assert kept[0] <= kept[1] < kept[2]


def test_a_classifier_that_is_not_there_is_named(backbone: Backbone, tmp_path: Path) -> None:
    method = LLMLingua2("llmlingua2", backbone, str(tmp_path / "nowhere"))
    method.reset(0)
    with pytest.raises(OSError, match="nowhere"):
        method.observe(HISTORY)
