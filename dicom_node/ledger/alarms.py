"""The ledger of alarms: which are on, who was told, and what is still to be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, delete, func, insert, or_, select, update

from config.observation import AlarmKind, AlertSettings
from dicom_node.ledger.database import ALERTING, Database, cut
from dicom_node.ledger.schema import alarm, alert_message
from dicom_node.observation.alarms import Alarm

RESOLVED_AFTER_S: Final = 60.0
"""Time that an alarm has to be gone before it is over: one that comes and goes is one alarm."""
FORGOTTEN_AFTER_S: Final = 86_400.0
"""Time after which what a machine saw that is not heard of any more is over."""
KEEP_S: Final = 90 * 86_400.0
_FIRST_DELAY_S: Final = 10.0
_LONGEST_DELAY_S: Final = 900.0
_LEASE_S: Final = 300.0
_OF_A_MACHINE: Final = frozenset({AlarmKind.DISK, AlarmKind.CERTIFICATE, AlarmKind.NO_MODEL, AlarmKind.PROCESS_DOWN})


@dataclass(frozen=True, kw_only=True)
class ActiveAlarm:
    """An alarm as the ledger knows it; times in seconds since the epoch."""

    alarm_id: int
    kind: str
    subject: str
    machine: str
    sentence: str
    since: float
    resolved_at: float | None


@dataclass(frozen=True, kw_only=True)
class Message:
    """What one alert is to tell, or has told, of an alarm."""

    message_id: int
    alert: str
    event: str
    kind: str
    subject: str
    machine: str
    sentence: str
    since: float
    created_at: float
    attempts: int
    sent_at: float | None = None
    next_attempt_at: float | None = None
    reason: str | None = None


class AlarmLedger:
    """The side of the ledger that alerts; every process that looks for alarms may work on it at once.

    Parameters
    ----------
    machine
        Host name of this machine.
    """

    def __init__(self, database: Database, machine: str) -> None:
        self._database = database
        self._machine = machine

    def note(self, found: Sequence[Alarm], alerts: Sequence[AlertSettings]) -> None:
        """Take what this machine found: raise what is new, resolve what is gone, and write what is to be told.

        Who is told of an alarm is decided by what was told since it was raised, so that nobody is told twice by two
        processes or after a restart, and somebody who is added to the settings is told of what lasts.
        """
        with self._database.exclusively(ALERTING) as is_ours:
            if not is_ours:
                return
            now = self._database.now()
            with self._database.write() as connection:
                known = {(row.kind, row.subject, row.machine): row for row in connection.execute(_open())}
                for one in found:
                    where = self._machine if one.kind in _OF_A_MACHINE else ""
                    row = known.pop((one.kind.value, one.subject[:255], where), None)
                    number = self._write(connection, one, where, row, now)
                    self._tell(connection, number, one, alerts, since=now if row is None else row.since, now=now)
                for row in known.values():
                    is_mine = row.machine in ("", self._machine)
                    if now - row.seen_at >= (RESOLVED_AFTER_S if is_mine else FORGOTTEN_AFTER_S):
                        self._resolve(connection, row, alerts, now)

    def _write(self, connection: Connection, one: Alarm, machine: str, row: Row[Any] | None, now: float) -> int:
        sentence = cut(one.sentence)
        if row is not None:
            number: int = row.id
            connection.execute(update(alarm).where(alarm.c.id == number).values(seen_at=now, sentence=sentence))
            return number
        values = {"kind": one.kind.value, "subject": one.subject[:255], "machine": machine, "sentence": sentence}
        return int(
            connection.execute(
                insert(alarm).returning(alarm.c.id), {**values, "since": now, "seen_at": now}
            ).scalar_one()
        )

    def _tell(
        self,
        connection: Connection,
        number: int,
        one: Alarm,
        alerts: Sequence[AlertSettings],
        *,
        since: float,
        now: float,
    ) -> None:
        told = _told(connection, number)
        for alert in alerts:
            if alert.alarms and one.kind not in alert.alarms:
                continue
            last = told.get(alert.name)
            if last is None:
                _insert(connection, alert.name, number, "raised", one.sentence, now)
            elif alert.repeat_h and now - max(last, since) >= alert.repeat_h * 3600:
                _insert(connection, alert.name, number, "reminder", one.sentence, now)

    def _resolve(self, connection: Connection, row: Row[Any], alerts: Sequence[AlertSettings], now: float) -> None:
        connection.execute(update(alarm).where(alarm.c.id == row.id).values(resolved_at=now))
        told = _told(connection, row.id)
        # What was not brought yet would come after it is over, and then this would too.
        connection.execute(
            update(alert_message)
            .where(
                alert_message.c.alarm_id == row.id,
                alert_message.c.event == "reminder",
                alert_message.c.next_attempt_at.is_not(None),
            )
            .values(next_attempt_at=None, reason="over before it was told")
        )
        for alert in alerts:
            if alert.resolved and alert.name in told:
                _insert(connection, alert.name, row.id, "resolved", row.sentence, now)

    # -- telling --------------------------------------------------------------------------------

    def take(self, alert: str) -> Message | None:
        """Take the oldest message that an alert is to tell now; it is given to nobody else for a while."""
        now = self._database.now()
        due = (alert_message.c.alert == alert) & (alert_message.c.next_attempt_at <= now)
        with self._database.read() as connection:
            if connection.scalar(select(func.count()).select_from(alert_message).where(due)) == 0:
                return None
        with self._database.write() as connection:
            number = connection.scalar(select(func.min(alert_message.c.id)).where(due))
            if number is None:
                return None
            taken = connection.execute(
                update(alert_message)
                .where(due, alert_message.c.id == number)
                .values(next_attempt_at=now + _LEASE_S, attempts=alert_message.c.attempts + 1)
            )
            if taken.rowcount != 1:
                return None
            return _message(connection.execute(_messages().where(alert_message.c.id == number)).one())

    def settle(self, message: Message, failure: str | None, *, give_up_s: float) -> bool:
        """Write whether a message was brought; where not, when it is tried again. False if it is given up."""
        now = self._database.now()
        delay_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(message.attempts - 1, 20))
        over = failure is not None and now - message.created_at >= give_up_s
        values: dict[str, object] = {"reason": cut(failure), "next_attempt_at": None if over else now + delay_s}
        if failure is None:
            values = {"reason": None, "next_attempt_at": None, "sent_at": now}
        with self._database.write() as connection:
            connection.execute(update(alert_message).where(alert_message.c.id == message.message_id).values(**values))
        return not over

    def forget(self, names: Sequence[str]) -> None:
        """Give up what alerts were to tell that are not in the settings any more, and delete what is long over."""
        now = self._database.now()
        with self._database.write() as connection:
            connection.execute(
                update(alert_message)
                .where(alert_message.c.next_attempt_at.is_not(None), alert_message.c.alert.not_in(list(names)))
                .values(next_attempt_at=None, reason="no longer in the settings")
            )
            old = select(alarm.c.id).where(alarm.c.resolved_at < now - KEEP_S)
            connection.execute(delete(alert_message).where(alert_message.c.alarm_id.in_(old)))
            connection.execute(delete(alarm).where(alarm.c.resolved_at < now - KEEP_S))

    # -- reading --------------------------------------------------------------------------------

    def alarms(self, *, since: float | None = None) -> list[ActiveAlarm]:
        """Return the alarms that are on, the oldest first; with `since` also those that were over after that time."""
        is_on = alarm.c.resolved_at.is_(None)
        condition = is_on if since is None else or_(is_on, alarm.c.resolved_at >= since)
        with self._database.read() as connection:
            return [
                ActiveAlarm(
                    alarm_id=row.id,
                    kind=row.kind,
                    subject=row.subject,
                    machine=row.machine,
                    sentence=row.sentence,
                    since=row.since,
                    resolved_at=row.resolved_at,
                )
                for row in connection.execute(select(alarm).where(condition).order_by(alarm.c.since, alarm.c.id))
            ]

    def messages(self, limit: int = 50) -> list[Message]:
        """Return the last messages, the newest first."""
        with self._database.read() as connection:
            query = _messages().order_by(alert_message.c.id.desc()).limit(limit)
            return [_message(row) for row in connection.execute(query)]


def _open() -> Select[Any]:
    return select(alarm).where(alarm.c.resolved_at.is_(None))


def _told(connection: Connection, number: int) -> Mapping[str, float]:
    rows = connection.execute(
        select(alert_message.c.alert, func.max(alert_message.c.created_at))
        .where(alert_message.c.alarm_id == number)
        .group_by(alert_message.c.alert)
    )
    return {row[0]: row[1] for row in rows}


def _insert(connection: Connection, alert: str, number: int, event: str, sentence: str, now: float) -> None:
    values = {"alert": alert, "alarm_id": number, "event": event, "sentence": cut(sentence), "created_at": now}
    connection.execute(insert(alert_message), {**values, "attempts": 0, "next_attempt_at": now})


def _messages() -> Select[Any]:
    columns = (alarm.c.kind, alarm.c.subject, alarm.c.machine, alarm.c.since)
    return select(alert_message, *columns).join(alarm, alarm.c.id == alert_message.c.alarm_id)


def _message(row: Row[Any]) -> Message:
    fields = dict(row._mapping)
    fields.pop("alarm_id")
    return Message(message_id=fields.pop("id"), **fields)
