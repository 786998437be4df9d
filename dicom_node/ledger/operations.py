"""What an operator changes in the queue: hold, release, retry, cancel, reroute, send originals again.

Each is one transaction with its event. What can't be done raises `OperationRefused`, in words for the operator.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, select, update

from dicom_node.errors import IllegalTransition, OperationRefused
from dicom_node.ledger.database import Database, change_state, record_event
from dicom_node.ledger.schema import delivery, delivery_item, instance
from dicom_node.states import DEAD_LETTERS, DELIVERY, DeliveryState, InstanceState, ItemState

OPEN_REROUTED = "open_rerouted"
"""Event of a delivery that no route asked for: it carries what others could not send, and no more."""

_LEFT = (ItemState.PENDING.value, ItemState.REFUSED.value)
_ENDED = frozenset(state.value for state in (*DEAD_LETTERS, DeliveryState.CANCELLED))


class OperationLedger:
    """The side of the ledger that an operator works on, one delivery at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hold(self, delivery_id: int, reason: str) -> None:
        """Send nothing more of a delivery until it is released; the object on its way still arrives."""
        with self._database.write() as connection:
            self._change(connection, delivery_id, "hold", "held", reason)

    def release(self, delivery_id: int, reason: str) -> None:
        """Go on with a delivery on hold; its maximum age counts anew."""
        with self._database.write() as connection:
            self._change(connection, delivery_id, "release", "released", reason)
            _begin_anew(connection, delivery_id, self._database.now())

    def cancel(self, delivery_id: int, reason: str) -> None:
        """Send nothing more of a delivery; its objects stay, and `retry` still takes it up again."""
        now = self._database.now()
        with self._database.write() as connection:
            self._change(connection, delivery_id, "cancel", "cancelled", reason)
            connection.execute(update(delivery).where(delivery.c.id == delivery_id).values(finished_at=now))

    def retry(self, delivery_id: int, reason: str) -> None:
        """Send what a delivery has not delivered yet, now; its maximum age counts anew."""
        now = self._database.now()
        with self._database.write() as connection:
            connection.execute(
                update(delivery_item)
                .where(delivery_item.c.delivery_id == delivery_id, delivery_item.c.state == ItemState.REFUSED.value)
                .values(state=ItemState.PENDING.value)
            )
            self._change(connection, delivery_id, "requeue", "retried", reason)
            _begin_anew(connection, delivery_id, now)

    def reroute(self, delivery_id: int, to: str, reason: str) -> int:
        """Leave to destination `to` what a delivery has not delivered; returns the number of the delivery there.

        What was sent stays sent. Where `to` gets the series already, only what that delivery lacks is added to it; one
        that had ended without it (refused, given up, cancelled) is taken up again.
        """
        now = self._database.now()
        with self._database.write() as connection:
            arrival_id, own, part = self._find(connection, delivery_id)
            if own == to:
                raise OperationRefused(f"delivery {delivery_id} goes to {to} already")
            left = set(
                connection.scalars(
                    select(delivery_item.c.instance_id).where(
                        delivery_item.c.delivery_id == delivery_id, delivery_item.c.state.in_(_LEFT)
                    )
                )
            )
            if not left:
                raise OperationRefused(f"delivery {delivery_id} has nothing left to send")
            self._change(connection, delivery_id, "reroute", "rerouted", f"to {to}: {reason}")
            connection.execute(update(delivery).where(delivery.c.id == delivery_id).values(finished_at=now))
            target = connection.scalar(
                select(delivery.c.id).where(
                    delivery.c.arrival_id == arrival_id, delivery.c.destination == to, delivery.c.part == part
                )
            )
            said = f"from {own}, delivery {delivery_id}: {reason}"
            if target is None:
                target = open_delivery(connection, arrival_id, to, now, said, part=part, event_name=OPEN_REROUTED)
                known: set[int] = set()
            else:
                known = self._take_up(connection, target, left, said)
            connection.execute(
                delete(delivery_item).where(
                    delivery_item.c.delivery_id == delivery_id, delivery_item.c.instance_id.in_(left & known)
                )
            )
            connection.execute(
                update(delivery_item)
                .where(delivery_item.c.delivery_id == delivery_id, delivery_item.c.instance_id.in_(left - known))
                .values(delivery_id=target, state=ItemState.PENDING.value, status=None, reason=None, in_doubt=False)
            )
            return target

    def resend_originals(self, delivery_id: int, reason: str) -> int:
        """Send the originals of a delivery's series, again where they were sent; returns how many there are.

        Enhanced images that the destination has stay there; those that it does not have are not sent any more.
        """
        now = self._database.now()
        with self._database.write() as connection:
            arrival_id, _, _ = self._find(connection, delivery_id)
            originals = connection.execute(
                select(instance.c.id, instance.c.state)
                .where(instance.c.arrival_id == arrival_id, instance.c.origin == "received")
                .order_by(instance.c.id)
                # Retention deletes nothing of them from here on.
                .with_for_update()
            ).all()
            purged = sum(row.state == InstanceState.PURGED.value for row in originals)
            if purged:
                raise OperationRefused(
                    f"delivery {delivery_id}: {purged} of {len(originals)} originals are gone from this node, "
                    "retention has purged them, and the same bytes are no new work when they come again; send them "
                    "from an archive that has them"
                )
            ids = [row.id for row in originals if row.state == InstanceState.STORED.value]
            self._change(connection, delivery_id, "extend", "sent again", f"originals again: {reason}")
            connection.execute(
                delete(delivery_item).where(
                    delivery_item.c.delivery_id == delivery_id,
                    delivery_item.c.state != ItemState.SENT.value,
                    delivery_item.c.instance_id.not_in(ids),
                )
            )
            of_originals = (delivery_item.c.delivery_id == delivery_id) & delivery_item.c.instance_id.in_(ids)
            # The destination may answer that it has them.
            connection.execute(
                update(delivery_item)
                .where(of_originals, delivery_item.c.state == ItemState.SENT.value)
                .values(in_doubt=True)
            )
            connection.execute(
                update(delivery_item)
                .where(of_originals)
                .values(state=ItemState.PENDING.value, status=None, reason=None)
            )
            known = set(connection.scalars(select(delivery_item.c.instance_id).where(of_originals)))
            add_items(connection, delivery_id, [number for number in ids if number not in known])
            _begin_anew(connection, delivery_id, now)
            return len(ids)

    def _take_up(self, connection: Connection, delivery_id: int, wanted: set[int], reason: str) -> set[int]:
        """Make sure that a delivery sends `wanted` or has sent it; returns what it carries of all already."""
        rows = connection.execute(
            select(delivery_item.c.instance_id, delivery_item.c.state).where(delivery_item.c.delivery_id == delivery_id)
        ).all()
        known = {row.instance_id for row in rows}
        unsent = {row.instance_id for row in rows if row.state != ItemState.SENT.value} & wanted
        state = connection.scalar(select(delivery.c.state).where(delivery.c.id == delivery_id))
        if wanted - known or (unsent and state in _ENDED):
            self._change(connection, delivery_id, "extend", "given more", reason)
            _begin_anew(connection, delivery_id, self._database.now())
            connection.execute(
                update(delivery_item)
                .where(delivery_item.c.delivery_id == delivery_id, delivery_item.c.instance_id.in_(unsent))
                .values(state=ItemState.PENDING.value)
            )
        return known

    def _find(self, connection: Connection, delivery_id: int) -> tuple[int, str, int]:
        row = connection.execute(
            select(delivery.c.arrival_id, delivery.c.destination, delivery.c.part).where(delivery.c.id == delivery_id)
        ).one_or_none()
        if row is None:
            raise OperationRefused(
                f"there is no delivery {delivery_id}; `dicom-node queue list --all -c FILE` shows them"
            )
        return row.arrival_id, row.destination, row.part

    def _change(self, connection: Connection, delivery_id: int, event_name: str, verb: str, reason: str) -> None:
        self._find(connection, delivery_id)
        try:
            change_state(
                connection,
                delivery,
                delivery_id,
                DELIVERY,
                DeliveryState,
                event_name,
                at=self._database.now(),
                reason=reason,
            )
        except IllegalTransition as error:
            state = connection.scalar(select(delivery.c.state).where(delivery.c.id == delivery_id))
            advice = {
                DeliveryState.SENDING.value: "; put it on hold first",
                DeliveryState.COMMITTING.value: "; wait for the commitment, or its time-out",
            }.get(str(state), "")
            raise OperationRefused(f"delivery {delivery_id} can't be {verb}: it is {state}{advice}") from error


def open_delivery(
    connection: Connection,
    arrival_id: int,
    destination: str,
    now: float,
    reason: str,
    *,
    part: int,
    event_name: str = "open",
) -> int:
    """Insert a delivery that is due now, without objects; returns its number."""
    delivery_id: int = connection.execute(
        insert(delivery).returning(delivery.c.id),
        {
            "arrival_id": arrival_id,
            "destination": destination,
            "state": DeliveryState.PENDING.value,
            "attempts": 0,
            "created_at": now,
            "next_attempt_at": now,
            "part": part,
        },
    ).scalar_one()
    record_event(
        connection,
        delivery,
        delivery_id,
        at=now,
        event_name=event_name,
        from_state=None,
        to_state=DeliveryState.PENDING.value,
        reason=reason,
    )
    return delivery_id


def add_items(connection: Connection, delivery_id: int, instance_ids: Iterable[int]) -> None:
    """Insert what a delivery is to send."""
    rows = [
        {"delivery_id": delivery_id, "instance_id": number, "state": ItemState.PENDING.value, "in_doubt": False}
        for number in instance_ids
    ]
    if rows:
        connection.execute(insert(delivery_item), rows)


def _begin_anew(connection: Connection, delivery_id: int, now: float) -> None:
    """Make a delivery due now, under the number of a new attempt; its maximum age counts from the operator's word."""
    # A workflow of the number before may have ended already: `wake` names the next one by this one.
    connection.execute(
        update(delivery)
        .where(delivery.c.id == delivery_id)
        .values(next_attempt_at=now, finished_at=None, attempts=delivery.c.attempts + 1, created_at=now)
    )
