"""LLMLingua-2 keeps the words that its classifier calls telling, and the borders between turns."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from deltamem.cli.main import main
from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Ask, Decoding, Document, Entry, Question, as_messages
from deltamem_lab.methods import MethodOptions, build_method, describe_method, lacking
from deltamem_lab.methods.llmlingua2.classifier import build_tokenizer, windows_of
from deltamem_lab.methods.llmlingua2.labels import Asked, common_words, label, telling_spans
from deltamem_lab.methods.llmlingua2.method import LLMLingua2
from deltamem_lab.suites import TRAININGS

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

    folder = tmp_path_factory.mktemp("models") / "tiny"
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


def test_a_classifier_is_known_by_its_weights_wherever_it_lies(
    backbone: Backbone, classifier: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(classifier, tmp_path / "copy")
    known, same, other = (LLMLingua2("llmlingua2", backbone, str(place)) for place in (classifier, copy, "owner/name"))
    assert known.fingerprint == same.fingerprint != other.fingerprint
    assert other.fingerprint == "owner/name"


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


def test_a_classifier_of_another_kind_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertForTokenClassification

    build_tokenizer(["a word"], 300).save_pretrained(tmp_path)
    shape = DistilBertConfig(vocab_size=300, dim=8, hidden_dim=8, n_layers=1, n_heads=1)
    DistilBertForTokenClassification(shape).save_pretrained(tmp_path)
    method = LLMLingua2("llmlingua2", backbone, str(tmp_path))
    method.reset(0)
    with pytest.raises(ValueError, match="of the kind 'distilbert'; llmlingua knows bert and xlm-roberta"):
        method.observe(HISTORY)


def test_telling_is_what_questions_take_up_save_what_all_share() -> None:
    asked = [
        Asked("My dog is called Rex. It is May.", ("What is my dog called? Rex.",)),
        Asked("We flew to Lisbon.", ("What is the city? Lisbon.", "What is far? Nothing.")),
    ]
    common = common_words(asked, 0.5)
    assert common == {"what", "is"}
    words = [asked[0].history[start:end] for start, end in telling_spans(asked[0], common)]
    assert words == ["My", "dog", "called", "Rex"]
    # A piece is telling that lies in a telling word; a special one, which lies nowhere, is not.
    assert label([(0, 0), (0, 2), (2, 4), (4, 5), (6, 8), (8, 12)], [(0, 4), (8, 12)]) == [0, 1, 1, 0, 0, 1]


def test_long_histories_are_learned_in_windows() -> None:
    asked = Asked("the dog is Rex " * 400, ("Rex",))
    tokenizer = build_tokenizer([asked.history], 300)
    windows = list(windows_of(asked, tokenizer, frozenset()))
    assert [len(window.ids) for window in windows][:-1] == [512] * (len(windows) - 1)
    words = [tokenizer.decode(window.ids[window.labels == 1].tolist()) for window in windows]
    assert {word for part in words for word in part.split()} == {"Rex"}
    assert sum(part.count("Rex") for part in words) == 400


def test_the_command_trains_a_classifier_that_compresses(
    backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (training,) = (one for one in TRAININGS if one.method == "compression")
    assert training.recipe is not None
    values = yaml.safe_load(training.recipe(tmp_path))
    values["data"]["options"] |= {"steps": 8, "episodes": 16, "max_facts": 2, "plain": 0.0}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values), "utf-8")
    folder = tmp_path / "classifier"
    sizes = ["--width", "32", "--layers", "1", "--steps", "40", "--rate", "1e-2", "--pieces", "2000", "--texts", "128"]
    with pytest.raises(SystemExit) as left:
        main(["baseline", "compression", str(recipe), "--output", str(folder), *sizes])
    assert not left.value.code
    assert f"--compressor {folder}" in capsys.readouterr().out
    record = json.loads((folder / "training.json").read_text("utf-8"))
    assert (record["texts"], len(record["losses"])) == (128, 40)
    assert record["losses"][-1] < record["losses"][0] / 2
    # It is no classifier of the publication's, and is not called one.
    options = MethodOptions(compressor=str(folder))
    assert lacking("compression", backbone, options) == ""
    assert "the method compression uses it" in lacking("llmlingua2", backbone, options)
    assert describe_method("compression") == "compression (own classifier)"
    method = build_method("compression", backbone, options)
    assert isinstance(method, LLMLingua2)
    method.reset(0)
    method.observe([{"role": "user", "content": "My favourite colour is blue."}])
    assert "blue" in str(method._kept)
    assert method.stored_bytes < len("My favourite colour is blue.")
