"""Pages that tell of the node itself: settings, sources, routes, model."""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from config.loading import parse_settings
from config.settings import RoleName
from dicom_node.association_policy import ReceiverLoad, judge_association
from dicom_node.console import uploads
from dicom_node.console.pages.model import days_before
from dicom_node.ledger import schema
from dicom_node.ledger.reception import ReceptionLedger
from dicom_node.ledger.settings_changes import ChangeOutcome, SettingsChangeLedger
from dicom_node.negotiation import AssociationRequest
from dicom_node.settings_view import tables_of
from model.published import PUBLISHED
from tests.support.console import Client, Console, console_over, console_settings
from tests.support.radiographs import radiograph

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


# -- sources --------------------------------------------------------------------------------------


def call(console: Console, ae_title: str, *, ago_s: float, objects: int = 0, is_open: bool = False) -> None:
    """Let a sender have called, and bring objects."""
    at = console.state.database.now() - ago_s
    with console.state.database.write() as connection:
        row = {
            "receiver": "node:receiver", "calling_ae_title": ae_title, "called_ae_title": "LOWDOSE", "host": "10.1.0.5",
            "port": 4711, "opened_at": at, "closed_at": None if is_open else at + 1,
        }  # fmt: skip
        key = connection.execute(insert(schema.association), row).inserted_primary_key
        assert key is not None
        for n in range(objects):
            row = {
                "origin": "received", "association_id": key[0], "state": "stored", "key": f"{ae_title}-{ago_s}-{n}",
                "size": 1_000_000, "dataset_offset": 0, "digest": "", "revision": 0, "at": at,
            }  # fmt: skip
            connection.execute(insert(schema.instance), row)


def row_of(page: str, name: str) -> str:
    """Return the text of the last row that begins with a name."""
    *_, found = re.findall(rf'<tr><th scope="row">{re.escape(name)}</th>(.*?)</tr>', page, re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", found).split())


def test_a_source_is_silent_by_the_rule_of_the_alarm_and_its_day_is_counted(console: Console) -> None:
    client = console.signed_in(RoleName.VIEWER)
    assert row_of(client.get("/sources").text, "room-1").startswith("never called")
    call(console, "XRAY1", ago_s=25 * 3600, objects=5)
    call(console, "XRAY2", ago_s=3 * 3600, objects=2)
    call(console, "MOBILE9", ago_s=90 * 3600)
    room, ward = (row_of(client.get("/sources").text, name) for name in ("room-1", "ward"))
    assert room.startswith("silent XRAY1 , XRAY2 any 3 h ago from 10.1.0.5 1 2 2.0 MB")
    # No alarm was asked for, however long it is.
    assert ward.startswith("ok MOBILE9")
    call(console, "XRAY1", ago_s=60, is_open=True)
    assert row_of(client.get("/sources").text, "room-1").startswith("connected")


def test_a_rejected_caller_stands_with_the_lines_that_let_it_in(console: Console) -> None:
    ledger = ReceptionLedger(console.state.database, "node:receiver")
    who = {"calling_ae_title": "NEWROOM", "called_ae_title": "LOWDOSE", "host": "10.1.0.9"}
    peer = AssociationRequest(**who, port=1, application_context_name="1.2.840.10008.3.1.1.1", contexts=())
    rejection = judge_association(
        peer,
        ae_title="LOWDOSE",
        sources=console.state.settings.sources,
        addresses={},
        load=ReceiverLoad(associations=0, max_associations=9, no_room=None, is_stopping=False),
    )
    assert rejection is not None
    for _ in range(3):
        ledger.record_rejection(**who, reason=rejection.explanation)
    ledger.record_rejection(calling_ae_title="", called_ae_title="", host="fe80::1%eth0", reason=SCRIPT)
    client = console.signed_in(RoleName.VIEWER)
    page = client.get("/sources").text
    lines = re.search(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert lines is not None
    added = tomllib.loads(html.unescape(lines[1]))["sources"][0]
    assert row_of(page, "NEWROOM").startswith("10.1.0.9 LOWDOSE 3 now now calling AE title")
    assert "<script>alert" not in page
    # Once the lines stand in the settings, nobody is asked to add them again.
    known = parse_settings({**TABLES, "sources": [*TABLES["sources"], added]})
    console.app.state.node = replace(console.state, settings=known)
    page = client.get("/sources").text
    assert "let in now by source NEWROOM" in row_of(page, "NEWROOM")
    assert "<pre" not in page


# -- routes ---------------------------------------------------------------------------------------


def image(**attributes: Any) -> bytes:
    """Return a DICOM file."""
    ds = radiograph(1, size=32)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def try_file(client: Client, content: bytes, *, name: str = "a.dcm", **fields: str) -> Any:
    """Send a file by the form."""
    form = {"csrf": client.token(), **fields}
    return client.http.post("/routes/test", data=form, files={"file": (name, content)})


def test_routes_stand_in_their_order_with_their_conditions_in_words(console: Console) -> None:
    page = console.signed_in(RoleName.VIEWER).get("/routes").text
    assert page.index(">children<") < page.index(">chest<") < page.index(">all the rest<")
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "PatientAge up to 17Y nothing the original pacs" in text
    assert "Modality CR|DX and source room-1 CR, DX, IO, XA, RF strength 0.70 the enhanced image pacs" in text
    assert "nothing: it is kept" in text


def test_a_file_is_told_its_route_as_the_command_tells_it_and_is_gone_then(console: Console) -> None:
    client = console.signed_in(RoleName.OPERATOR)
    # Larger than what the form parser keeps in memory.
    content = image(PatientAge="040Y", PatientComments="x" * 1000) + bytes(3 << 20)
    answer = try_file(client, image(PatientAge="040Y"), calling="XRAY2")
    assert answer.status_code == 200, answer.text
    assert "goes by route chest" in answer.text
    assert "040Y" in answer.text
    assert "pacs gets the enhanced image in" in answer.text
    assert "No route takes" in try_file(client, image(PatientAge="040Y"), calling="STRANGER").text
    assert "goes by route children" in try_file(client, image(PatientAge="003Y")).text
    assert try_file(client, content).status_code in (200, 409)
    assert list(console.state.store.scratch.iterdir()) == []
    lines = console.app.state.access.audit.lines(action="test routes with a file")
    assert {(line.user, line.subject) for line in lines} == {("operator", None)}


def test_what_can_t_be_tested_is_said_and_leaves_no_file(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    client = console.signed_in(RoleName.OPERATOR)
    for content, said in ((b"no DICOM" * 300_000, "not a DICOM file"), (b"", "Choose a DICOM file")):
        answer = try_file(client, content)
        assert (answer.status_code, said in answer.text) == (409, True), said
    assert "is no IP address" in try_file(client, image(), calling="XRAY1", host="nowhere").text
    monkeypatch.setattr(uploads, "MAX_BYTES", 1 << 20)
    answer = try_file(client, bytes(3 << 20))
    assert (answer.status_code, "larger than 1 MB" in answer.text) == (409, True)
    answer = client.http.post("/routes/test", content=b"x", headers={"content-type": "text/plain"})
    assert answer.status_code == 409
    assert list(console.state.store.scratch.iterdir()) == []


def test_a_file_is_taken_from_the_console_s_own_form_and_those_who_may_alone(console: Console) -> None:
    viewer = console.signed_in(RoleName.VIEWER)
    assert 'type="file"' not in viewer.get("/routes").text
    assert try_file(viewer, image()).status_code == 403
    client = console.signed_in(RoleName.OPERATOR)
    other = console.signed_in(RoleName.ADMIN).token()
    for token in ("", other):
        for content in (image(), bytes(3 << 20)):
            answer = client.http.post("/routes/test", data={"csrf": token}, files={"file": ("a.dcm", content)})
            assert answer.status_code == 403, answer.text
    form = {"csrf": client.token()}
    headers = {"sec-fetch-site": "cross-site"}
    answer = client.http.post("/routes/test", data=form, files={"file": ("a.dcm", image())}, headers=headers)
    assert answer.status_code == 403
    assert list(console.state.store.scratch.iterdir()) == []


def test_names_and_values_of_a_file_are_no_markup(console: Console) -> None:
    client = console.signed_in(RoleName.OPERATOR)
    answer = try_file(client, image(Modality=SCRIPT[:16]), name="<script>alert(1)</script>", calling="XRAY1")
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text


# -- model ----------------------------------------------------------------------------------------


def decide(console: Console, number: int, days_ago: int, **columns: Any) -> None:
    """Let the first objects have been decided."""
    at = days_before(console.state.database.now())[-1 - days_ago] + 1
    with console.state.database.write() as connection:
        row = {"instance_id": number, "attempts": 1, "at": at, **columns}
        connection.execute(insert(schema.enhancement), row)


def test_the_model_page_counts_what_the_guards_refused_and_medians_of_a_source(console: Console) -> None:
    call(console, "XRAY1", ago_s=60, objects=6)
    call(console, "GONE1", ago_s=60, objects=1)
    for number, after in ((1, 10.0), (2, 30.0), (3, 80.0)):
        reason = "strength lowered" if number == 1 else None
        decide(
            console, number, 1, decision="enhanced", reason=reason, noise_before=100.0, noise_after=after,
            inference_s=1.0, model_digest="d" * 64,
        )  # fmt: skip
    decide(console, 4, 1, decision="passed_through", reason="the guard refused it", inference_s=1.0)
    decide(console, 5, 29, decision="passed_through", reason="late")
    decide(console, 6, 2, decision=None)
    decide(console, 7, 0, decision="enhanced", noise_before=8.0, noise_after=2.0, inference_s=1.0)
    page = console.signed_in(RoleName.VIEWER).get("/model").text
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    begins = days_before(console.state.database.now())
    days = [datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d") for at in begins]
    assert "1 of 5 images that they judged in 30 days were refused (20.0 %)" in text
    assert f"{days[28]} 3 1 1 0" in text
    assert f"{days[0]} 0 0 0 1" in text
    assert "room-1: 100 before, 30 after (3 images)" in text
    # What left the settings is told by its AE title.
    assert "GONE1: 8 before, 2 after (1 image)" in text
    assert f"Images that the guards refused, by day. 1 in 30 days, most on {days[28]}: 1." in page
    assert "Noise of room-1 that is left, by day. Between 30 and 30 %." in page
    assert "dddddddddddddddd… others 3" in text


def test_the_model_page_has_the_card_and_says_where_the_weights_are_not_those(console: Console, tmp_path: Path) -> None:
    client = console.signed_in(RoleName.VIEWER)
    page = client.get("/model").text
    manifest = json.loads((PUBLISHED / "lite.json").read_text())
    assert manifest["sha256"] in page
    assert "6 to 4000" in page
    assert page.count("unseen sources") == sum(
        one["source"] == "unseen sources" for one in manifest["results"]["summary"]
    )
    assert 'role="alert"' not in page
    (tmp_path / "own.json").write_text(json.dumps({**manifest, "file": "own.safetensors"}))
    for content, said in ((b"tampered", "has another SHA-256"), (None, "can&#39;t be read")):
        (tmp_path / "own.safetensors").unlink(missing_ok=True)
        if content:
            (tmp_path / "own.safetensors").write_bytes(content)
        weights = console.state.settings.model.model_copy(update={"weights": str(tmp_path / "own.json")})
        settings = console.state.settings.model_copy(update={"model": weights})
        console.app.state.node = replace(console.state, settings=settings)
        assert said in client.get("/model").text
    (tmp_path / "own.json").write_text("{}")
    assert "not a weights manifest" in client.get("/model").text


def test_the_console_needs_no_torch_for_the_card() -> None:
    code = "import sys; import dicom_node.console.application; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
