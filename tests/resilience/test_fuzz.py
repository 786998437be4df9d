"""Good data sets and associations with damage drawn at random: an answer always, never an end of the receiver.

The suite runs a fixed number of fixed examples. LOWDOSE_FUZZ_EXAMPLES gives another number, drawn anew each time;
LOWDOSE_FUZZ_CODECS adds JPEG-LS and JPEG 2000, whose codecs may end the process that tests them.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_node.enhancement import Times
from dicom_node.ledger.arrivals import ArrivalLedger
from dicom_node.ledger.balance import BalanceLedger
from dicom_node.verification import verify
from tests.resilience.test_hostile_associations import check_serves_on, exchange
from tests.support.enhancing import ROUTES, StandInDenoiser, enhancer_with
from tests.support.hostile import (
    DX,
    JPEG_2000,
    JPEG_LS,
    RLE,
    UID,
    codestream,
    compressed,
    deflate,
    encapsulated,
    image,
    nested,
    raw,
    whole,
)
from tests.support.hostile_associations import OBJECT, RELEASE
from tests.support.network import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    RawPeer,
    RunningReceiver,
    associate_rq,
    echo_rq,
    pdu,
    pdv,
    running_receiver,
    store_rq,
)

EXAMPLES = os.environ.get("LOWDOSE_FUZZ_EXAMPLES")
FUZZ = settings(
    max_examples=int(EXAMPLES or 150),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
ALLOWED = {0x0000, 0xA700, 0xA900, 0xC000}
"""Not 0110: that is the answer to what nobody foresaw."""

_SMALL = {"rows": struct.pack("<H", 64), "columns": struct.pack("<H", 64)}
_NESTED = nested(3, undefined=True, innermost=raw(0x00080100, b"SH", b"ab"), tag=0x00400555)
_CODES = nested(3, undefined=False, innermost=raw(0x00080100, b"SH", b"ab"), tag=0x00089215)
BASES: list[tuple[str, bytes]] = [
    (EXPLICIT, whole(image(), x00400555=_NESTED, x00089215=_CODES)),
    (EXPLICIT, whole(image(), x00280008=raw(0x00280008, b"IS", b"1 "))),
    (IMPLICIT, whole(image(IMPLICIT))),
    (BIG_ENDIAN, whole(image(BIG_ENDIAN))),
    (DEFLATED, deflate(whole(image()))),
    (RLE, compressed(codestream(RLE), RLE)),
    (RLE, compressed(encapsulated(codestream(RLE), table=bytes(4)), RLE)),
]
if "LOWDOSE_FUZZ_CODECS" in os.environ:
    BASES += [(syntax, compressed(codestream(syntax), syntax)) for syntax in (JPEG_LS, JPEG_2000)]
_CONTEXTS = {syntax: 2 * n + 1 for n, syntax in enumerate(dict.fromkeys(syntax for syntax, _ in BASES))}

Damage = tuple[str, float, int]
NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(("flip", "byte", "short", "long", "cut", "remove", "repeat", "swap")),
        # Headers are where the decisions fall, and they are a tenth of the bytes.
        st.one_of(st.floats(0, 0.08, allow_subnormal=False), st.floats(0, 1, allow_subnormal=False)),
        st.one_of(st.sampled_from(NUMBERS), st.integers(0, 0xFFFFFFFF)),
    ),
    min_size=1,
    max_size=5,
)


def damaged(content: bytes, damages: list[Damage]) -> bytes:
    """Apply damage after damage: flipped bits, lengths that lie, parts missing, doubled or exchanged."""
    found = bytearray(content)
    for kind, place, number in damages:
        at = int(place * max(len(found) - 1, 0))
        size = number % 300
        if kind == "flip" and found:
            found[at] ^= 1 << number % 8
        elif kind == "byte" and found:
            found[at] = number % 256
        elif kind == "short":
            found[at : at + 2] = struct.pack("<H", number % 0x10000)
        elif kind == "long":
            found[at : at + 4] = struct.pack("<I", number)
        elif kind == "cut":
            del found[at:]
        elif kind == "remove":
            del found[at : at + size]
        elif kind == "repeat":
            found[at:at] = found[at : at + size] * (1 + number % 3)
        elif kind == "swap":
            other = number % max(len(found), 1)
            found[at : at + size], found[other : other + size] = found[other : other + size], found[at : at + size]
    return bytes(found)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReceiver]:
    folder = tmp_path_factory.mktemp("fuzz")
    with running_receiver(folder, acse_timeout_s=2.0, network_timeout_s=5.0, max_object_mb=4) as running:
        yield running
        found = verify(BalanceLedger(running.database), running.store, deep=True)
        assert (found.ok, found.orphans) == (True, ())


@pytest.fixture(scope="module")
def peer(receiver: RunningReceiver) -> Iterator[RawPeer]:
    with RawPeer(receiver.port) as peer:
        contexts = [(number, DX, (syntax,)) for syntax, number in _CONTEXTS.items()]
        assert peer.associate(associate_rq([*contexts, (99, VERIFICATION, (IMPLICIT,))]))[0] == 2
        yield peer


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(base=st.sampled_from(BASES), damages=DAMAGES)
def test_a_damaged_data_set_is_answered_and_kept_exactly_or_quarantined(
    receiver: RunningReceiver, peer: RawPeer, base: tuple[str, bytes], damages: list[Damage]
) -> None:
    syntax, good = base
    content = damaged(good, damages)
    number = _CONTEXTS[syntax]
    peer.send(pdu(4, pdv(number, 3, store_rq(UID, sop_class=DX))), pdu(4, pdv(number, 2, content)))
    answer = peer.response()
    assert answer.status in ALLOWED, answer
    digest = hashlib.sha256(content).hexdigest()
    query = f"SELECT id, key, state, dataset_offset FROM instance WHERE digest = '{digest}' AND origin = 'received'"
    rows = receiver.rows(query)
    kept = {0x0000: "stored", 0xC000: "quarantined"}.get(answer.status)
    assert kept is None or kept in {row[2] for row in rows}
    for row_id, key, state, offset in rows:
        assert receiver.store.path(str(key)).read_bytes()[int(str(offset)) :] == content
        if state == "stored":
            stored = ArrivalLedger(receiver.database).instance(int(str(row_id)))
            record, derived = enhancer_with(receiver.store, StandInDenoiser(step=-2.0)).enhance(
                stored, ROUTES[-1], Times(series_at=1.0)
            )
            assert record.reason is None or "unforeseen" not in record.reason
            if derived is not None:
                receiver.store.delete(derived.key)
    assert not list(receiver.store.scratch.iterdir())


GOOD_STREAM = (
    associate_rq()
    + pdu(4, pdv(3, 3, echo_rq()))
    + pdu(4, pdv(1, 3, store_rq()))
    + pdu(4, pdv(1, 0, OBJECT[:60]) + pdv(1, 2, OBJECT[60:]))
    + RELEASE
)


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(damages=DAMAGES, cuts=st.lists(st.floats(0, 1, allow_subnormal=False), max_size=8))
def test_a_damaged_association_is_answered_or_ended_and_the_next_one_is_served(
    receiver: RunningReceiver, damages: list[Damage], cuts: list[float]
) -> None:
    stream = damaged(GOOD_STREAM, damages)
    answers = exchange(receiver.port, stream, pieces=sorted(int(cut * len(stream)) for cut in cuts))
    assert all(not answer.startswith("RSP") or answer.endswith("0211") for answer in answers), answers
    assert not any(answer.endswith("0110") for answer in answers), answers
    with RawPeer(receiver.port) as peer:
        assert peer.associate()[0] == 2
        assert peer.echo() == 0


def test_the_undamaged_stream_is_served_in_any_pieces(receiver: RunningReceiver) -> None:
    for step in (1, 7, 100):
        pieces = list(range(step, len(GOOD_STREAM), step))
        answers = exchange(receiver.port, GOOD_STREAM, pieces=pieces)
        assert answers == ["A-ASSOCIATE-AC", "C-ECHO-RSP 0000", "C-STORE-RSP 0000", "A-RELEASE-RP"]
    check_serves_on(receiver)
