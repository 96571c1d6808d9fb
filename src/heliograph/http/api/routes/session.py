"""A browser's session: a key is traded for a cookie that scripts can't read and other pages can't use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import attrs

from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.services import Services
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.auth import COOKIE, Identity
from heliograph.http.rules.parameters import Nothing, Text, header
from heliograph.http.rules.schema import says
from heliograph.http.rules.shapes import write
from heliograph.model.errors import Forbidden, Invalid


@attrs.frozen
class Caller:
    """The caller, and their rights."""

    name: str
    scopes: Sequence[str]
    channels: Annotated[
        Sequence[str], says("The selectors that the caller may read and publish; empty: all.")
    ]
    by: Annotated[
        str,
        says(
            "The way in which the caller was recognized.",
            enum=("key", "ticket", "session", "network", "task key"),
        ),
    ]


@attrs.frozen
class BrowserSession(Caller):
    """A session that was begun."""

    expires_at: Annotated[float, says("Seconds since 1970.")]


@attrs.frozen
class Beginning:
    """Whether the cookie must travel over TLS alone."""

    scheme: str | None = header("X-Forwarded-Proto", Text(), "The scheme that a proxy names.")


async def begin_session(services: Services, who: Identity, asked: Beginning) -> BrowserSession | Answer:
    """Begin a session of our own page: the answer sets its cookie."""
    if who.by not in {"key", "network"}:
        raise Forbidden(f"a session is begun with a key, not with a {who.by}")
    text, expires_at = services.authenticator.session_for(who)
    begun = BrowserSession(who.name, who.scopes, who.channels, who.by, expires_at)
    life = round(services.settings.auth.session_seconds)
    encrypted = asked.scheme == "https" or services.settings.server.tls_cert is not None
    secure = "; Secure" if encrypted else ""
    cookie = f"{COOKIE}={text}; Path=/; Max-Age={life}; HttpOnly; SameSite=Strict{secure}"
    return Answer(201, write(begun), headers={"Set-Cookie": cookie})


async def end_session(services: Services, who: Identity) -> Answer:
    """End the session of our own page: the answer forgets its cookie."""
    cookie = f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"
    return Answer(204, b"", headers={"Set-Cookie": cookie})


async def show_session(services: Services, who: Identity, asked: Nothing) -> Caller:
    """Return the caller and their rights."""
    return Caller(who.name, who.scopes, who.channels, who.by)


ENDPOINTS = [
    Endpoint(
        "POST",
        "/api/v1/session",
        begin_session,
        "service",
        Described("The session has begun.", headers=["Set-Cookie"]),
        status=201,
        refuses=(Invalid,),
        example=BrowserSession("ops", ["read"], [], "key", samples.NOON.timestamp()),
    ),
    Endpoint(
        "GET",
        "/api/v1/session",
        show_session,
        "service",
        Described("The caller."),
        refuses=(Invalid,),
        example=Caller("ops", ["read"], [], "session"),
    ),
    Endpoint(
        "DELETE",
        "/api/v1/session",
        end_session,
        "service",
        Described("The session has ended.", headers=["Set-Cookie"]),
        scope=None,
        status=204,
    ),
]
