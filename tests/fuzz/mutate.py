"""Mutations of known inputs, the same each time they are asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

LONGEST = 2048
ODD = (
    *(b"\0", b"\r\n", b"\n", b"\r", b" ", b"\t", b"\xff", b"\x7f", b"\x80", b"\xc0\x80", b"\xed\xa0\x80"),
    *(
        "\u2028".encode(),
        "\ufeff".encode(),
        "𝄞".encode(),
        b"\\ud83d",
        b"\\u0000",
        b"%00",
        b"%ff",
        b"..",
        b"/",
    ),
    *(b"-1", b"0", b"9223372036854775808", b"18446744073709551616", b"1e999", b"NaN", b"null", b"true"),
    *(b"{", b"}", b"[", b"]", b'"', b"'", b",", b":", b".", b"=", b"&", b"*", b"!!python/object", b"---\n"),
)


def mutations(corpus: Sequence[bytes], name: str, count: int) -> Iterator[bytes]:
    """Yield the inputs of a corpus, then ``count`` changes of them; ``name`` and the corpus decide which."""
    yield from corpus
    rng = random.Random(name)
    for _ in range(count):
        data = bytearray(rng.choice(corpus))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            _change(data, corpus, rng)
        yield bytes(data[:LONGEST])


def _change(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 16, 64)))
    match rng.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1 if at < len(data):
            data[at] = rng.randrange(256)
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end] * rng.choice((1, 2, 50))
        case 4:
            other = rng.choice(corpus)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        case 5:
            del data[at:]
        case _:
            data[at : rng.choice((at, end))] = rng.choice(ODD)
