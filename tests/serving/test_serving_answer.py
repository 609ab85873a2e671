"""Stop strings and characters over token borders, as a property."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from steelyard.serving.host.answer import Answer


class Letters:
    """A detokeniser of one letter a token: any cut of a text is a cut into tokens."""

    def push(self, token: int) -> str:
        return chr(token)

    def flush(self) -> str:
        return ""


def expected(text: str, stops: tuple[str, ...]) -> tuple[str, str]:
    """What may be shown, reading letter by letter: up to the stop string that is complete first."""
    for end in range(1, len(text) + 1):
        found = [text[:end].find(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: min(found)], "stop"
    return text, "length"


@given(
    st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.integers(1, 4)
)
def test_text_ends_before_the_first_stop_string(text, stops, width):
    answer = Answer(Letters(), tuple(stops))
    shown = ""
    for at in range(0, len(text), width):
        last = at + width >= len(text)
        piece = answer.push([ord(c) for c in text[at : at + width]], None, "length" if last else None)
        shown += piece.text
        if piece.finish:
            break
    wanted, finish = expected(text, tuple(stops))
    assert shown == answer.text == wanted
    assert answer.finish == (finish if text else None)
    assert len(answer.ids) <= len(text)
