"""The pages that may use the API: checks of a request's host and origin, and the headers of CORS."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network

import structlog

from heliograph.config import ServerSettings, Settings, is_loopback
from heliograph.http.rules.asked import Asked
from heliograph.http.wire.connection import peer_address
from heliograph.model.errors import Forbidden

log = structlog.get_logger(__name__)

READING = ("GET", "HEAD", "OPTIONS")
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Origin",
}
"""Headers of every answer."""

ASKABLE = (
    "Authorization, Cache-Control, Content-Encoding, Content-Type, Idempotency-Key, Last-Event-ID, "
    "X-API-Key, X-Requested-With, traceparent, tracestate, baggage, *"
)
"""Headers that a page of another origin may send: any, as every tracer adds its own. ``*`` does not stand for
``Authorization``, nor for anything in old browsers, so those that matter are named.
"""

_PORT = re.compile(r":[0-9]*$")


def require_host(settings: Settings, asked: Asked, *, keyed: bool) -> None:
    """Check, where no key is needed, that a request names this machine or a configured page's host.

    The owner of any other name could let it resolve to this machine (DNS rebinding), and a page of that name
    would then have our own origin.

    Args:
        settings: The settings in force.
        asked: The request.
        keyed: Whether keys are required.

    Raises:
        Forbidden: The request names another host.
    """
    host = asked.headers.get("Host")  # browsers always send it
    auth = settings.auth
    # With keys a page of a rebound name can do nothing. An address is safe, since it can't be rebound.
    safe = _is_address(host or "") if auth.open_networks else keyed
    if safe or host is None or _is_ours(host):
        return
    if not _is_configured(settings.server, host):
        raise Forbidden(
            f"the host {host[:100]} is not served without API keys: ask for 127.0.0.1 or localhost, "
            "set HELIOGRAPH_API_KEYS, or name its origin in CORS_ORIGINS"
        )


@lru_cache(maxsize=256)
def _is_address(host: str) -> bool:
    try:
        ip_address(_PORT.sub("", host).strip("[]"))
    except ValueError:
        return False
    return True


@lru_cache(maxsize=256)
def _is_ours(host: str) -> bool:
    """Tell whether a host, with or without its port, is this machine; called for every publish request.

    A name without a dot (a container's, a machine's) belongs to the local network, so strangers can't rebind
    it.
    """
    name = _PORT.sub("", host).strip("[]")
    return is_loopback(name) or not (set(".:") & set(name))


def _is_configured(settings: ServerSettings, host: str) -> bool:
    return any(origin in {"*", f"http://{host}", f"https://{host}"} for origin in settings.cors_origins)


def require_origin(settings: Settings, asked: Asked) -> None:
    """Check the origin of the calling page; programs other than browsers send none.

    Raises:
        Forbidden: The page may not use the API.
    """
    origin = asked.headers.get("Origin")
    if origin is not None and not origin_allowed(settings.server, origin, asked):
        host = asked.headers.get("Host", "")
        log.warning("origin refused", origin=origin[:100], host=host[:100], path=asked.path[:100])
        raise Forbidden(
            f"the origin {origin[:100]} is neither the page's own host, {host[:100]}, nor in CORS_ORIGINS; "
            "behind a proxy, have it pass Host on, or name it in HELIOGRAPH_TRUSTED_PROXIES"
        )


def origin_allowed(settings: ServerSettings, origin: str, asked: Asked) -> bool:
    """Tell whether a page of this origin may use the API: the origin is ours, or configured."""
    allowed = settings.cors_origins
    page = origin.partition("://")[2]
    if origin in allowed or "*" in allowed or page == asked.headers.get("Host", ""):
        return True
    return page == _forwarded_host(settings, asked)


def _forwarded_host(settings: ServerSettings, asked: Asked) -> str | None:
    """Return the host that the browser has asked for, as reported by a trusted proxy.

    Of several hosts the last one counts: the trusted proxy has added it, and a client may have sent the
    others.
    """
    forwarded = asked.headers.get("X-Forwarded-Host") if settings.trusted_proxies else None
    if forwarded is None or not is_within(peer_address(), settings.trusted_proxies):
        return None
    return forwarded.rpartition(",")[2].strip()


def client_address(settings: ServerSettings, asked: Asked) -> str | None:
    """Return the address of a request's client; behind trusted proxies, the one that they report.

    Each proxy appends the address of its own peer. So the last address that is not a trusted proxy's counts,
    and those before it, which the client may have sent, do not.
    """
    peer = peer_address()
    if peer is None or not is_within(peer, settings.trusted_proxies):
        return peer
    for named in reversed(asked.headers.get("X-Forwarded-For", "").split(",")):
        address = _plain_address(named.strip())
        if address is None:
            break
        peer = address
        if not is_within(address, settings.trusted_proxies):
            break
    return peer


def _plain_address(text: str) -> str | None:
    """Return an address without the port that some proxies append."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return None


@lru_cache(maxsize=256)
def is_within(address: str | None, networks: tuple[str, ...]) -> bool:
    """Tell whether an address is one of ``networks``, or lies in one of them."""
    if address is None:
        return False
    peer = ip_address(address.partition("%")[0])
    mapped = getattr(peer, "ipv4_mapped", None)  # the form of IPv4 peers of a listener on [::]
    return any((mapped or peer) in ip_network(network, strict=False) for network in networks)


def common_headers(settings: ServerSettings, asked: Asked) -> dict[str, str]:
    """Return the headers that every answer has."""
    headers = {**ALWAYS}
    origin = asked.headers.get("Origin")
    if origin is not None and origin_allowed(settings, origin, asked):
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = "Link, Retry-After, X-Next-Cursor, X-Stream-Cursor"
        # A page that may use the API may also read its answers.
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return headers


def joined(headers: Mapping[str, str], common: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an answer joined with the common ones; ``Vary`` is merged."""
    both = {**headers, **common}
    if "Vary" in headers and "Vary" in common:
        both["Vary"] = f"{headers['Vary']}, {common['Vary']}"
    return both


def preflight_headers(settings: ServerSettings, asked: Asked, methods: Iterable[str]) -> dict[str, str]:
    """Return the headers of the answer to OPTIONS on a path with these ``methods``."""
    allowed = ", ".join(methods)
    headers = {"Allow": allowed}
    origin = asked.headers.get("Origin")
    if origin is not None and origin_allowed(settings, origin, asked):
        headers["Access-Control-Allow-Methods"] = allowed
        headers["Access-Control-Allow-Headers"] = ASKABLE
        headers["Access-Control-Max-Age"] = "600"
    return headers
