"""The threads that look for alarms and tell of them, one of each way of telling, so that a slow one delays no other."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from config.observation import AlarmKind, AlertSettings
from dicom_node.errors import NodeError
from dicom_node.ledger.alarms import AlarmLedger, Message
from dicom_node.observation.alarms import Alarm
from dicom_node.observation.alerts import NotBrought, Notice, bring

log = logging.getLogger(__name__)

LOOK_S: Final = 10.0
TELL_S: Final = 2.0
_FORGET_S: Final = 3600.0
OUTAGE_S: Final = 60.0
"""Time that the ledger must be away before that is told, which then nobody can write down."""


class AlertWatch:
    """Looks for alarms and tells of them.

    Parameters
    ----------
    ledger
        Where they are written down: what was told survives a restart.
    find
        Returns the alarms that are on.
    alerts
        Who is told.
    node
        Name of the node.
    now
        Seconds since the epoch.
    monotonic
        Seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        ledger: AlarmLedger,
        find: Callable[[], Sequence[Alarm]],
        alerts: Sequence[AlertSettings],
        *,
        node: str,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._find = find
        self._alerts = alerts
        self._node = node
        self._now = now
        self._monotonic = monotonic
        self._forgotten_at: float | None = None
        self._away_since: float | None = None
        self._away_at = 0.0
        self._told_of_outage: dict[str, float] = {}

    # -- looking --------------------------------------------------------------------------------

    def look(self) -> None:
        """Look for alarms once."""
        found = list(self._find())
        away = next((one for one in found if one.kind is AlarmKind.LEDGER_UNAVAILABLE), None)
        if away is not None:
            self._tell_of_outage(away)
            return
        self._tell_of_end()
        self._ledger.note(found, self._alerts)
        if self._forgotten_at is None or self._monotonic() - self._forgotten_at >= _FORGET_S:
            self._ledger.forget([alert.name for alert in self._alerts])
            self._forgotten_at = self._monotonic()

    def _tell_of_outage(self, alarm: Alarm) -> None:
        if self._away_since is None:
            self._away_since, self._away_at = self._monotonic(), self._now()
        if self._monotonic() - self._away_since < OUTAGE_S:
            return
        for alert in self._alerts:
            if alert.alarms and alarm.kind not in alert.alarms:
                continue
            told_at = self._told_of_outage.get(alert.name)
            due = told_at is None or (alert.repeat_h and self._monotonic() - told_at >= alert.repeat_h * 3600)
            if due and self._bring_now(alert, "raised" if told_at is None else "reminder", alarm.sentence):
                self._told_of_outage[alert.name] = self._monotonic()

    def _tell_of_end(self) -> None:
        for alert in self._alerts:
            if alert.name in self._told_of_outage:
                if alert.resolved:
                    self._bring_now(alert, "resolved", "The ledger can be read again")
                del self._told_of_outage[alert.name]
        self._away_since = None

    def _bring_now(self, alert: AlertSettings, event: str, sentence: str) -> bool:
        notice = Notice(
            event=event,
            alarm=AlarmKind.LEDGER_UNAVAILABLE.value,
            subject="",
            sentence=sentence,
            node=self._node,
            machine=socket.gethostname(),
            key=f"{self._node}-outage-{self._away_at:.0f}-{event}",
            since=self._away_at,
            at=self._now(),
        )
        try:
            bring(alert, notice)
        except NotBrought as error:
            log.warning("Alert not brought", extra={"alert": alert.name, "reason": str(error)})
            return False
        return True

    # -- telling --------------------------------------------------------------------------------

    def tell(self, alert: AlertSettings) -> int:
        """Bring what one alert is to tell now; returns how many messages were taken up."""
        taken = 0
        while (message := self._ledger.take(alert.name)) is not None:
            taken += 1
            failure = None
            try:
                bring(alert, self._notice(message))
            except NotBrought as error:
                failure = str(error)
            facts = {"alert": alert.name, "alarm": message.kind, "subject": message.subject, "event": message.event}
            if self._ledger.settle(message, failure, give_up_s=alert.give_up_h * 3600):
                level, sentence = (logging.INFO, "Alert brought") if failure is None else (logging.WARNING, _AGAIN)
            else:
                level, sentence = logging.ERROR, "Alert given up"
            log.log(level, sentence, extra={**facts, "attempt": message.attempts, "reason": failure})
            if failure is not None:
                # Its server is away: what waits behind this message would fare no better.
                break
        return taken

    def _notice(self, message: Message) -> Notice:
        return Notice(
            event=message.event,
            alarm=message.kind,
            subject=message.subject,
            sentence=message.sentence,
            node=self._node,
            machine=message.machine or socket.gethostname(),
            key=f"{self._node}-alert-{message.message_id}",
            since=message.since,
            at=message.created_at,
        )

    # -- threads --------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look and tell for as long as the block runs."""
        ended = threading.Event()
        loops: list[tuple[str, Callable[[], object], float]] = [("alarms", self.look, LOOK_S)]
        loops += [(f"alert {one.name}", lambda one=one: self.tell(one), TELL_S) for one in self._alerts]  # type: ignore[misc]
        for name, act, period_s in loops:
            threading.Thread(target=_repeat, args=(ended, name, act, period_s), name=name, daemon=True).start()
        try:
            yield
        finally:
            ended.set()


_AGAIN: Final = "Alert not brought, tried again"


def _repeat(ended: threading.Event, name: str, act: Callable[[], object], period_s: float) -> None:
    said = ""
    # The processes come up first: they would all be found missing.
    while not ended.wait(period_s):
        reason = ""
        try:
            act()
        except (NodeError, SQLAlchemyError) as error:
            reason = str(error).splitlines()[0]
            if reason != said:
                log.warning("Alarms could not be looked after", extra={"job": name, "reason": reason})
        except Exception:
            # The top of a loop: the next round tries again.
            log.exception("An unforeseen error while looking after alarms", extra={"job": name})
        said = reason
