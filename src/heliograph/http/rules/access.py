"""Which pages may ask: the host that a request names, its origin, and what browsers are told of it (CORS)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from heliograph.config import ServerSettings, Settings, is_loopback
from heliograph.http.rules.asked import Asked
from heliograph.model.errors import Forbidden

READING = ("GET", "HEAD", "OPTIONS")
_PORT = re.compile(r":[0-9]*$")


def require_host(settings: Settings, asked: Asked) -> None:
    """Check, where everybody is served, that a request names this machine or a configured page's.

    Any other name belongs to somebody who can have it resolve to this machine, and whose page would then be
    of our own origin.

    Raises:
        Forbidden: It does not.
    """
    host = asked.headers.get("Host")  # no browser leaves it out
    if not (settings.auth.keys or host is None or _is_ours(host) or _is_configured(settings.server, host)):
        raise Forbidden(
            f"the host {host[:100]} is not served without API keys: ask for 127.0.0.1 or localhost, "
            "set HELIOGRAPH_API_KEYS, or name its origin in CORS_ORIGINS"
        )


@lru_cache(maxsize=256)
def _is_ours(host: str) -> bool:
    """Tell whether a host, with or without its port, is this machine; every publish request asks.

    A name without a dot (a container's, a machine's) is the local network's own, which no stranger can have
    resolve.
    """
    name = _PORT.sub("", host).strip("[]")
    return is_loopback(name) or not (set(".:") & set(name))


def _is_configured(settings: ServerSettings, host: str) -> bool:
    return any(origin in {"*", f"http://{host}", f"https://{host}"} for origin in settings.cors_origins)


def require_origin(settings: Settings, asked: Asked) -> None:
    """Check the page that asks; programs that are no browsers name none.

    Raises:
        Forbidden: It may not use the API.
    """
    origin = asked.headers.get("Origin")
    if origin is not None and not origin_allowed(settings.server, origin, asked.headers.get("Host", "")):
        raise Forbidden(f"the origin {origin[:100]} is not in CORS_ORIGINS")


def origin_allowed(settings: ServerSettings, origin: str, host: str) -> bool:
    """Tell whether a page of this origin may use the API: it is ours, or configured."""
    allowed = settings.cors_origins
    return origin in allowed or "*" in allowed or origin.partition("://")[2] == host


def common_headers(settings: ServerSettings, asked: Asked) -> dict[str, str]:
    """Return the headers that every answer has."""
    headers = {"X-Content-Type-Options": "nosniff"}
    origin = asked.headers.get("Origin")
    if origin is not None and origin_allowed(settings, origin, asked.headers.get("Host", "")):
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = "Retry-After, X-Stream-Cursor"
        headers["Vary"] = "Origin"
    return headers


def joined(headers: Mapping[str, str], common: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an answer with the common ones; both may vary by something."""
    both = {**headers, **common}
    if "Vary" in headers and "Vary" in common:
        both["Vary"] = f"{headers['Vary']}, {common['Vary']}"
    return both


def preflight_headers(settings: ServerSettings, asked: Asked, methods: Iterable[str]) -> dict[str, str]:
    """Return the headers of the answer to OPTIONS on a path that has these methods."""
    allowed = ", ".join(methods)
    headers = {"Allow": allowed}
    origin = asked.headers.get("Origin")
    if origin is not None and origin_allowed(settings, origin, asked.headers.get("Host", "")):
        headers["Access-Control-Allow-Methods"] = allowed
        headers["Access-Control-Allow-Headers"] = (
            "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-API-Key"
        )
        headers["Access-Control-Max-Age"] = "600"
    return headers
