"""Finds the messages in a server's bytes, with no more parsing than a load test needs.

There are two scanners with the same interface: ``feed(bytes)`` returns the messages that the bytes complete,
``idle`` tells that no part of a next message is held, and ``take_back`` returns that part. ``FrameScanner``
reads WebSocket frames as a server sends them (unmasked, unfragmented, uncompressed) and keeps control frames
apart; ``BlockScanner`` reads the blocks of an event stream, chunked or not. Neither knows a socket, so both
are tested byte by byte.

They are not the client for programs, which validates, reassembles and answers. They exist to hold 10,000
streams on one core, where a generic parser would cost more than the server under test.
"""

from __future__ import annotations

from typing import Protocol

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
"""First bytes of the frames that a server may send: FIN and the opcode."""


class BrokenProtocol(Exception):
    """The server's bytes break the protocol, or go beyond the part of it that is read here."""


class Scanner(Protocol):
    """The interface of the swarm to a stream's scanner."""

    controls: list[tuple[int, bytes]]
    ended: bool

    @property
    def idle(self) -> bool:
        """Whether no part of a next message is held."""

    def take_back(self) -> bytes:
        """Return the bytes of an incomplete frame or chunk, to be fed again with the bytes after them."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the messages that they complete.

        Raises:
            BrokenProtocol: They break the protocol.
        """


class FrameScanner:
    """Reads WebSocket frames; ``controls`` collects ``(first byte, payload)`` of frames other than text."""

    __slots__ = ("_rest", "controls", "ended")

    def __init__(self) -> None:
        self._rest = b""
        self.controls: list[tuple[int, bytes]] = []
        self.ended = False

    @property
    def idle(self) -> bool:
        """Whether no part of a next frame is held."""
        return not self._rest

    def take_back(self) -> bytes:
        """Return the bytes of an incomplete frame."""
        rest, self._rest = self._rest, b""
        return rest

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads of the text frames that are complete now.

        Raises:
            BrokenProtocol: A frame that is masked, fragmented, binary or has reserved bits.
        """
        if self._rest:
            data = self._rest + data
        texts = []
        at, end = 0, len(data)
        while end - at >= 2:
            length, start = data[at + 1], at + 2
            if length >= 126:
                if length > 127:
                    raise BrokenProtocol("a server's frame is masked")
                start = at + (4 if length == 126 else 10)
                if start > end:
                    break
                length = int.from_bytes(data[at + 2 : start], "big")
            if start + length > end:
                break
            payload = data[start : start + length]
            if data[at] == TEXT:
                texts.append(payload)
            elif data[at] in (CLOSE, PING, PONG):
                self.controls.append((data[at], payload))
            else:
                raise BrokenProtocol(f"a frame begins with {data[at]:#x}")
            at = start + length
        self._rest = data[at:]
        return texts


class BlockScanner:
    """Reads the blocks of an event stream; ``ended`` is set by the last chunk."""

    __slots__ = ("_chunked", "_raw", "_text", "controls", "ended")

    def __init__(self, *, chunked: bool) -> None:
        self._chunked = chunked
        self._raw = b""
        self._text = b""
        self.controls: list[tuple[int, bytes]] = []
        self.ended = False

    @property
    def idle(self) -> bool:
        """Whether no part of a next chunk or block is held."""
        return not self._raw and not self._text

    def take_back(self) -> bytes:
        """Return the bytes of an incomplete chunk, or of an incomplete block outside of chunks."""
        if self._chunked:
            rest, self._raw = self._raw, b""
        else:
            rest, self._text = self._text, b""
        return rest

    def feed(self, data: bytes) -> list[bytes]:
        """Return the blocks that are complete now, with newlines of one kind.

        Raises:
            BrokenProtocol: The chunked encoding is broken.
        """
        text = self._text + (self._dechunk(data) if self._chunked else data)
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *blocks, self._text = text.split(b"\n\n")
        return [block for block in blocks if block]

    def _dechunk(self, data: bytes) -> bytes:
        data = self._raw + data
        parts = []
        at = 0
        while (newline := data.find(b"\r\n", at)) >= 0:
            try:
                size = int(data[at:newline].partition(b";")[0], 16)
            except ValueError:
                raise BrokenProtocol(f"a chunk has the size {data[at:newline][:20]!r}") from None
            if size == 0:
                self.ended = True
            end = newline + 2 + size
            if len(data) < end + 2:
                break
            parts.append(data[newline + 2 : end])
            at = end + 2
        self._raw = data[at:]
        return b"".join(parts)


def client_frame(first: int, payload: bytes) -> bytes:
    """Make a client's frame: masked, with a mask of zeros."""
    length = len(payload)
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 1 << 16:
        head = bytes((first, 0xFE)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + length.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload
