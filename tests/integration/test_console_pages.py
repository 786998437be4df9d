"""What the pages show and do, without a browser: patients to those with the right alone, acts to what was shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from config.settings import RoleName
from dicom_node.dataset_header import DatasetHeader
from dicom_node.identifiers import open_identifiers
from dicom_node.ledger.destinations import HoldScope
from dicom_node.ledger.queue_pages import PAGE
from dicom_node.ledger.reception import ReceivedInstance, ReceptionLedger
from dicom_node.ledger.schema import delivery, instance
from dicom_node.states import DeliveryState
from tests.support.console import Client, Console, console_over, console_settings
from tests.support.department_ledger import fill
from tests.support.radiographs import radiograph

DESTINATIONS = [
    {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 1},
    {"name": "archive", "ae_title": "ARC", "host": "127.0.0.1", "port": 1},
]
UID = "1.2.826.0.1.3680043.10.2.1.1"


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with console_over(console_settings(tmp_path, destinations=DESTINATIONS)) as found:
        yield found


def receive(console: Console) -> None:
    """Record an object of a patient, as the receiver does."""
    ds = radiograph(1, size=32)
    ds.PatientName, ds.PatientID, ds.AccessionNumber = "ZQXNAME^ANNA", "ZQX-77", "ZQX-ACC"
    stored = console.state.store.save(ds)
    header = DatasetHeader(
        sop_class_uid="", sop_instance_uid="", study_instance_uid="", series_instance_uid="", modality="",
        patient_id=b"ZQX-77", accession_number=b"ZQX-ACC",
    )  # fmt: skip
    ledger = ReceptionLedger(console.state.database, "node:receiver")
    association = ledger.open_association(
        calling_ae_title="XRAY1", called_ae_title="LOWDOSE", host="10.1.0.1", port=4711
    )
    ledger.record_received(
        ReceivedInstance(
            association_id=association,
            sop_class_uid=ds.SOPClassUID,
            sop_instance_uid=ds.SOPInstanceUID,
            study_instance_uid=ds.StudyInstanceUID,
            series_instance_uid=ds.SeriesInstanceUID,
            transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
            key=stored.key,
            size=stored.size,
            dataset_offset=stored.dataset_offset,
            digest=stored.digest,
            terms=open_identifiers(console.state.settings).of_header(header),
        )
    )


def find(client: Client, text: str) -> str:
    """Search for a text; returns the address that it leads to."""
    return str(client.post("/studies/find", {"text": text}).headers["location"])


@pytest.mark.parametrize("text", ["ZQX-77", "ZQX-ACC", " ZQX-77 "])
def test_a_patient_is_found_by_those_with_the_right_and_stays_in_no_address(console: Console, text: str) -> None:
    receive(console)
    client = console.signed_in(RoleName.OPERATOR, sees_patients=True)
    address = find(client, text)
    assert "ZQX" not in address
    assert client.get(address).text.count('<a href="/studies/1">') == 1
    (line,) = console.app.state.access.audit.lines(action="search by patient or order")
    assert "ZQX" not in str(line)


def test_nobody_else_learns_whether_a_patient_was_here(console: Console) -> None:
    receive(console)
    client = console.signed_in(RoleName.ADMIN)
    for text in ("ZQX-77", "ZQX-ACC"):
        assert "ref=" not in find(client, text)
        assert "No study fits" in client.get(find(client, text)).text
    # Studies of one patient are told apart by the hash, which is shown to everybody.
    shown = re.search(r'href="(/studies\?ref=\w{32})"', client.get("/studies/1").text)
    assert shown is not None
    assert '<a href="/studies/1">' in client.get(shown[1]).text


def test_the_patient_is_shown_to_those_with_the_right_and_that_is_audited(console: Console) -> None:
    receive(console)
    page = console.signed_in(RoleName.VIEWER, sees_patients=True).get("/studies/1").text
    for value in ("ZQXNAME ANNA", "ZQX-77", "ZQX-ACC"):
        assert value in page
    (line,) = console.app.state.access.audit.lines(action="view patient data")
    assert (line.user, line.subject) == ("viewer-p", UID)
    for role in RoleName:
        client = console.signed_in(role)
        for path in ("/", "/studies", "/studies/1", "/queue?show=all"):
            assert "ZQX" not in client.get(path).text, (role, path)


def test_what_is_gone_or_damaged_is_said(console: Console) -> None:
    receive(console)
    client = console.signed_in(RoleName.VIEWER, sees_patients=True)
    with console.state.database.read() as connection:
        key = str(connection.scalar(select(instance.c.key)))
    console.state.store.path(key).write_bytes(b"no DICOM")
    assert "can&#39;t be read now" in client.get("/studies/1").text
    console.state.store.delete(key)
    assert "can&#39;t be read now" in client.get("/studies/1").text
    with console.state.database.write() as connection:
        connection.execute(update(instance).values(state="purged"))
    assert "retention has removed" in client.get("/studies/1").text


def test_all_that_fit_are_more_than_one_page_and_no_others(console: Console) -> None:
    fill(console.state.database, studies=150, odd_every=3)
    with console.state.database.write() as connection:
        many = select(delivery.c.id).where(delivery.c.destination == "archive").order_by(delivery.c.id).limit(PAGE + 30)
        connection.execute(update(delivery).where(delivery.c.id.in_(many)).values(state="refused"))
        others = (delivery.c.destination == "archive") & (delivery.c.state == "sent")
        # What an act could be done to, and what the filter leaves out.
        connection.execute(update(delivery).where(others).values(state="held"))
    before = {one.delivery_id for one in console.state.deliveries.dead_letters()}
    client = console.signed_in(RoleName.OPERATOR)
    form = {"act": "cancel", "everything": "true", "show": "refused", "destination": "archive"}
    page = client.post("/queue/ask", form).text
    assert f"Cancel: {PAGE + 30} deliveries?" in page
    # Nothing was done by asking.
    assert {one.delivery_id for one in console.state.deliveries.dead_letters()} == before
    numbers = re.search(r'name="numbers" value="([\d,]+)"', page)
    assert numbers is not None
    done = client.post("/queue/do", {"act": "cancel", "numbers": numbers[1], "reason": "wrong archive"})
    assert f"{PAGE + 30} deliveries are cancelled" in done.text
    left = console.state.deliveries.dead_letters()
    assert {one.destination for one in left} == {"pacs"}
    cancelled = console.state.deliveries.lines(states=[DeliveryState.CANCELLED])
    assert {one.reason for one in cancelled} == {"wrong archive (operator in the console)"}


def test_what_can_t_be_taken_back_is_asked_for_one_delivery_too(console: Console) -> None:
    fill(console.state.database, studies=3, odd_every=3)
    client = console.signed_in(RoleName.OPERATOR)
    number = console.state.deliveries.dead_letters()[0].delivery_id
    for act, is_asked in (("cancel", True), ("reroute", True), ("resend-original", True), ("retry", False)):
        page = client.post("/queue/ask", {"act": act, "number": str(number)}).text
        assert ('action="/queue/do"' in page) is is_asked, act
    assert console.state.deliveries.get(number).state is DeliveryState.PENDING
    answer = client.post("/queue/do", {"act": "reroute", "numbers": str(number)})
    assert (answer.status_code, "choose the destination" in answer.text) == (409, True)
    client.post("/queue/do", {"act": "reroute", "numbers": str(number), "to": "archive"})
    assert console.state.deliveries.get(number).state is DeliveryState.REROUTED


def test_values_of_peers_and_operators_are_no_markup(console: Console) -> None:
    fill(console.state.database, studies=3, odd_every=3)
    script = '"><script>alert(1)</script>'
    with console.state.database.write() as connection:
        connection.execute(update(delivery).values(reason=script))
        connection.execute(update(instance).values(reason=script))
    console.state.standings.hold(HoldScope.DESTINATION, "pacs", script)
    client = console.signed_in(RoleName.ADMIN)
    for path in (
        "/",
        "/studies/3",
        "/queue?show=all",
        f"/queue?reason={script}&destination={script}",
        "/destinations/pacs",
    ):
        text = client.get(path).text
        assert "<script>alert" not in text, path
        assert "alert(1)" in text, path
