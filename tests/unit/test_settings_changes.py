"""What a running node takes of changed settings, and how the difference is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from config.loading import parse_settings
from config.settings import Settings
from dicom_node.settings_changes import MASKED, TAKEN_AT_ONCE, changes_between, plan_change
from dicom_node.settings_in_force import changes_at_start, keep_in_force, read_in_force, start_with


def settings(**tables: Any) -> Settings:
    """Return settings with two destinations and two routes."""
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "pacs", "port": 104}
    return parse_settings(
        {
            "destinations": [pacs, {**pacs, "name": "archive", "port": 105}],
            "routes": [
                {"name": "chest", "match": {"BodyPartExamined": "CHEST", "KVP": {"min": 60}}, "destinations": ["pacs"]},
                {"name": "rest", "destinations": ["archive"]},
            ],
            **tables,
        }
    )


def paths(old: Settings, new: Settings) -> dict[str, tuple[Any, Any]]:
    """Return what differs."""
    return {change.path: (change.old, change.new) for change in changes_between(old, new)}


def test_tables_of_a_list_are_told_by_their_names_and_not_by_their_places() -> None:
    old = settings()
    routes = [{"name": "feet", "destinations": ["pacs"]}, *(r.model_dump() for r in old.routes)]
    changed = paths(old, settings(routes=routes))
    assert {path.split("]")[0] for path in changed} == {"routes[feet", "routes (in order)"}
    assert changed["routes[feet].strength"] == (None, "standard")
    assert changed["routes (in order)"] == (["chest", "rest"], ["feet", "chest", "rest"])


def test_the_order_of_routes_is_a_change() -> None:
    old = settings()
    turned = settings(routes=[route.model_dump() for route in reversed(old.routes)])
    assert paths(old, turned) == {"routes (in order)": (["chest", "rest"], ["rest", "chest"])}


def test_secrets_are_told_to_differ_and_never_told() -> None:
    old, new = (settings(node={"database_url": f"postgresql://node:{word}@db/x"}) for word in ("one", "other"))
    assert paths(old, new) == {"node.database_url": (MASKED, MASKED)}
    assert paths(settings(), new) == {"node.database_url": ("", MASKED)}


def test_what_counts_from_the_next_start_stays_and_is_named() -> None:
    running = settings()
    wanted = settings(
        node={"port": 4242}, logging={"level": "debug"}, storage={"scrub_days": 1.0, "folder": "/mnt/shared"}
    )
    plan = plan_change(running, wanted)
    assert plan.effective.node == running.node
    assert plan.effective.storage.folder is None
    assert {c.path for c in plan.taken} == {"logging.level", "storage.scrub_days"}
    assert {c.path: c.new for c in plan.later} == {"node.port": 4242, "storage.folder": "/mnt/shared"}
    # Asked again, they are still to come.
    assert plan_change(plan.effective, wanted).later == plan.later


def test_nothing_changed_is_no_change() -> None:
    plan = plan_change(settings(), settings())
    assert (plan.taken, plan.later) == ((), ())


def test_every_table_that_a_running_node_takes_is_a_table_of_the_settings() -> None:
    assert set(Settings.model_fields) >= TAKEN_AT_ONCE


def test_the_settings_in_force_come_back_as_they_were(tmp_path: Path) -> None:
    kept = settings(
        sources=[{"name": "a", "ae_titles": ["A"], "commitment": True}],
        destinations=[
            {"name": "pacs", "ae_title": "PACS", "host": "pacs", "port": 104, "tls": True, "commitment": True},
            {"name": "archive", "kind": "dicomweb", "url": "https://archive/dicom-web"},
        ],
    )
    file = keep_in_force(tmp_path / "data", kept, "1234")
    assert file is not None
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_in_force(file) == (kept, "1234")
    file.write_text(file.read_text()[:-10])
    assert read_in_force(file) is None
    assert read_in_force(tmp_path / "none") is None


def test_a_start_says_what_changed_since_the_node_ran_last(tmp_path: Path) -> None:
    assert start_with(tmp_path, settings(), "1") is not None
    assert changes_at_start(tmp_path) == []
    changed = settings(node={"port": 4242})
    start_with(tmp_path, changed, "2")
    (change,) = changes_at_start(tmp_path)
    assert change == {"path": "node.port", "old": 11112, "new": 4242, "takes_effect": "at this start"}
    # A process that starts again after a reload has nothing to tell.
    keep_in_force(tmp_path, changed, "3")
    assert changes_at_start(tmp_path) == []
