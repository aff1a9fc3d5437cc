"""Training episodes of the toy world: well formed, from the training split, and the same for the same step."""

import random
import re
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from deltamem.chat import encode_chat
from deltamem.demo.episodes import EpisodeSampler, Mix
from deltamem.demo.lessons import WINDOW, DialogueTokens
from deltamem.demo.tokenizer import build_tokenizer
from deltamem.demo.world import Utterance, chat


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def sampler(tokenizer: PreTrainedTokenizerFast) -> Callable[..., EpisodeSampler]:
    return lambda **fields: EpisodeSampler(tokenizer, Mix(**{"max_facts": 4, **fields}), steps=1600)


def test_a_chat_has_the_ids_and_segments_of_the_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [Utterance("user", "I live in Lisbon."), Utterance("assistant", "Noted.")]
    text = DialogueTokens(tokenizer).text([(messages[0], 0.0), (messages[1], 0.5)])
    expected = encode_chat(tokenizer, [message.to_dict() for message in messages])
    assert list(text.ids) == expected.input_ids[0].tolist()
    assert list(text.segments) == expected.segment[0].tolist()
    trained = [token for token, weight in zip(text.ids, text.weights, strict=True) if weight]
    assert tokenizer.decode(trained) == "Noted.<|im_end|>"


def test_a_message_longer_than_the_window_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    long = Utterance("user", "I live in Lisbon. " * WINDOW)
    with pytest.raises(ValueError, match="longer than the window"):
        DialogueTokens(tokenizer).passages([(long, 0.0)])


def test_an_exchange_is_the_prompt_of_the_question_and_the_answer_to_train(tokenizer: PreTrainedTokenizerFast) -> None:
    text = DialogueTokens(tokenizer).exchange([("Where do I live?", "Lisbon.")])
    prompt = encode_chat(tokenizer, [{"role": "user", "content": "Where do I live?"}], add_generation_prompt=True)
    length = prompt.input_ids.shape[1]
    assert list(text.ids[:length]) == prompt.input_ids[0].tolist()
    assert list(text.segments[:length]) == prompt.segment[0].tolist()
    assert text.weights == (0.0,) * length + (1.0,) * (len(text.ids) - length)
    assert tokenizer.decode(text.ids[length:]) == "Lisbon.<|im_end|>"


def test_a_chat_beyond_the_window_breaks_between_messages(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = DialogueTokens(tokenizer)
    turns = [(message, 0.0) for message in chat(random.Random(0), 60)]
    passages = tokens.passages(turns)
    assert len(passages) > 1
    assert all(len(passage.ids) <= WINDOW for passage in passages)
    assert [i for passage in passages for i in passage.ids] == list(tokens.text(turns).ids)
    assert tokens.passages([]) == ()


def test_a_step_always_gives_the_same_batch(sampler: Callable[..., EpisodeSampler]) -> None:
    one, other = sampler(), sampler()
    for step in (700, 3, 700):
        a, b = one[step], other[step]
        assert torch.equal(a.queries.ids, b.queries.ids)
        assert torch.equal(a.passages[0].ids, b.passages[0].ids)
        assert a.write_queries == b.write_queries
    assert not torch.equal(one[700].queries.ids, sampler()[701].queries.ids)


def test_training_begins_with_one_fact_and_its_question(sampler: Callable[..., EpisodeSampler]) -> None:
    batch = sampler(write_queries=0.0)[0]
    assert batch.episode_of.tolist() == list(range(len(batch.episode_of)))
    assert not any(passage.weights.any() for passage in batch.passages)


def test_dialogues_grow_to_the_most_facts(sampler: Callable[..., EpisodeSampler]) -> None:
    one = sampler(max_facts=9)
    counts = [one._max_facts(step / 1600) for step in range(1600)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert max(counts) == 9


def test_histories_of_a_cut_batch_are_written_in_two_passes(sampler: Callable[..., EpisodeSampler]) -> None:
    cut = sampler(plain=0.0, cut=1.0, long=0.0)[900]
    whole = sampler(plain=0.0, cut=0.0, long=0.0)[900]
    assert (len(cut.passages), len(whole.passages)) == (2, 1)


def test_some_histories_hold_answered_questions_to_train_on(sampler: Callable[..., EpisodeSampler]) -> None:
    trained = sampler(plain=0.0, answered=1.0)[900]
    silent = sampler(plain=0.0, answered=0.0)[900]
    assert trained.passages[0].weights.any()
    assert not silent.passages[0].weights.any()


def test_episodes_keep_to_the_attributes_of_their_mix(
    sampler: Callable[..., EpisodeSampler], tokenizer: PreTrainedTokenizerFast
) -> None:
    one = sampler(attributes=["codeword", "tree"], max_facts=2, answered=1.0, unanswerable=1.0)
    for step in (0, 900):
        for row in one[step].queries.ids:
            assert re.search("password|secret word|Which word|tree", tokenizer.decode(row))
