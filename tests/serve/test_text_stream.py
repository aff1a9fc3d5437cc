from hypothesis import given
from hypothesis import strategies as st

from deltamem.serve.engine.text import TextStream


class Bytes:
    """A tokenizer whose tokens are single bytes."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(ids).decode("utf-8", "replace")


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_the_pieces_are_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    data = text.encode("utf-8", "ignore")
    whole = data.decode()
    stream, pieces = TextStream(Bytes(), stops), []
    for token in data:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    seen = "".join(pieces)
    # A stop string ends the stream as soon as one is complete, so of several the one that is complete first counts.
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    if not ends:
        assert seen == whole
        assert not stream.stopped
    else:
        begin = whole[: min(ends)]
        assert stream.stopped
        assert any(begin.endswith(stop) and seen == begin[: begin.find(stop)] for stop in stops) or whole.startswith(
            seen
        )
        assert not any(stop in seen for stop in stops)


def test_a_character_comes_whole() -> None:
    stream = TextStream(Bytes())
    assert [stream.push(byte) for byte in "aé€".encode()] == ["a", "", "é", "", "", "€"]


def test_what_never_becomes_a_character_is_shown_at_the_end() -> None:
    stream = TextStream(Bytes())
    assert [stream.push(byte) for byte in b"a\xc3"] == ["a", ""]
    assert stream.finish() == "�"
