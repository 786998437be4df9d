"""The dashboard and the rules ask for metrics and labels that there are, and are what the repository holds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from dicom_node.observation.dashboards import ROWS, RULES, expressions, render_dashboard, render_rules
from dicom_node.observation.definitions import METRICS, Kind, Origin
from tests.support.node import REPOSITORY

BY_NAME = {metric.name: metric for metric in METRICS}
# What Prometheus adds to a target's samples, or we to those of processes.
ADDED = {"instance", "job", "le", "process"}


def metrics_in(expression: str) -> set[str]:
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"lowdose_\w+", expression)}


@pytest.mark.parametrize("expression", expressions())
def test_every_query_asks_for_a_metric_and_labels_that_there_are(expression: str) -> None:
    names = metrics_in(expression)
    assert names
    assert names <= set(BY_NAME), names - set(BY_NAME)
    labels = {label for name in names for label in BY_NAME[name].labels} | ADDED
    grouped = [label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")]
    assert set(grouped) <= labels
    assert set(re.findall(r'(\w+)!?=~?"', expression)) <= labels
    for name in names:
        metric = BY_NAME[name]
        # A counter is of use only by its growth, and a figure of the ledger is the same on every machine.
        if metric.kind is Kind.COUNTER:
            assert re.search(rf"(rate|increase)\({name}", expression)
        if metric.origin is Origin.LEDGER and metric.labels:
            assert "max by" in expression
        assert (f"{name}_bucket" in expression) == (metric.kind is Kind.HISTOGRAM)


def test_what_a_query_calls_its_series_is_kept_by_the_query() -> None:
    for _, panels in ROWS:
        for panel in panels:
            for query in panel.queries:
                wanted = set(re.findall(r"{{(\w+)}}", query.legend))
                groups = re.findall(r"by \(([^)]*)\)", query.expr)
                kept = {label for group in groups for label in group.split(", ")} or {
                    label for name in metrics_in(query.expr) for label in (*BY_NAME[name].labels, *ADDED)
                }
                assert wanted <= kept, (panel.title, query)


def test_nothing_that_was_asked_for_is_missing_from_the_dashboard() -> None:
    shown = {
        name for _, panels in ROWS for panel in panels for query in panel.queries for name in metrics_in(query.expr)
    }
    assert {metric.name for metric in METRICS if metric.kind is Kind.HISTOGRAM} - shown == {
        "lowdose_association_seconds"
    }


def test_panels_lie_side_by_side() -> None:
    places = [panel["gridPos"] for panel in json.loads(render_dashboard())["panels"]]
    taken: set[tuple[int, int]] = set()
    for place in places:
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells


def test_the_files_of_the_repository_are_what_is_made() -> None:
    assert (REPOSITORY / "config" / "deploy" / "grafana" / "lowdose-node.json").read_text() == render_dashboard()
    assert (REPOSITORY / "config" / "deploy" / "prometheus" / "lowdose-node.rules.yml").read_text() == render_rules()


def test_prometheus_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    file = REPOSITORY / "config" / "deploy" / "prometheus" / "lowdose-node.rules.yml"
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout
