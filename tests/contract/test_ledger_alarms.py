"""Alarms and what is told of them, and the figures that they are found by, on every database."""

from __future__ import annotations

from config.observation import AlarmKind, AlertSettings
from dicom_node.lateness import LATE
from dicom_node.ledger.alarms import FORGOTTEN_AFTER_S, KEEP_S, RESOLVED_AFTER_S, AlarmLedger
from dicom_node.ledger.arrivals import EnhancementDecision, EnhancementRecord
from dicom_node.ledger.destinations import HoldScope
from dicom_node.ledger.figures import FigureLedger, Figures
from dicom_node.observation.alarms import Alarm
from dicom_node.states import ItemState
from tests.contract.conftest import Ledger
from tests.contract.test_ledger_deliveries import answer, open_deliveries

DOWN = Alarm(kind=AlarmKind.DESTINATION_DOWN, subject="pacs", sentence="pacs is down")
DISK = Alarm(kind=AlarmKind.DISK, subject="/data", sentence="/data is full")


def webhook(name: str = "pager", **changes: object) -> AlertSettings:
    return AlertSettings(name=name, kind="webhook", url="http://127.0.0.1:1/", **changes)  # type: ignore[arg-type]


def told(alarms: AlarmLedger) -> list[tuple[str, str, str]]:
    """Return alert, event and subject of every message, oldest first."""
    return [(one.alert, one.event, one.subject) for one in reversed(alarms.messages())]


# -- alarms -----------------------------------------------------------------------------------------


def test_an_alarm_is_told_once_however_often_and_by_whomever_it_is_found(ledger: Ledger) -> None:
    one, other = AlarmLedger(ledger.database, "one"), AlarmLedger(ledger.database, "other")
    for _ in range(3):
        one.note([DOWN], [webhook()])
        other.note([DOWN], [webhook()])
        ledger.clock.advance(10)
    # A restart knows nothing but the ledger.
    AlarmLedger(ledger.database, "one").note([DOWN], [webhook()])
    assert told(one) == [("pager", "raised", "pacs")]
    assert [alarm.subject for alarm in one.alarms()] == ["pacs"]


def test_an_alarm_that_lasts_is_told_again_and_its_end_too(ledger: Ledger) -> None:
    alarms, alert = AlarmLedger(ledger.database, "one"), webhook(repeat_h=1)
    for _ in range(3):
        alarms.note([DOWN], [alert])
        ledger.clock.advance(1800)
    alarms.note([], [alert])
    assert told(alarms) == [("pager", event, "pacs") for event in ("raised", "reminder", "resolved")]
    assert alarms.alarms() == []
    assert [alarm.subject for alarm in alarms.alarms(since=0)] == ["pacs"]
    # It is another alarm when it comes back.
    alarms.note([DOWN], [alert])
    assert told(alarms)[-1] == ("pager", "raised", "pacs")


def test_an_alarm_that_comes_and_goes_is_one_alarm(ledger: Ledger) -> None:
    alarms = AlarmLedger(ledger.database, "one")
    for _ in range(5):
        alarms.note([DOWN], [webhook()])
        ledger.clock.advance(RESOLVED_AFTER_S / 2)
        alarms.note([], [webhook()])
        ledger.clock.advance(RESOLVED_AFTER_S / 4)
    assert told(alarms) == [("pager", "raised", "pacs")]


def test_each_is_told_what_it_asks_for(ledger: Ledger) -> None:
    alarms = AlarmLedger(ledger.database, "one")
    alerts = [webhook("disks", alarms=[AlarmKind.DISK]), webhook("quiet", resolved=False), webhook("all")]
    alarms.note([DOWN, DISK], alerts)
    ledger.clock.advance(RESOLVED_AFTER_S)
    alarms.note([], alerts)
    raised = {
        ("disks", "raised", "/data"),
        *((name, "raised", s) for name in ("quiet", "all") for s in ("pacs", "/data")),
    }
    resolved = {("disks", "resolved", "/data"), ("all", "resolved", "pacs"), ("all", "resolved", "/data")}
    assert set(told(alarms)) == raised | resolved
    assert len(told(alarms)) == len(raised | resolved)


def test_who_comes_later_is_told_of_what_lasts(ledger: Ledger) -> None:
    alarms = AlarmLedger(ledger.database, "one")
    alarms.note([DOWN], [])
    ledger.clock.advance(3600)
    alarms.note([DOWN], [webhook()])
    assert told(alarms) == [("pager", "raised", "pacs")]


def test_what_one_machine_sees_another_does_not_end(ledger: Ledger) -> None:
    one, other = AlarmLedger(ledger.database, "one"), AlarmLedger(ledger.database, "other")
    one.note([DISK], [webhook()])
    ledger.clock.advance(RESOLVED_AFTER_S + 1)
    other.note([], [webhook()])
    assert [alarm.machine for alarm in other.alarms()] == ["one"]
    other.note([DISK], [webhook()])
    assert sorted(alarm.machine for alarm in other.alarms()) == ["one", "other"]
    # The machine was taken away.
    ledger.clock.advance(FORGOTTEN_AFTER_S)
    other.note([DISK], [webhook()])
    assert [alarm.machine for alarm in other.alarms()] == ["other"]


# -- messages ---------------------------------------------------------------------------------------


def test_a_message_is_given_to_one_and_comes_back_if_that_one_dies(ledger: Ledger) -> None:
    alarms = AlarmLedger(ledger.database, "one")
    alarms.note([DOWN], [webhook()])
    message = alarms.take("pager")
    assert message is not None
    assert alarms.take("pager") is None
    assert alarms.take("other") is None
    ledger.clock.advance(600)
    again = alarms.take("pager")
    assert again is not None
    assert (again.message_id, again.attempts) == (message.message_id, 2)


def test_what_was_not_brought_is_tried_again_later_each_time_and_given_up(ledger: Ledger) -> None:
    alarms = AlarmLedger(ledger.database, "one")
    alarms.note([DOWN], [webhook()])
    waits = []
    begun = ledger.clock.now
    while (message := alarms.take("pager")) is not None:
        goes_on = alarms.settle(message, "no answer", give_up_s=3600)
        if not goes_on:
            break
        next_at = alarms.messages()[0].next_attempt_at
        assert next_at is not None
        waits.append(next_at - ledger.clock.now)
        ledger.clock.now = next_at
    assert waits[:4] == [10, 20, 40, 80]
    assert max(waits) == 900
    assert 3600 <= ledger.clock.now - begun < 3600 + 900
    assert (alarms.messages()[0].sent_at, alarms.messages()[0].reason) == (None, "no answer")


def test_what_was_brought_is_not_brought_again(ledger: Ledger) -> None:
    alarms = AlarmLedger(ledger.database, "one")
    alarms.note([DOWN], [webhook()])
    message = alarms.take("pager")
    assert message is not None
    assert alarms.settle(message, None, give_up_s=3600)
    ledger.clock.advance(86_400)
    assert alarms.take("pager") is None
    assert alarms.messages()[0].sent_at is not None


def test_a_reminder_that_was_not_brought_is_dropped_when_it_is_over(ledger: Ledger) -> None:
    alarms, alert = AlarmLedger(ledger.database, "one"), webhook(repeat_h=1)
    for _ in range(3):
        alarms.note([DOWN], [alert])
        ledger.clock.advance(3600)
    alarms.note([], [alert])
    events = []
    while (message := alarms.take("pager")) is not None:
        events.append(message.event)
        alarms.settle(message, None, give_up_s=3600)
    assert events == ["raised", "resolved"]


def test_what_nobody_is_to_be_told_any_more_and_what_is_long_over_goes(ledger: Ledger) -> None:
    alarms = AlarmLedger(ledger.database, "one")
    alarms.note([DOWN], [webhook("gone"), webhook()])
    alarms.forget(["pager"])
    assert alarms.take("gone") is None
    assert alarms.take("pager") is not None
    ledger.clock.advance(RESOLVED_AFTER_S)
    alarms.note([], [])
    ledger.clock.advance(KEEP_S + 1)
    alarms.note([DISK], [webhook()])
    alarms.forget(["pager"])
    assert [one.subject for one in alarms.alarms(since=0)] == ["/data"]
    assert told(alarms) == [("pager", "raised", "/data")]


# -- figures ----------------------------------------------------------------------------------------


def figures(ledger: Ledger) -> Figures:
    return FigureLedger(ledger.database, images=10, series=5, late_reason=LATE).figures()


def test_figures_of_an_empty_ledger(ledger: Ledger) -> None:
    found = figures(ledger)
    assert (found.deliveries, found.series, found.unrouted, found.seen) == ({}, {}, 0, {})
    assert (found.judged, found.guarded, found.concluded, found.late) == (0, 0, 0, 0)


def test_the_queue_is_counted_by_destination_and_state_with_its_age(ledger: Ledger) -> None:
    begun = ledger.clock.now
    open_deliveries(ledger, 2, "a", "b")
    ledger.clock.advance(100)
    found = figures(ledger)
    assert found.deliveries == {("a", "pending"): 1, ("b", "pending"): 1}
    assert found.objects == {"a": 2, "b": 2}
    assert found.at - found.oldest["a"] == ledger.clock.now - begun == 100


def test_what_is_done_is_not_in_the_queue_and_what_was_refused_is(ledger: Ledger) -> None:
    first, second = open_deliveries(ledger, 1, "a", "b")
    for number, state in ((first, ItemState.SENT), (second, ItemState.REFUSED)):
        ledger.deliveries.begin(number, 0)
        answer(ledger, number, state)
        ledger.deliveries.settle(number, failure=None, retry_in_s=None)
    found = figures(ledger)
    assert found.deliveries == {("b", "refused"): 1}
    assert (found.objects, found.oldest) == ({}, {})


def test_series_holds_and_standings_are_counted(ledger: Ledger) -> None:
    ledger.complete()
    (delivery_id,) = open_deliveries(ledger, 1, "a", series="9")
    ledger.standings.hold(HoldScope.DESTINATION, "a", "asked for")
    assert ledger.standings.note_silence("a", delivery_id, "no answer", sent_something=False, limit=1, probe_in_s=5)
    found = figures(ledger)
    assert found.series == {"complete": 1}
    assert found.unrouted == 1
    assert found.holds == {"destination": 1}
    assert found.down["a"].reason == "no answer"


def test_sources_are_heard_of_also_after_the_first_look(ledger: Ledger) -> None:
    sides = FigureLedger(ledger.database, images=10, series=5, late_reason=LATE)
    ledger.associate()
    first = sides.figures().seen
    ledger.clock.advance(60)
    assert sides.figures().seen == first
    ledger.associate()
    assert sides.figures().seen["XRAY1"] - first["XRAY1"] == 60


def test_what_the_guards_refused_is_told_from_what_never_came_to_them(ledger: Ledger) -> None:
    arrival = ledger.complete(6)
    numbers = [one.instance_id for one in ledger.arrivals.instances(arrival)]
    passed, enhanced = EnhancementDecision.PASSED_THROUGH, EnhancementDecision.ENHANCED
    for number, decision, inference_s in zip(
        numbers, (passed, passed, enhanced, enhanced, passed), (None, 1.0, 1.0, 1.0, 1.0), strict=False
    ):
        assert ledger.arrivals.decide(number, EnhancementRecord(decision=decision, inference_s=inference_s))
    found = figures(ledger)
    assert (found.judged, found.guarded) == (4, 2)


def test_series_that_were_late_are_counted(ledger: Ledger) -> None:
    for number, late in enumerate((LATE, None, LATE)):
        arrival = ledger.complete(series=str(number + 1))
        ledger.arrivals.begin(arrival, 0)
        if late is None:
            for one in ledger.arrivals.instances(arrival):
                ledger.pass_through(one.instance_id)
        ledger.arrivals.conclude(arrival, destinations=["a"], send_original=True, send_enhanced=True, late=late)
    released = ledger.complete(series="8")
    ledger.arrivals.release(released, destinations=["a"], send_original=True, send_enhanced=True, reason=LATE)
    found = figures(ledger)
    assert (found.concluded, found.late) == (4, 3)
