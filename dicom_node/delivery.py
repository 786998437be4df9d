"""One attempt to deliver: what is left goes to its destination, and every answer goes into the ledger."""

from __future__ import annotations

import logging
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from config.settings import DestinationSettings, DicomDestinationSettings, DicomwebDestinationSettings
from dicom_node.audit import is_on, record
from dicom_node.audit.events import (
    Participant,
    Study,
    begin_transferring,
    instances_transferred,
    recipient,
    sender,
)
from dicom_node.audit.transfers import study_of_items
from dicom_node.destinations.base import (
    DeliveryItem,
    Destination,
    ItemOutcome,
    Outcome,
    Silence,
    StopSending,
    give_up,
    retry_after,
)
from dicom_node.errors import LedgerUnavailable, describe
from dicom_node.fault_points import fault_point
from dicom_node.instance_store import InstanceStore
from dicom_node.integrity import Examined, Finding
from dicom_node.ledger.deliveries import Delivery, DeliveryLedger, PendingObject
from dicom_node.ledger.destinations import DestinationLedger
from dicom_node.object_keeping import StoreUnavailable
from dicom_node.observation.definitions import SENT_BYTES, SENT_OBJECTS
from dicom_node.observation.measuring import measure_attempt
from dicom_node.observation.metering import count
from dicom_node.states import DEAD_LETTERS, DeliveryState, ItemState

log = logging.getLogger(__name__)

_ITEM_STATE = {Outcome.SENT: ItemState.SENT, Outcome.REFUSED: ItemState.REFUSED, Outcome.RETRY: ItemState.PENDING}


# An association is kept open for so long between two objects where the rate is limited; peers hang up after some 30 s.
LONGEST_PAUSE_S = 5.0
STOPPED = "stopped by an operator"
NOT_IN_SETTINGS = "no destination "
"""What the reason of a delivery begins with whose destination is not in the settings."""


@dataclass(frozen=True, kw_only=True)
class Courier:
    """Delivers from the instance store to the destinations of the settings.

    Parameters
    ----------
    ledger
        The deliveries.
    standings
        How the destinations stand: which is down, and how fast each may be sent to.
    store
        Where the objects lie.
    settings, destinations
        Of each destination, by its name.
    clock
        Seconds since the epoch.
    rng
        Draws the jitter of retries.
    pause
        Waits for a number of seconds.
    ae_title
        Of the node, for the audit.
    """

    ledger: DeliveryLedger
    standings: DestinationLedger
    store: InstanceStore
    settings: Mapping[str, DestinationSettings]
    destinations: Mapping[str, Destination]
    clock: Callable[[], float]
    rng: random.Random
    pause: Callable[[float], None] = time.sleep
    ae_title: str = ""

    def partition(self, delivery: Delivery) -> str:
        """Return the queue partition of a delivery: each destination has as many as associations are allowed."""
        settings = self.settings.get(delivery.destination)
        slots = settings.concurrency if settings is not None else 1
        return f"{delivery.destination}:{delivery.delivery_id % slots}"

    def attempt(self, delivery_id: int) -> DeliveryState:
        """Send what is left of a delivery that is in work; returns the state that it is left in."""
        delivery = self.ledger.get(delivery_id)
        if delivery.state is not DeliveryState.SENDING:
            return delivery.state
        destination = self.destinations.get(delivery.destination)
        settings = self.settings.get(delivery.destination)
        if destination is None or settings is None:
            reason = f"{NOT_IN_SETTINGS}{delivery.destination!r} in the settings any more; add it again, or reroute it"
            facts = {"delivery": delivery_id, "destination": delivery.destination, "reason": reason}
            log.error("Delivery is a dead letter", extra={**facts, "alarm": "dead_letter"})
            return self.ledger.refuse(delivery_id, reason)
        attempt = _Attempt(self, delivery, settings)
        left = self.ledger.take_objects(delivery_id)
        fault_point("deliver.opened")
        try:
            # Fetched before the association, which then does not wait for another machine's disk.
            with self.store.held() as locate:
                sound = self._sound(delivery_id, left, attempt.note, locate)
                if sound:
                    attempt.sizes = {one.instance_id: one.size for one in left}
                    attempt.left = len(sound)
                    attempt.begin_audit(sound)
                    attempt.wait_for_turn()
                    destination.deliver(sound, on_outcome=attempt.note)
        except LedgerUnavailable:
            raise
        except StopSending as stop:
            attempt.end_audit()
            untouched = [o.instance_id for o in left if o.instance_id not in attempt.noted and not o.in_doubt]
            state = self.ledger.put_back(
                delivery_id, str(stop), attempt=delivery.attempts, in_s=attempt.turn_in_s, untouched=untouched
            )
            log.info("Delivery stopped half-way", extra={"delivery": delivery_id, "reason": str(stop)})
            return state
        except Exception as error:
            # The top of this attempt: an error that nobody foresaw is tried again like a transient one, until the
            # delivery's maximum age.
            log.exception("Delivery failed by an unforeseen error", extra={"delivery": delivery_id})
            attempt.failures.append(f"unforeseen {describe(error)}")
        else:
            attempt.judge_destination()
        attempt.end_audit()
        fault_point("deliver.settling")
        return self._settle(delivery, settings, attempt.failures[0] if attempt.failures else None)

    def _settle(self, delivery: Delivery, settings: DestinationSettings, failure: str | None) -> DeliveryState:
        over = give_up(self.clock() - delivery.created_at, settings.retry)
        retry_in_s = None if over else retry_after(max(1, delivery.attempts), settings.retry, self.rng)
        state = self.ledger.settle(
            delivery.delivery_id, failure=failure, retry_in_s=retry_in_s, attempt=delivery.attempts
        )
        age_s = self.clock() - delivery.created_at
        measure_attempt(delivery.destination, state.value, sent_after_s=age_s if state is DeliveryState.SENT else None)
        extra = {
            "delivery": delivery.delivery_id,
            "destination": delivery.destination,
            "state": state.value,
            "attempt": delivery.attempts,
            "reason": self.ledger.get(delivery.delivery_id).reason,
        }
        if state is DeliveryState.SENT:
            log.info("Delivered", extra=extra)
        elif state is DeliveryState.PENDING:
            log.warning("Delivery is tried again", extra={**extra, "retry_in_s": round(retry_in_s or 0.0, 1)})
        elif state in DEAD_LETTERS:
            log.error("Delivery is a dead letter", extra={**extra, "alarm": "dead_letter"})
        else:
            log.info("Delivery stopped", extra=extra)
        return state

    def _sound(
        self,
        delivery_id: int,
        objects: Sequence[PendingObject],
        note: Callable[[ItemOutcome], None],
        locate: Callable[[str], Path],
    ) -> list[DeliveryItem]:
        """Return the objects whose files are what the ledger says; the others are not sent as if they were."""
        sound = []
        for pending in objects:
            try:
                path, examined = self.store.examine(pending.key, pending, locate=locate)
            except StoreUnavailable as error:
                examined = Examined(finding=Finding.UNREADABLE, reason=str(error))
            if examined.is_sound:
                sound.append(self._item(pending, path))
                continue
            facts = {"delivery": delivery_id, "key": pending.key, "reason": examined.reason}
            log.error("A stored object can't be sent", extra=facts)
            # A file that is gone or can't be read may be back when the folder or the disk is; other bytes stay wrong.
            is_damaged = examined.finding is Finding.DAMAGED
            remedy = (
                f"send it again from the modality, then dicom-node queue retry {delivery_id} -c FILE"
                if is_damaged
                else "is tried again"
            )
            if is_damaged and pending.is_derived:
                remedy = f"dicom-node queue resend-original {delivery_id} -c FILE sends the original instead"
            note(
                ItemOutcome(
                    instance_id=pending.instance_id,
                    outcome=Outcome.REFUSED if is_damaged else Outcome.RETRY,
                    status=None,
                    reason=f"not sent: {examined.reason}; {remedy}",
                    # No byte of it went out in this attempt, but one before may have been lost on the way.
                    in_doubt=pending.in_doubt,
                )
            )
        return sound

    def _item(self, pending: PendingObject, path: Path) -> DeliveryItem:
        return DeliveryItem(
            instance_id=pending.instance_id,
            sop_class_uid=pending.sop_class_uid,
            sop_instance_uid=pending.sop_instance_uid,
            transfer_syntax_uid=pending.transfer_syntax_uid,
            path=path,
            dataset_offset=pending.dataset_offset,
            is_derived=pending.is_derived,
            in_doubt=pending.in_doubt,
        )


class _Attempt:
    """What one attempt has come to so far."""

    def __init__(self, courier: Courier, delivery: Delivery, settings: DestinationSettings) -> None:
        self.failures: list[str] = []
        self.noted: set[int] = set()
        self.turn_in_s = 0.0
        self.left = 0
        """Objects that were given to the destination and have no outcome yet."""
        self.sizes: dict[int, int] = {}
        self.sent: list[int] = []
        self._items: dict[int, str] = {}
        self._study: Study | None = None
        self._courier = courier
        self._delivery = delivery
        self._settings = settings
        self._is_answered = False
        self._silences: set[Silence] = set()

    def note(self, outcome: ItemOutcome) -> None:
        """Write down what became of one object; StopSending where the next one is not to be sent now."""
        self.noted.add(outcome.instance_id)
        if outcome.outcome is Outcome.RETRY:
            self.failures.append(outcome.reason)
        is_answer = outcome.status is not None or outcome.outcome is Outcome.SENT
        self._is_answered |= is_answer
        if outcome.silence is not None:
            self._silences.add(outcome.silence)
        fault_point("deliver.answered")
        goes_on = self._courier.ledger.record_item(
            self._delivery.delivery_id,
            outcome.instance_id,
            _ITEM_STATE[outcome.outcome],
            status=outcome.status,
            reason=outcome.reason or None,
            in_doubt=outcome.in_doubt,
            attempt=self._delivery.attempts,
        )
        fault_point("deliver.recorded")
        count(SENT_OBJECTS, self._delivery.destination, outcome.outcome.value)
        if outcome.outcome is Outcome.SENT:
            self.sent.append(outcome.instance_id)
            size = self.sizes.get(outcome.instance_id, 0)
            count(SENT_BYTES, self._delivery.destination, amount=size)
        self.left -= 1
        if not is_answer or self.left <= 0:
            # Nothing was answered, and the rest is not sent but told of; or this was the last.
            return
        if not goes_on:
            raise StopSending(STOPPED)
        self.wait_for_turn()

    def begin_audit(self, items: Sequence[DeliveryItem]) -> None:
        """Write to the audit that these objects begin to go to the destination."""
        if not is_on():
            return
        self._items = {item.instance_id: item.sop_class_uid for item in items}
        self._study = study_of_items(self._courier.ledger.study_of(self._delivery.delivery_id), items)
        us, them = self._participants()
        record(begin_transferring(source=us, destination=them, study=self._study))

    def end_audit(self) -> None:
        """Write to the audit what of them has gone."""
        if self._study is None:
            return
        us, them = self._participants()
        classes = Counter(self._items[number] for number in self.sent if number in self._items)
        failure = self.failures[0] if self.failures else ""
        study = replace(self._study, classes=classes)
        if classes or failure:
            record(instances_transferred(source=us, destination=them, study=study, failure=failure, received=False))

    def _participants(self) -> tuple[Participant, Participant]:
        settings, ours = self._settings, self._courier.ae_title
        us = sender(ours, socket.gethostname(), is_requestor=True)
        if isinstance(settings, DicomDestinationSettings):
            return us, recipient(settings.ae_title, settings.host)
        where = settings.url if isinstance(settings, DicomwebDestinationSettings) else settings.name
        return us, recipient(where, urlsplit(where).hostname or "")

    def wait_for_turn(self) -> None:
        """Wait until another object may be sent; StopSending if that takes longer than an association is held open."""
        rate = self._settings.objects_per_minute
        if not rate:
            return
        has_turn, wait_s = self._courier.standings.take_turn(
            self._delivery.destination, rate, longest_wait_s=LONGEST_PAUSE_S
        )
        if not has_turn:
            self.turn_in_s = wait_s
            raise StopSending(f"{rate:g} objects a minute are sent to {self._delivery.destination}")
        if wait_s > 0:
            self._courier.pause(wait_s)

    def judge_destination(self) -> None:
        """Write down whether the destination answered at all."""
        name, standings = self._delivery.destination, self._courier.standings
        if self._is_answered:
            if standings.note_answer(name):
                log.info("Destination answers again", extra={"destination": name})
        # Without a failure nothing is left to try: an object that no peer takes was refused for good.
        elif (
            self._silences
            and self.failures
            and standings.note_silence(
                name,
                self._delivery.delivery_id,
                self.failures[0],
                sent_something=Silence.LOST in self._silences,
                limit=self._settings.breaker.failures,
                probe_in_s=self._settings.breaker.probe_every_s,
            )
        ):
            log.error(
                "Destination is down",
                extra={"destination": name, "reason": self.failures[0], "alarm": "destination_down"},
            )
