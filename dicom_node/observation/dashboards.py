"""The Grafana dashboard and the Prometheus rules, made from the definitions of the metrics.

python -m dicom_node.observation.dashboards grafana > config/deploy/grafana/lowdose-node.json
python -m dicom_node.observation.dashboards rules > config/deploy/prometheus/lowdose-node.rules.yml
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dicom_node.observation import definitions as m
from dicom_node.observation.definitions import Metric

_COLUMNS: Final = 24


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query in PromQL, and what its series are called."""

    expr: str
    legend: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel: a title, what it says in a sentence, its queries."""

    title: str
    meaning: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule that raises an alert in Prometheus."""

    alert: str
    expr: str
    for_: str
    severity: str
    summary: str


def _rate(metric: Metric, *by: str) -> str:
    return f"sum by ({', '.join(by)}) (rate({metric.name}[$__rate_interval]))"


def _quantile(metric: Metric, share: float, *by: str) -> str:
    grouped = ", ".join(("le", *by))
    return f"histogram_quantile({share}, sum by ({grouped}) (rate({metric.name}_bucket[$__rate_interval])))"


def _latest(metric: Metric, *by: str) -> str:
    # Every machine of a cluster shows what the ledger says.
    return f"max by ({', '.join(by)}) ({metric.name})"


def _quantiles(metric: Metric, *by: str) -> tuple[Query, ...]:
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    return (
        Query(expr=_quantile(metric, 0.5, *by), legend=f"{legend} median".strip()),
        Query(expr=_quantile(metric, 0.95, *by), legend=f"{legend} 95 %".strip()),
    )


ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "Now",
        (
            Panel(
                title="Alarms",
                meaning="What an operator has to look after; dicom-node status -c FILE says it in words.",
                queries=(Query(expr=_latest(m.ALARMS, "alarm", "subject"), legend="{{alarm}} {{subject}}"),),
                kind="table",
                width=12,
            ),
            Panel(
                title="Processes",
                meaning="1 where a process runs, answers and works.",
                queries=(Query(expr=m.PROCESS_UP.name, legend="{{instance}} {{process}}"),),
                kind="stat",
                width=6,
            ),
            Panel(
                title="Ledger",
                meaning="1 where it can be read.",
                queries=(Query(expr=m.LEDGER_UP.name, legend="{{instance}}"),),
                kind="stat",
                width=3,
            ),
            Panel(
                title="Model",
                meaning="1 where a worker has one.",
                queries=(Query(expr=m.MODEL_LOADED.name, legend="{{process}} {{model}}"),),
                kind="stat",
                width=3,
            ),
        ),
    ),
    (
        "Received",
        (
            Panel(
                title="Objects received",
                meaning="C-STORE requests answered, by source and status; 0000 is success.",
                queries=(Query(expr=_rate(m.RECEIVED_OBJECTS, "source", "status"), legend="{{source}} {{status}}"),),
                unit="ops",
            ),
            Panel(
                title="Bytes received",
                meaning="Bytes of data sets, by source.",
                queries=(Query(expr=_rate(m.RECEIVED_BYTES, "source"), legend="{{source}}"),),
                unit="Bps",
            ),
            Panel(
                title="Time to answer a C-STORE",
                meaning="From the command to the response, durable storage included.",
                queries=_quantiles(m.RECEIVE_SECONDS, "source"),
                unit="s",
            ),
            Panel(
                title="Associations",
                meaning="Open now, by source.",
                queries=(Query(expr=f"sum by (source) ({m.ASSOCIATIONS_OPEN.name})", legend="{{source}}"),),
            ),
            Panel(
                title="Associations rejected",
                meaning="By cause; a source that is unknown shows here.",
                queries=(Query(expr=_rate(m.REJECTIONS, "cause"), legend="{{cause}}"),),
                unit="ops",
            ),
            Panel(
                title="Since the last association",
                meaning="Of each source.",
                queries=(Query(expr=f"time() - {_latest(m.SOURCE_SEEN, 'source')}", legend="{{source}}"),),
                unit="s",
            ),
        ),
    ),
    (
        "Enhanced",
        (
            Panel(
                title="Decisions",
                meaning="Images by decision and cause; guard is what the guards found or refused.",
                queries=(Query(expr=_rate(m.IMAGES, "decision", "cause"), legend="{{decision}} {{cause}}"),),
                unit="ops",
            ),
            Panel(
                title="Noise after / before",
                meaning="Of enhanced images; nearer to 1 less was removed.",
                queries=_quantiles(m.NOISE_RATIO, "route"),
                unit="percentunit",
            ),
            Panel(
                title="Noise before and after",
                meaning="Median, in units of the images' linear values.",
                queries=(Query(expr=_quantile(m.NOISE, 0.5, "route", "when"), legend="{{route}} {{when}}"),),
            ),
            Panel(
                title="Time of one image",
                meaning="Inference is noise estimation, network and guards.",
                queries=_quantiles(m.IMAGE_SECONDS, "part"),
                unit="s",
            ),
            Panel(
                title="Time of each stage of a series",
                meaning="From the last object received to the commitment.",
                queries=_quantiles(m.STAGE_SECONDS, "stage"),
                unit="s",
            ),
            Panel(
                title="Deadlines missed",
                meaning="Series whose originals went on alone, by route.",
                queries=(Query(expr=_rate(m.DEADLINES_MISSED, "route"), legend="{{route}}"),),
                unit="ops",
            ),
        ),
    ),
    (
        "Delivered",
        (
            Panel(
                title="Queue",
                meaning="Deliveries that are not done, by destination and state; refused and abandoned wait for you.",
                queries=(
                    Query(expr=_latest(m.QUEUE_DELIVERIES, "destination", "state"), legend="{{destination}} {{state}}"),
                ),
            ),
            Panel(
                title="Age of the queue",
                meaning="Of the oldest delivery that waits.",
                queries=(Query(expr=_latest(m.QUEUE_AGE, "destination"), legend="{{destination}}"),),
                unit="s",
            ),
            Panel(
                title="Time of a delivery",
                meaning="To the last object sent, retries included.",
                queries=_quantiles(m.DELIVERY_SECONDS, "destination"),
                unit="s",
            ),
            Panel(
                title="Objects sent",
                meaning="By destination and outcome.",
                queries=(
                    Query(expr=_rate(m.SENT_OBJECTS, "destination", "outcome"), legend="{{destination}} {{outcome}}"),
                ),
                unit="ops",
            ),
            Panel(
                title="Bytes sent",
                meaning="By destination.",
                queries=(Query(expr=_rate(m.SENT_BYTES, "destination"), legend="{{destination}}"),),
                unit="Bps",
            ),
            Panel(
                title="Destinations down",
                meaning="1 where nothing is sent until it answers a probe.",
                queries=(Query(expr=_latest(m.DESTINATION_DOWN, "destination"), legend="{{destination}}"),),
            ),
        ),
    ),
    (
        "Machine",
        (
            Panel(
                title="Disk free",
                meaning="Of each file system, by what it holds.",
                queries=(Query(expr=m.DISK_FREE.name, legend="{{instance}} {{holds}}"),),
                unit="bytes",
            ),
            Panel(
                title="Memory",
                meaning="Resident, of each process.",
                queries=(Query(expr=m.RESIDENT_BYTES.name, legend="{{instance}} {{process}}"),),
                unit="bytes",
            ),
            Panel(
                title="CPU",
                meaning="Cores in use, of each process.",
                queries=(Query(expr=_rate(m.CPU_SECONDS, "instance", "process"), legend="{{instance}} {{process}}"),),
            ),
            Panel(
                title="Warnings and errors in the log",
                meaning="By process and level.",
                queries=(Query(expr=_rate(m.LOG_RECORDS, "process", "level"), legend="{{process}} {{level}}"),),
                unit="ops",
            ),
            Panel(
                title="Certificates",
                meaning="Days until they expire.",
                queries=(Query(expr=m.CERTIFICATE_DAYS.name, legend="{{setting}}"),),
                unit="d",
            ),
            Panel(
                title="Restarts",
                meaning="Processes that ended by themselves, in the last hour.",
                queries=(Query(expr=f"increase({m.RESTARTS.name}[1h])", legend="{{instance}} {{process}}"),),
            ),
        ),
    ),
)

RULES: Final[tuple[Rule, ...]] = (
    Rule(
        alert="LowdoseNodeGone",
        expr=f"absent({m.BUILD.name})",
        for_="2m",
        severity="critical",
        summary="No node answers: nothing tells whether images are received",
    ),
    Rule(
        alert="LowdoseAlarm",
        expr=f"max by (alarm, subject) ({m.ALARMS.name}) == 1",
        for_="1m",
        severity="warning",
        summary="The node has an alarm: {{ $labels.alarm }} {{ $labels.subject }}",
    ),
    Rule(
        alert="LowdoseLedgerAway",
        expr=f"{m.LEDGER_UP.name} == 0",
        for_="1m",
        severity="critical",
        summary="{{ $labels.instance }} can't read the ledger: nothing is received",
    ),
    Rule(
        alert="LowdoseProcessDown",
        expr=f"{m.PROCESS_UP.name} == 0",
        for_="2m",
        severity="critical",
        summary="{{ $labels.process }} on {{ $labels.instance }} does not work",
    ),
    Rule(
        alert="LowdoseQueueOld",
        expr=f"max by (destination) ({m.QUEUE_AGE.name}) > 3600",
        for_="5m",
        severity="warning",
        summary="A delivery to {{ $labels.destination }} has waited for more than an hour",
    ),
    Rule(
        alert="LowdoseObjectsRefused",
        expr=f'sum by (source, status) (increase({m.RECEIVED_OBJECTS.name}{{status!="0000"}}[15m])) > 0',
        for_="0m",
        severity="warning",
        summary="Objects of {{ $labels.source }} were answered {{ $labels.status }}",
    ),
    Rule(
        alert="LowdoseProcessRestarts",
        expr=f"increase({m.RESTARTS.name}[1h]) > 2",
        for_="0m",
        severity="warning",
        summary="{{ $labels.process }} on {{ $labels.instance }} ends again and again",
    ),
    Rule(
        alert="LowdoseCertificateExpires",
        expr=f"min by (setting) ({m.CERTIFICATE_DAYS.name}) < 14",
        for_="1h",
        severity="warning",
        summary="The certificate of {{ $labels.setting }} expires in less than 14 days",
    ),
)


def render_dashboard() -> str:
    """Return the dashboard as Grafana imports it."""
    dashboard = {
        "__inputs": [
            {"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus"},
        ],
        "title": "Low-dose X-ray node",
        "uid": "lowdose-node",
        "tags": ["dicom"],
        "timezone": "browser",
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "panels": list(_panels()),
    }
    return json.dumps(dashboard, indent=2) + "\n"


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for title, panels in ROWS:
        place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        number, top, left = number + 1, top + 1, 0
        for panel in panels:
            if left + panel.width > _COLUMNS:
                left, top = 0, top + 8
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": 8})
            number, left = number + 1, left + panel.width
        top += 8


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    is_table = panel.kind == "table"
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": source,
            "expr": query.expr,
            "legendFormat": query.legend,
            **({"instant": True, "format": "table"} if is_table else {}),
        }
        for index, query in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def render_rules() -> str:
    """Return the rules as Prometheus reads them (YAML; texts in it are JSON strings, which YAML knows)."""
    lines = [
        "# Rules for Prometheus; made by: python -m dicom_node.observation.dashboards rules",
        "groups:",
        "  - name: lowdose-node",
        "    rules:",
    ]
    for rule in RULES:
        lines += [
            f"      - alert: {rule.alert}",
            f"        expr: {json.dumps(rule.expr)}",
            f"        for: {rule.for_}",
            "        labels:",
            f"          severity: {rule.severity}",
            "        annotations:",
            f"          summary: {json.dumps(rule.summary)}",
        ]
    return "\n".join(lines) + "\n"


def expressions() -> Sequence[str]:
    """Return every query of the dashboard and of the rules."""
    of_panels = [query.expr for _, panels in ROWS for panel in panels for query in panel.queries]
    return [*of_panels, *(rule.expr for rule in RULES)]


if __name__ == "__main__":
    print(render_rules() if "rules" in sys.argv else render_dashboard(), end="")
