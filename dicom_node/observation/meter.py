"""The instruments of one process (prometheus_client), and what the kernel knows of it.

prometheus_client's multiprocess mode is not used: it maps files into memory, and the first write to a page that a full
disk has no room for ends the process with SIGBUS (decision 38). Each process answers for itself instead.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from dicom_node.observation.definitions import (
    CPU_SECONDS,
    METRICS,
    OPEN_FILES,
    RESIDENT_BYTES,
    STARTED,
    Kind,
    Metric,
    Origin,
)

_LOOKED_UP: Final = frozenset({CPU_SECONDS, OPEN_FILES, RESIDENT_BYTES, STARTED})
MOST_SERIES: Final = 2000
"""Label values that a process keeps apart; a bound for faults, far above what settings can name."""


class Meter:
    """The metrics of one process.

    Parameters
    ----------
    process
        Its name on this machine, such as ``worker-0``.
    """

    def __init__(self, process: str) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.process = process
        self._registry = CollectorRegistry(auto_describe=False)
        self._instruments: dict[str, Counter | Gauge | Histogram] = {}
        self._children: dict[tuple[str, ...], Counter | Gauge | Histogram] = {}
        for metric in METRICS:
            if metric.origin is Origin.PROCESS and metric not in _LOOKED_UP:
                self._instruments[metric.name] = _instrument(metric, self._registry)
        self._registry.register(_OwnProcess(process))

    @property
    def names(self) -> frozenset[str]:
        """The metrics that are counted here; the others are looked up."""
        return frozenset(self._instruments)

    def count(self, metric: Metric, labels: tuple[str, ...], amount: float) -> None:
        """Add to a counter."""
        if isinstance(child := self._child(metric, labels), Counter):
            child.inc(amount)

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Put a value into a histogram."""
        if isinstance(child := self._child(metric, labels), Histogram):
            child.observe(value)

    def adjust(self, metric: Metric, labels: tuple[str, ...], by: float) -> None:
        """Raise a gauge, or lower it."""
        if isinstance(child := self._child(metric, labels), Gauge):
            child.inc(by)

    def show(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge."""
        if isinstance(child := self._child(metric, labels), Gauge):
            child.set(value)

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def _child(self, metric: Metric, labels: tuple[str, ...]) -> Counter | Gauge | Histogram | None:
        """Return what counts for these values of labels; None where there are too many of them."""
        key = (metric.name, *labels)
        found = self._children.get(key)
        if found is None and len(self._children) < MOST_SERIES:
            found = self._children[key] = self._instruments[metric.name].labels(self.process, *labels)
        return found


def _instrument(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    labels = ("process", *metric.labels)
    if metric.kind is Kind.HISTOGRAM:
        return Histogram(metric.name, metric.help, labels, buckets=metric.buckets, registry=registry)
    kind = Counter if metric.kind is Kind.COUNTER else Gauge
    return kind(metric.name, metric.help, labels, registry=registry)


class _OwnProcess(Collector):
    """What the kernel knows of this process, at the moment that it is asked."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._started_at = time.time()

    def collect(self) -> Iterator[Family]:
        """Yield its metrics."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        values: tuple[tuple[Metric, float], ...] = (
            (CPU_SECONDS, usage.ru_utime + usage.ru_stime),
            (RESIDENT_BYTES, pages * resource.getpagesize()),
            (OPEN_FILES, len(os.listdir("/proc/self/fd"))),
            (STARTED, self._started_at),
        )
        for metric, value in values:
            yield family(metric, {(self._process,): value}, ("process",))


def family(
    metric: Metric, values: dict[tuple[str, ...], float], labels: tuple[str, ...] | None = None
) -> CounterMetricFamily | GaugeMetricFamily:
    """Return a metric with its values by those of its labels."""
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    found = kind(metric.name, metric.help, labels=metric.labels if labels is None else labels)
    for label_values, value in values.items():
        found.add_metric(label_values, value)
    return found
