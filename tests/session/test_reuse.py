"""Keys and values kept from turn to turn: the same tokens, and nothing left of what has gone."""

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

import deltamem
from talkers import SHORT, chat_tokenizer, talker
from tiny import SMALL, enliven

SAID = ("I live in Lisbon.", "I like tea.", "My friend Ravi plays the cello.", "Where do I live?", "What do I like?")


def lengths_read(model) -> list[int]:
    """Grows by the tokens of every call that reads a prompt or writes one, in order."""
    lengths: list[int] = []

    def note(_, args, kwargs):
        if kwargs["input_ids"].shape[1] > 1:
            lengths.append(kwargs["input_ids"].shape[1])

    deltamem.attached(model).base.register_forward_pre_hook(note, with_kwargs=True)
    return lengths


def sessions(model, **options) -> tuple[deltamem.Session, deltamem.Session]:
    """One that keeps keys and values, and one that reads all again."""
    return tuple(deltamem.Session(model, chat_tokenizer(), reuse=reuse, **options) for reuse in (True, False))


@pytest.mark.parametrize("options", [{}, {"system": "I am a tortoise."}, {"window": 4}, {"window_tokens": 60}])
def test_frozen_sessions_say_the_same_with_and_without(options):
    kept, again = sessions(talker(), **options)
    for session in (kept, again):
        session.observe("My dog is called Rex.")
        session.freeze()
    for said in SAID * 2:
        assert kept.reply(said, **SHORT) == again.reply(said, **SHORT)
        assert kept.last_turn.prompt_tokens == again.last_turn.prompt_tokens
        assert again.last_turn.reused_tokens == 0


def test_only_what_is_new_is_read():
    model = talker()
    session = deltamem.Session(model, chat_tokenizer())
    session.freeze()
    session.reply(SAID[0], **SHORT)
    first = session.last_turn
    lengths = lengths_read(model)
    session.reply(SAID[1], **SHORT)
    turn = session.last_turn
    assert turn.reused_tokens >= first.prompt_tokens
    assert lengths == [turn.prompt_tokens - turn.reused_tokens]


def test_a_message_keeps_the_representation_it_got():
    """The keys of the first turn are those of the memory it was read with, not of the one it left."""
    model = talker()
    session = deltamem.Session(model, chat_tokenizer())
    session.observe("My dog is called Rex.")
    state = session.state
    session.reply(SAID[0], **SHORT)
    length = session.last_turn.prompt_tokens
    session.reply(SAID[1], **SHORT)
    prompt = session._read.tokens[None, :length]
    for memory, same in ((state, True), (session.state, False)):
        cache = deltamem.memory_cache(model, memory, write=False)
        with torch.no_grad():
            model(prompt, past_key_values=cache)
        kept = session._read.cache.layers[1].keys[:, :, :length]
        assert torch.allclose(kept, cache.layers[1].keys, atol=1e-5) is same


def slide(session):
    session.window = 2


def roll_back(session):
    session.observe("I have a cat.")
    session.rollback()


def exchange_memory(session):
    session.import_bytes(session.export_bytes())


def clear(session):
    session.clear_context()


def forget(session):
    session.forget()


def ask_to_read_again(session):
    session.reread()


@pytest.mark.parametrize("change", [slide, roll_back, exchange_memory, clear, forget, ask_to_read_again])
def test_after_a_change_all_is_read_again(change):
    session = deltamem.Session(talker(), chat_tokenizer())
    for said in SAID[:3]:
        session.reply(said, **SHORT)
    change(session)
    fresh = deltamem.Session(session.model, session.tokenizer, session.state, window=session.window)
    fresh.visible = session.visible.copy()
    assert session.reply(SAID[3], **SHORT) == fresh.reply(SAID[3], **SHORT)
    assert session.last_turn.reused_tokens == 0


def test_an_abandoned_or_failed_turn_leaves_the_cache_as_it_was():
    session, twin = (deltamem.Session(talker(), chat_tokenizer()) for _ in range(2))
    for each in (session, twin):
        each.reply(SAID[0], **SHORT)
    stream = session.stream(SAID[1], max_new_tokens=40, do_sample=False)
    next(stream)
    stream.close()
    with pytest.raises(ValueError, match="max_new_tokens"):
        session.reply(SAID[2], max_new_tokens=-1)
    session.ask(SAID[2], **SHORT)
    assert session.reply(SAID[3], **SHORT) == twin.reply(SAID[3], **SHORT)
    assert session.last_turn.reused_tokens == twin.last_turn.reused_tokens > 0


def test_forks_share_what_was_read_and_do_not_meet():
    session = deltamem.Session(talker(), chat_tokenizer())
    session.reply(SAID[0], **SHORT)
    one, other = session.fork(), session.fork()
    one.reply(SAID[1], **SHORT)
    assert one.last_turn.reused_tokens > 0
    assert other.reply(SAID[3], **SHORT) == session.reply(SAID[3], **SHORT)
    assert other.last_turn.reused_tokens == session.last_turn.reused_tokens > 0


def test_another_adapter_reads_for_itself():
    model = talker()
    deltamem.attach(model, deltamem.DeltaMemConfig(rank=4), name="second")
    enliven(model, seed=7)
    session = deltamem.Session(model, chat_tokenizer())
    session.freeze()
    session.reply(SAID[0], **SHORT)
    deltamem.attached(model).activate("default")
    fresh = deltamem.Session(model, chat_tokenizer(), session.state)
    fresh.visible = session.visible.copy()
    assert session.reply(SAID[1], **SHORT) == fresh.reply(SAID[1], **SHORT)
    assert session.last_turn.reused_tokens == 0


def test_an_answer_that_is_rendered_otherwise_is_read_again_from_there():
    """Spaces around an answer are cut off, so its tokens may differ from those that were generated."""
    kept, again = sessions(talker())
    for session in (kept, again):
        session.freeze()
    space = chat_tokenizer().convert_tokens_to_ids("Ġ")
    forced = SHORT | {"forced_eos_token_id": None, "sequence_bias": {(space,): 100.0}}
    assert kept.reply(SAID[0], **forced) == again.reply(SAID[0], **forced) == ""
    assert kept.reply(SAID[1], **SHORT) == again.reply(SAID[1], **SHORT)
    assert 0 < kept.last_turn.reused_tokens < len(kept._read.tokens)


def test_beams_are_not_gone_on_from():
    kept, again = sessions(talker())
    for session in (kept, again):
        session.freeze()
        session.reply(SAID[0], num_beams=2, **SHORT)
    assert kept.reply(SAID[1], **SHORT) == again.reply(SAID[1], **SHORT)
    assert kept.last_turn.reused_tokens == 0


def test_attention_that_slides_is_gone_on_from_while_it_can_be():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(chat_tokenizer()),
        **SMALL,
        max_position_embeddings=512,
        sliding_window=24,
        eos_token_id=chat_tokenizer().eos_token_id,
        pad_token_id=chat_tokenizer().pad_token_id,
        bos_token_id=None,
    )
    model = MistralForCausalLM(config).eval()
    deltamem.attach(model, deltamem.DeltaMemConfig(rank=4))
    enliven(model)
    for longest in (1, 6):
        kept, again = sessions(model, window=None)
        options, reused = SHORT | {"max_new_tokens": longest}, []
        for session in (kept, again):
            session.freeze()
        for said in SAID * 2:
            assert kept.reply(said, **options) == again.reply(said, **options)
            reused.append(kept.last_turn.reused_tokens)
        # Of one token nothing is fed back, so every prompt continues the last one; of six some are tokenised anew.
        assert (reused[-1] > 24) is (longest == 1)
