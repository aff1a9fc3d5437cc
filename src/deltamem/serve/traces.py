"""Traces for OpenTelemetry, if wanted: a span for each request, and in it one for each part that takes long.

Without :func:`send_traces` everything here does nothing, and needs nothing to be installed.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from deltamem.extensions import from_extra
from deltamem.version import __version__

_tracer: Any = None


def send_traces() -> Callable[[], None]:
    """Sends spans by OTLP over HTTP from now on, to where OpenTelemetry's own variables say.

    Returns:
        what sends the rest and ends it.

    Raises:
        ImportError: OpenTelemetry is not installed.
    """
    global _tracer
    with from_extra("otel", "Traces need OpenTelemetry"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come before what is given here.
    own = {"service.name": "deltamem", "service.version": __version__}
    said = OTELResourceDetector().detect()
    provider = TracerProvider(resource=Resource.create(own).merge(said))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("deltamem", __version__)

    def end() -> None:
        global _tracer
        _tracer = None
        provider.shutdown()

    return end


def request_span(headers: Mapping[str, str]) -> AbstractContextManager[Any]:
    """The span of a request, within that of its client if ``headers`` name one; ``None`` without traces."""
    if _tracer is None:
        return nullcontext()
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract(headers)
    found: AbstractContextManager[Any] = _tracer.start_as_current_span("request", context=context, kind=SpanKind.SERVER)
    return found


def describe_request(span: Any, method: str, route: str, status: int, **about: str | None) -> None:
    """Says of a request's span what it was about."""
    if span is None:
        return
    from opentelemetry.trace import StatusCode

    span.update_name(f"{method} {route}")
    known = {f"deltamem.{name}": value for name, value in about.items() if value is not None}
    span.set_attributes(
        {"http.request.method": method, "http.route": route, "http.response.status_code": status, **known}
    )
    if status >= 500:
        span.set_status(StatusCode.ERROR)


def span(name: str) -> AbstractContextManager[Any]:
    """A span of what is done within the block."""
    return nullcontext() if _tracer is None else _tracer.start_as_current_span(name)


def begin_span(name: str) -> Callable[[Mapping[str, int]], None]:
    """A span that ends when the function that this gives is called, with what is to be said of it."""
    if _tracer is None:
        return lambda about: None
    begun = _tracer.start_span(name)

    def end(about: Mapping[str, int]) -> None:
        begun.set_attributes({f"deltamem.{key}": value for key, value in about.items()})
        begun.end()

    return end
