from collections.abc import Collection, Iterable
from itertools import pairwise

import attrs
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client.exec.lines import PART_CHARACTERS, RUN_CHARACTERS, LineAssembler, Piece


def joined(pieces: Iterable[Piece]) -> list[str]:
    """Put pieces together as a reader does."""
    lines: list[str] = []
    line: str | None = None
    for piece in pieces:
        line = piece.text if piece.rewind or line is None else line + piece.text
        if not piece.partial:
            lines.append(line)
            line = None
    return lines + ([] if line is None else [line])


def assemble(*reads: bytes, flush_after: Collection[int] = ()) -> list[Piece]:
    """Feed reads, with flushes after some, to the end; return the pieces, with runs as the lines they are."""
    assembler = LineAssembler()
    pieces: list[Piece] = []
    for position, read in enumerate(reads):
        pieces += assembler.feed(read)
        if position in flush_after:
            pieces += assembler.flush()
    pieces += assembler.finish()
    assert all(piece == Piece(piece.text) for piece in pieces if "\n" in piece.text)
    return [attrs.evolve(piece, text=line) for piece in pieces for line in piece.text.split("\n")]


BYTES = st.lists(
    st.sampled_from(
        [b"\n", b"\r", b"\r\n", b"a", b"bc", b"\0", b"\xff", "é".encode(), "🚀".encode(), b"\xf0\x9f"]
    ),
    max_size=30,
).map(b"".join)


@given(BYTES, st.sets(st.integers(0, 60)), st.sets(st.integers(0, 10)))
def test_any_cuts_and_flushes(data: bytes, cuts: set[int], flush_after: set[int]) -> None:
    """However reads and flushes fall, the joined lines are the same, and every character is in some piece."""
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    reads = [data[start:end] for start, end in pairwise(edges)]
    pieces = assemble(*reads, flush_after=flush_after)
    assert joined(pieces) == joined(assemble(data))
    text = data.decode("utf-8", "replace").replace("\0", "␀")
    assert "".join(piece.text for piece in pieces) == text.replace("\r", "").replace("\n", "")


def test_lines() -> None:
    """Each line is one unmarked piece; a last line without an end is one too."""
    assert assemble(b"one\ntw", b"o\n\nthree") == [Piece("one"), Piece("two"), Piece(""), Piece("three")]


def test_lines_that_come_together_stay_together() -> None:
    """A read of many lines is few pieces, each of a bounded length; the line behind them waits."""
    assembler = LineAssembler()
    pieces = assembler.feed(b"first line\n" * 5000 + b"rest")
    assert "\n".join(piece.text for piece in pieces) == "\n".join(["first line"] * 5000)
    assert len(pieces) < 10
    assert max(len(piece.text) for piece in pieces) <= RUN_CHARACTERS
    assert assembler.finish() == [Piece("rest")]


def test_a_long_line_among_others() -> None:
    """A line longer than a run is one piece, and a very long one is cut, among whole lines as alone."""
    long, very_long = "l" * (RUN_CHARACTERS + 5), "v" * (PART_CHARACTERS + 5)
    pieces = assemble(f"a\n{long}\nb\n{very_long}\nc\n".encode())
    assert joined(pieces) == ["a", long, "b", very_long, "c"]
    assert max(len(piece.text) for piece in pieces) == PART_CHARACTERS


def test_prompt() -> None:
    """A line that waits is handed out marked, and its end follows without the mark."""
    assert assemble(b"Name: ", b"\n", flush_after=[0]) == [Piece("Name: ", partial=True), Piece("")]


def test_torn_character() -> None:
    """A character torn between two reads stays whole, even when the line is flushed between them."""
    assert assemble(b"a\xc3", b"\xa9\n", flush_after=[0]) == [Piece("a", partial=True), Piece("é")]


def test_bad_bytes() -> None:
    """Bytes that are not UTF-8 and NUL are replaced by visible characters."""
    assert assemble(b"a\xffb\0c\n", b"\xc3") == [Piece("a\ufffdb␀c"), Piece("\ufffd")]


def test_carriage_returns() -> None:
    """Both kinds of DOS line end are one line end, also when torn."""
    assert assemble(b"a\r\nb\r", b"\nc\r\r", b"\n") == [Piece("a"), Piece("b"), Piece("c")]


def test_progress_bar() -> None:
    """Each state of a progress bar is a piece that is written over the one before."""
    assert assemble(b"\r 1%\r 2%", b"\r 3%\n", flush_after=[0]) == [
        Piece(" 1%", partial=True),
        Piece(" 2%", partial=True, rewind=True),
        Piece(" 3%", rewind=True),
    ]


def test_long_line() -> None:
    """A line longer than a part comes in parts, and memory holds no more than one."""
    assembler = LineAssembler()
    pieces: list[Piece] = []
    for _ in range(10):
        pieces += assembler.feed(b"x" * PART_CHARACTERS)
        assert not assembler.waiting
    pieces += assembler.feed(b"\n")
    assert max(len(piece.text) for piece in pieces) == PART_CHARACTERS
    assert [piece.partial for piece in pieces] == [True] * 10 + [False]
    assert joined(pieces) == ["x" * 10 * PART_CHARACTERS]
