"""Studies, the queue and the overview as people look at them, on both databases."""

from __future__ import annotations

import pytest

from dicom_node.dataset_header import DatasetHeader
from dicom_node.identifiers import ACCESSION, PATIENT, Identifiers
from dicom_node.ledger.destinations import HoldScope
from dicom_node.ledger.overview import BUCKETS, OverviewLedger
from dicom_node.ledger.queue_pages import QueueFilter, QueueLedger
from dicom_node.ledger.reception import ReceivedInstance
from dicom_node.ledger.studies import StudyFilter, StudyLedger, StudyLine, StudyState
from dicom_node.ledger.study_story import StoryLedger
from dicom_node.states import DEAD_LETTERS, DeliveryState, ItemState
from tests.contract.conftest import Ledger, received
from tests.support.department_ledger import fill

IDENTIFIERS = Identifiers(bytes(range(32)))


def with_terms(ledger: Ledger, number: int, *, series: str, patient: bytes, accession: bytes = b"") -> ReceivedInstance:
    header = DatasetHeader(
        sop_class_uid="",
        sop_instance_uid="",
        study_instance_uid="",
        series_instance_uid="",
        modality="DX",
        patient_id=patient,
        accession_number=accession,
    )
    plain = received(ledger.associate(), number, series=series)
    return ReceivedInstance(**{**plain.__dict__, "terms": IDENTIFIERS.of_header(header)})


def found(ledger: Ledger, wanted: StudyFilter) -> list[StudyLine]:
    return StudyLedger(ledger.database).page(wanted).lines


def test_a_study_is_found_by_what_its_series_brought(ledger: Ledger) -> None:
    ledger.reception.record_received(with_terms(ledger, 1, series="1", patient=b"P-7", accession=b"A-1"))
    ledger.clock.advance(3600)
    ledger.reception.record_received(with_terms(ledger, 1, series="2", patient=b"P-7", accession=b"A-2"))
    (line,) = found(ledger, StudyFilter())
    assert (line.study_instance_uid, line.series, line.received) == ("1.2", 2, 2)
    assert line.last_at - line.first_at == 3600
    assert line.senders == ("XRAY1",)
    assert (len(line.patient), len(line.accession)) == (1, 2)
    for wanted in (
        StudyFilter(uid="1.2"),
        StudyFilter(uid="1.2.2"),
        StudyFilter(uid="1.2.1.1"),
        StudyFilter(terms=tuple(IDENTIFIERS.of_text(PATIENT, " P-7 "))),
        StudyFilter(terms=tuple(IDENTIFIERS.of_text(ACCESSION, "A-2"))),
        StudyFilter(uid="9.9", terms=tuple(IDENTIFIERS.of_text(PATIENT, "P-7"))),
        StudyFilter(sender="XRAY1"),
        StudyFilter(since=line.last_at, until=line.last_at + 1),
        StudyFilter(state=StudyState.RECEIVING),
    ):
        assert [one.study_id for one in found(ledger, wanted)] == [line.study_id], wanted
    for wanted in (
        StudyFilter(uid="1"),
        StudyFilter(terms=tuple(IDENTIFIERS.of_text(ACCESSION, "P-7"))),
        StudyFilter(terms=tuple(IDENTIFIERS.of_text(PATIENT, "P-"))),
        StudyFilter(terms=("XRAY1",)),
        StudyFilter(sender="XRAY"),
        StudyFilter(until=line.last_at),
        StudyFilter(since=line.last_at + 1),
        StudyFilter(state=StudyState.DELIVERED),
        StudyFilter(uid="1.2", sender="OTHER"),
    ):
        assert found(ledger, wanted) == [], wanted


def test_the_ledger_holds_no_identifier_as_it_came(ledger: Ledger) -> None:
    ledger.reception.record_received(with_terms(ledger, 1, series="1", patient=b"SECRET-77", accession=b"SECRET-88"))
    assert "SECRET" not in str(ledger.rows("SELECT * FROM study_term"))
    assert len(ledger.rows("SELECT * FROM study_term WHERE kind IN ('patient', 'accession')")) == 2


def test_an_object_without_identifiers_is_found_by_the_rest(ledger: Ledger) -> None:
    ledger.reception.record_received(received(ledger.associate()))
    (line,) = found(ledger, StudyFilter(uid="1.2"))
    assert (line.patient, line.accession) == ((), ())


def test_each_state_finds_exactly_the_studies_that_show_it(ledger: Ledger) -> None:
    fill(ledger.database, studies=40, odd_every=3)
    ledger.standings.hold(HoldScope.STUDY, found(ledger, StudyFilter())[0].study_instance_uid, "wait")
    every = found(ledger, StudyFilter())
    assert len(every) == 40
    assert {line.state for line in every} == set(StudyState)
    for state in StudyState:
        expected = [line.study_id for line in every if line.state is state]
        assert [line.study_id for line in found(ledger, StudyFilter(state=state))] == expected, state


def test_pages_show_every_study_once_also_those_of_one_moment(ledger: Ledger) -> None:
    for series in range(7):
        study = received(ledger.associate(), 1, series=str(series))
        ledger.reception.record_received(
            ReceivedInstance(**{**study.__dict__, "study_instance_uid": f"1.2.99.{series}"})
        )
    studies, seen, place = StudyLedger(ledger.database), [], None
    while True:
        page = studies.page(StudyFilter(), after=place, limit=3)
        seen += [line.study_instance_uid for line in page.lines]
        place = page.next
        if place is None:
            break
    assert seen == [f"1.2.99.{series}" for series in reversed(range(7))]


def test_the_story_of_a_study_has_its_images_its_deliveries_and_what_happened(ledger: Ledger) -> None:
    arrival = ledger.complete(3)
    assert ledger.arrivals.begin(arrival, 0) == [1, 2, 3]
    ledger.enhance(1)
    ledger.enhance(2)
    ledger.pass_through(3, "too dark")
    ledger.arrivals.conclude(arrival, destinations=["pacs"], send_original=False, send_enhanced=True)
    (delivery,) = ledger.deliveries.due()
    ledger.deliveries.begin(delivery.delivery_id, 0)
    objects = ledger.deliveries.take_objects(delivery.delivery_id)
    for one in objects:
        ledger.deliveries.record_item(delivery.delivery_id, one.instance_id, ItemState.SENT, status=0, reason=None)
    ledger.deliveries.settle(delivery.delivery_id, failure=None, retry_in_s=None)
    ledger.standings.hold(HoldScope.STUDY, "1.2", "wait for the radiologist")
    ledger.standings.hold(HoldScope.STUDY, "1.23", "another one")
    story = StoryLedger(ledger.database).story("1.2")
    assert [(image.decision, image.why) for image in story.images] == [
        ("enhanced", None),
        ("enhanced", None),
        ("passed_through", "too dark"),
    ]
    assert [image.derived_id for image in story.images][2] is None
    (part,) = story.deliveries
    assert (part.destination, part.state, part.sent, part.left, part.attempts) == ("pacs", "sent", 3, 0, 1)
    assert (story.is_held, story.hold_reason) == (True, "wait for the radiologist")
    told = [(event.subject, event.event, event.times) for event in story.events]
    assert told == [
        ("series", "open", 1),
        ("image", "receive", 3),
        ("series", "complete", 1),
        ("series", "begin", 1),
        ("image", "derive", 2),
        ("image", "decide", 1),
        ("series", "finish", 1),
        ("delivery", "open", 1),
        ("delivery", "begin", 1),
        ("delivery", "succeed", 1),
        ("hold", "hold", 1),
    ]
    assert len(StoryLedger(ledger.database).story("1.2", images=2).images) == 2


def test_the_queue_is_filtered_and_paged(ledger: Ledger) -> None:
    fill(ledger.database, studies=30, odd_every=3)
    queue = QueueLedger(ledger.database)
    everything = queue.page(QueueFilter(), limit=1000)
    assert everything.total == len(everything.numbers) == ledger.rows("SELECT count(*) FROM delivery")[0][0]
    assert everything.numbers == sorted(everything.numbers, reverse=True)
    seen, before = [], None
    while True:
        page = queue.page(QueueFilter(), before=before, limit=7)
        seen += page.numbers
        before = page.next
        if before is None:
            break
    assert seen == everything.numbers
    dead = QueueFilter(states=tuple(DEAD_LETTERS), destination="pacs", reason="A900")
    numbers = queue.numbers(dead, limit=1000)
    assert numbers
    lines = ledger.deliveries.lines(numbers=numbers)
    assert {(line.destination, line.state) for line in lines} == {("pacs", DeliveryState.REFUSED)}
    assert queue.page(dead, limit=1).total == len(numbers)
    # A percent sign is a percent sign.
    assert queue.page(QueueFilter(reason="A9%")).total == 0
    one = lines[0]
    assert one.delivery_id in queue.numbers(QueueFilter(study=one.study_instance_uid), limit=10)
    assert queue.numbers(QueueFilter(series=one.series_instance_uid, destination="pacs"), limit=10) == [one.delivery_id]


def test_the_overview_counts_the_last_hour_and_what_waits(ledger: Ledger) -> None:
    arrival = ledger.complete(2)
    ledger.arrivals.begin(arrival, 0)
    ledger.enhance(1)
    ledger.pass_through(2)
    ledger.arrivals.conclude(arrival, destinations=["pacs", "archive"], send_original=True, send_enhanced=True)
    first, second = sorted(ledger.deliveries.due(), key=lambda one: one.destination)
    ledger.clock.advance(12)
    ledger.deliveries.begin(first.delivery_id, 0)
    for one in ledger.deliveries.take_objects(first.delivery_id):
        ledger.deliveries.record_item(first.delivery_id, one.instance_id, ItemState.SENT, status=0, reason=None)
    ledger.deliveries.settle(first.delivery_id, failure=None, retry_in_s=None)
    ledger.deliveries.begin(second.delivery_id, 0)
    ledger.deliveries.refuse(second.delivery_id, "status A900")
    ledger.clock.advance(1)
    overview = OverviewLedger(ledger.database).overview()
    assert len(overview.buckets) == BUCKETS
    last = overview.buckets[-1]
    assert (last.received, last.received_bytes, last.delivered, last.median_s) == (2, 2000, 1, 12.0)
    assert sum(bucket.received for bucket in overview.buckets) == 2
    assert (overview.enhanced, overview.passed_through) == (1, 1)
    assert [(queue.destination, queue.states) for queue in overview.queues] == [("pacs", {"refused": 1})]
    assert overview.waiting(DeliveryState.REFUSED) == 1
    ledger.clock.advance(3700)
    later = OverviewLedger(ledger.database).overview()
    assert sum(bucket.received + bucket.delivered for bucket in later.buckets) == later.enhanced == 0


def test_the_overview_knows_when_each_sender_called_last(ledger: Ledger) -> None:
    association = ledger.associate()
    at = ledger.clock.now
    ledger.clock.advance(100)
    called, never = OverviewLedger(ledger.database).senders(["XRAY1", "XRAY2"])
    assert (called.last_at, called.host, called.open) == (at, "127.0.0.1", 1)
    assert (never.last_at, never.open) == (None, 0)
    ledger.release(association, 0)
    assert OverviewLedger(ledger.database).senders(["XRAY1"])[0].open == 0


@pytest.mark.parametrize(
    ("text", "encoding"), [("Müller", "latin-1"), ("Müller", "utf-8"), ("ヤマダ", "shift_jis"), ("Иванов", "iso8859-5")]
)
def test_identifiers_beyond_ascii_are_found_in_the_character_set_of_the_object(text: str, encoding: str) -> None:
    empty = dict.fromkeys(
        ("sop_class_uid", "sop_instance_uid", "study_instance_uid", "series_instance_uid", "modality"), ""
    )
    header = DatasetHeader(**empty, patient_id=text.encode(encoding))
    ((_, term),) = IDENTIFIERS.of_header(header)
    assert term in IDENTIFIERS.of_text(PATIENT, text)
    assert term not in Identifiers(bytes(32)).of_text(PATIENT, text)
