"""The storage SCU against a pynetdicom SCP that behaves, and misbehaves, as told."""

from __future__ import annotations

import errno
import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_node.destinations.base import Outcome
from dicom_node.destinations.storage_scu import StorageScu
from dicom_node.errors import DerivationError, UnsupportedPixels
from dicom_node.transcoding import write_compressed
from tests.support.items import CR, CT, DX, Outcomes, destination, items_of, write_image, write_series
from tests.support.peers import (
    HangingUpPeer,
    MockScp,
    RejectingPeer,
    SilentPeer,
    closed_port,
    read_part10,
)

SENT, REFUSED, RETRY = Outcome.SENT, Outcome.REFUSED, Outcome.RETRY


def scu(port: int, **changes: object) -> StorageScu:
    return StorageScu(destination(port, **changes), node_ae_title="LOWDOSE")


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless],
    ids=lambda uid: uid.keyword,
)
def test_an_accepted_syntax_is_sent_byte_for_byte(tmp_path: Path, syntax: str) -> None:
    paths = write_series(tmp_path, 3, syntax=syntax)
    outcomes = Outcomes()
    with MockScp() as peer:
        scu(peer.port).deliver(items_of(paths), on_outcome=outcomes.append)
    assert outcomes.states() == {0: SENT, 1: SENT, 2: SENT}
    assert [(o.status, o.reason, o.in_doubt) for o in outcomes] == [(0, "", False)] * 3
    for path in paths:
        sent = read_part10(path)
        received = peer.received(sent.sop_instance_uid)
        assert received.transfer_syntax_uid == syntax
        assert received.data == sent.data
        assert (received.calling_ae_title, received.called_ae_title) == ("LOWDOSE", "MOCKPACS")


def test_a_series_of_mixed_classes_and_syntaxes_goes_on_one_association(tmp_path: Path) -> None:
    paths = [
        write_image(tmp_path, 0, sop_class=DX),
        write_image(tmp_path, 1, sop_class=CR, syntax=ImplicitVRLittleEndian),
        write_image(tmp_path, 2, sop_class=CT, syntax=RLELossless),
        write_image(tmp_path, 3, sop_class=DX, syntax=RLELossless),
    ]
    outcomes = Outcomes()
    with MockScp() as peer:
        scu(peer.port).deliver(items_of(paths), on_outcome=outcomes.append)
    assert set(outcomes.states().values()) == {SENT}
    assert peer.associations == 1
    assert [entry.data for entry in peer.objects] == [read_part10(path).data for path in paths]


@pytest.mark.parametrize("accepted", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless],
    ids=lambda uid: uid.keyword,
)
def test_a_refused_syntax_is_transcoded_without_changing_a_value(tmp_path: Path, syntax: str, accepted: str) -> None:
    path = write_image(tmp_path, 5, syntax=syntax)
    outcomes = Outcomes()
    with MockScp(contexts={DX: (accepted,)}) as peer:
        scu(peer.port).deliver(items_of([path]), on_outcome=outcomes.append)
    assert outcomes.states() == {0: SENT}
    [received] = peer.objects
    assert received.transfer_syntax_uid == accepted
    source = dcmread(path)
    got = read_dataset(io.BytesIO(received.data), accepted == ImplicitVRLittleEndian, True)
    got.file_meta = source.file_meta.__class__()
    got.file_meta.TransferSyntaxUID = UID(accepted)
    assert (got.pixel_array == source.pixel_array).all()
    assert [element.tag for element in got] == [element.tag for element in source]
    for element in source:
        if element.tag != 0x7FE00010 and not element.tag.is_private:
            assert got[element.tag].value == element.value


def test_a_refused_class_is_told_and_does_not_stop_the_others(tmp_path: Path) -> None:
    paths = [write_image(tmp_path, 0, sop_class=CT), write_image(tmp_path, 1, sop_class=DX)]
    outcomes = Outcomes()
    with MockScp(contexts={DX: (ExplicitVRLittleEndian,)}) as peer:
        scu(peer.port).deliver(items_of(paths), on_outcome=outcomes.append)
    assert outcomes.states() == {0: REFUSED, 1: SENT}
    assert "does not take CT Image Storage" in outcomes.reason(0)
    assert peer.associations == 1


def test_a_peer_that_takes_none_of_the_classes_refuses_them_for_good(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 2)
    outcomes = Outcomes()
    with MockScp(contexts={CT: (ExplicitVRLittleEndian,)}) as peer:
        scu(peer.port).deliver(items_of(paths), on_outcome=outcomes.append)
    assert outcomes.states() == {0: REFUSED, 1: REFUSED}
    assert "does not take Digital X-Ray Image Storage" in outcomes.reason(1)


def test_each_status_decides_over_its_own_object(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 7)
    statuses = {1: 0xA700, 2: 0xB000, 3: 0xC123, 4: 0x0213, 5: 0x0124}
    outcomes = Outcomes()
    with MockScp(statuses=statuses) as peer:
        scu(peer.port).deliver(items_of(paths), on_outcome=outcomes.append)
    assert outcomes.states() == {0: SENT, 1: RETRY, 2: SENT, 3: REFUSED, 4: RETRY, 5: REFUSED, 6: SENT}
    assert {outcome.instance_id: outcome.status for outcome in outcomes} == {0: 0, 6: 0} | statuses
    assert "answered C123 (cannot understand)" in outcomes.reason(3)
    assert peer.associations == 1


def test_each_outcome_is_reported_before_the_next_object_is_sent(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 4)
    seen: list[int] = []
    with MockScp() as peer:
        scu(peer.port).deliver(items_of(paths), on_outcome=lambda outcome: seen.append(peer.stores))
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("how", ["abort_at", "cut_at"])
def test_a_lost_association_leaves_what_was_answered_as_sent(tmp_path: Path, how: str) -> None:
    paths = write_series(tmp_path, 5)
    outcomes = Outcomes()
    with MockScp(
        abort_at=frozenset({2} if how == "abort_at" else ()), cut_at=frozenset({2} if how == "cut_at" else ())
    ) as peer:
        scu(peer.port).deliver(items_of(paths), on_outcome=outcomes.append)
    assert outcomes.states() == {0: SENT, 1: SENT, 2: RETRY, 3: SENT, 4: SENT}
    assert [outcome.instance_id for outcome in outcomes if outcome.in_doubt] == [2]
    assert "the association was lost" in outcomes.reason(2)
    assert peer.associations == 2


def test_an_object_that_makes_the_peer_abort_does_not_hold_up_its_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 4)
    items = items_of(paths)
    poison = frozenset({items[0].sop_instance_uid, items[1].sop_instance_uid})
    first, second = Outcomes(), Outcomes()
    with MockScp(abort_instances=poison) as peer:
        scu(peer.port).deliver(items, on_outcome=first.append)
        # Two losses with nothing answered in between: the peer is left alone, the rest was never on its way.
        assert first.states() == dict.fromkeys(range(4), RETRY)
        assert [outcome.in_doubt for outcome in first] == [True, True, False, False]
        again = [replace(item, in_doubt=outcome.in_doubt) for item, outcome in zip(items, first, strict=True)]
        scu(peer.port).deliver(again, on_outcome=second.append)
    assert second.states() == {0: RETRY, 1: RETRY, 2: SENT, 3: SENT}


def test_a_peer_that_dies_in_mid_series_leaves_the_rest_to_be_tried_again(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 6)
    outcomes = Outcomes()

    def die_after_two(outcome: object) -> None:
        outcomes.append(outcome)  # type: ignore[arg-type]
        if len(outcomes) == 2:
            peer.stop()

    with MockScp() as peer:
        scu(peer.port).deliver(items_of(paths), on_outcome=die_after_two)
    assert outcomes.states() == {0: SENT, 1: SENT, 2: RETRY, 3: RETRY, 4: RETRY, 5: RETRY}


def test_a_slow_answer_is_waited_for_and_an_overdue_one_is_not(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 3)
    slow, overdue = Outcomes(), Outcomes()
    with MockScp(delay_s={0: 0.6, 1: 0.6, 2: 0.6}) as peer:
        # The time-out holds for each response, not for the series, which takes longer.
        scu(peer.port, dimse_timeout_s=1).deliver(items_of(paths), on_outcome=slow.append)
    assert set(slow.states().values()) == {SENT}
    with MockScp(delay_s={1: 3.0}) as peer:
        begin = time.monotonic()
        scu(peer.port, dimse_timeout_s=1).deliver(items_of(paths), on_outcome=overdue.append)
        assert time.monotonic() - begin < 4
    assert overdue.states() == {0: SENT, 1: RETRY, 2: SENT}
    assert "did not answer in time" in overdue.reason(1)


def test_an_image_whose_compression_makes_the_peer_hang_up_goes_as_it_is_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compress_slowly(*arguments: object, **options: object) -> None:
        time.sleep(1.5)
        write_compressed(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("dicom_node.transcoding.write_compressed", compress_slowly)
    (path,) = write_series(tmp_path, 1)
    (item,) = (replace(item, is_derived=True) for item in items_of([path]))
    first, second = Outcomes(), Outcomes()
    with MockScp(patience_s=0.5) as peer:
        scu(peer.port, compress="rle").deliver([item], on_outcome=first.append)
        assert [(outcome.outcome, outcome.in_doubt) for outcome in first] == [(RETRY, True)]
        scu(peer.port, compress="rle").deliver([replace(item, in_doubt=True)], on_outcome=second.append)
    assert second.states() == {0: SENT}
    assert peer.received(item.sop_instance_uid).data == read_part10(path).data


def test_a_duplicate_counts_as_sent_only_after_an_attempt_in_doubt(tmp_path: Path) -> None:
    [item] = items_of(write_series(tmp_path, 1))
    doubtful = replace(item, in_doubt=True)
    fresh, again = Outcomes(), Outcomes()
    with MockScp(statuses={0: 0x0111, 1: 0x0111}) as peer:
        scu(peer.port).deliver([item], on_outcome=fresh.append)
        scu(peer.port).deliver([doubtful], on_outcome=again.append)
    assert fresh.states() == {0: REFUSED}
    assert again.states() == {0: SENT}


def test_a_stored_object_that_is_gone_is_refused_and_the_others_are_sent(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 3)
    items = items_of(paths)
    paths[1].unlink()
    outcomes = Outcomes()
    with MockScp() as peer:
        scu(peer.port).deliver(items, on_outcome=outcomes.append)
    assert outcomes.states() == {0: SENT, 1: REFUSED, 2: SENT}
    assert "is missing on this node" in outcomes.reason(1)


def test_a_folder_for_temporary_files_that_is_gone_refuses_no_object(tmp_path: Path) -> None:
    [item] = items_of(write_series(tmp_path, 1, syntax=ExplicitVRLittleEndian))
    transcoded, compressed = Outcomes(), Outcomes()

    def deliver(port: int, outcomes: Outcomes, **changes: object) -> None:
        settings = destination(port, **changes)
        there = StorageScu(settings, node_ae_title="LOWDOSE", scratch_folder=tmp_path / "gone")
        there.deliver([replace(item, is_derived=True)], on_outcome=outcomes.append)

    with MockScp(contexts={item.sop_class_uid: [ImplicitVRLittleEndian]}) as peer:
        deliver(peer.port, transcoded)
    with MockScp() as peer:
        deliver(peer.port, compressed, compress="rle")
    assert transcoded.states() == {0: RETRY}
    assert "can't be read or transcoded: No such file or directory" in transcoded.reason(0)
    assert compressed.states() == {0: SENT}


def test_nobody_listening_means_trying_again(tmp_path: Path) -> None:
    outcomes = Outcomes()
    with closed_port() as port:
        scu(port).deliver(items_of(write_series(tmp_path, 2)), on_outcome=outcomes.append)
    assert outcomes.states() == {0: RETRY, 1: RETRY}
    assert f"nothing listens on port {port}" in outcomes.reason(0)


def test_an_unknown_host_name_means_trying_again_and_says_so(tmp_path: Path) -> None:
    outcomes = Outcomes()
    scu(104, host="no-such-host.invalid").deliver(items_of(write_series(tmp_path, 1)), on_outcome=outcomes.append)
    assert outcomes.states() == {0: RETRY}
    assert "host name no-such-host.invalid is not known" in outcomes.reason(0)


@pytest.mark.parametrize("peer_class", [SilentPeer, HangingUpPeer])
def test_a_peer_that_is_no_dicom_server_means_trying_again(tmp_path: Path, peer_class: type[SilentPeer]) -> None:
    outcomes = Outcomes()
    with peer_class() as peer:
        scu(peer.port, acse_timeout_s=1).deliver(items_of(write_series(tmp_path, 2)), on_outcome=outcomes.append)
        assert peer.connections == 1
    assert outcomes.states() == {0: RETRY, 1: RETRY}


@pytest.mark.parametrize(
    ("numbers", "outcome", "words"),
    [
        ((1, 1, 3), REFUSED, "calling AE title LOWDOSE not recognised there; ask its administrator to add"),
        ((1, 1, 7), REFUSED, "called AE title MOCKPACS not recognised there"),
        ((2, 3, 1), RETRY, "busy at the moment"),
        ((2, 3, 2), RETRY, "as many associations open as it allows"),
    ],
)
def test_a_rejection_is_final_only_if_it_says_so(
    tmp_path: Path, numbers: tuple[int, int, int], outcome: Outcome, words: str
) -> None:
    outcomes = Outcomes()
    with RejectingPeer(*numbers) as peer:
        scu(peer.port).deliver(items_of(write_series(tmp_path, 2)), on_outcome=outcomes.append)
    assert outcomes.states() == {0: outcome, 1: outcome}
    assert words in outcomes.reason(1)


def test_pynetdicoms_own_rejections_are_told_the_same_way(tmp_path: Path) -> None:
    items = items_of(write_series(tmp_path, 1))
    called, calling = Outcomes(), Outcomes()
    with MockScp(called_ae_title="OTHER") as peer:
        scu(peer.port).deliver(items, on_outcome=called.append)
    with MockScp(calling_ae_titles=("SOMEBODY",)) as peer:
        scu(peer.port).deliver(items, on_outcome=calling.append)
        scu(peer.port, calling_ae_title="SOMEBODY").deliver(items, on_outcome=(allowed := Outcomes()).append)
    assert "called AE title MOCKPACS not recognised" in called.reason(0)
    assert "calling AE title LOWDOSE not recognised" in calling.reason(0)
    assert allowed.states() == {0: SENT}


def test_a_cut_connection_is_the_networks_fault_even_over_an_invalid_uid(tmp_path: Path) -> None:
    [item] = items_of(write_series(tmp_path, 1))
    outcomes = Outcomes()
    with MockScp(cut_at=frozenset({0})) as peer:
        bad = replace(item, sop_instance_uid="1.2.826.0.1.3680043.10.01")
        scu(peer.port).deliver([bad], on_outcome=outcomes.append)
    assert outcomes.states() == {0: RETRY}


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (UnsupportedPixels("no decoder"), REFUSED),
        (DerivationError("too long"), REFUSED),
        (OSError(errno.ENOSPC, "No space left on device"), RETRY),
        (RuntimeError("codec"), REFUSED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_object_that_can_not_be_transcoded_does_not_stop_its_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, outcome: Outcome
) -> None:
    def fail(path: Path, transfer_syntax_uid: str, *, folder: Path | None = None) -> None:
        raise raised

    monkeypatch.setattr("dicom_node.destinations.preparing.to_uncompressed", fail)
    paths = [write_image(tmp_path, 0, syntax=RLELossless), write_image(tmp_path, 1)]
    outcomes = Outcomes()
    with MockScp(contexts={DX: (ExplicitVRLittleEndian,)}) as peer:
        scu(peer.port).deliver(items_of(paths), on_outcome=outcomes.append)
    assert outcomes.states() == {0: outcome, 1: SENT}
    # Of an error that is not ours or the system's its kind is told: what a codec says may quote an attribute.
    assert (type(raised).__name__ if isinstance(raised, RuntimeError) else str(raised.args[-1])) in outcomes.reason(0)
    assert "codec" not in outcomes.reason(0)
    assert peer.associations == 1


def test_a_transcoded_object_leaves_nothing_in_the_scratch_folder(tmp_path: Path) -> None:
    path, scratch = write_image(tmp_path, 0, syntax=RLELossless), tmp_path / "scratch"
    scratch.mkdir()
    seen: list[int] = []
    outcomes = Outcomes()
    with MockScp(
        contexts={DX: (ExplicitVRLittleEndian,)}, on_store=lambda: seen.append(len(list(scratch.iterdir())))
    ) as peer:
        storage_scu = StorageScu(destination(peer.port), node_ae_title="LOWDOSE", scratch_folder=scratch)
        storage_scu.deliver(items_of([path]), on_outcome=outcomes.append)
    assert outcomes.states() == {0: SENT}
    assert (seen, list(scratch.iterdir())) == ([1], [])
