"""Export of spans by OpenTelemetry's standard environment variables.

``OTEL_TRACES_EXPORTER`` (``otlp`` or ``console``) or an ``OTEL_EXPORTER_OTLP_ENDPOINT`` switches it on. The
SDK reads all the others (``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER``, ``OTEL_EXPORTER_OTLP_HEADERS``, …)
by itself. The SDK comes with the extra ``heliograph[otel]``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace

from heliograph.model.errors import SettingsError

EXPORTERS = ("otlp", "console")


@contextmanager
def exporting(environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Export spans in the body, if the environment asks for it; send the waiting ones at its end.

    Raises:
        SettingsError: The environment asks for an exporter that is not installed or not known.
    """
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    default = "otlp" if any(environ.get(name) for name in endpoints) else "none"
    exporter = environ.get("OTEL_TRACES_EXPORTER") or default
    if exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield
        return
    if exporter not in EXPORTERS:
        raise SettingsError([f"OTEL_TRACES_EXPORTER: must be none or one of {', '.join(EXPORTERS)}"])
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    except ImportError:
        raise SettingsError(
            ["OTEL_TRACES_EXPORTER: needs the extra: pip install 'heliograph[otel]'"]
        ) from None
    name = {} if environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "heliograph"}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter() if exporter == "otlp" else ConsoleSpanExporter())
    )
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
