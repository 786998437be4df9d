"""Every event that the ledger can hold is told in words."""

from __future__ import annotations

from dicom_node.console.stories import DELIVERIES, IMAGES, SERIES, tell
from dicom_node.ledger.study_story import DeliveryPart, StoryEvent, StudyStory
from dicom_node.states import ARRIVAL, DELIVERY, INSTANCE


def test_every_event_of_the_transition_tables_has_its_sentence() -> None:
    for table, sentences in ((ARRIVAL, SERIES), (DELIVERY, DELIVERIES), (INSTANCE, IMAGES)):
        missing = {event for _, event in table} - set(sentences)
        assert missing == set(), f"dicom_node/console/stories.py has no sentence for {missing}"


def event(**changes: object) -> StoryEvent:
    facts = {
        "at": 1.0, "until": 1.0, "subject": "image", "number": 1, "event": "receive", "from_state": None,
        "to_state": "stored", "reason": None, "times": 1,
    }  # fmt: skip
    return StoryEvent(**{**facts, **changes})  # type: ignore[arg-type]


def story(*events: StoryEvent) -> StudyStory:
    delivery = DeliveryPart(
        delivery_id=7, arrival_id=1, series_instance_uid="1", destination="pacs", part=0, state="sent", attempts=1,
        created_at=0.0, next_attempt_at=0.0, finished_at=None, reason=None, sent=1, refused=0, left=0, committed=0,
        requests=0,
    )  # fmt: skip
    return StudyStory(
        series=[], images=[], image_count=0, deliveries=[delivery], events=list(events), more_events=False,
        is_held=False, hold_reason=None,
    )  # fmt: skip


def test_events_are_told_with_their_numbers() -> None:
    told = tell(
        story(
            event(times=1200),
            event(event="decide", to_state="passed_through", reason="too dark"),
            event(event="decide", to_state="enhanced"),
            event(subject="delivery", number=7, event="refuse", reason="A900"),
            event(subject="delivery", number=7, event="something_new"),
        )
    )
    assert [(one.sentence, one.mark) for one in told] == [
        ("1,200 objects received", "plain"),
        ("1 object passed through as it came", "warn"),
        ("1 object enhanced to measure, and not kept", "plain"),
        ("Delivery 7: pacs refused something", "bad"),
        ("delivery 7: something new", "plain"),
    ]
    assert told[1].reason == "too dark"
