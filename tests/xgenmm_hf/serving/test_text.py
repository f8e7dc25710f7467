"""The pieces of an answer's text are the answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgenmm_hf.serving.text import AnswerText


def decode(ids: list[int]) -> str:
    """Bytes as ids: a character may take several."""
    return bytes(ids).decode("utf-8", errors="replace")


def pieces_of(text: str, stops: tuple[str, ...] = (), read: bool = True) -> tuple[list[str], bool]:
    answer = AnswerText(decode, stops)
    pieces = []
    for token in text.encode():
        pieces.append(answer.feed(token, read))
        if answer.stopped:
            break
    pieces.append(answer.finish())
    return [piece for piece in pieces if piece], answer.stopped


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab \n\té€😀\ufdd0", max_size=30), st.booleans())
def test_pieces_together_are_the_text_without_space_at_its_ends(text, read):
    pieces, stopped = pieces_of(text, read=read)
    assert "".join(pieces) == text.strip()
    assert not stopped
    assert all("\ufffd" not in piece for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab \n", max_size=30), st.lists(st.text(alphabet="ab \n", min_size=1, max_size=4), max_size=3))
def test_stop_texts(text, stops):
    pieces, stopped = pieces_of(text, tuple(stops))
    # the first prefix that holds a stop text ends at the earliest place of any
    end = next((end for end in range(len(text) + 1) if any(stop in text[:end] for stop in stops)), None)
    assert stopped == (end is not None)
    kept = text if end is None else text[: min(text[:end].find(stop) for stop in stops if stop in text[:end])]
    assert "".join(pieces) == kept.strip()


def test_text_is_sent_as_soon_as_it_cannot_change():
    answer = AnswerText(decode, ["STOP"])
    assert [answer.feed(token) for token in b"a ST b"] == ["a", "", "", "", " ST", " b"]
    answer = AnswerText(decode, ["STOP"])
    sent = "".join(answer.feed(token) for token in b"one two S")
    assert sent == "one two"
    assert answer.finish() == " S"


def test_half_a_character_at_the_end_is_shown_as_such():
    answer = AnswerText(decode)
    assert [answer.feed(token) for token in "é".encode()[:1]] == [""]
    assert answer.finish() == "\ufffd"


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_nothing_said(text):
    assert pieces_of(text) == ([], False)
