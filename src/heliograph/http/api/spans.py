"""A span for every request, by OpenTelemetry's conventions for HTTP servers.

Only OpenTelemetry's API is a dependency. Without an SDK (see ``tracing``) no spans are made, and the only
cost is one look at the provider.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from heliograph.http.rules.asked import Asked

TRACE_HEADERS = ("traceparent", "tracestate", "baggage")


def recording() -> bool:
    """Tell whether an SDK is set up."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


@contextmanager
def request_span(method: str, path: str, asked: Asked) -> Iterator[Span]:
    """Open the span of a request to an endpoint; its parent is the span that ``traceparent`` names.

    Args:
        method: The endpoint's method.
        path: The endpoint's path, as it is declared.
        asked: The request.
    """
    carrier = {name: value for name in TRACE_HEADERS if (value := asked.headers.get(name)) is not None}
    host, port = _address(asked.headers.get("Host", ""))
    attributes: dict[str, str | int] = {
        "http.request.method": asked.method,
        "http.route": path,
        "url.path": asked.path,
        "url.scheme": "http",
        "network.protocol.version": asked.http_version,
        "server.address": host,
        "user_agent.original": asked.headers.get("User-Agent", ""),
    }
    if port is not None:
        attributes["server.port"] = port
    with trace.get_tracer("heliograph").start_as_current_span(
        f"{method} {path}",
        context=propagate.extract(carrier),
        kind=SpanKind.SERVER,
        attributes=attributes,
    ) as span:
        yield span


def note_status(span: Span, status: int) -> None:
    """Write the status of the answer into a span."""
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))


def _address(host: str) -> tuple[str, int | None]:
    """Split a ``Host`` header; the brackets of an IPv6 address are removed, as spans need it."""
    name, _, port = host.rpartition(":")
    if port.isascii() and port.isdigit():
        return name.strip("[]"), int(port)
    return host.strip("[]"), None
