"""One attempt to deliver: what is left goes to its destination, and every answer goes into the ledger."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from config.settings import DestinationSettings
from dicom_node.destinations.base import DeliveryItem, Destination, ItemOutcome, Outcome, give_up, retry_after
from dicom_node.errors import LedgerUnavailable
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.deliveries import Delivery, DeliveryLedger, PendingObject
from dicom_node.states import DeliveryState, ItemState

log = logging.getLogger(__name__)

_ITEM_STATE = {Outcome.SENT: ItemState.SENT, Outcome.REFUSED: ItemState.REFUSED, Outcome.RETRY: ItemState.PENDING}


@dataclass(frozen=True, kw_only=True)
class Courier:
    """Delivers from the instance store to the destinations of the settings.

    Parameters
    ----------
    ledger
        The deliveries.
    store
        Where the objects lie.
    settings, destinations
        Of each destination, by its name.
    clock
        Seconds since the epoch.
    rng
        Draws the jitter of retries.
    """

    ledger: DeliveryLedger
    store: InstanceStore
    settings: Mapping[str, DestinationSettings]
    destinations: Mapping[str, Destination]
    clock: Callable[[], float]
    rng: random.Random

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
            return self.ledger.refuse(
                delivery_id, f"no destination {delivery.destination!r} in the settings any more; add it and retry"
            )
        failures: list[str] = []

        def note(outcome: ItemOutcome) -> None:
            if outcome.outcome is Outcome.RETRY:
                failures.append(outcome.reason)
            self.ledger.record_item(
                delivery_id,
                outcome.instance_id,
                _ITEM_STATE[outcome.outcome],
                status=outcome.status,
                reason=outcome.reason or None,
                in_doubt=outcome.in_doubt,
            )

        try:
            with self.store.held() as locate:
                # Fetched before the association, which then does not wait for another machine's disk.
                items = [self._item(o, locate(o.key)) for o in self.ledger.take_objects(delivery_id)]
                destination.deliver(items, on_outcome=note)
        except LedgerUnavailable:
            raise
        except Exception as error:
            # The top of this attempt: an error that nobody foresaw is tried again like a transient one, until the
            # delivery's maximum age.
            log.exception("Delivery failed by an unforeseen error", extra={"delivery": delivery_id})
            failures.append(f"unforeseen {type(error).__name__}: {error}")
        failure = failures[0] if failures else None
        over = give_up(self.clock() - delivery.created_at, settings.retry)
        retry_in_s = None if over else retry_after(max(1, delivery.attempts), settings.retry, self.rng)
        state = self.ledger.settle(delivery_id, failure=failure, retry_in_s=retry_in_s)
        extra = {
            "delivery": delivery_id,
            "destination": delivery.destination,
            "state": state.value,
            "attempt": delivery.attempts,
            "reason": self.ledger.get(delivery_id).reason,
        }
        if state is DeliveryState.SENT:
            log.info("Delivered", extra=extra)
        elif state is DeliveryState.PENDING:
            log.warning("Delivery is tried again", extra={**extra, "retry_in_s": round(retry_in_s or 0.0, 1)})
        else:
            log.error("Delivery is a dead letter", extra=extra)
        return state

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
