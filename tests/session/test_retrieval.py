"""Past turns brought back by their words: into the prompt, or through a copy of the memory."""

import sys

import pytest

import deltamem
from deltamem.demo.show import load_demo
from deltamem.session.retrieval import best_matches, exchanges, words
from talkers import SHORT, chat_tokenizer, talker
from tiny import assert_same_state

TOLD = ("My pet is a tortoise.", "I have to clean the kitchen.", "My hobby is chess.", "Good morning.")


def told(retriever, **options) -> deltamem.Session:
    session = deltamem.Session(talker(), chat_tokenizer(), retriever=retriever, window=0, **options)
    for said in TOLD:
        session.observe([{"role": "user", "content": said}, {"role": "assistant", "content": "Okay."}])
    return session


def test_the_turns_with_the_words_of_the_message_come_back():
    session = told("prompt")
    session.reply("Which hobby?", **SHORT)
    first = [exchange[0]["content"] for exchange in session.last_turn.retrieved]
    assert first == ["My hobby is chess."]
    session.reply("hobby, pet", **SHORT)
    back = [exchange[0]["content"] for exchange in session.last_turn.retrieved]
    assert back == ["My pet is a tortoise.", "My hobby is chess.", "Which hobby?"]
    session.reply("Zebra?", **SHORT)
    assert session.last_turn.retrieved == ()


def test_in_the_prompt_they_are_read_before_the_message():
    session, plain = told("prompt"), told(None)
    asked = {"role": "user", "content": "Which hobby?"}
    hobby = session.log[2]
    prompt = deltamem.encode_chat(session.tokenizer, [*hobby, asked], add_generation_prompt=True)
    session.reply(asked["content"], **SHORT)
    assert session.last_turn.prompt_tokens == prompt.input_ids.shape[1]
    plain.visible, plain.window = list(hobby), 8
    assert plain.reply(asked["content"], **SHORT) == session.last_turn.answer
    assert_same_state(plain.state, session.state)


def test_through_the_memory_they_warm_a_copy_that_is_not_kept():
    session, plain = told("memory"), told(None)
    warmed = plain.fork()
    warmed.observe(list(session.log[2]))
    before = session.state
    answer = session.reply("Which hobby?", **SHORT)
    assert warmed.ask("Which hobby?", **SHORT) == answer
    turn = [{"role": "user", "content": "Which hobby?"}, {"role": "assistant", "content": answer}]
    plain.observe(turn)
    assert_same_state(session.state, plain.state)
    session.rollback()
    assert session.state is before


def test_what_is_visible_does_not_come_back():
    session = deltamem.Session(talker(), chat_tokenizer(), retriever="prompt", window=2)
    session.reply("My hobby is chess.", **SHORT)
    session.reply("Is chess my hobby?", **SHORT)
    assert session.last_turn.retrieved == ()
    session.reply("Do I like chess?", **SHORT)
    assert [e[0]["content"] for e in session.last_turn.retrieved] == ["My hobby is chess."]


def test_turns_rolled_back_or_forgotten_do_not_come_back():
    session = told("prompt")
    session.observe([{"role": "user", "content": "I own a zebra."}])
    session.rollback()
    session.reply("Is there a zebra?", **SHORT)
    assert session.last_turn.retrieved == ()
    session.forget()
    session.reply("Which hobby?", **SHORT)
    assert session.last_turn.retrieved == ()


def test_turns_before_a_restored_memory_do_not_come_back_until_it_is_rolled_back():
    session = told("prompt")
    turns = list(session.log)
    session.import_bytes(deltamem.Session(talker(), chat_tokenizer()).export_bytes())
    session.reply("Which hobby?", **SHORT)
    assert session.last_turn.retrieved == ()
    session.rollback(2)
    assert session.log == turns


def test_without_a_retriever_no_text_is_kept():
    assert told(None).log == []


def test_a_prompt_that_would_be_too_long_does_without():
    session = deltamem.Session(talker(positions=64), chat_tokenizer(), retriever="prompt", window=0)
    session.observe("My hobby is chess. " * 12)
    session.reply("Which hobby?", **SHORT)
    assert session.last_turn.prompt_tokens < 32
    assert session.last_turn.retrieved == ()


def test_the_embedded_model_answers_what_comes_back():
    model, tokenizer = load_demo()
    session = deltamem.Session(model, tokenizer, retriever="prompt", window=0)
    session.freeze()  # so that the memory knows nothing
    for said in TOLD:
        session.reply(said, max_new_tokens=24, do_sample=False)
    assert session.reply("What kind of animal is my pet?", max_new_tokens=24, do_sample=False) == "tortoise."
    assert "My pet is a tortoise." in [exchange[0]["content"] for exchange in session.last_turn.retrieved]


def test_matches_are_in_their_own_order_with_scores():
    assert [place for place, _ in best_matches(["my cat", "a dog", "cat cat"], ["cat"], 2)[0]] == [0, 2]
    assert best_matches(["the"], ["anything"], 3) == [[(0, 0.0)]]
    assert [score for _, score in best_matches(["a dog"], ["zebra"], 1)[0]] == [0.0]


def test_turns_begin_with_a_user():
    roles = ("assistant", "user", "assistant", "tool", "assistant", "user")
    messages = [{"role": role, "content": str(place)} for place, role in enumerate(roles)]
    assert [len(turn) for turn in exchanges(messages)] == [1, 4, 1]


def test_bad_retrievers_are_refused():
    with pytest.raises(ValueError, match="not 'index'"):
        deltamem.Session(talker(), chat_tokenizer(), retriever="index")
    with pytest.raises(ValueError, match="at least one turn"):
        deltamem.Retriever(turns=0)


def test_the_missing_package_is_named(monkeypatch):
    session = told("prompt")
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r"pip install .*\[retrieval\]"):
        session.reply("Which hobby?", **SHORT)
    assert len(session.log) == len(TOLD)


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ("我住在里斯本。", "里斯本"),
        ("我住在里斯本。", "里斯本在哪里?"),
        ("ポルトに住んでいます。", "ポルト"),
        ("저는 리스본에 살아요.", "리스본"),
        ("The locker is number 7.", "Which locker is 7?"),
        ("The locker is number 7.", "7"),
        ("I moved to Besan\u00e7on.", "When did I move to Besanc\u0327on?"),
        ("My shirt is size Ｌ.", "size l"),
        ("Ravi\u2019s cello is old.", "Ravi"),
    ],
)
def test_words_are_found_in_any_script_length_and_normal_form(told: str, asked: str):
    others = ["The bus was late on Monday.", "昨天下雨了。", "Number 12 was red."]
    ((first, score),) = best_matches([told, *others], [asked], 1)[0]
    assert (first, score > 0) == (0, True)


def test_what_is_in_every_text_is_no_word():
    assert words("There is a cello in the house, isn't it?") == ["cello", "house", "isn"]
