"""The embedded backbone as shipped: loads offline, is small, recalls from its window, admits what it was not told."""

import random
import socket
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from deltamem.demo.backbone import CurriculumStage, curriculum, learning_rate, load_backbone
from deltamem.demo.incontext import Probe, answered_exactly
from deltamem.demo.lessons import WINDOW, LessonTokens, sample_lesson
from deltamem.demo.lexicon import lexicon
from deltamem.demo.world import UNKNOWN, chat, sample_dialogue, unanswerable_question


@pytest.fixture(scope="module")
def backbone():
    return load_backbone()


def test_loads_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model, tokenizer = load_backbone()
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32
    assert tokenizer.eos_token == "<|im_end|>" != tokenizer.pad_token


def test_is_small(backbone) -> None:
    model, tokenizer = backbone
    assets = files("deltamem.demo").joinpath("assets")
    assert sum(Path(str(file)).stat().st_size for file in assets.iterdir() if file.is_file()) < 4_000_000
    assert 1_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.max_position_embeddings == WINDOW


def test_weights_are_exact_in_bfloat16(backbone) -> None:
    model, _ = backbone
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in model.parameters())


def test_tokenizer_gives_back_every_sentence(backbone) -> None:
    _, tokenizer = backbone
    rng = random.Random(0)
    for _ in range(100):
        text = tokenizer.apply_chat_template([turn.message.to_dict() for turn in sample_lesson(rng, 8)], tokenize=False)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for text in ("Lisbon.", "naïve – 日本", "two\nlines"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_template_is_chatml(backbone) -> None:
    _, tokenizer = backbone
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello!"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"


def test_a_value_is_the_same_tokens_wherever_it_stands(backbone) -> None:
    _, tokenizer = backbone
    values = [value for attribute in lexicon().attributes.values() for value in attribute.values]
    lengths = []
    for value in values:
        alone = tokenizer.encode(value)
        assert tokenizer.encode(f"It is {value}.")[2:-1] == alone
        lengths.append(len(alone))
    assert sum(length <= 2 for length in lengths) > 0.95 * len(values)


def test_lessons_are_encoded_as_the_template_does(backbone) -> None:
    _, tokenizer = backbone
    lesson = sample_lesson(random.Random(3), 4)
    text = tokenizer.apply_chat_template([turn.message.to_dict() for turn in lesson], tokenize=False)
    assert list(LessonTokens(tokenizer).encode(lesson).ids) == tokenizer.encode(text)[:WINDOW]


def probes(facts: int, count: int) -> list[Probe]:
    rng = random.Random(11)
    found = []
    while len(found) < count:
        dialogue = sample_dialogue(rng, facts=facts, corrections=facts // 4, split="test")
        found += [Probe(dialogue.messages, asked.ask, asked.answer) for asked in dialogue.questions[:4]]
    return found[:count]


@pytest.mark.parametrize("facts", [1, 4, 8])
def test_answers_from_its_window(backbone, facts: int) -> None:
    right = answered_exactly(*backbone, probes(facts, 60))
    assert sum(right) >= 0.97 * len(right)


def test_says_when_it_was_not_told(backbone) -> None:
    rng = random.Random(12)
    asked = []
    for facts in (0, 1, 4) * 20:
        dialogue = sample_dialogue(rng, facts=facts, split="test")
        unknown = unanswerable_question(rng, dialogue.facts, dialogue.people, "test")
        asked.append(Probe(dialogue.messages, unknown.ask, UNKNOWN))
    right = answered_exactly(*backbone, asked)
    assert sum(right) >= 0.95 * len(right)


def test_one_pass_agrees_with_generate(backbone) -> None:
    model, tokenizer = backbone
    probe = probes(2, 1)[0]
    chat_so_far = [message.to_dict() for message in probe.history] + [{"role": "user", "content": probe.ask}]
    prompt = tokenizer.apply_chat_template(chat_so_far, add_generation_prompt=True, return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    reply = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert (reply == probe.answer) == answered_exactly(model, tokenizer, [probe])[0]


def test_a_probe_beyond_the_window_is_an_error(backbone) -> None:
    history = tuple(chat(random.Random(0), 40))
    with pytest.raises(ValueError, match="window"):
        answered_exactly(*backbone, [Probe(history, "Where do I live?", UNKNOWN)])


def test_training_starts_plain_and_ends_long() -> None:
    assert curriculum(0.0) == CurriculumStage(max_facts=3, plain=True, batch_tokens=1024)
    assert curriculum(1.0) == CurriculumStage(max_facts=16, plain=False, batch_tokens=4096)
    assert learning_rate(0, 1000) < learning_rate(99, 1000) > learning_rate(999, 1000) > 0
