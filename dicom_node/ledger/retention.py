"""Which objects may be deleted: only those that every destination of their route has."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, and_, exists, select

from dicom_node.ledger.commitments import has_uncommitted
from dicom_node.ledger.database import Database, change_state
from dicom_node.ledger.schema import arrival, delivery, delivery_item, instance
from dicom_node.states import INSTANCE, ArrivalState, DeliveryState, InstanceState, ItemState

_BATCH = 500


class RetentionLedger:
    """The side of the ledger that lets objects go.

    `committing` are the destinations, by name, that are asked for commitment: they have what they have committed.
    """

    def __init__(self, database: Database, committing: Collection[str] = ()) -> None:
        self._database = database
        self._committing = committing

    def purge_delivered(self, keep_s: float) -> list[str]:
        """Mark what has been delivered everywhere for `keep_s` seconds as purged; returns the keys to delete.

        An arrival with any delivery that is pending, held, refused, abandoned or cancelled keeps all its objects. The
        rows stay, so a later resend of the same object is known. A file whose deletion fails after this is an orphan,
        which `verify` names.
        """
        return [key for key, _ in self._purge(self._database.now() - keep_s, None, "retention")]

    def purge_early(self, wanted_bytes: int) -> list[tuple[str, int]]:
        """Mark delivered objects as purged before their time, those delivered first, until `wanted_bytes` are reached.

        Returns the keys to delete with their sizes in bytes; none if nothing more can go. It takes them in batches:
        call it again for more.
        """
        reason = "retention: the disk is above its high watermark"
        return self._purge(self._database.now(), wanted_bytes, reason)

    def _purge(self, before: float, wanted_bytes: int | None, reason: str) -> list[tuple[str, int]]:
        query = (
            select(instance.c.id)
            .join(arrival, arrival.c.id == instance.c.arrival_id)
            .where(is_deletable(before, self._committing))
            .order_by(*([] if wanted_bytes is None else [arrival.c.finished_at]), instance.c.id)
            .limit(_BATCH)
        )
        # The long look at all objects must not keep SQLite's one writer from those who receive.
        with self._database.read() as connection:
            candidates = list(connection.scalars(query))
        purged: list[tuple[str, int]] = []
        reached = 0
        if not candidates:
            return purged
        with self._database.write() as connection:
            found = self._lock(connection, candidates, before)
            for instance_id in candidates:
                if wanted_bytes is not None and reached >= wanted_bytes:
                    break
                if instance_id not in found:
                    continue
                change_state(
                    connection,
                    instance,
                    instance_id,
                    INSTANCE,
                    InstanceState,
                    "purge",
                    at=self._database.now(),
                    reason=reason,
                )
                purged.append(found[instance_id])
                reached += found[instance_id][1]
        return purged

    def _lock(self, connection: Connection, candidates: Sequence[int], before: float) -> dict[int, tuple[str, int]]:
        """Return key and size of those that may still be deleted, with nobody else at work on them."""
        mine = list(
            connection.scalars(
                select(instance.c.id)
                .where(instance.c.id.in_(candidates))
                .order_by(instance.c.id)
                .with_for_update(skip_locked=True)
            )
        )
        # Looked at once more: somebody may have asked for them to be sent again meanwhile.
        query = (
            select(instance.c.id, instance.c.key, instance.c.size)
            .join(arrival, arrival.c.id == instance.c.arrival_id)
            .where(instance.c.id.in_(mine), is_deletable(before, self._committing))
        )
        return {row.id: (row.key, row.size) for row in connection.execute(query)}


_CONCLUDED = (ArrivalState.ENHANCED.value, ArrivalState.PASSED_THROUGH.value)
# Sent, and where commitment is asked for committed: what is on its way there is neither. What was left of a rerouted
# delivery is left to another one of the same arrival; what it had sent has to be committed like the rest.
_RELEASED = (DeliveryState.SENT.value, DeliveryState.COMMITTED.value, DeliveryState.REROUTED.value)


def is_deletable(before: float, committing: Collection[str] = ()) -> ColumnElement[bool]:
    """Return the condition under which an object may be deleted, for a query of `instance` joined with `arrival`.

    Everything that retention deletes, early or not, passes here: the object lies in the store, its arrival is
    concluded and has deliveries, each of them ended well before that time, and no delivery of any arrival has it
    still to send, refused or cancelled. `committing` are the destinations, by name, that are asked for commitment: they
    have what they have committed.
    """
    uncommitted = delivery.c.destination.in_(list(committing)) & (
        (delivery.c.state == DeliveryState.SENT.value)
        | ((delivery.c.state == DeliveryState.REROUTED.value) & has_uncommitted())
    )
    not_released = exists().where(
        delivery.c.arrival_id == arrival.c.id,
        delivery.c.state.not_in(_RELEASED)
        | uncommitted
        | (delivery.c.finished_at > before)
        | delivery.c.finished_at.is_(None),
    )
    carrier = delivery.alias("carrier")
    still_wanted = exists().where(
        delivery_item.c.instance_id == instance.c.id,
        delivery_item.c.delivery_id == carrier.c.id,
        (delivery_item.c.state != ItemState.SENT.value) | carrier.c.state.not_in(_RELEASED),
    )
    return and_(
        instance.c.state == InstanceState.STORED.value,
        arrival.c.state.in_(_CONCLUDED),
        # Nothing is delivered of what another object stands for.
        exists().where(delivery.c.arrival_id == arrival.c.id) | instance.c.same_as_id.is_not(None),
        ~not_released,
        ~still_wanted,
    )
