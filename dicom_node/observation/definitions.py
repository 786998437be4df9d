"""Every metric of the node, as data; docs/metrics.md and the dashboard are made from it.

Labels have few values: names from the settings, states, kinds. Never a UID, an address or anything of a patient.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Kind(enum.StrEnum):
    """Kinds of metrics, as Prometheus names them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Origin(enum.StrEnum):
    """Who knows the value."""

    PROCESS = "process"
    """Each process counts for itself, from its start; sum over `process`."""
    MACHINE = "machine"
    """Looked up by the listener when it is asked."""
    LEDGER = "ledger"
    """Read from the ledger, at most every 5 s; every machine of a cluster shows the same: max over `instance`."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Attributes
    ----------
    name
        As scraped; a counter ends with ``_total``.
    labels
        Beside ``process``, which metrics of processes have too.
    buckets
        Upper bounds of a histogram.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    origin: Origin = Origin.PROCESS


_SHORT_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LONG_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 14_400, 86_400, 259_200)
_NOISE: Final = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 1000, 3000)
_RATIO: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

# -- receiver ------------------------------------------------------------------------------------

ASSOCIATIONS = Metric(
    name="lowdose_associations_total",
    kind=Kind.COUNTER,
    help="Associations that ended, by source and how: released, aborted or lost.",
    labels=("source", "outcome"),
)
ASSOCIATIONS_OPEN = Metric(
    name="lowdose_associations_open",
    kind=Kind.GAUGE,
    help="Associations that are open, by source.",
    labels=("source",),
)
ASSOCIATION_SECONDS = Metric(
    name="lowdose_association_seconds",
    kind=Kind.HISTOGRAM,
    help="Duration of associations, by source.",
    labels=("source",),
    buckets=_LONG_S,
)
REJECTIONS = Metric(
    name="lowdose_association_rejections_total",
    kind=Kind.COUNTER,
    help="Association requests that were rejected, by cause.",
    labels=("cause",),
)
RECEIVED_OBJECTS = Metric(
    name="lowdose_received_objects_total",
    kind=Kind.COUNTER,
    help="C-STORE requests that were answered, by source and status; 0000 is success.",
    labels=("source", "status"),
)
RECEIVED_BYTES = Metric(
    name="lowdose_received_bytes_total",
    kind=Kind.COUNTER,
    help="Bytes of data sets that were received, stored or not, by source.",
    labels=("source",),
)
DUPLICATES = Metric(
    name="lowdose_received_duplicates_total",
    kind=Kind.COUNTER,
    help="Objects that were received again, same UID and bytes, by source.",
    labels=("source",),
)
RECEIVE_SECONDS = Metric(
    name="lowdose_receive_seconds",
    kind=Kind.HISTOGRAM,
    help="Time from a C-STORE command to its response, durable storage included, by source.",
    labels=("source",),
    buckets=_SHORT_S,
)

# -- worker --------------------------------------------------------------------------------------

STAGE_SECONDS = Metric(
    name="lowdose_stage_seconds",
    kind=Kind.HISTOGRAM,
    help="Time that series take for a stage: complete (from their last object to completeness), enhance (from "
    "completeness to their deliveries), deliver (from there to the last object sent), commit (from there to the "
    "commitment).",
    labels=("stage",),
    buckets=_LONG_S,
)
IMAGES = Metric(
    name="lowdose_images_total",
    kind=Kind.COUNTER,
    help="Images that were decided, by route, decision and cause: none, guard (findings), route, no_model, disk, late, "
    "unsuitable, damaged or error.",
    labels=("route", "decision", "cause"),
)
IMAGE_SECONDS = Metric(
    name="lowdose_image_seconds",
    kind=Kind.HISTOGRAM,
    help="Time of one enhanced image: inference (noise estimation, network, guards) and total.",
    labels=("part",),
    buckets=(*_SHORT_S, 120.0, 300.0, 600.0),
)
NOISE = Metric(
    name="lowdose_noise_stored_values",
    kind=Kind.HISTOGRAM,
    help="Estimated noise of enhanced images before and after, in units of their linear values, by route.",
    labels=("route", "when"),
    buckets=_NOISE,
)
NOISE_RATIO = Metric(
    name="lowdose_noise_ratio",
    kind=Kind.HISTOGRAM,
    help="Noise after divided by noise before, of enhanced images, by route.",
    labels=("route",),
    buckets=_RATIO,
)
DEADLINES_MISSED = Metric(
    name="lowdose_deadlines_missed_total",
    kind=Kind.COUNTER,
    help="Series whose originals went on because the deadline of their route passed.",
    labels=("route",),
)
SENT_OBJECTS = Metric(
    name="lowdose_sent_objects_total",
    kind=Kind.COUNTER,
    help="Objects that a destination was given, by outcome: sent, refused or retry.",
    labels=("destination", "outcome"),
)
SENT_BYTES = Metric(
    name="lowdose_sent_bytes_total",
    kind=Kind.COUNTER,
    help="Bytes of the stored objects that a destination took.",
    labels=("destination",),
)
ATTEMPTS = Metric(
    name="lowdose_delivery_attempts_total",
    kind=Kind.COUNTER,
    help="Attempts at a delivery, by destination and the state that they ended in.",
    labels=("destination", "state"),
)
DELIVERY_SECONDS = Metric(
    name="lowdose_delivery_seconds",
    kind=Kind.HISTOGRAM,
    help="Time from a delivery's beginning to its last object sent, retries included, by destination.",
    labels=("destination",),
    buckets=_LONG_S,
)
JOBS_FAILED = Metric(
    name="lowdose_jobs_failed_total",
    kind=Kind.COUNTER,
    help="Runs of periodic jobs that failed; the next run tries again.",
    labels=("job",),
)
MODEL_LOADED = Metric(
    name="lowdose_model_loaded",
    kind=Kind.GAUGE,
    help="1 where the worker has a usable model, by its name and short digest; 0 where every image is passed through.",
    labels=("model", "digest"),
)

# -- every process -------------------------------------------------------------------------------

LOG_RECORDS = Metric(
    name="lowdose_log_records_total",
    kind=Kind.COUNTER,
    help="Log records of level warning and above.",
    labels=("level",),
)
RESIDENT_BYTES = Metric(name="lowdose_resident_memory_bytes", kind=Kind.GAUGE, help="Resident memory of a process.")
CPU_SECONDS = Metric(name="lowdose_cpu_seconds_total", kind=Kind.COUNTER, help="User and system CPU time of a process.")
OPEN_FILES = Metric(name="lowdose_open_files", kind=Kind.GAUGE, help="Open file descriptors of a process.")
STARTED = Metric(
    name="lowdose_started_timestamp_seconds",
    kind=Kind.GAUGE,
    help="When a process started, in seconds since the epoch.",
)

# -- machine -------------------------------------------------------------------------------------

BUILD = Metric(
    name="lowdose_build_info",
    kind=Kind.GAUGE,
    help="1, with the version of the node.",
    labels=("version",),
    origin=Origin.MACHINE,
)
PROCESS_UP = Metric(
    name="lowdose_process_up",
    kind=Kind.GAUGE,
    help="1 where a process of this machine runs, answers and works.",
    labels=("process",),
    origin=Origin.MACHINE,
)
RESTARTS = Metric(
    name="lowdose_process_restarts_total",
    kind=Kind.COUNTER,
    help="Times that the supervisor started a process again after it ended by itself.",
    labels=("process",),
    origin=Origin.MACHINE,
)
DISK_FREE = Metric(
    name="lowdose_disk_free_bytes",
    kind=Kind.GAUGE,
    help="Free space of a file system that the node writes to, by what it holds.",
    labels=("holds",),
    origin=Origin.MACHINE,
)
DISK_TOTAL = Metric(
    name="lowdose_disk_total_bytes",
    kind=Kind.GAUGE,
    help="Size of a file system that the node writes to, by what it holds.",
    labels=("holds",),
    origin=Origin.MACHINE,
)
CERTIFICATE_DAYS = Metric(
    name="lowdose_certificate_days",
    kind=Kind.GAUGE,
    help="Days until a certificate of the settings expires; negative where it has, -1 where it can't be read.",
    labels=("setting",),
    origin=Origin.MACHINE,
)
ALARMS = Metric(
    name="lowdose_alarm",
    kind=Kind.GAUGE,
    help="1 for each alarm that is on, by kind and subject: a destination, a source, a process, a setting or a disk.",
    labels=("alarm", "subject"),
    origin=Origin.MACHINE,
)

# -- ledger --------------------------------------------------------------------------------------

LEDGER_UP = Metric(
    name="lowdose_ledger_up",
    kind=Kind.GAUGE,
    help="1 where the ledger can be read; without it the other metrics of the ledger are absent.",
    origin=Origin.LEDGER,
)
QUEUE_DELIVERIES = Metric(
    name="lowdose_queue_deliveries",
    kind=Kind.GAUGE,
    help="Deliveries that are not done, by destination and state.",
    labels=("destination", "state"),
    origin=Origin.LEDGER,
)
QUEUE_OBJECTS = Metric(
    name="lowdose_queue_objects",
    kind=Kind.GAUGE,
    help="Objects that wait to be sent, by destination.",
    labels=("destination",),
    origin=Origin.LEDGER,
)
QUEUE_AGE = Metric(
    name="lowdose_queue_oldest_seconds",
    kind=Kind.GAUGE,
    help="Age of the oldest delivery that waits or is being sent, by destination; 0 where there is none.",
    labels=("destination",),
    origin=Origin.LEDGER,
)
DESTINATION_DOWN = Metric(
    name="lowdose_destination_down",
    kind=Kind.GAUGE,
    help="1 where a destination counts as down.",
    labels=("destination",),
    origin=Origin.LEDGER,
)
HOLDS = Metric(
    name="lowdose_holds",
    kind=Kind.GAUGE,
    help="Destinations and studies on hold.",
    labels=("scope",),
    origin=Origin.LEDGER,
)
SERIES = Metric(
    name="lowdose_series",
    kind=Kind.GAUGE,
    help="Series in work, by state: open, complete, enhancing or following.",
    labels=("state",),
    origin=Origin.LEDGER,
)
UNROUTED = Metric(
    name="lowdose_series_unrouted",
    kind=Kind.GAUGE,
    help="Series that are kept because no route takes them.",
    origin=Origin.LEDGER,
)
QUARANTINED = Metric(
    name="lowdose_quarantined_objects",
    kind=Kind.GAUGE,
    help="Objects in quarantine.",
    origin=Origin.LEDGER,
)
DAMAGED = Metric(
    name="lowdose_damaged_objects",
    kind=Kind.GAUGE,
    help="Stored objects that were found missing, damaged or unreadable when they were read again.",
    origin=Origin.LEDGER,
)
UNCOMMITTED = Metric(
    name="lowdose_commitments_given_up",
    kind=Kind.GAUGE,
    help="Deliveries whose destination did not commit in time and is not asked any more.",
    labels=("destination",),
    origin=Origin.LEDGER,
)
SOURCE_SEEN = Metric(
    name="lowdose_source_last_association_timestamp_seconds",
    kind=Kind.GAUGE,
    help="When a source opened its last association, in seconds since the epoch.",
    labels=("source",),
    origin=Origin.LEDGER,
)
HEARTBEAT_AGE = Metric(
    name="lowdose_heartbeat_age_seconds",
    kind=Kind.GAUGE,
    help="Time since a process of the cluster was heard of in the ledger.",
    labels=("name",),
    origin=Origin.LEDGER,
)

METRICS: Final[tuple[Metric, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order above."""


def render() -> str:
    """Return docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Served for Prometheus at `http://127.0.0.1:9104/metrics` (`[metrics]`), one listener for all processes of a",
        "machine. Health, alarms and alerts: [observability.md](observability.md). This page is made from the",
        "definitions (`python -m dicom_node.observation.definitions`).",
        "",
        "No label holds a UID, an address or anything of a patient; names come from the settings.",
    ]
    titles = {
        Origin.PROCESS: (
            "Counted by each process",
            "All have the label `process` (receiver, worker-0, ...) too. Counters begin at 0 when the process starts;",
            "`rate()` and `increase()` know that. Sum over `process`.",
        ),
        Origin.MACHINE: ("Of the machine", "Looked up when the listener is asked.", ""),
        Origin.LEDGER: (
            "Of the ledger",
            "Read at most every 5 s. Every machine of a cluster shows the same figures: take the `max`, not the `sum`,",
            "over `instance`.",
        ),
    }
    for origin, (title, *sentences) in titles.items():
        lines += ["", f"## {title}", "", *(sentence for sentence in sentences if sentence), ""]
        lines += ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
        for metric in METRICS:
            if metric.origin is origin:
                labels = ", ".join(f"`{label}`" for label in metric.labels)
                lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render(), end="")
