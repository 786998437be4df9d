"""The audit of the console: who did what, from where, and how it ended; rows are only ever appended."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from dicom_node.ledger.database import Database, cut
from dicom_node.ledger.schema import console_audit

PAGE = 100


class AuditResult(enum.StrEnum):
    """How what a user did ended."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class AuditLine:
    """One thing that a user did."""

    number: int
    at: float
    user: str
    address: str
    action: str
    subject: str | None
    result: AuditResult
    reason: str | None


class AuditLedger:
    """The side of the ledger that keeps what users did."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        *,
        user: str,
        address: str,
        action: str,
        subject: str | None = None,
        result: AuditResult = AuditResult.DONE,
        reason: str | None = None,
    ) -> None:
        """Append what a user did; no attribute of a patient belongs in any of it."""
        with self._database.write() as connection:
            connection.execute(
                insert(console_audit),
                {
                    "at": self._database.now(),
                    "user_name": user[:128],
                    "address": address[:64],
                    "action": action[:48],
                    "subject": None if subject is None else (cut(subject) or "")[:255],
                    "result": result.value,
                    "reason": cut(reason),
                },
            )

    def lines(
        self, *, before: int | None = None, user: str | None = None, action: str | None = None, limit: int = PAGE
    ) -> list[AuditLine]:
        """Return what users did, the latest first, below number `before`."""
        query = select(console_audit).order_by(console_audit.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(console_audit.c.id < before)
        if user:
            query = query.where(console_audit.c.user_name == user)
        if action:
            query = query.where(console_audit.c.action == action)
        with self._database.read() as connection:
            return [
                AuditLine(
                    number=row.id,
                    at=row.at,
                    user=row.user_name,
                    address=row.address,
                    action=row.action,
                    subject=row.subject,
                    result=AuditResult(row.result),
                    reason=row.reason,
                )
                for row in connection.execute(query)
            ]

    def actions(self) -> list[str]:
        """Return what users ever did, by name."""
        query = select(console_audit.c.action).distinct().order_by(console_audit.c.action)
        with self._database.read() as connection:
            return list(connection.scalars(query.limit(200)))

    def expire(self, keep_s: float) -> int:
        """Remove what is older than `keep_s` seconds; returns how many rows."""
        with self._database.write() as connection:
            return connection.execute(
                delete(console_audit).where(console_audit.c.at < self._database.now() - keep_s)
            ).rowcount
