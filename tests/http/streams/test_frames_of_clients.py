"""Frames of every kind that a client may send, and may not: RFC 6455, walked by its sections.

The cases are those of the Autobahn test suite (its families 1 to 7, 9 and 10; compression, 12 and 13, is
declined), written anew for a service that is no echo: a text goes out as the ``ref`` of a ping and comes back
in its pong, so that it is seen whole, and anything else is answered by ``error`` with the stream open. All
cases go over real sockets to one service.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import attrs
import orjson
import trio
from tests.conformance.clients import Told, client_frame, open_ws
from tests.http.conftest import Api

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
PROTOCOL, BAD_DATA, TOO_BIG = 1002, 1007, 1009
GREETING = "Hello-µ@ßöäüàá-UTF-8!! 𝄞"


@attrs.frozen
class Case:
    """What a client sends, in pieces, and what must come back.

    Attributes:
        sends: Each is written on its own.
        answers: The kinds of messages and pongs that come back, with what they repeat.
        code: Of the close frame that follows; ``None``: the stream goes on.
    """

    name: str
    sends: tuple[bytes, ...]
    answers: tuple[tuple[str, Any], ...] = ()
    code: int | None = None


def said(text: str) -> bytes:
    """Make the message that brings a text back."""
    return orjson.dumps({"type": "ping", "ref": text})


def whole(text: str) -> tuple[tuple[str, Any], ...]:
    """Return the answer to ``said``."""
    return (("pong", text),)


def pieces(data: bytes, size: int) -> tuple[bytes, ...]:
    """Cut bytes into writes of a size."""
    return tuple(data[at : at + size] for at in range(0, len(data), size))


def fragments(data: bytes, size: int, opcode: int = TEXT) -> tuple[bytes, ...]:
    """Cut a message into frames with so much payload."""
    parts = pieces(data, size)
    return tuple(
        client_frame(CONTINUATION if n else opcode, part, fin=n == len(parts) - 1)
        for n, part in enumerate(parts)
    )


def framing() -> Iterator[Case]:
    """Draw messages at the borders of the three forms of length, written at once and in pieces."""
    for size in (0, 125 - len(said("")), 126 - len(said("")), 128, 1000, 60_000):
        text = "*" * size
        yield Case(f"text of {size}", (client_frame(TEXT, said(text)),), whole(text))
        chopped = pieces(client_frame(TEXT, said(text)), 997)
        yield Case(f"text of {size} in pieces", chopped, whole(text))
    for size in (0, 125, 126, 127, 128, 60_000):
        frame = client_frame(BINARY, b"\xfe" * size)
        yield Case(f"binary of {size}", (frame,), (("error", None),))
        yield Case(f"binary of {size} in pieces", pieces(frame, 997), (("error", None),))
    yield Case("an empty text", (client_frame(TEXT, b""),), (("error", None),))


def pings() -> Iterator[Case]:
    """Draw pings and pongs with every payload that they may have, and one that they may not."""
    for payload in (b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125):
        answer = (("pong frame", payload),)
        yield Case(f"ping of {len(payload)}", (client_frame(PING, payload),), answer)
    at_once = client_frame(PING, b"\xfe" * 125)
    yield Case("ping byte by byte", pieces(at_once, 1), (("pong frame", b"\xfe" * 125),))
    yield Case("ping too long", (client_frame(PING, b"\xfe" * 126),), code=PROTOCOL)
    yield Case(
        "pong nobody asked for",
        (client_frame(PONG, b"unsolicited"), client_frame(TEXT, said("a"))),
        whole("a"),
    )
    ten = tuple(client_frame(PING, b"payload-%d" % n) for n in range(10))
    answers = tuple(("pong frame", b"payload-%d" % n) for n in range(10))
    yield Case("ten pings", ten, answers)
    yield Case("ten pings at once", (b"".join(ten),), answers)
    yield Case("ten pings byte by byte", pieces(b"".join(ten), 1), answers)


def reserved() -> Iterator[Case]:
    """Draw frames with reserved bits and reserved opcodes, alone and behind a good message."""
    for bits in range(1, 8):
        for opcode in (TEXT, BINARY, PING, CLOSE):
            yield Case(f"rsv {bits} of {opcode}", (client_frame(opcode, b"", rsv=bits),), code=PROTOCOL)
        after = client_frame(TEXT, said("a")) + client_frame(TEXT, b"*", rsv=bits) + client_frame(PING, b"")
        yield Case(f"rsv {bits} behind a message", (after,), whole("a"), PROTOCOL)
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        for payload in (b"", b"unknown opcode"):
            frame = client_frame(opcode, payload)
            yield Case(f"opcode {opcode} of {len(payload)}", (frame,), code=PROTOCOL)
        after = client_frame(TEXT, said("a")) + client_frame(opcode, b"*") + client_frame(PING, b"")
        yield Case(f"opcode {opcode} behind a message", (after,), whole("a"), PROTOCOL)
    yield Case("no mask", (client_frame(TEXT, said("a"), mask=False),), code=PROTOCOL)


def fragmentation() -> Iterator[Case]:
    """Draw messages in fragments, with control frames between them, and fragments of nothing."""
    message = said("fragment1fragment2")
    first, second = client_frame(TEXT, message[:20], fin=False), client_frame(CONTINUATION, message[20:])
    ping = client_frame(PING, b"between")
    for opcode in (PING, PONG):
        parts = (client_frame(opcode, b"fragment1", fin=False), client_frame(CONTINUATION, b"fragment2"))
        yield Case(f"{opcode} in fragments", (b"".join(parts),), code=PROTOCOL)
    for name, sends in (
        ("at once", (first + second,)),
        ("in two", (first, second)),
        ("byte by byte", pieces(first + second, 1)),
    ):
        yield Case(f"two fragments {name}", sends, whole("fragment1fragment2"))
    between = (("pong frame", b"between"), ("pong", "fragment1fragment2"))
    yield Case("a ping between", (first, ping, second), between)
    yield Case("a ping between, at once", (first + ping + second,), between)
    yield Case("a ping between, byte by byte", pieces(first + ping + second, 1), between)
    one = client_frame(CONTINUATION, b"non-continuation payload")
    for fin in (True, False):
        lonely = client_frame(CONTINUATION, b"of nothing", fin=fin)
        yield Case(f"a lonely continuation, fin {fin}", (lonely,), code=PROTOCOL)
        behind = client_frame(TEXT, said("a")) + lonely
        yield Case(f"a continuation behind a whole, fin {fin}", (behind,), whole("a"), PROTOCOL)
    yield Case("another text between", (first + client_frame(TEXT, b"x") + second,), code=PROTOCOL)
    yield Case(
        "another continuation behind the end", (first + second + one,), whole("fragment1fragment2"), PROTOCOL
    )
    five = fragments(said("12345"), 6)
    yield Case(
        "many fragments with pings",
        tuple(part + ping for part in five[:-1]) + five[-1:],
        (*((("pong frame", b"between"),) * (len(five) - 1)), ("pong", "12345")),
    )
    empty = client_frame(TEXT, b"", fin=False) + client_frame(CONTINUATION, b"", fin=False)
    yield Case("empty fragments", (empty + client_frame(CONTINUATION, said("a")),), whole("a"))
    yield Case("only empty fragments", (empty + client_frame(CONTINUATION, b""),), (("error", None),))


def sequences() -> Iterator[bytes]:
    """Draw sequences of bytes at the borders of UTF-8 (RFC 3629), valid and not."""
    yield from (b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80")  # first of each length
    yield from (b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf")  # last of each length
    yield from (
        b"\xf7\xbf\xbf\xbf",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xf4\x90\x80\x80",
    )
    yield from (b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd")  # around the surrogates
    yield from (
        b"\xed%c%c" % (second, last)
        for second in (0xA0, 0xAD, 0xAE, 0xAF, 0xB0, 0xBE, 0xBF)
        for last in (0x80, 0xBF)
    )
    yield from (b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xaf\xbf\xed\xbf\xbf")  # pairs of them
    yield from (bytes(range(0x80, 0xC0)), b"\x80", b"\xbf", b"\x80\xbf\x80")  # continuations of nothing
    yield from (bytes([start, 0x20]) for start in range(0xC0, 0x100))  # starts of nothing
    yield from (
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf\xbf",
    )
    yield from (b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80")  # too long for what they are
    yield from (b"\xfe", b"\xff", b"\xfe\xfe\xff\xff")
    yield from (
        "".join(map(chr, (plane * 0x10000 + 0xFFFE, plane * 0x10000 + 0xFFFF))).encode()
        for plane in range(17)
    )
    yield from (GREETING.encode()[:end] for end in range(1, len(GREETING.encode()) + 1))


def texts() -> Iterator[Case]:
    """Draw texts of such sequences: what is UTF-8 is a message, what is not ends the stream at once."""
    for sequence in dict.fromkeys(sequences()):
        frame = client_frame(TEXT, sequence)
        try:
            sequence.decode()
        except UnicodeDecodeError:
            yield Case(f"text {sequence.hex()}", (frame,), code=BAD_DATA)
        else:
            yield Case(f"text {sequence.hex()}", (frame,), (("error", None),))
    message = said(GREETING)
    for size in (1, 2, 3, len(message) - 3):
        yield Case(f"greeting in fragments of {size}", fragments(message, size), whole(GREETING))
        yield Case(
            f"greeting in writes of {size}", pieces(client_frame(TEXT, message), size), whole(GREETING)
        )
    good = said("κόσμε")
    cut = client_frame(TEXT, good[:-5], fin=False) + client_frame(
        CONTINUATION, b"\xf4\x90\x80\x80", fin=False
    )
    yield Case("bad within fragments that go on", (cut,), code=BAD_DATA)
    end = client_frame(TEXT, good[:-3] + b"\xce", fin=False) + client_frame(CONTINUATION, b"")
    yield Case("a character cut by the end of a message", (end,), code=BAD_DATA)


def closing() -> Iterator[Case]:
    """Draw close frames with every code and reason that they may have, and may not."""
    yield Case("empty", (client_frame(CLOSE, b""),), code=1000)
    yield Case("of one byte", (client_frame(CLOSE, b"a"),), code=PROTOCOL)
    normal = struct.pack("!H", 1000)
    yield Case("with a reason", (client_frame(CLOSE, normal + b"Hello World!"),), code=1000)
    yield Case("with the longest reason", (client_frame(CLOSE, normal + b"*" * 123),), code=1000)
    yield Case("with too long a reason", (client_frame(CLOSE, normal + b"*" * 124),), code=PROTOCOL)
    yield Case(
        "with a reason that is no text", (client_frame(CLOSE, normal + b"\xce\xba\xf4\x90"),), code=BAD_DATA
    )
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        yield Case(f"code {code}", (client_frame(CLOSE, struct.pack("!H", code)),), code=code)
    for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535):
        yield Case(f"bad code {code}", (client_frame(CLOSE, struct.pack("!H", code)),), code=PROTOCOL)
    close = client_frame(CLOSE, normal)
    behind = (client_frame(PING, b""), client_frame(TEXT, said("a")), close)
    for n, frame in enumerate(behind):
        yield Case(f"something behind it, {n}", (close + frame,), code=1000)
    yield Case("behind a message", (client_frame(TEXT, said("a")) + close,), whole("a"), 1000)
    first = client_frame(TEXT, said("a")[:5], fin=False)
    yield Case("between fragments", (first + close + client_frame(CONTINUATION, said("a")[5:]),), code=1000)
    large = client_frame(TEXT, said("*" * 60_000))
    yield Case("behind a large message, in pieces", pieces(large + close, 8192), whole("*" * 60_000), 1000)


def limits(most: int) -> Iterator[Case]:
    """Draw messages up to the limit and over it, whole, in fragments, and in many writes."""
    text = "*" * (most - len(said("")))
    frame = client_frame(TEXT, said(text))
    yield Case("the largest", (frame,), whole(text))
    for size in (64, 1024, 16_384):
        yield Case(
            f"the largest in fragments of {size}", (b"".join(fragments(said(text), size)),), whole(text)
        )
    yield Case("the largest in pieces", pieces(frame, 1301), whole(text))
    yield Case("one byte more", (client_frame(TEXT, said(text + "*")),), code=TOO_BIG)
    yield Case("one byte more in fragments", (b"".join(fragments(said(text + "*"), 4096)),), code=TOO_BIG)
    yield Case("binary over the limit", (client_frame(BINARY, b"\0" * (most + 1)),), code=TOO_BIG)
    endless = struct.pack("!BBQ", 0x81, 0xFF, 2**63 - 1) + b"\0\0\0\0" + b"*" * (most + 1)
    yield Case("a frame of 2^63 bytes", (endless,), code=TOO_BIG)
    yield Case(
        "a length with its first bit", (struct.pack("!BBQ", 0x81, 0xFF, 2**63) + b"\0" * 4,), code=PROTOCOL
    )


def also_padded(cases: Iterator[Case]) -> list[Case]:
    """Return the cases in a list; their names are their own."""
    listed = list(cases)
    assert len({case.name for case in listed}) == len(listed)
    return listed


async def verdict(api: Api, case: Case) -> str | None:
    """Run one case; return what was wrong."""
    watch = await open_ws(api.url)
    async with watch:
        for data in case.sends:
            try:
                await watch.send(data)
            except trio.BrokenResourceError:
                break  # ended before all was said
        if case.code is None:
            await watch.say("ping", ref="the end")
        got: list[tuple[str, Any]] = []
        with trio.move_on_after(30) as patience:
            while not got or got[-1][0] != "end":
                told = await watch.next()
                if told.kind == "pong" and told.fields["ref"] == "the end":
                    break
                got.append(_repeated(told))
        if patience.cancelled_caught:
            return f"nothing more came after {got}"
    wanted = [*case.answers, *([] if case.code is None else [("end", case.code)])]
    return None if got == wanted else f"{_short(got)} instead of {_short(wanted)}"


def _repeated(told: Told) -> tuple[str, Any]:
    member = {"pong": "ref", "pong frame": "payload", "end": "code"}.get(told.kind)
    return told.kind, None if member is None else told.fields[member]


def _short(answers: list[tuple[str, Any]]) -> str:
    return ", ".join(f"{kind} {str(what)[:40]}" for kind, what in answers)


async def walk(api: Api, cases: Iterator[Case]) -> None:
    """Run cases one by one and tell of all that went wrong."""
    wrong = {case.name: found for case in also_padded(cases) if (found := await verdict(api, case))}
    assert not wrong


async def test_framing(api: Api) -> None:
    """A message of any length comes through, however it is written; binary ones are refused."""
    await walk(api, framing())


async def test_pings_and_pongs(api: Api) -> None:
    """Each ping has one pong with its payload, in order; a pong nobody asked for is nothing."""
    await walk(api, pings())


async def test_reserved_bits_and_opcodes(api: Api) -> None:
    """A frame of no known kind, or without a mask, ends the stream; what came before is answered."""
    await walk(api, reserved())


async def test_fragmentation(api: Api) -> None:
    """Fragments make one message with control frames between them; a fragment of nothing ends the stream."""
    await walk(api, fragmentation())


async def test_text_is_utf_8(api: Api) -> None:
    """What is UTF-8 is a message, wherever it is cut; what is not ends the stream with 1007."""
    await walk(api, texts())


async def test_closing(api: Api) -> None:
    """A close frame is answered with its code, and with 1002 or 1007 if it may not be; nothing follows it."""
    await walk(api, closing())


async def test_limits(api: Api) -> None:
    """A message up to the limit comes through; one byte more ends the stream with 1009."""
    await walk(api, limits(65_536))
