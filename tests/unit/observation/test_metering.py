"""Metrics: every definition can be counted, pages of several processes become one, and labels stay few."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.observation import definitions
from dicom_node.observation.definitions import METRICS, Kind, Metric, Origin
from dicom_node.observation.exposition import merge, render_families
from dicom_node.observation.meter import MOST_SERIES, Meter, family
from dicom_node.observation.metering import count, observe, start_meter, stop_meter
from tests.support.node import REPOSITORY


@pytest.fixture(autouse=True)
def _meter_ends() -> Iterator[None]:
    yield
    stop_meter()


def values(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the value of each sample of a page, read by the parser of Prometheus's own library."""
    families = text_string_to_metric_families(page.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for one in families for s in one.samples}


def use(meter: Meter, metric: Metric) -> None:
    labels = tuple(f"value of {label}" for label in metric.labels)
    if metric.kind is Kind.COUNTER:
        meter.count(metric, labels, 2)
    elif metric.kind is Kind.HISTOGRAM:
        meter.observe(metric, labels, 2)
    else:
        meter.show(metric, labels, 2)


def test_every_metric_of_a_process_is_there_once_it_is_used() -> None:
    meter = Meter("receiver")
    mine = [metric for metric in METRICS if metric.origin is Origin.PROCESS]
    for metric in mine:
        if metric.name in meter.names:
            use(meter, metric)
    found = values(meter.exposition())
    for metric in mine:
        name = f"{metric.name}_sum" if metric.kind is Kind.HISTOGRAM else metric.name
        labels = dict(next(labels for known, labels in found if known == name))
        assert labels["process"] == "receiver"
        assert set(labels) == {"process", *metric.labels}
        if metric.name in meter.names:
            assert found[name, tuple(sorted(labels.items()))] == 2


def test_names_and_labels_follow_the_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 40
    for metric in METRICS:
        assert re.fullmatch(r"lowdose_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert metric.help.endswith("."), metric.name
        assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
        # No label can hold what has no bound, or tells of a patient.
        allowed = {
            "source", "outcome", "cause", "status", "stage", "route", "decision", "part", "when", "destination",
            "state", "job", "model", "digest", "level", "version", "process", "holds", "setting", "alarm", "subject",
            "scope", "name",
        }  # fmt: skip
        assert set(metric.labels) <= allowed, metric.name


def test_the_page_of_the_documentation_is_the_definitions() -> None:
    assert (REPOSITORY / "docs" / "metrics.md").read_text() == definitions.render()


def test_pages_of_processes_become_one_that_a_parser_takes() -> None:
    meters = [Meter("receiver"), Meter("worker-0")]
    for number, meter in enumerate(meters):
        meter.count(definitions.RECEIVED_OBJECTS, ("xray", "0000"), number + 1)
        meter.observe(definitions.STAGE_SECONDS, ("deliver",), 3.0)
    of_machine = render_families([family(definitions.PROCESS_UP, {("receiver",): 1.0, ("worker-0",): 0.0})])
    page = merge([of_machine, *(meter.exposition() for meter in meters)])
    found = values(page)
    name = "lowdose_received_objects_total"
    numbers = {labels: value for (known, labels), value in found.items() if known == name}
    assert sorted(numbers.values()) == [1, 2]
    assert {dict(labels)["process"] for labels in numbers} == {"receiver", "worker-0"}
    text = page.decode()
    for metric in (definitions.RECEIVED_OBJECTS, definitions.STAGE_SECONDS, definitions.PROCESS_UP):
        assert text.count(f"# TYPE {metric.name} ") == 1
    # Samples of one metric stand in one block, which the format asks for.
    blocks = re.findall(r"# HELP (\S+).*\n# TYPE \S+ \S+\n((?:(?!#).*\n)*)", text)
    assert all(line.startswith(name) for name, block in blocks for line in block.splitlines())


def test_label_values_without_bound_stop_at_the_limit() -> None:
    meter = Meter("receiver")
    for number in range(MOST_SERIES + 50):
        meter.count(definitions.REJECTIONS, (str(number),), 1)
    assert meter.exposition().count(b"\nlowdose_association_rejections_total{") == MOST_SERIES


def test_nothing_is_counted_and_nothing_fails_without_a_meter() -> None:
    count(definitions.RECEIVED_OBJECTS, "xray", "0000")
    observe(definitions.RECEIVE_SECONDS, 0.1, "xray")
    meter = start_meter("receiver")
    assert b"lowdose_received_objects_total{" not in meter.exposition()


def test_warnings_and_errors_in_the_log_are_counted() -> None:
    meter = start_meter("receiver")
    log = logging.getLogger("dicom_node.test")
    log.warning("Something")
    log.error("Something")
    log.error("Something else")
    found = {
        dict(labels)["level"]: value
        for (name, labels), value in values(meter.exposition()).items()
        if "log_records" in name
    }
    assert found == {"warning": 1, "error": 2}


def test_no_file_holds_what_is_counted(tmp_path: Path) -> None:
    # A file that is mapped into memory ends the process when its disk is full.
    start_meter("receiver")
    count(definitions.REJECTIONS, "transport")
    maps = Path("/proc/self/maps").read_text()
    assert not [line for line in maps.splitlines() if re.search(r"/(counter|gauge|histogram)_\w+\.db", line)]
