"""Completing, enhancing and concluding a series, on every database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dicom_node.errors import IllegalTransition
from dicom_node.ledger.arrivals import EnhancementDecision, EnhancementRecord
from dicom_node.states import ArrivalState
from tests.contract.conftest import Ledger, derived

PASSED = EnhancementRecord(decision=EnhancementDecision.PASSED_THROUGH, reason="late")


def begin(ledger: Ledger, count: int = 1) -> tuple[int, list[int]]:
    arrival_id = ledger.complete(count)
    return arrival_id, ledger.arrivals.begin(arrival_id, 0)


def conclude(ledger: Ledger, arrival_id: int, *destinations: str, late: str | None = None) -> ArrivalState:
    return ledger.arrivals.conclude(
        arrival_id, destinations=destinations or ("pacs",), send_original=False, send_enhanced=True, late=late
    )


def items(ledger: Ledger) -> list[tuple[object, ...]]:
    return ledger.rows(
        "SELECT delivery.destination, instance.sop_instance_uid FROM delivery_item "
        "JOIN delivery ON delivery.id = delivery_id JOIN instance ON instance.id = instance_id "
        "ORDER BY delivery.destination, instance.id"
    )


# -- completeness -----------------------------------------------------------------------------------


def test_a_series_is_not_idle_while_an_association_that_carried_it_is_open(ledger: Ledger) -> None:
    first, second, foreign = ledger.associate(), ledger.associate(), ledger.associate()
    ledger.receive(first, 1)
    ledger.receive(second, 2)
    assert ledger.arrivals.idle() == []
    ledger.release(first, 1)
    assert ledger.arrivals.idle() == []
    ledger.clock.advance(5)
    ledger.release(second, 1)
    (idle,) = ledger.arrivals.idle()
    # An association that carried something else does not hold it up.
    assert idle.last_activity_at == ledger.clock.now
    ledger.release(foreign, 0)


def test_a_series_of_which_something_came_meanwhile_stays_open(ledger: Ledger) -> None:
    association = ledger.associate()
    ledger.receive(association, 1)
    ledger.release(association, 1)
    (idle,) = ledger.arrivals.idle()
    ledger.clock.advance(1)
    ledger.receive(ledger.associate(), 2)
    assert not ledger.arrivals.complete(idle.arrival_id, last_activity_at=idle.last_activity_at)
    assert ledger.arrivals.get(idle.arrival_id).state is ArrivalState.OPEN


def test_a_series_is_completed_once(ledger: Ledger) -> None:
    arrival_id = ledger.complete()
    with pytest.raises(IllegalTransition):
        ledger.arrivals.complete(arrival_id, last_activity_at=ledger.clock.now)


def test_instances_of_generations_are_kept_apart(ledger: Ledger) -> None:
    first = ledger.complete(2)
    second = ledger.complete(1, first=3)
    assert [i.sop_instance_uid for i in ledger.arrivals.instances(first)] == ["1.2.1.1", "1.2.1.2"]
    assert [i.sop_instance_uid for i in ledger.arrivals.instances(second)] == ["1.2.1.3"]
    assert ledger.arrivals.get(second).generation == 2


def test_every_generation_has_the_date_of_the_first(ledger: Ledger) -> None:
    ledger.complete(1)
    at = ledger.clock.now
    ledger.clock.advance(3600)
    ledger.complete(1, first=2)
    assert ledger.arrivals.first_completed_at("1.2.1") == at


# -- enhancement ------------------------------------------------------------------------------------


def test_only_a_complete_series_is_taken_into_work(ledger: Ledger) -> None:
    ledger.receive(ledger.associate())
    (arrival_id,) = ledger.rows("SELECT id FROM arrival")[0]
    with pytest.raises(IllegalTransition):
        ledger.arrivals.begin(arrival_id, 0)


def test_begin_gives_the_undecided_images_and_again_after_a_crash(ledger: Ledger) -> None:
    arrival_id, images = begin(ledger, 3)
    assert len(images) == 3
    ledger.pass_through(images[0])
    assert ledger.arrivals.begin(arrival_id, 0) == images[1:]


def test_a_workflow_that_was_replaced_does_not_begin(ledger: Ledger) -> None:
    arrival_id, _ = begin(ledger)
    assert ledger.arrivals.count_restart(arrival_id) == 1
    with pytest.raises(IllegalTransition, match="past attempt 0"):
        ledger.arrivals.begin(arrival_id, 0)
    assert len(ledger.arrivals.begin(arrival_id, 1)) == 1


def test_attempts_at_an_image_are_counted_before_they_are_made(ledger: Ledger) -> None:
    _, (image,) = begin(ledger)
    assert [ledger.arrivals.count_attempt(image) for _ in range(3)] == [1, 2, 3]


def test_the_attempts_at_an_image_are_known_until_it_is_decided(ledger: Ledger) -> None:
    _, (image,) = begin(ledger)
    assert ledger.arrivals.attempts_at(image) == 0
    ledger.arrivals.count_attempt(image)
    assert ledger.arrivals.attempts_at(image) == 1
    ledger.pass_through(image)
    assert ledger.arrivals.attempts_at(image) is None


def test_an_image_is_decided_once_and_the_first_word_stands(ledger: Ledger) -> None:
    _, (image,) = begin(ledger)
    ledger.arrivals.count_attempt(image)
    ledger.pass_through(image, "guard")
    record = EnhancementRecord(decision=EnhancementDecision.ENHANCED)
    assert ledger.arrivals.decide(image, record, derived(image)) is False
    assert ledger.rows("SELECT decision, reason, derived_id FROM enhancement") == [("passed_through", "guard", None)]
    assert ledger.rows("SELECT id FROM instance WHERE origin = 'derived'") == []


def test_of_two_threads_that_decide_one_wins(ledger: Ledger) -> None:
    _, images = begin(ledger, 5)
    for image in images:
        ledger.arrivals.count_attempt(image)
        check_that_one_wins(ledger, image)


def check_that_one_wins(ledger: Ledger, image: int) -> None:
    together = threading.Barrier(2)

    def decide(with_derived: bool) -> bool:
        together.wait(10)
        record = EnhancementRecord(decision=EnhancementDecision.ENHANCED) if with_derived else PASSED
        return ledger.arrivals.decide(image, record, derived(image) if with_derived else None)

    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(decide, (True, False)))
    assert sorted(won) == [False, True]
    decision = "enhanced" if won[0] else "passed_through"
    assert ledger.rows(f"SELECT decision FROM enhancement WHERE instance_id = {image}") == [(decision,)]
    assert len(ledger.rows(f"SELECT id FROM instance WHERE source_id = {image}")) == won[0]


def test_a_reason_that_quotes_what_no_column_holds_is_kept_without_it(ledger: Ledger) -> None:
    # NUL is what PostgreSQL stores in no text; an attribute that a reason quotes may hold it.
    _, (image,) = begin(ledger, 1)
    reason = "pixels are not grey values (1 samples, MONO\0\ud800HROME2)"
    record = EnhancementRecord(decision=EnhancementDecision.PASSED_THROUGH, reason=reason)
    assert ledger.arrivals.decide(image, record)
    expected = [("pixels are not grey values (1 samples, MONO??HROME2)",)]
    assert ledger.rows(f"SELECT reason FROM enhancement WHERE instance_id = {image}") == expected
    assert ledger.rows("SELECT reason FROM event WHERE event = 'decide'") == expected


# -- conclusion -------------------------------------------------------------------------------------


def test_an_image_that_was_not_enhanced_is_represented_by_its_original(ledger: Ledger) -> None:
    arrival_id, images = begin(ledger, 3)
    ledger.enhance(images[0])
    ledger.pass_through(images[1])
    ledger.enhance(images[2])
    assert conclude(ledger, arrival_id) is ArrivalState.ENHANCED
    assert items(ledger) == [
        ("pacs", "1.2.1.2"),
        ("pacs", f"2.25.{images[0]}"),
        ("pacs", f"2.25.{images[2]}"),
    ]


@pytest.mark.parametrize(
    ("original", "enhanced", "sent"),
    [
        (True, True, ["1.2.1.1", "1.2.1.2", "2.25"]),
        (True, False, ["1.2.1.1", "1.2.1.2"]),
        (False, True, ["1.2.1.2", "2.25"]),
    ],
)
def test_a_route_sends_originals_enhanced_images_or_both(
    ledger: Ledger, original: bool, enhanced: bool, sent: list[str]
) -> None:
    arrival_id, images = begin(ledger, 2)
    ledger.enhance(images[0])
    ledger.pass_through(images[1])
    ledger.arrivals.conclude(
        arrival_id, destinations=("pacs",), send_original=original, send_enhanced=enhanced, late=None
    )
    assert [uid if uid.startswith("1") else uid[:4] for _, uid in items(ledger)] == sent  # type: ignore[attr-defined,index]


def test_a_series_without_an_enhanced_image_is_passed_through(ledger: Ledger) -> None:
    arrival_id, images = begin(ledger, 2)
    for image in images:
        ledger.pass_through(image)
    assert conclude(ledger, arrival_id) is ArrivalState.PASSED_THROUGH
    assert [uid for _, uid in items(ledger)] == ["1.2.1.1", "1.2.1.2"]


def test_every_destination_gets_one_delivery_of_all(ledger: Ledger) -> None:
    arrival_id, (image,) = begin(ledger)
    ledger.enhance(image)
    conclude(ledger, arrival_id, "a", "b")
    assert items(ledger) == [("a", f"2.25.{image}"), ("b", f"2.25.{image}")]


def test_a_series_is_concluded_once_and_a_second_conclusion_adds_nothing(ledger: Ledger) -> None:
    arrival_id, (image,) = begin(ledger)
    ledger.enhance(image)
    conclude(ledger, arrival_id)
    before = items(ledger), ledger.rows("SELECT count(*) FROM event")
    with pytest.raises(IllegalTransition):
        conclude(ledger, arrival_id)
    with pytest.raises(IllegalTransition):
        conclude(ledger, arrival_id, "other", late="deadline")
    assert (items(ledger), ledger.rows("SELECT count(*) FROM event")) == before


def test_of_two_threads_that_conclude_one_opens_deliveries(ledger: Ledger) -> None:
    for series in ("1", "2", "3"):
        arrival_id = ledger.complete(2, series=series)
        images = ledger.arrivals.begin(arrival_id, 0)
        ledger.enhance(images[0])
        together = threading.Barrier(2)

        def attempt(late: str | None, arrival_id: int = arrival_id, together: threading.Barrier = together) -> bool:
            together.wait(10)
            try:
                conclude(ledger, arrival_id, late=late)
            except IllegalTransition:
                return False
            return True

        ledger.pass_through(images[1])
        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(attempt, (None, "deadline"))) == [False, True]
        assert len(ledger.rows(f"SELECT id FROM delivery WHERE arrival_id = {arrival_id}")) == 1
    assert len(items(ledger)) == 6


def test_the_deadline_passes_undecided_images_through_and_says_so(ledger: Ledger) -> None:
    arrival_id, images = begin(ledger, 2)
    ledger.enhance(images[0])
    assert conclude(ledger, arrival_id, late="deadline passed") is ArrivalState.ENHANCED
    assert ledger.rows("SELECT decision, reason FROM enhancement ORDER BY instance_id") == [
        ("enhanced", None),
        ("passed_through", "deadline passed"),
    ]
    # What the worker finishes afterwards changes nothing.
    assert ledger.arrivals.decide(images[1], EnhancementRecord(decision=EnhancementDecision.ENHANCED)) is False
    with pytest.raises(IllegalTransition):
        ledger.arrivals.begin(arrival_id, 0)


def test_the_deadline_passes_a_series_through_that_no_worker_took(ledger: Ledger) -> None:
    arrival_id = ledger.complete(2)
    assert conclude(ledger, arrival_id, late="deadline passed") is ArrivalState.PASSED_THROUGH
    assert [uid for _, uid in items(ledger)] == ["1.2.1.1", "1.2.1.2"]


def test_an_undecided_image_of_a_concluded_series_goes_as_original(ledger: Ledger) -> None:
    arrival_id, images = begin(ledger, 2)
    ledger.enhance(images[0])
    conclude(ledger, arrival_id)
    # The undecided image is there all the same: its original goes.
    assert [uid for _, uid in items(ledger)] == ["1.2.1.2", f"2.25.{images[0]}"]
