import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heliograph.http.wire.head import END_OF_HEAD, HEAD_LIMIT, HeadRefused, read_head

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
WEB_SOCKET = [b"Host: x", b"Upgrade: websocket", b"Connection: Upgrade"]


MOST = 10
"""Bytes of a body that are counted."""


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
    if b"transfer-encoding" in dict(request.headers):
        return request, length  # as many as the chunks say
    while length <= MOST:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(b"x")
        elif isinstance(event, h11.Data):
            length += len(event.data)
        else:
            break
    return request, length


@given(st.sampled_from(FIRST), st.lists(st.sampled_from(LINES), max_size=5), st.binary(max_size=8))
@example(FIRST[0], [b"Host: x", b"X: \xe9\t y"], b"")
@example(FIRST[1], [b"Host: x", b"Content-Length: 5"], b"")
@example(FIRST[0], [b"Host: x", b"Transfer-Encoding: chunked"], b"")
@example(FIRST[0], [b"Host: x", b"Upgrade: h2c", b"Connection: Upgrade"], b"")
def test_a_head_is_read_as_h11_reads_it(first: bytes, lines: list[bytes], noise: bytes) -> None:
    """What hypercorn is given of a head is read by its parser as it was read here, and never as HTTP/2."""
    raw = b"\r\n".join([first, *lines, *([b"N: " + noise] if noise else []), b"", b""])
    end = END_OF_HEAD.search(raw)
    assert end is not None
    raw = raw[: end.end()]
    try:
        head = read_head(raw)
    except HeadRefused:
        return
    assert not head.strict or head.raw == raw
    if (head.length or 0) > MOST or head.headers.get("Expect"):
        return
    found = read_by_h11(head.raw)
    assert found is not None
    request, length = found
    assert head.method.encode() == request.method
    query = "?" + head.query if b"?" in request.target else ""
    assert head.path + query == request.target.decode("latin-1")
    assert dict(request.headers).get(b"upgrade", b"websocket").lower() == b"websocket"
    own = {name.decode(): value.decode("latin-1") for name, value in request.headers}
    assert {**head.headers.by_name, "connection": ""} == {**own, "connection": ""}
    assert head.length == (None if "transfer-encoding" in own else length)


@given(st.sampled_from(FIRST), st.lists(st.sampled_from(LINES), max_size=5))
def test_what_h11_refuses_is_refused(first: bytes, lines: list[bytes]) -> None:
    """A head is served only if hypercorn's parser would read it at all."""
    raw = b"\r\n".join([first, *lines, b"", b""])
    if read_by_h11(raw) is None:
        with pytest.raises(HeadRefused):
            read_head(raw)


@pytest.mark.parametrize("first", [FIRST[2], FIRST[3], *FIRST[6:8]])
def test_an_unusual_first_line_takes_no_shortcut(first: bytes) -> None:
    """Another version, another form of target and methods that nobody uses are not served by hand."""
    assert not read_head(first + b"\r\nHost: x\r\n\r\n").plain


@pytest.mark.parametrize(
    ("first", "lines", "status"),
    [
        (FIRST[0], [], 400),
        (FIRST[0], [b"Host: x", b"Host: x"], 400),
        (FIRST[0], [b"Host: x", b"Content-Length: 5", b"Transfer-Encoding: chunked"], 400),
        (b"GET / HTTP/1.0", [b"Transfer-Encoding: chunked"], 400),
        (FIRST[0], [b"Host: x", b"Transfer-Encoding: gzip"], 501),
        (FIRST[0], [b"Host: x", b"Content-Length: 5, 6"], 400),
        (FIRST[0], [b"Host: x", b"Content-Length: +5"], 400),
        (FIRST[0], [b"Host: x", b"Content-Length: \xb2"], 400),
        (FIRST[0], [b"Host: x", b"Content-Length : 5"], 400),
        (b"PRI * HTTP/2.0", [], 505),
        (b"GET / HTTP/3.0", [b"Host: x"], 505),
        (b"CONNECT x:80 HTTP/1.1", [b"Host: x"], 501),
        (FIRST[0], [*WEB_SOCKET, b"Sec-WebSocket-Version: 8"], 426),
        (FIRST[0], WEB_SOCKET, 426),
        (FIRST[0], [*WEB_SOCKET, b"Sec-WebSocket-Version: 13"], 400),
        (FIRST[0], [*WEB_SOCKET, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key:"], 400),
        (FIRST[0], [*WEB_SOCKET, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: c2hvcnQ="], 400),
    ],
)
def test_what_is_not_served(first: bytes, lines: list[bytes], status: int) -> None:
    """What h11 refuses, HTTP/2, two lengths, and handshakes that are none are refused with their status."""
    with pytest.raises(HeadRefused) as refused:
        read_head(b"\r\n".join([first, *lines, b"", b""]))
    assert refused.value.status == status


def test_a_wrong_version_is_told_the_right_one() -> None:
    """The answer to a WebSocket of another version names the one that is served."""
    with pytest.raises(HeadRefused) as refused:
        read_head(b"\r\n".join([FIRST[0], *WEB_SOCKET, b"Sec-WebSocket-Version: 8", b"", b""]))
    assert refused.value.headers["Sec-WebSocket-Version"] == "13"


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
    if upgrades:
        lines = [*lines, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    head = read_head(b"\r\n".join([b"GET / HTTP/1.1", b"Host: x", *lines, b"", b""]))
    assert (head.plain, head.upgrades) == (plain, upgrades)
