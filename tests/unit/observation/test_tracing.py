"""Traces: one for each study, from every process alike; a collector that is away holds nothing up."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from config.observation import TracingSettings
from dicom_node.observation.correlation import correlated, trace_id_of
from dicom_node.observation.tracing import emit, is_tracing, make_provider, traced, use
from tests.support.peers import LOOPBACK, find_free_port
from tests.support.sinks import HttpSink


@pytest.fixture(autouse=True)
def _nothing_is_traced_afterwards() -> Iterator[None]:
    yield
    use(None)


def test_spans_of_a_study_share_its_trace_in_every_process() -> None:
    exporters = {name: InMemorySpanExporter() for name in ("receiver", "worker-0")}
    begun_ns = time.time_ns() - 1_000_000_000
    for name, exporter in exporters.items():
        provider = make_provider(TracingSettings(), name, "node", exporter)
        use(provider)
        with correlated("1.2.3"):
            emit("store", begun_ns, bytes=7, source="xray", nothing=None)
            emit("deliver", begun_ns, failure="no answer")
        with correlated("1.2.4"):
            emit("store", begun_ns)
        emit("store", begun_ns)  # of no study
        provider.shutdown()
    for name, exporter in exporters.items():
        first, second, other = exporter.get_finished_spans()
        assert {format(s.context.trace_id, "032x") for s in (first, second)} == {trace_id_of("1.2.3")}
        assert format(other.context.trace_id, "032x") == trace_id_of("1.2.4")
        assert len({s.context.span_id for s in (first, second, other)}) == 3
        assert dict(first.attributes or {}) == {"lowdose.bytes": 7, "lowdose.source": "xray"}
        assert (second.status.is_ok, second.status.description) == (False, "no answer")
        assert first.start_time == begun_ns
        assert first.end_time is not None
        assert first.end_time - begun_ns >= 1_000_000_000
        assert first.resource.attributes["service.instance.id"] == name


def test_of_a_study_every_process_samples_all_or_nothing() -> None:
    kept = []
    for name in ("receiver", "worker-0"):
        exporter = InMemorySpanExporter()
        provider = make_provider(TracingSettings(sample_percent=30), name, "node", exporter)
        use(provider)
        for number in range(200):
            with correlated(f"1.2.{number}"):
                emit("store", time.time_ns())
        provider.shutdown()
        kept.append({span.context.trace_id for span in exporter.get_finished_spans()})
    assert kept[0] == kept[1]
    assert 20 < len(kept[0]) < 110


def test_spans_come_to_a_collector_by_otlp() -> None:
    with HttpSink() as sink:
        with traced(TracingSettings(endpoint=sink.url), "receiver", "node"):
            assert is_tracing()
            with correlated("1.2.3"):
                emit("store", time.time_ns(), bytes=7)
        assert not is_tracing()
        (body,) = sink.bodies
        request = ExportTraceServiceRequest.FromString(body)
        (span,) = request.resource_spans[0].scope_spans[0].spans
        assert (span.name, span.trace_id.hex()) == ("store", trace_id_of("1.2.3"))


def test_a_collector_that_is_away_holds_up_neither_work_nor_end(caplog: pytest.LogCaptureFixture) -> None:
    ended = False
    with traced(TracingSettings(endpoint=f"http://{LOOPBACK}:{find_free_port()}/"), "receiver", "node"):
        with correlated("1.2.3"):
            for _ in range(10_000):
                emit("store", time.time_ns())
        ended = True
    assert ended
    assert not is_tracing()


def test_without_an_endpoint_nothing_is_traced() -> None:
    with traced(TracingSettings(), "receiver", "node"):
        assert not is_tracing()
        with correlated("1.2.3"):
            emit("store", time.time_ns())


def test_without_the_extra_the_log_says_so_and_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with caplog.at_level(logging.ERROR), traced(TracingSettings(endpoint="http://127.0.0.1:1/"), "receiver", "node"):
        assert not is_tracing()
    assert "install the extra" in caplog.text
