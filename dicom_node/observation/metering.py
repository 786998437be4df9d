"""What a process counts and measures of its own work; it stays in memory until somebody asks.

The meter belongs to the process, like the log: code says `count(...)`, and where nobody started a meter (commands,
tests) nothing happens. The composition roots start it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dicom_node.observation.definitions import LOG_RECORDS, Metric

if TYPE_CHECKING:
    from dicom_node.observation.meter import Meter


class _LogCounter(logging.Handler):
    """Counts what is logged at warning and above."""

    def emit(self, record: logging.LogRecord) -> None:
        """Count one record."""
        count(LOG_RECORDS, record.levelname.lower())


_meter: Meter | None = None


def start_meter(process: str) -> Meter:
    """Count from now on what this process does; the log is to be configured before."""
    global _meter
    # Imported here: commands that count nothing start without it.
    from dicom_node.observation.meter import Meter

    stop_meter()
    _meter = Meter(process)
    logging.getLogger().addHandler(_LogCounter(logging.WARNING))
    return _meter


def stop_meter() -> None:
    """Count nothing any more."""
    global _meter
    _meter = None
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _LogCounter)]:
        root.removeHandler(handler)


def count(metric: Metric, *labels: str, amount: float = 1.0) -> None:
    """Add to a counter."""
    if _meter is not None:
        _meter.count(metric, labels, amount)


def observe(metric: Metric, value: float, *labels: str) -> None:
    """Put a value into a histogram."""
    if _meter is not None:
        _meter.observe(metric, labels, value)


def adjust(metric: Metric, by: float, *labels: str) -> None:
    """Raise a gauge, or lower it."""
    if _meter is not None:
        _meter.adjust(metric, labels, by)


def show(metric: Metric, value: float, *labels: str) -> None:
    """Set a gauge."""
    if _meter is not None:
        _meter.show(metric, labels, value)
