"""What studies are found by: written when a series is opened, never for each object."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, select

from dicom_node.ledger.schema import association, study, study_term
from dicom_node.ledger.upserts import upsert

SENDER: Final = "sender"


def index_study(
    connection: Connection,
    study_instance_uid: str,
    *,
    terms: tuple[tuple[str, str], ...],
    association_id: int,
    now: float,
) -> None:
    """Note that a series of a study was opened, by whom, and what the study can be searched by."""
    row = upsert(connection, study).values(study_instance_uid=study_instance_uid, first_at=now, last_at=now)
    study_id = connection.scalar(
        row.on_conflict_do_update(
            index_elements=[study.c.study_instance_uid], set_={"last_at": row.excluded.last_at}
        ).returning(study.c.id)
    )
    sender = connection.scalar(select(association.c.calling_ae_title).where(association.c.id == association_id))
    rows = [
        {"study_id": study_id, "kind": kind, "value": value}
        for kind, value in (*terms, (SENDER, sender))
        if value is not None
    ]
    if rows:
        connection.execute(upsert(connection, study_term).on_conflict_do_nothing(), rows)
