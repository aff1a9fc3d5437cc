"""Reading lines: every kind of file, every kind of bad line, and never a crash."""

import gzip
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltamem.train.data import BadDataError, DataOptions
from deltamem.train.data.lines import RawLine, find_files, parse_messages, raw_lines

GOOD = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'


def parse(data: bytes | dict | list) -> list[dict[str, str]]:
    return parse_messages(RawLine("f", 1, data if isinstance(data, bytes) else json.dumps(data).encode()))


def test_byte_order_mark_crlf_and_blank_lines_are_no_matter(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n  \n" + GOOD)
    lines = list(raw_lines(DataOptions(path=file)))
    assert [line.number for line in lines] == [1, 4]
    assert [line.data for line in lines] == [GOOD, GOOD]
    assert all(len(parse_messages(line)) == 2 for line in lines)


def test_line_separators_inside_a_text_end_no_line(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(GOOD.decode().replace('"a"', '"\u2028\u0085"'), encoding="utf-8")
    (line,) = raw_lines(DataOptions(path=file))
    assert parse_messages(line)[0]["content"] == "\u2028\u0085"


def test_a_folder_and_a_glob_give_their_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.jsonl").write_bytes(GOOD)
    (tmp_path / "notes.txt").write_text("not data")
    with gzip.open(tmp_path / "deep" / "c.jsonl.gz", "wb") as file:
        file.write(GOOD + b"\n" + GOOD)
    assert [path.name for path in find_files(tmp_path)] == ["b.jsonl", "c.jsonl.gz"]
    assert [path.name for path in find_files(f"{tmp_path}/**/*.gz")] == ["c.jsonl.gz"]
    assert len(list(raw_lines(DataOptions(path=tmp_path)))) == 3


def test_no_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="no such file"):
        find_files(tmp_path / "none.jsonl")
    with pytest.raises(BadDataError, match=r"no file that ends in .jsonl or .jsonl.gz"):
        find_files(tmp_path)


def test_a_broken_off_gzip_file_ends_with_a_bad_line(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl.gz"
    file.write_bytes(gzip.compress(b"\n".join([GOOD] * 3))[:-12])
    *_, last = raw_lines(DataOptions(path=file))
    with pytest.raises(ValueError, match="damaged from here on"):
        parse_messages(last)


def test_prompt_and_response_are_messages_too() -> None:
    assert parse({"prompt": "a", "response": "b"}) == parse(GOOD)
    turns = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "!"}]}]
    assert parse({"prompt": turns, "response": "b"})[0] == {"role": "user", "content": "a!"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": \xff}', "not UTF-8: byte 0xff at column 14"),
        (b'{"messages": ]', "not JSON: Expecting value at column 14"),
        (b"[" * 100_000, "nested too deeply"),
        ([1], "a line must be an object, not a list"),
        ({"text": "a"}, "needs 'messages', or 'prompt' and 'response'; this one has 'text'"),
        ({"prompt": "a"}, "this one has 'prompt'"),
        ({"messages": []}, "messages must be a list of messages, not an empty one"),
        ({"messages": ["a"]}, "messages, message 1: must be an object with role and content, not a text"),
        ({"messages": [{"content": "a"}]}, "message 1: role must be one of system, developer, user, .*, not null"),
        ({"messages": [{"role": "userr", "content": "a"}]}, "message 1: role must be one of .*, function, not 'userr'"),
        ({"messages": [{"role": "user", "content": None}]}, "content must be a text or a list of text parts, not null"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "only text can be learned from, not a part of type 'image_url'",
        ),
        ({"messages": [{"role": "user", "content": "a"}]}, "no assistant message"),
        ({"messages": [{"role": "assistant", "content": "a\ud800"}]}, "character 2 is half of a surrogate pair"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line: bytes | dict | list, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(line)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("messages", "prompt", "response", "role", "content", "text", "type")), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60)
@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_line_is_a_conversation_or_bad(data: bytes) -> None:
    with suppress(ValueError):
        messages = parse(data)
        assert all(set(message) == {"role", "content"} for message in messages)
        assert any(message["role"] == "assistant" for message in messages)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either path"),
        ({"path": "a", "hub": "b"}, "not both"),
        ({"path": "a", "target": "last"}, "target must be final or every"),
        ({"path": "a", "read_tokens": 0}, "read_tokens must be a positive integer"),
        ({"path": "a", "limit": True}, "limit must be a positive integer"),
    ],
)
def test_impossible_options_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataOptions(**fields)
