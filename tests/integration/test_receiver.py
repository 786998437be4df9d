"""The receiver on real sockets: what it stores, what it answers, and that nothing a peer sends brings it down."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from config.settings import SourceSettings
from dicom_node.errors import LedgerUnavailable
from dicom_node.instance_store import IncomingObject, InstanceStore, StoredObject
from dicom_node.ledger.reception import ReceivedInstance, ReceptionLedger, Recorded
from tests.support.network import (
    BIG_ENDIAN,
    CT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    LOOPBACK,
    RawPeer,
    Response,
    associate_rq,
    command,
    data_set,
    element,
    item,
    pdu,
    pdv,
    running_receiver,
    store_rq,
    ui,
    us,
)
from tests.support.peers import find_program, requires_dcmtk, wait_until

PRIVATE_CLASS = "1.3.12.2.1107.5.99.1"


def accepted_contexts(body: bytes) -> dict[int, tuple[int, str]]:
    """Result and transfer syntax of each context in an A-ASSOCIATE-AC."""
    found, position = {}, 68
    while position < len(body):
        kind, _, length = struct.unpack_from(">BBH", body, position)
        if kind == 0x21:
            syntax = body[position + 12 : position + 4 + length].decode()
            found[body[position + 4]] = (body[position + 6], syntax)
        position += 4 + length
    return found


# ---------------------------------------------------------------------- what is stored


def test_an_object_is_stored_as_it_came_and_recorded(tmp_path: Path) -> None:
    body = data_set("1.2.3.77", pixels=os.urandom(3_000_001))
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        peer.send(pdu(4, pdv(1, 3, store_rq("1.2.3.77", message_id=513))))
        peer.send(
            *(pdu(4, pdv(1, 0, body[n : n + 50_000])) for n in range(0, len(body), 50_000)), pdu(4, pdv(1, 2, b""))
        )
        assert peer.response() == Response(0x8001, 513, 0, "")
        peer.release()
        (content,) = running.stored_files()
        assert content.endswith(body)
        assert len(content) - len(body) < 600
        identifiers = "sop_instance_uid, study_instance_uid, series_instance_uid, transfer_syntax_uid"
        assert running.rows(f"SELECT {identifiers}, state, dataset_offset FROM instance") == [
            ("1.2.3.77", "1.2.3", "1.2.3.1", EXPLICIT, "stored", len(content) - len(body))
        ]


def test_association_is_in_the_ledger_with_its_end(tmp_path: Path) -> None:
    query = "SELECT calling_ae_title, called_ae_title, host, outcome, acknowledged FROM association ORDER BY id"
    with running_receiver(tmp_path) as running:
        with RawPeer(running.port) as peer:
            peer.associate()
            assert running.rows(query) == [("SENDER", "LOWDOSE", LOOPBACK, None, None)]
            assert [peer.store(f"1.2.{n}").status for n in range(3)] == [0, 0, 0]
            assert peer.store("1.2.9", data_set("1.2.8")).status == 0xA900
            peer.release()
        with RawPeer(running.port) as peer:
            peer.associate()
            peer.send(pdu(7, bytes(4)))
        with RawPeer(running.port) as peer:
            peer.associate()
            peer.store("1.2.11")
        with RawPeer(running.port) as peer:
            peer.associate()
            peer.send(pdu(0x47, b""))
            assert peer.abort() == (2, 1)
        wait_until(lambda: running.receiver.associations == 0)
        wait_until(lambda: all(row[3] for row in running.rows(query)))
        assert [row[3:] for row in running.rows(query)] == [
            ("released", 3),
            ("aborted", 0),
            ("lost", 1),
            ("aborted", 0),
        ]


def test_the_log_tells_what_came_again_from_what_is_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dicom_node")
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        assert [peer.store("1.2.9").status for _ in range(2)] == [0, 0]
        peer.release()
    said = [record.message for record in caplog.records if getattr(record, "sop_instance_uid", "") == "1.2.9"]
    assert said == ["Stored instance", "Received before, nothing to do"]


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
@pytest.mark.parametrize("sop_class", [CT, PRIVATE_CLASS])
def test_stock_pynetdicom_stores_every_kind(tmp_path: Path, syntax: str, sop_class: str) -> None:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = sop_class, "1.2.5", "1.2", "1.3"
    ds.PatientName, ds.Rows = "A^B", 512
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    with running_receiver(tmp_path) as running:
        ae = AE("PYNETDICOM")
        ae.add_requested_context(sop_class, syntax)
        ae.add_requested_context(Verification)
        association = ae.associate(LOOPBACK, running.port, ae_title="LOWDOSE")
        assert association.is_established
        assert association.send_c_echo().Status == 0
        assert association.send_c_store(ds).Status == 0
        association.release()
        (key,) = running.store.keys()
        again = pydicom.dcmread(running.store.path(key))
        assert again.file_meta.TransferSyntaxUID == syntax
        assert (again.SOPClassUID, again.PatientName, again.Rows) == (sop_class, "A^B", 512)


def test_same_uid_and_bytes_is_success_and_no_new_object(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        assert [peer.store("1.2.3.4").status for _ in range(3)] == [0, 0, 0]
        assert len(list(running.store.keys())) == 1
        assert running.rows("SELECT count(*) FROM instance") == [(1,)]


def test_same_uid_with_other_content_keeps_both(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        assert peer.store("1.2.3.4", data_set("1.2.3.4", pixels=b"\1\2")).status == 0
        assert peer.store("1.2.3.4", data_set("1.2.3.4", pixels=b"\3\4")).status == 0
        assert sorted(content[-2:] for content in running.stored_files()) == [b"\1\2", b"\3\4"]
        assert running.rows("SELECT revision FROM instance ORDER BY id") == [(0,), (1,)]


def test_identifiers_behind_large_private_elements_are_found(tmp_path: Path) -> None:
    plain = data_set("1.2.3.4")
    cut = plain.index(struct.pack("<HH", 0x0010, 0x0020))
    body = plain[:cut] + element(0x0009, 0x1001, b"OB", bytes(500_000)) + plain[cut:]
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        assert peer.store("1.2.3.4", body).status == 0


# ---------------------------------------------------------------------- durability


class _Forgetful(ReceptionLedger):
    """A ledger that can't be reached for a while."""

    is_down = False

    def record_all(self, received: object) -> list[Recorded]:
        if self.is_down:
            raise LedgerUnavailable("the database is locked")
        return super().record_all(received)  # type: ignore[arg-type]


def test_ledger_out_of_reach_is_out_of_resources_and_the_association_goes_on(tmp_path: Path) -> None:
    with running_receiver(tmp_path, ledger_type=_Forgetful) as running, RawPeer(running.port) as peer:
        peer.associate()
        running.ledger.is_down = True  # type: ignore[attr-defined]
        assert peer.store("1.2.3.4") == Response(0x8001, 1, 0xA700, "the database is locked")
        running.ledger.is_down = False  # type: ignore[attr-defined]
        assert peer.store("1.2.3.4").status == 0
        assert running.rows("SELECT count(*) FROM instance") == [(1,)]


def test_full_disk_is_out_of_resources_and_the_association_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: IncomingObject, data: memoryview) -> None:
        with self._discarding():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        with monkeypatch.context() as patch:
            patch.setattr(IncomingObject, "write", full)
            answer = peer.store("1.2.3.4", data_set("1.2.3.4", pixels=bytes(100_000)))
            assert answer == Response(0x8001, 1, 0xA700, "storage failed: No space left on device")
        assert peer.store("1.2.3.4").status == 0
        assert list((tmp_path / "incoming").iterdir()) == []


def test_success_comes_only_after_file_folder_and_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename, record = os.fsync, os.rename, ReceptionLedger.record_all

    def watched_fsync(descriptor: int) -> None:
        steps.append("fsync")
        fsync(descriptor)

    def watched_rename(source: Path, target: Path) -> None:
        steps.append("rename")
        rename(source, target)

    def watched_record(self: ReceptionLedger, received: list[ReceivedInstance]) -> list[Recorded]:
        answer = record(self, received)
        steps.append("commit")
        return answer

    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "rename", watched_rename)
        monkeypatch.setattr(ReceptionLedger, "record_all", watched_record)
        monkeypatch.setattr("dicom_node.data_phase.DataPhase.send_message", _watched_send(steps))
        assert peer.store("1.2.3.4").status == 0
        monkeypatch.undo()
    assert steps == ["fsync", "rename", "fsync", "commit", "response"]


def _watched_send(steps: list[str]) -> object:
    from dicom_node.data_phase import DataPhase

    original = DataPhase.send_message

    def send_message(self: DataPhase, *arguments: object) -> None:
        steps.append("response")
        original(self, *arguments)  # type: ignore[arg-type]

    return send_message


def test_unforeseen_error_is_a_processing_failure_and_the_association_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: IncomingObject) -> StoredObject:
        raise ZeroDivisionError("/some/path")

    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        with monkeypatch.context() as patch:
            patch.setattr(IncomingObject, "commit", broken)
            assert peer.store("1.2.3.4") == Response(0x8001, 1, 0x0110, "processing failure")
        assert peer.store("1.2.3.4").status == 0
        assert len(list(running.store.keys())) == 1


# ---------------------------------------------------------------------- statuses

MISMATCHES = {
    "other instance": (store_rq("1.2.3.4"), data_set("1.2.3.5")),
    "other class": (store_rq("1.2.3.4"), data_set("1.2.3.4", sop_class=PRIVATE_CLASS)),
    "class of no context": (store_rq("1.2.3.4", sop_class=PRIVATE_CLASS), data_set("1.2.3.4", sop_class=PRIVATE_CLASS)),
    "no study": (store_rq("1.2.3.4"), data_set("1.2.3.4", study="")),
    "no series": (store_rq("1.2.3.4"), data_set("1.2.3.4", series="")),
    "no instance in the command": (store_rq(""), data_set("1.2.3.4")),
    "empty data set": (store_rq("1.2.3.4"), b""),
}


@pytest.mark.parametrize(("encoded_command", "body"), MISMATCHES.values(), ids=MISMATCHES.keys())
def test_data_set_and_command_that_disagree_are_a900(tmp_path: Path, encoded_command: bytes, body: bytes) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        peer.send(pdu(4, pdv(1, 3, encoded_command)), pdu(4, pdv(1, 2, body)))
        answer = peer.response()
        assert (answer.status, bool(answer.comment)) == (0xA900, True)
        assert peer.store("1.2.3.6").status == 0
        assert running.rows("SELECT count(*) FROM instance") == [(1,)]
        assert len(list(running.store.keys())) == 1


def test_store_request_without_data_set_is_a900(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        peer.send(pdu(4, pdv(1, 3, store_rq(has_data_set=False))))
        assert peer.response().status == 0xA900
        assert peer.store("1.2.3.6").status == 0


@pytest.mark.parametrize(
    "body", [b"this is no data set at all " * 50, data_set(pixels=b"\1" * 4096)[:-100]], ids=["no data set", "cut off"]
)
def test_unparsable_data_set_is_c000_and_a_copy_is_quarantined(body: bytes, tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        assert peer.store("1.2.3.4", body).status == 0xC000
        (key,) = running.store.quarantined_keys()
        assert running.store.path(key).read_bytes().endswith(body)
        assert running.rows("SELECT state, key, sop_instance_uid FROM instance") == [("quarantined", key, "1.2.3.4")]
        assert peer.store("1.2.3.4").status == 0


def test_object_above_the_limit_is_read_to_its_end_and_refused(tmp_path: Path) -> None:
    with running_receiver(tmp_path, max_object_mb=1) as running, RawPeer(running.port) as peer:
        peer.associate()
        assert peer.store("1.2.3.4", data_set("1.2.3.4", pixels=bytes(1_000_100))).status == 0xA700
        assert peer.store("1.2.3.4", data_set("1.2.3.4", pixels=bytes(999_000))).status == 0
        assert len(list(running.store.keys())) == 1
        assert list((tmp_path / "incoming").iterdir()) == []


def test_watermark_passed_during_an_association_refuses_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_receiver(tmp_path, min_free_mb=1) as running, RawPeer(running.port) as peer:
        peer.associate()
        with monkeypatch.context() as patch:
            patch.setattr(InstanceStore, "free_bytes", lambda self: 1000)
            assert peer.store("1.2.3.4") == Response(0x8001, 1, 0xA700, "disk watermark reached")
        assert peer.store("1.2.3.4").status == 0


@pytest.mark.parametrize(
    ("field", "has_data_set", "answer"),
    [
        (0x0020, True, 0x8020),
        (0x0010, True, 0x8010),
        (0x0021, True, 0x8021),
        (0x0130, True, 0x8130),
        (0x0150, False, 0x8150),
    ],
    ids=["C-FIND", "C-GET", "C-MOVE", "N-ACTION", "N-DELETE"],
)
def test_other_operations_are_unrecognized(tmp_path: Path, field: int, has_data_set: bool, answer: int) -> None:
    encoded = command(
        (0x0002, ui(CT)), (0x0100, us(field)), (0x0110, us(9)), (0x0800, us(0 if has_data_set else 0x0101))
    )
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        peer.send(pdu(4, pdv(1, 3, encoded)), pdu(4, pdv(1, 2, bytes(100))) if has_data_set else b"")
        assert peer.response() == Response(answer, 9, 0x0211, "")
        assert peer.store("1.2.3.4").status == 0


def test_cancel_is_ignored(tmp_path: Path) -> None:
    cancel = command((0x0100, us(0x0FFF)), (0x0120, us(1)), (0x0800, us(0x0101)))
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        peer.send(pdu(4, pdv(1, 3, cancel)))
        assert peer.echo() == 0


def test_store_on_the_verification_context_is_unrecognized(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        peer.send(pdu(4, pdv(3, 3, store_rq())), pdu(4, pdv(3, 2, data_set())))
        assert peer.response().status == 0x0211
        assert list(running.store.keys()) == []


# ---------------------------------------------------------------------- negotiation


def test_each_context_is_answered_for_itself(tmp_path: Path) -> None:
    request = associate_rq(
        (
            (1, CT, (EXPLICIT, IMPLICIT)),
            (3, CT, (IMPLICIT, EXPLICIT)),
            (5, CT, ("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.70")),
            (7, PRIVATE_CLASS, (BIG_ENDIAN,)),
            (9, CT, ("1.2.3.4.5",)),
            (11, "1.2.840.10008.5.1.4.31", (IMPLICIT,)),
            (13, "1.2.840.10008.1.20.1", (IMPLICIT,)),
        )
    )
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        kind, body = peer.associate(request)
        assert kind == 2
        found = accepted_contexts(body)
        assert {key: syntax for key, (result, syntax) in found.items() if result == 0} == {
            1: EXPLICIT,
            3: IMPLICIT,
            5: "1.2.840.10008.1.2.4.70",
            7: BIG_ENDIAN,
        }
        assert {key: result for key, (result, _) in found.items() if result} == {9: 4, 11: 3, 13: 3}


def test_the_largest_request_is_answered(tmp_path: Path) -> None:
    syntaxes = tuple(f"1.2.840.10008.1.2.4.{n}" for n in range(50, 92))
    request = associate_rq([(2 * n + 1, f"1.2.840.10008.5.1.4.1.1.{n}", syntaxes) for n in range(128)])
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        kind, body = peer.associate(request)
        assert kind == 2
        assert len(accepted_contexts(body)) == 128


def test_roles_are_the_default_ones(tmp_path: Path) -> None:
    role = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + bytes((1, 1)))
    plain = associate_rq()
    user_information = plain.rindex(item(0x51, struct.pack(">I", 16_384))) - 4
    body = plain[6:user_information] + item(0x50, plain[user_information + 4 :] + role)
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        kind, answer = peer.associate(pdu(1, body))
        assert kind == 2
        assert item(0x54, b"")[:1] not in {answer[n : n + 1] for n in _user_item_positions(answer)}
        assert peer.store().status == 0


def _user_item_positions(body: bytes) -> list[int]:
    position = 68
    while body[position] != 0x50:
        position += 4 + int.from_bytes(body[position + 2 : position + 4], "big")
    positions, end = [], position + 4 + int.from_bytes(body[position + 2 : position + 4], "big")
    position += 4
    while position < end:
        positions.append(position)
        position += 4 + int.from_bytes(body[position + 2 : position + 4], "big")
    return positions


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (associate_rq(calling="STRANGER"), (1, 1, 3)),
        (associate_rq(called="OTHER"), (1, 1, 7)),
        (associate_rq(application_context="1.2.3"), (1, 1, 2)),
        (associate_rq(version=2), (1, 2, 2)),
    ],
    ids=["calling", "called", "application context", "protocol version"],
)
def test_requests_that_are_not_for_us_are_rejected(
    tmp_path: Path, request_bytes: bytes, expected: tuple[int, int, int]
) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        kind, body = peer.associate(request_bytes)
        assert (kind, tuple(body[1:])) == (3, expected)
        assert peer.is_closed()


def test_a_stranger_is_recorded_with_the_lines_that_would_admit_it(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running:
        for _ in range(2):
            with RawPeer(running.port) as peer:
                peer.associate(associate_rq(calling="STRANGER"))
        wait_until(lambda: running.rows("SELECT count FROM rejection") == [(2,)])
        ((title, host, reason),) = running.rows("SELECT calling_ae_title, host, reason FROM rejection")
        assert (title, host) == ("STRANGER", LOOPBACK)
        assert '[[sources]]\nname = "STRANGER"\nae_titles = ["STRANGER"]\nhosts = ["127.0.0.1"]' in str(reason)
        assert running.rows("SELECT count(*) FROM association") == [(0,)]


def test_sources_named_by_host_are_resolved(tmp_path: Path) -> None:
    source = SourceSettings(name="x", ae_titles=("SENDER",), hosts=("localhost",))
    with running_receiver(tmp_path, sources=[source]) as running, RawPeer(running.port) as peer:
        assert peer.associate()[0] == 2


def test_associations_beyond_the_limit_are_rejected_as_transient_and_taken_later(tmp_path: Path) -> None:
    with running_receiver(tmp_path, max_associations=2) as running:
        with RawPeer(running.port) as first, RawPeer(running.port) as second, RawPeer(running.port) as third:
            assert first.associate()[0] == second.associate()[0] == 2
            kind, body = third.associate()
            assert (kind, tuple(body[1:])) == (3, (2, 3, 2))
            first.release()
            wait_until(lambda: running.receiver.associations == 1)
        with RawPeer(running.port) as fourth:
            assert fourth.associate()[0] == 2


def test_disk_above_the_watermark_rejects_as_transient(tmp_path: Path) -> None:
    with running_receiver(tmp_path, min_free_mb=1 << 30) as running, RawPeer(running.port) as peer:
        kind, body = peer.associate()
        assert (kind, tuple(body[1:])) == (3, (2, 3, 1))


def test_connections_that_say_nothing_are_bounded_and_hold_up_nobody(tmp_path: Path) -> None:
    with running_receiver(tmp_path, max_associations=1, acse_timeout_s=1.0) as running:
        silent = [socket.create_connection((LOOPBACK, running.port)) for _ in range(60)]
        time.sleep(0.3)
        alive = [thread for thread in threading.enumerate() if thread.name == "association"]
        assert len(alive) <= 33
        wait_until(lambda: not any(t.name == "association" for t in threading.enumerate()), timeout_s=10)
        with RawPeer(running.port) as peer:
            assert peer.associate()[0] == 2
        for sock in silent:
            sock.close()


# ---------------------------------------------------------------------- hostile peers


def test_trickled_request_is_cut_off(tmp_path: Path) -> None:
    with running_receiver(tmp_path, acse_timeout_s=1.0) as running, RawPeer(running.port) as peer:
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in associate_rq():
                peer.send(bytes((byte,)))
                time.sleep(0.05)
        assert 0.5 < time.monotonic() - begin < 8


def test_silence_on_an_association_is_aborted(tmp_path: Path) -> None:
    with running_receiver(tmp_path, network_timeout_s=0.5) as running, RawPeer(running.port) as peer:
        peer.associate()
        peer.send(pdu(4, pdv(1, 3, store_rq())), pdu(4, pdv(1, 0, b"abc")))
        assert peer.abort() == (0, 0)
        wait_until(lambda: running.receiver.associations == 0)
        assert list((tmp_path / "incoming").iterdir()) == []


def test_release_in_the_middle_of_an_object_is_confirmed_and_drops_it(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        peer.send(pdu(4, pdv(1, 3, store_rq())), pdu(4, pdv(1, 0, data_set()[:50])))
        peer.release()
        wait_until(lambda: running.receiver.associations == 0)
        assert list((tmp_path / "incoming").iterdir()) == []
        assert running.rows("SELECT count(*) FROM instance") == [(0,)]


def test_receiver_outlives_whatever_peers_send(tmp_path: Path) -> None:
    rng = random.Random(20_250_101)
    good = associate_rq() + pdu(4, pdv(1, 3, store_rq())) + pdu(4, pdv(1, 2, data_set())) + pdu(5, bytes(4))
    with running_receiver(tmp_path, acse_timeout_s=0.3, network_timeout_s=0.3) as running:
        for round_number in range(250):
            damaged = bytearray(good)
            for _ in range(rng.randint(1, 6)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            if round_number % 3 == 0:
                damaged = damaged[: rng.randrange(len(damaged))]
            with RawPeer(running.port) as peer:
                try:
                    peer.send(bytes(damaged))
                    peer.sock.shutdown(socket.SHUT_WR)
                    while peer.sock.recv(4096):
                        pass
                except OSError:
                    continue
        with RawPeer(running.port) as peer:
            assert peer.associate()[0] == 2
            assert peer.store("1.2.3.999").status == 0
            peer.release()
        wait_until(lambda: running.receiver.associations == 0)
        recorded = {key for (key,) in running.rows("SELECT key FROM instance WHERE key IS NOT NULL")}
        assert recorded == {*running.store.keys(), *running.store.quarantined_keys()}
        assert running.rows("SELECT count(*) FROM association WHERE closed_at IS NULL") == [(0,)]


def test_memory_does_not_grow_with_the_object(tmp_path: Path) -> None:
    begin, piece = data_set(pixels=b""), bytes(1 << 20)
    size = 400
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, size << 20)
    with running_receiver(tmp_path) as running, RawPeer(running.port, timeout_s=60) as peer:
        peer.associate()
        peer.send(pdu(4, pdv(1, 3, store_rq())), pdu(4, pdv(1, 0, begin + pixels)))
        before = _resident_bytes()
        largest = 0
        for n in range(size):
            for k in range(0, 1 << 20, 1 << 18):
                last = n == size - 1 and k == 3 << 18
                peer.send(pdu(4, pdv(1, 2 if last else 0, piece[k : k + (1 << 18)])))
            largest = max(largest, _resident_bytes())
        assert peer.response().status == 0
    assert largest - before < 40 << 20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


# ---------------------------------------------------------------------- stopping


def test_stop_lets_an_association_finish(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer, RawPeer(running.port) as late:
        peer.associate()
        port = running.port
        stopping = threading.Thread(target=running.receiver.stop, args=(10,))
        stopping.start()
        time.sleep(0.2)
        kind, body = late.associate()
        assert (kind, tuple(body[1:])) == (3, (2, 3, 1))
        assert peer.store("1.2.3.4").status == 0
        peer.release()
        stopping.join(5)
        assert not stopping.is_alive()
        assert running.rows("SELECT outcome, acknowledged FROM association") == [("released", 1)]
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((LOOPBACK, port))


def test_stop_aborts_what_does_not_finish_in_time(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running, RawPeer(running.port) as idle, RawPeer(running.port) as busy:
        idle.associate()
        busy.associate()
        busy.send(pdu(4, pdv(1, 3, store_rq())), pdu(4, pdv(1, 0, b"abc")))
        begin = time.monotonic()
        running.receiver.stop(0.3)
        assert time.monotonic() - begin < 6
        assert idle.abort() == (0, 0)
        assert busy.abort() == (0, 0)
        assert running.rows("SELECT outcome FROM association") == [("aborted",), ("aborted",)]
        assert not any(thread.name == "association" for thread in threading.enumerate())


# ---------------------------------------------------------------------- DCMTK


def write_objects(folder: Path, count: int, syntax: str = EXPLICIT) -> list[Path]:
    paths = []
    for n in range(count):
        body = data_set(f"1.2.3.{n}", syntax=syntax, pixels=bytes(20_000))
        store = InstanceStore(folder)
        incoming = store.create(
            sop_class_uid=CT, sop_instance_uid=f"1.2.3.{n}", transfer_syntax_uid=syntax, source_ae_title="X"
        )
        incoming.write(memoryview(body))
        paths.append(store.path(incoming.commit().key))
    return paths


def dcmtk(program: str) -> str:
    """Return the path of one of DCMTK's programs."""
    found = find_program(program)
    assert found is not None
    return found


@requires_dcmtk
@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_dcmtk_stores_and_releases(tmp_path: Path, program: str, syntax: str) -> None:
    files = write_objects(tmp_path / "source", 5, syntax)
    options = ["-R", "-xe" if syntax == EXPLICIT else "-xi"] if program == "storescu" else []
    with running_receiver(tmp_path / "node") as running:
        done = subprocess.run(
            [dcmtk(program), *options, "-aec", "LOWDOSE", LOOPBACK, str(running.port), *map(str, files)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        assert done.returncode == 0, done.stderr
        wait_until(lambda: running.receiver.associations == 0)
        assert running.rows("SELECT outcome, acknowledged FROM association") == [("released", 5)]
        assert len(list(running.store.keys())) == 5


@requires_dcmtk
def test_dcmtk_echo_succeeds_and_is_told_why_when_it_does_not(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as running:
        arguments = ["-aec", "LOWDOSE", LOOPBACK, str(running.port)]
        assert subprocess.run([dcmtk("echoscu"), *arguments], check=False, timeout=30).returncode == 0
        stranger = subprocess.run(
            [dcmtk("echoscu"), "-aet", "STRANGER", *arguments], check=False, timeout=30, capture_output=True, text=True
        )
        assert stranger.returncode != 0
        assert "Calling AE Title Not Recognized" in stranger.stderr
