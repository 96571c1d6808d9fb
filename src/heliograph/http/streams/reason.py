"""Why a stream ended."""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Why a stream ended: the close code of WebSocket, and the name in counters and notices."""

    PEER = (1000, "closed by the client")
    SHUTDOWN = (1012, "the service restarts")
    PROTOCOL = (1002, "protocol error")
    BAD_DATA = (1007, "not UTF-8 text")
    POLICY = (1008, "no subscription in time")
    TOO_BIG = (1009, "message too big")
    ROTATE = (4001, "planned rotation; come back")
    SLOW = (4008, "slow consumer; resume from your cursor")
    NO_PONG = (4012, "no pong")
    BROKEN = (1006, "connection lost")
    TASK_ENDED = (1000, "the task has ended")
    INTERNAL = (1011, "internal error; it was logged")
    FULL = (1013, "too many streams; come back later")
    UNAVAILABLE = (1013, "the log can not be read now")
    BAD_KEY = (4500, "bad key")
    REVOKED = (4500, "the key was revoked")
    EXPIRED = (4500, "the key has expired")
    FORBIDDEN = (4503, "forbidden channel")
    TOO_MANY = (4505, "too many channels")

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text

    @property
    def final(self) -> bool:
        """Whether the client should not come back: it would fare no better."""
        return self.code >= 4500
