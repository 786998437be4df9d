"""Which objects may be deleted: only those that every destination of their route has."""

from __future__ import annotations

from sqlalchemy import exists, select

from dicom_node.ledger.database import Database, change_state
from dicom_node.ledger.schema import arrival, delivery, instance
from dicom_node.states import DELIVERED, INSTANCE, ArrivalState, InstanceState

_BATCH = 500


class RetentionLedger:
    """The side of the ledger that lets objects go."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def purge_delivered(self, keep_s: float) -> list[str]:
        """Mark what has been delivered everywhere for `keep_s` seconds as purged; returns the keys to delete.

        An arrival with any delivery that is pending, held, refused or abandoned keeps all its objects. The rows
        stay, so a later resend of the same object is known. A file whose deletion fails after this is an orphan,
        which `verify` names.
        """
        before = self._database.now() - keep_s
        delivered = [state.value for state in DELIVERED]
        open_delivery = exists().where(
            delivery.c.arrival_id == arrival.c.id,
            delivery.c.state.not_in(delivered) | (delivery.c.finished_at > before) | delivery.c.finished_at.is_(None),
        )
        query = (
            select(instance.c.id, instance.c.key)
            .join(arrival, arrival.c.id == instance.c.arrival_id)
            .where(
                instance.c.state == InstanceState.STORED.value,
                arrival.c.state.in_([ArrivalState.ENHANCED.value, ArrivalState.PASSED_THROUGH.value]),
                # Nothing is delivered of what another object stands for.
                exists().where(delivery.c.arrival_id == arrival.c.id) | instance.c.same_as_id.is_not(None),
                ~open_delivery,
            )
            .order_by(instance.c.id)
            .limit(_BATCH)
        )
        with self._database.write() as connection:
            rows = connection.execute(query).all()
            for row in rows:
                change_state(
                    connection,
                    instance,
                    row.id,
                    INSTANCE,
                    InstanceState,
                    "purge",
                    at=self._database.now(),
                    reason="retention",
                )
        return [row.key for row in rows]
