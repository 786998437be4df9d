"""Every status that the conformance statement lists: provoked at a running receiver, or decided on by the sender."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings, SourceSettings
from dicom_node.conformance import render_statement
from dicom_node.destinations.base import Outcome, classify_status
from dicom_node.errors import LedgerUnavailable
from dicom_node.instance_store import IncomingObject, InstanceStore
from dicom_node.ledger.reception import ReceptionLedger, Recorded
from tests.support.hostile import deflate
from tests.support.network import (
    CT,
    DEFLATED,
    RawPeer,
    Response,
    RunningReceiver,
    associate_rq,
    command,
    data_set,
    element,
    pdu,
    pdv,
    running_receiver,
    store_rq,
    ui,
    us,
)
from tests.support.statement import plain, tables

FOUND = tables(render_statement(Settings()))
STORE = {plain(row["When"]): row for row in FOUND["Answers to C-STORE"]}
OTHER = {plain(row["When"]): row for row in FOUND["Answers to other requests"]}
PRIVATE_CLASS = "1.3.12.2.1107.5.99.1"
UID = "1.2.3.4"


class _Closed(ReceptionLedger):
    """A ledger that can't record what was received."""

    def record_all(self, received: Any) -> list[Recorded]:
        raise LedgerUnavailable("the database is locked")


@contextmanager
def associated(folder: Path, **options: Any) -> Iterator[tuple[RunningReceiver, RawPeer]]:
    with running_receiver(folder, **options) as running, RawPeer(running.port) as peer:
        assert peer.associate()[0] == 2
        yield running, peer


# ---------------------------------------------------------------------- the receiver's answers to C-STORE


def _store(folder: Path, body: bytes | None = None, **options: Any) -> Response:
    with associated(folder, **options) as (_, peer):
        return peer.store(UID, body)


def _request(folder: Path, encoded_command: bytes, body: bytes | None = None) -> Response:
    with associated(folder) as (_, peer):
        peer.send(pdu(4, pdv(1, 3, encoded_command)))
        if body is not None:
            peer.send(pdu(4, pdv(1, 2, body)))
        return peer.response()


def _patched(folder: Path, kind: type, name: str, replacement: Callable[..., Any], **options: Any) -> Response:
    with associated(folder, **options) as (_, peer), pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, name, replacement)
        return peer.store(UID)


def _twice(folder: Path, again: bytes, objects: int) -> Response:
    with associated(folder) as (running, peer):
        assert peer.store(UID, data_set(UID)).status == 0
        answer = peer.store(UID, again)
        assert len(running.stored_files()) == objects
        return answer


def _durable(folder: Path) -> Response:
    with associated(folder) as (running, peer):
        answer = peer.store(UID)
        assert running.rows("SELECT sop_instance_uid FROM instance") == [(UID,)]
        assert [content.endswith(data_set(UID)) for content in running.stored_files()] == [True]
        return answer


def _quarantined(folder: Path, body: bytes) -> Response:
    with associated(folder) as (running, peer):
        answer = peer.store(UID, body)
        assert len(list(running.store.quarantined_keys())) == 1
        return answer


def _deflated(folder: Path, body: bytes, *, cut: int = 0, **options: Any) -> Response:
    with running_receiver(folder, **options) as running, RawPeer(running.port) as peer:
        assert peer.associate(associate_rq(((1, CT, (DEFLATED,)),)))[0] == 2
        encoded = deflate(body)
        answer = peer.store(UID, encoded[: len(encoded) - cut])
        assert len(list(running.store.quarantined_keys())) == (cut > 0)
        return answer


def _without_identity(folder: Path) -> Response:
    one = _quarantined(folder / "none", data_set(UID, study="1.2\\3"))
    other = _quarantined(folder / "two", element(0x0008, 0x0018, b"UI", b"1.2.3.5") + data_set(UID))
    assert one.status == other.status
    return other


def _full(self: IncomingObject, data: memoryview) -> None:
    with self._discarding():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _broken(self: IncomingObject) -> None:
    raise ZeroDivisionError("/some/path")


def _too_fast(folder: Path) -> Response:
    slow = SourceSettings(name="slow", ae_titles=("SENDER",), max_objects_per_minute=1)
    with associated(folder, sources=[slow]) as (_, peer):
        assert peer.store(UID).status == 0
        return peer.store("1.2.3.77", data_set("1.2.3.77"))


STORE_CASES: dict[str, Callable[[Path], Response]] = {
    "The object is durable: its file and folder are synced to the disk, its row is committed to the ledger.": _durable,
    "The node has the same SOP instance with the same bytes already: nothing is stored twice.": lambda folder: _twice(
        folder, data_set(UID), 1
    ),
    "The node has the same SOP instance with other content: both are kept, nothing is overwritten.": lambda folder: (
        _twice(folder, data_set(UID, pixels=b"\5\6"), 2)
    ),
    "A disk of the node is above its high watermark ([storage]).": lambda folder: _patched(
        folder, InstanceStore, "free_bytes", lambda self: 1000, min_free_mb=1
    ),
    "The data set is longer than receiver.max_object_mb.": lambda folder: _store(
        folder, data_set(UID, pixels=bytes(1_000_100)), max_object_mb=1
    ),
    "A deflated data set inflates beyond receiver.max_object_mb.": lambda folder: _deflated(
        folder, data_set(UID, pixels=bytes(1_000_100)), max_object_mb=1
    ),
    "Its source sends more than max_objects_per_minute, and waiting for its turn would take too long.": _too_fast,
    "The disk does not take it.": lambda folder: _patched(folder, IncomingObject, "write", _full),
    "The ledger's database can't be reached.": lambda folder: _store(folder, ledger_type=_Closed),
    "SOP Class UID or SOP Instance UID of the data set is not that of the command.": lambda folder: _store(
        folder, data_set("1.2.3.5")
    ),
    "The SOP class of the command is not that of the presentation context.": lambda folder: _request(
        folder, store_rq(UID, sop_class=PRIVATE_CLASS), data_set(UID, sop_class=PRIVATE_CLASS)
    ),
    "SOP Class UID or SOP Instance UID is missing in the command.": lambda folder: _request(
        folder, store_rq(""), data_set(UID)
    ),
    "What the command names as SOP class or SOP instance is no UID.": lambda folder: _request(
        folder, store_rq("1.2\\3"), data_set("1.2\\3")
    ),
    "Study Instance UID or Series Instance UID is missing in the data set.": lambda folder: _store(
        folder, data_set(UID, series="")
    ),
    "The command announces no data set.": lambda folder: _request(folder, store_rq(UID, has_data_set=False)),
    "The data set can't be parsed in the negotiated transfer syntax; a copy is kept in quarantine.": lambda folder: (
        _quarantined(folder, b"this is no data set at all " * 50)
    ),
    "The data set ends before its last element does; a copy is kept in quarantine.": lambda folder: _quarantined(
        folder, data_set(UID, pixels=b"\1" * 4096)[:-100]
    ),
    "A deflated data set is broken or cut off; a copy is kept in quarantine.": lambda folder: _deflated(
        folder, data_set(UID, pixels=bytes(range(256)) * 20), cut=100
    ),
    "An identifier of the data set is no UID, or is there twice with different values; a copy is kept in quarantine.": (
        _without_identity
    ),
    "An element of a group before 0008 is in the data set; a copy is kept in quarantine.": lambda folder: _quarantined(
        folder, element(0x0002, 0x0010, b"UI", b"1.2.840.10008.1.2") + data_set(UID)
    ),
    "Anything that nobody foresaw; the log has the details, the peer is told none.": lambda folder: _patched(
        folder, IncomingObject, "commit", _broken
    ),
}


@pytest.mark.parametrize("case", STORE)
def test_each_listed_case_of_c_store_gets_the_listed_status(tmp_path: Path, case: str) -> None:
    answer = STORE_CASES[case](tmp_path)
    assert f"{answer.status:04X}" == STORE[case]["Status"]
    assert answer.command_field == 0x8001
    # "With each failure Error Comment says why", and of an unforeseen error no more than that it was one.
    assert bool(answer.comment) is (answer.status != 0)
    assert "path" not in answer.comment


def test_every_provoked_case_of_c_store_is_listed() -> None:
    assert set(STORE_CASES) == set(STORE)
    assert {row["Status"] for row in STORE.values()} == {"0000", "A700", "A900", "C000", "0110"}


# ---------------------------------------------------------------------- other requests


def _echoes(folder: Path) -> list[Response]:
    echo = command((0x0002, ui("1.2.840.10008.1.1")), (0x0100, us(0x0030)), (0x0110, us(7)), (0x0800, us(0x0101)))
    answers = []
    with associated(folder) as (_, peer):
        for context_id in (1, 3):
            peer.send(pdu(4, pdv(context_id, 3, echo)))
            answers.append(peer.response())
    return answers


def _store_on_verification(folder: Path) -> list[Response]:
    with associated(folder) as (running, peer):
        peer.send(pdu(4, pdv(3, 3, store_rq())), pdu(4, pdv(3, 2, data_set())))
        answers = [peer.response()]
        assert running.stored_files() == []
    return answers


def _others(folder: Path) -> list[Response]:
    # C-FIND, C-GET, C-MOVE; N-EVENT-REPORT, N-GET, N-SET, N-ACTION, N-CREATE, N-DELETE (PS3.7 E.1).
    fields = (0x0020, 0x0010, 0x0021, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150)
    answers = []
    with associated(folder) as (_, peer):
        for field in fields:
            encoded = command((0x0002, ui(PRIVATE_CLASS)), (0x0100, us(field)), (0x0110, us(9)), (0x0800, us(0x0101)))
            peer.send(pdu(4, pdv(1, 3, encoded)))
            answers.append(peer.response())
    assert [answer.command_field for answer in answers] == [field | 0x8000 for field in fields]
    return answers


OTHER_CASES: dict[str, Callable[[Path], list[Response]]] = {
    "C-ECHO, on every accepted presentation context.": _echoes,
    "C-STORE on a Verification context.": _store_on_verification,
    "C-FIND, C-GET, C-MOVE, and every N- service that is none of Storage Commitment.": _others,
}


@pytest.mark.parametrize("case", OTHER)
def test_each_other_request_gets_the_listed_status(tmp_path: Path, case: str) -> None:
    assert {f"{answer.status:04X}" for answer in OTHER_CASES[case](tmp_path)} == {OTHER[case]["Status"]}


def test_every_provoked_other_request_is_listed() -> None:
    assert set(OTHER_CASES) == set(OTHER)


# ---------------------------------------------------------------------- the sender's reading of statuses

WORDS = {"Stored": Outcome.SENT, "Tried again": Outcome.RETRY, "Refused": Outcome.REFUSED}


def _first_row(status: int) -> dict[str, str]:
    for row in FOUND["Answers to our C-STORE"]:
        first, _, last = row["Status"].partition(" to ")
        if int(first, 16) <= status <= int(last or first, 16):
            return row
    raise AssertionError(f"{status:04X} is in no row")


def test_the_first_row_that_holds_a_status_tells_what_the_sender_does() -> None:
    wrong = {
        f"{status:04X}": row["Behaviour"]
        for status in range(0x10000)
        if WORDS[(row := _first_row(status))["Behaviour"].partition(":")[0]] is not classify_status(status)
    }
    assert wrong == {}


def test_the_exception_for_a_duplicate_is_told() -> None:
    text = render_statement(Settings())
    assert _first_row(0x0111)["Behaviour"].startswith("Refused")
    assert classify_status(0x0111, in_doubt=True) is Outcome.SENT
    assert "\n0111 counts as stored where an earlier attempt ended before the answer came" in text


@pytest.mark.parametrize(
    "status", ["0000", "B000", "B006", "B007", "A700", "0213", "A900", "C000", "0117", "0122", "0124"]
)
def test_each_status_of_the_storage_service_has_a_row_with_a_meaning_of_its_own(status: str) -> None:
    row = _first_row(int(status, 16))
    assert row["Meaning"] != _first_row(0xFFFE)["Meaning"]
    assert row["Status"] != "0000 to FFFF"
