"""Traces for OpenTelemetry: one for each study, under the id that its log records have too.

Spans are written when something has ended, with the time at which it began. Where tracing is off (no endpoint in the
settings, or a command) that is one look at a variable.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from config.observation import TracingSettings
from dicom_node import __version__
from dicom_node.observation.correlation import current_trace_id

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

_END_S: Final = 3.0
_tracer: Tracer | None = None


def is_tracing() -> bool:
    """Return whether spans are written."""
    return _tracer is not None


def emit(name: str, begun_ns: int, *, failure: str = "", **attributes: str | int | float | None) -> None:
    """Write a span of the study that is being worked on, which began at `begun_ns` and ends now.

    Parameters
    ----------
    begun_ns
        Nanoseconds since the epoch.
    failure
        Why it failed; empty where it did not.
    attributes
        Numbers, names and kinds; no values of data sets. None is left out.
    """
    if _tracer is None or not current_trace_id():
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode

    span = _tracer.start_span(
        name,
        kind=SpanKind.INTERNAL,
        start_time=begun_ns,
        attributes={f"lowdose.{key}": value for key, value in attributes.items() if value is not None},
    )
    if failure:
        span.set_status(Status(StatusCode.ERROR, failure))
    span.end()


def make_provider(settings: TracingSettings, process: str, node: str, exporter: SpanExporter) -> TracerProvider:
    """Return what makes spans whose trace is the study's, and hands them to `exporter` behind the work."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    class StudyIds(IdGenerator):
        """A study's spans have its trace; a few hundred thousand studies share no id of 128 bits."""

        def generate_trace_id(self) -> int:
            return int(current_trace_id() or "0", 16) or random.getrandbits(128)

        def generate_span_id(self) -> int:
            return random.getrandbits(64) or 1

    resource = {
        "service.name": "lowdose-node",
        "service.namespace": node,
        "service.instance.id": process,
        "service.version": __version__,
    }
    provider = TracerProvider(
        # By the id: of a study all spans, of every process, or none.
        sampler=TraceIdRatioBased(settings.sample_percent / 100),
        resource=Resource(resource),
        id_generator=StudyIds(),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=2000, max_queue_size=4096))
    return provider


def use(provider: TracerProvider | None) -> None:
    """Write spans there from now on; None: nowhere."""
    global _tracer
    _tracer = None if provider is None else provider.get_tracer("dicom_node")


@contextmanager
def traced(settings: TracingSettings, process: str, node: str) -> Iterator[None]:
    """Write spans for as long as the block runs, where the settings name an endpoint.

    What can't be sent is dropped: a collector that is away costs some memory and nothing else.
    """
    provider = _provider(settings, process, node) if settings.endpoint else None
    if provider is None:
        yield
        return
    use(provider)
    try:
        yield
    finally:
        use(None)
        # A collector that does not answer must not hold up the end.
        ending = threading.Thread(target=provider.shutdown, name="end of tracing", daemon=True)
        ending.start()
        ending.join(_END_S)


def _provider(settings: TracingSettings, process: str, node: str) -> TracerProvider | None:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        log.error("No traces: install the extra `tracing`, or leave tracing.endpoint empty")
        return None
    return make_provider(settings, process, node, OTLPSpanExporter(endpoint=settings.endpoint, timeout=5))
