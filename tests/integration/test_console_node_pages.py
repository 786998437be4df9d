"""Pages that tell of the node itself: settings, sources, routes, model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import RoleName
from dicom_node.ledger.settings_changes import ChangeOutcome, SettingsChangeLedger
from dicom_node.settings_view import tables_of
from tests.support.console import Console, console_over, console_settings

SCRIPT = '"><script>alert(1)</script>'
TABLES: dict[str, Any] = {
    "sources": [
        {"name": "room-1", "ae_titles": ["XRAY1", "XRAY2"], "silent_after_h": 2.0},
        {"name": "ward", "ae_titles": ["MOBILE9"]},
    ],
    "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 1}],
    "routes": [
        {"name": "children", "match": {"PatientAge": {"max": "17Y"}}, "destinations": ["pacs"], "enhance": False},
        {"name": "chest", "match": {"Modality": "CR|DX", "source": "room-1"}, "destinations": ["pacs"]},
    ],
    "alerts": [{"name": "ops", "kind": "webhook", "url": "https://hooks.hospital.example/T0PS3CRET"}],
}


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with console_over(console_settings(tmp_path, **TABLES)) as found:
        yield found


# -- settings -------------------------------------------------------------------------------------


def test_every_setting_has_a_line_and_those_that_somebody_set_are_marked(console: Console) -> None:
    tables = tables_of(console.state.settings)
    lines = {(table.heading, table.subject, line.name): line for table in tables for line in table.lines}
    assert lines["[[sources]]", "room-1", "silent_after_h"].is_changed
    assert lines["[[sources]]", "room-1", "silent_after_h"].default == "0.0"
    assert not lines["[[sources]]", "ward", "silent_after_h"].is_changed
    assert lines["[[routes]]", "children", "match"].value == '{ PatientAge = { max = "17Y" } }'
    assert not lines["[destinations.retry]", "pacs", "initial_delay_s"].is_changed
    assert all(line.meaning for line in lines.values())


def test_settings_show_what_is_set_and_on_demand_the_rest(console: Console) -> None:
    client = console.signed_in(RoleName.VIEWER)
    few, every = client.get("/settings").text, client.get("/settings?show=all").text
    assert "silent_after_h" in few
    assert "max_objects_per_minute" not in few
    assert "max_objects_per_minute" in every
    # The sentence of the schema, with the unit.
    assert "Time without an association of this source after which an alarm is raised, in hours" in few


def test_settings_show_no_secret(console: Console) -> None:
    settings = console.state.settings
    node = settings.node.model_copy(update={"database_url": "postgresql://node:T0PS3CRET@db/ledger"})
    console.app.state.node = replace(console.state, settings=settings.model_copy(update={"node": node}))
    for path in ("/settings", "/settings?show=all"):
        page = console.signed_in().get(path).text
        assert "T0PS3CRET" not in page
        assert page.count("(not shown)") == 2, "the database and the webhook"


def test_settings_tell_who_changed_what(console: Console) -> None:
    ledger = SettingsChangeLedger(console.state.database, console.state.settings.node.name)
    ledger.note(
        ChangeOutcome.APPLIED,
        "a" * 64,
        [{"path": "routes[chest].strength", "old": "standard", "new": SCRIPT, "takes_effect": "now"}],
        who="anna (uid 1000) on node-1",
    )
    ledger.note(
        ChangeOutcome.REFUSED, "b" * 64, [{"path": "node.port", "value": "99999", "allowed": "1 to 65535"}], who="bert"
    )
    page = console.signed_in(RoleName.VIEWER).get("/settings").text
    for text in ("anna (uid 1000) on node-1", "routes[chest].strength", "1 to 65535", "bert", "refused"):
        assert text in page
    assert "<script>alert" not in page
