from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.ansi import AnsiDecoder

from heliograph.client.line import Line

TOKENS = ["a", "bc", " ", "\b", "\r", "\t", "\x07", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[2D", "\x1b[C"]
TOKENS += [
    "\x1b[3G",
    "\x1b[31m",
    "\x1b[0m",
    "\x1b[9;9H",
    "\x1b]0;title\x07",
    "\x1bc",
    "é",
    "\x1b[99999999999C",
]


@given(st.lists(st.sampled_from(TOKENS), max_size=30), st.sets(st.integers(0, 30)))
def test_any_cuts_make_the_same_line(tokens: list[str], cuts: set[int]) -> None:
    """However a line comes in pieces, and whatever is looked at in between, it is the same at its end."""
    at_once = Line(AnsiDecoder())
    at_once.write("".join(tokens))
    line = Line(AnsiDecoder())
    shown = ""
    for number, token in enumerate(tokens):
        line.write(token)
        if number in cuts:
            shown = shown[: line.unchanged] + line.render(line.unchanged).plain
    shown = shown[: line.unchanged] + line.render(line.unchanged).plain
    assert shown == line.render().plain == at_once.render().plain
    assert line.render().spans == at_once.render().spans
    assert not set(shown) & set("\x07\x08\r\x1b")
