from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client import sse
from heliograph.client.sse import Block, Parser
from heliograph.model.errors import Malformed

LINE_ENDS = st.sampled_from(["\n", "\r", "\r\n"])
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20)
WORD = st.text("abc.-", min_size=1, max_size=8)
BLOCKS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "event": WORD,
            "id": WORD,
            "data": st.lists(TEXT, min_size=1, max_size=3),
            "": TEXT,
            "unknown": TEXT,
        },
    ),
    max_size=6,
)


def encode(blocks: list[dict[str, Any]], line_end: str) -> bytes:
    """Write blocks as a stream."""
    text = ""
    for block in blocks:
        for name, value in block.items():
            for line in value if isinstance(value, list) else [value]:
                text += f"{name}: {line}{line_end}"
        text += line_end
    return text.encode()


def expected(blocks: list[dict[str, Any]]) -> tuple[list[Block], str]:
    """Say which events blocks stand for, and the last id."""
    messages: list[Block] = []
    last_id = ""
    for block in blocks:
        last_id = block.get("id", last_id)
        if "data" in block:
            messages.append(Block(block.get("event", "message"), "\n".join(block["data"]), last_id))
    return messages, last_id


@given(BLOCKS, LINE_ENDS, st.lists(st.integers(0, 2000)))
def test_chunking(blocks: list[dict[str, Any]], line_end: str, cuts: list[int]) -> None:
    """Any stream cut anywhere gives the same events, with all three kinds of line end."""
    wire = encode(blocks, line_end)
    parser = Parser()
    messages: list[Block] = []
    edges = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    for start, end in pairwise(edges):
        messages += parser.feed(wire[start:end])
    assert (messages, parser.last_id) == expected(blocks)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes(data: bytes, cut: int) -> None:
    """Arbitrary bytes raise nothing, and where they are cut makes no difference."""
    whole, torn = Parser(), Parser()
    assert whole.feed(data) == torn.feed(data[:cut]) + torn.feed(data[cut:])
    assert (whole.last_id, whole.retry_ms) == (torn.last_id, torn.retry_ms)


def test_line_end_at_the_end_of_a_read() -> None:
    """An event that ends in carriage returns is given out at once; a newline after it is no second end."""
    parser = Parser()
    assert parser.feed(b"data: a\r\r") == [Block("message", "a", "")]
    assert parser.feed(b"\ndata: b\r") == []
    assert parser.feed(b"") == []
    assert parser.feed(b"\n\r") == [Block("message", "b", "")]


def test_unfinished_block() -> None:
    """A block that was not ended moves no cursor and gives no event."""
    parser = Parser("1-0")
    assert parser.feed(b"id: 2-0\ndata: x\n") == []
    assert parser.last_id == "1-0"


def test_id_only_block() -> None:
    """A block with only an id moves the cursor without an event."""
    parser = Parser()
    assert parser.feed(b"id: 7-1\n\n") == []
    assert parser.last_id == "7-1"


def test_byte_order_mark() -> None:
    """A byte order mark before the first line is no part of it."""
    parser = Parser()
    assert parser.feed(b"\xef\xbb") == []
    assert parser.feed(b"\xbfdata: x\n\n") == [Block("message", "x", "")]


def test_retry_and_odd_ids() -> None:
    """Only whole numbers set the delay, and an id with NUL is ignored."""
    parser = Parser()
    parser.feed(b"retry: 1500\nretry: 2.5\nretry: \xc2\xb2\nid: a\0b\n\n")
    assert parser.retry_ms == 1500
    assert parser.last_id == ""


def test_endless_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that never ends a block is refused instead of filling the memory."""
    monkeypatch.setattr(sse, "MAX_BLOCK_BYTES", 1000)
    parser = Parser()
    for _ in range(9):
        parser.feed(b"data: " + b"x" * 100 + b"\n")
    with pytest.raises(Malformed):
        parser.feed(b"data: " + b"x" * 100 + b"\n")
