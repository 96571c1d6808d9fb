import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heliograph.http.wire.head import END_OF_HEAD, HEAD_LIMIT, parse_head

LINES = [
    b"Host: x",
    b"host:x",
    b"Host: x, y",
    b"Content-Length: 5",
    b"content-length:  0005 ",
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"Content-Length: 99999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Connection: keep-alive",
    b"Connection: Upgrade",
    b"Connection: close",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"X: \xe9\t y",
    b"X-Empty:",
    b"Bad Name: x",
    b": x",
    b" folded",
    b"Nul: \0",
    b"Bare: x\ry",
    b"nonsense",
]
FIRST = [
    b"GET / HTTP/1.1",
    b"POST /api/v1/events?a=b%20c&d HTTP/1.1",
    b"get / HTTP/1.1",
    b"GET / HTTP/1.0",
    b"GET  / HTTP/1.1",
    b"GET /\xe9 HTTP/1.1",
    b"GET * HTTP/1.1",
    b"GET http://x/ HTTP/1.1",
    b"CONNECT /x HTTP/1.1",
    b"PRI * HTTP/2.0",
]


def read_by_h11(raw: bytes) -> tuple[h11.Request, int] | None:
    """Return the request that h11 finds and how many bytes of body it expects; ``None`` if it refuses."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * HEAD_LIMIT)
    parser.receive_data(raw)
    try:
        request = parser.next_event()
    except h11.RemoteProtocolError:
        return None
    assert isinstance(request, h11.Request)
    length = 0
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(b"x")
        elif isinstance(event, h11.Data):
            length += len(event.data)
        else:
            return request, length


@given(st.sampled_from(FIRST[:3]), st.lists(st.sampled_from(LINES), max_size=5), st.binary(max_size=8))
@example(FIRST[0], [b"Host: x", b"X: \xe9\t y"], b"")
@example(FIRST[1], [b"Host: x", b"Content-Length: 5"], b"")
def test_a_head_without_doubt_is_read_as_h11_reads_it(first: bytes, lines: list[bytes], noise: bytes) -> None:
    """Whatever is read is read alike by hypercorn's parser: method, target, headers, length of the body."""
    raw = b"\r\n".join([first, *lines, *([b"N: " + noise] if noise else []), b"", b""])
    end = END_OF_HEAD.search(raw)
    assert end is not None
    raw = raw[: end.end()]
    head = parse_head(raw)
    if head is None:
        return
    assert head.raw == raw
    if head.length > 10 or head.headers.get("Expect"):
        return
    found = read_by_h11(raw)
    assert found is not None
    request, length = found
    assert head.method.encode() == request.method
    assert head.path + ("?" + head.query if b"?" in request.target else "") == request.target.decode()
    assert list(head.headers.by_name.items()) == [
        (name.decode(), value.decode("latin-1")) for name, value in request.headers
    ]
    assert head.length == length


@pytest.mark.parametrize("first", FIRST[2:])
def test_an_unusual_first_line_leaves_a_doubt(first: bytes) -> None:
    """Another version, another form of target and methods that nobody uses are hypercorn's to judge."""
    assert parse_head(first + b"\r\nHost: x\r\n\r\n") is None


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"Host: x", b"Host: x"],
        [b"Host: x", b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Host: x", b"Content-Length: 5", b"content-length: 5"],
        [b"Host: x", b"Content-Length: 5, 5"],
        [b"Host: x", b"Content-Length: +5"],
        [b"Host: x", b"Content-Length: \xb2"],
        [b"Host: x", b"Content-Length: " + b"9" * 16],
        [b"Host: x", b"Content-Length : 5"],
        [b"Host: x", b"Upgrade: h2c", b"Connection: Upgrade"],
        [b"Host: x", b"Upgrade: websocket"],
        [b"Host: x", b"Upgrade: websocket", b"Connection: Upgrade", b"Content-Length: 5"],
        [b"Host: x", b"X: y", b" folded"],
        [b"Host: x\n"],
        [b"Host: x", b"X: " + b"y" * HEAD_LIMIT],
    ],
)
def test_what_could_be_read_in_two_ways_leaves_a_doubt(lines: list[bytes]) -> None:
    """Two lengths, anything twice, folded lines, bare newlines, other upgrades are hypercorn's to judge."""
    assert parse_head(b"\r\n".join([b"GET / HTTP/1.1", *lines, b"", b""])) is None


@pytest.mark.parametrize(
    ("lines", "plain", "upgrades"),
    [
        ([], True, False),
        ([b"Connection: Keep-Alive"], True, False),
        ([b"Connection: close"], False, False),
        ([b"Connection: keep-alive, x"], False, False),
        ([b"Expect: 100-continue"], False, False),
        ([b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket"], True, True),
    ],
)
def test_what_is_asked_of_the_connection(lines: list[bytes], plain: bool, upgrades: bool) -> None:
    """A plain request wants the connection kept or made a WebSocket, and nothing else of it."""
    head = parse_head(b"\r\n".join([b"GET / HTTP/1.1", b"Host: x", *lines, b"", b""]))
    assert head is not None
    assert (head.plain, head.upgrades) == (plain, upgrades)
