"""Every data set of the hostile corpus, sent over a socket: the answer that it is owed, and nothing else happens.

The receiver keeps serving, its memory and that of the worker's code stay bounded, every file is accounted for, and
what was answered with success is passed through or enhanced.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from config.settings import RouteSettings
from dicom_node.enhancement import Times
from dicom_node.errors import DerivationError, UnsupportedPixels
from dicom_node.ledger.arrivals import ArrivalLedger, StoredInstance
from dicom_node.ledger.balance import BalanceLedger
from dicom_node.part10 import open_part10
from dicom_node.state import State
from dicom_node.transcoding import to_uncompressed
from dicom_node.verification import verify
from dicom_node.worker import route_finder
from tests.support.enhancing import ROUTES, StandInDenoiser, enhancer_with
from tests.support.hostile import ENHANCED, EXPLICIT, STORED, UNPARSABLE, HostileObject, objects
from tests.support.memory import peak_growth
from tests.support.network import (
    CT,
    IMPLICIT,
    VERIFICATION,
    RawPeer,
    Response,
    RunningReceiver,
    associate_rq,
    data_set,
    echo_rq,
    pdu,
    pdv,
    receiver_settings,
    running_receiver,
    store_rq,
)

RECEIVER_BYTES = 32 << 20
WORKER_BYTES = 384 << 20
ANSWER_S = 60.0
_FRAGMENT = 1_000_000

OBJECTS = objects()
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReceiver]:
    folder = tmp_path_factory.mktemp("hostile")
    with running_receiver(folder, max_object_mb=request.param, network_timeout_s=60.0) as running:
        with RawPeer(running.port) as peer:
            peer.associate()
            assert peer.store("1.2.1").status == STORED
        yield running


def _cases() -> list[object]:
    return [pytest.param(case.max_object_mb, case, id=case.name) for case in OBJECTS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("receiver", "case"), _cases(), indirect=["receiver"])
def test_a_hostile_object_gets_the_answer_that_it_is_owed(receiver: RunningReceiver, case: HostileObject) -> None:
    before = _ledger(receiver)
    files = _files(receiver)
    pieces = list(case.pieces()) if case.group != "large" else None
    with RawPeer(receiver.port, timeout_s=ANSWER_S) as peer, peak_growth() as growth:
        contexts = ((1, case.sop_class, (case.syntax,)), (3, VERIFICATION, (IMPLICIT,)), (5, CT, (EXPLICIT,)))
        assert peer.associate(associate_rq(contexts))[0] == 2
        peer.send(pdu(4, pdv(1, 3, store_rq(case.uid, sop_class=case.sop_class))))
        for piece in pieces or case.pieces():
            for begin in range(0, len(piece), _FRAGMENT):
                peer.send(pdu(4, pdv(1, 0, piece[begin : begin + _FRAGMENT])))
        peer.send(pdu(4, pdv(1, 2, b"")))
        answer = peer.response()
        _serves_on(peer)
    assert f"{answer.status:04X} {answer.comment}".startswith(f"{case.status:04X}"), answer
    assert growth.bytes < RECEIVER_BYTES
    new_rows = _ledger(receiver)[len(before) :]
    (row,) = [row for row in new_rows if row[1] != CT] if case.status in (STORED, UNPARSABLE) else (None,)
    new_files = _files(receiver) - files
    assert len(new_files) == len(new_rows) + (case.status == UNPARSABLE), "each object, and a quarantined one's reason"
    assert not list((receiver.store.scratch).iterdir())
    if row is None:
        assert case.reason in answer.comment
    elif case.status == UNPARSABLE:
        assert row[2] == "quarantined"
        assert case.reason in str(row[3])
        reason = receiver.store.path(str(row[4])).with_suffix(".txt").read_text()
        assert reason.strip() == row[3]
        assert _ends_with(receiver.store.path(str(row[4])), pieces)
    else:
        assert row[2] == "stored"
        assert _ends_with(receiver.store.path(str(row[4])), pieces)
        _worker_lives(receiver, case, cast(int, row[0]))
    found = verify(BalanceLedger(receiver.database), receiver.store, deep=False)
    assert (found.ok, found.orphans) == (True, ())


def _serves_on(peer: RawPeer) -> None:
    """The association that brought the object takes an echo and a good object."""
    peer.send(pdu(4, pdv(3, 3, echo_rq(7))))
    assert peer.response().status == STORED
    uid = f"1.2.77.{next(numbers)}"
    peer.send(pdu(4, pdv(5, 3, store_rq(uid))), pdu(4, pdv(5, 2, data_set(uid))))
    assert peer.response() == Response(0x8001, 1, STORED, "")
    peer.release()


def _ledger(receiver: RunningReceiver) -> list[tuple[object, ...]]:
    return receiver.rows("SELECT id, sop_class_uid, state, reason, key FROM instance ORDER BY id")


def _files(receiver: RunningReceiver) -> set[Path]:
    root = receiver.store.scratch.parent
    return {path for path in root.rglob("*") if path.is_file() and not path.name.startswith("ledger.sqlite")}


def _ends_with(path: Path, pieces: list[bytes] | None) -> bool:
    return pieces is None or path.read_bytes().endswith(b"".join(pieces))


def _worker_lives(receiver: RunningReceiver, case: HostileObject, instance_id: int) -> None:
    """Whatever the object is, the worker's code finds a route, decides, and could transcode it or says why not."""
    stored: StoredInstance = ArrivalLedger(receiver.database).instance(instance_id)
    enhancer = enhancer_with(receiver.store, StandInDenoiser(step=-2.0))
    begin = time.monotonic()
    with peak_growth() as growth:
        record, derived = enhancer.enhance(stored, ROUTES[-1], Times(series_at=1.0))
        if derived is not None:
            enhancer.discard(derived)
        path = receiver.store.path(stored.key)
        assert _find_route(receiver, stored)
        for syntax in (IMPLICIT,) if case.group != "large" else ():
            try:
                with to_uncompressed(path, syntax, folder=receiver.store.scratch) as target:
                    assert target.exists()
            except (UnsupportedPixels, DerivationError):
                pass
    assert time.monotonic() - begin < ANSWER_S
    assert growth.bytes < WORKER_BYTES
    assert "unforeseen" not in (record.reason or "")
    if case.outcome == ENHANCED:
        assert (record.decision.value, record.reason) == ("enhanced", None)
    elif case.outcome:
        assert record.decision.value == "passed_through"
        assert case.outcome in str(record.reason)
    assert not list(receiver.store.scratch.iterdir())


def _find_route(receiver: RunningReceiver, stored: StoredInstance, routes: Sequence[RouteSettings] = ROUTES) -> str:
    settings = receiver_settings(receiver.store.scratch.parent).model_copy(update={"routes": tuple(routes)})
    state = State(settings=settings, database=receiver.database, store=receiver.store)
    route = route_finder(state)(stored)
    return route.name if route is not None else ""


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_read_is_routed_by_what_comes_before_the_fault(tmp_path: Path) -> None:
    case = next(case for case in OBJECTS if case.name == "undefined length of native Pixel Data")
    dx = RouteSettings.model_validate({"name": "dx", "match": {"Modality": "DX"}, "destinations": ["pacs"]})
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate(associate_rq([(1, case.sop_class, (case.syntax,))]))
        peer.send(pdu(4, pdv(1, 3, store_rq(case.uid, sop_class=case.sop_class))))
        peer.send(pdu(4, pdv(1, 2, b"".join(case.pieces()))))
        assert peer.response().status == STORED
        stored = ArrivalLedger(running.database).instance(1)
        with pytest.raises(UnsupportedPixels), open_part10(running.store.path(stored.key)):
            pass
        assert _find_route(running, stored, [dx]) == "dx"
