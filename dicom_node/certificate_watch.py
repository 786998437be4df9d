"""Warns in the log, once a day, of certificates and revocation lists that end soon, are past, or can't be read."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from config.settings import Settings
from dicom_node.certificates import Expiry, expiries

log = logging.getLogger(__name__)

PERIOD_S: Final = 86_400.0
"""How often the same is said."""
LOOK_S: Final = 900.0
"""How often is looked: a list that becomes overdue refuses every peer from that moment on."""

_SENTENCES: Final = {
    (False, logging.ERROR): "Certificate is expired or can't be read: renew it",
    (False, logging.WARNING): "Certificate expires soon: renew it",
    (True, logging.ERROR): "Revocation list is overdue or can't be read: peers are refused until a valid one is there",
    (True, logging.WARNING): "Revocation list is due soon: put the next one in its place",
}


def warnings_of(found: list[Expiry], warn_days: int) -> list[tuple[int, Expiry]]:
    """Return what is to be logged and at which level: an error for what does not hold any more, else a warning."""
    wanted = []
    for expiry in found:
        if expiry.problem:
            wanted.append((logging.ERROR, expiry))
        elif expiry.ends_soon(warn_days):
            wanted.append((logging.WARNING, expiry))
    return wanted


def expiring_soon(settings: Settings, now: float) -> list[str]:
    """Return one sentence for each certificate or list that `dicom-node check` is to warn of."""
    found = warnings_of(expiries(settings, now), settings.tls.warn_days)
    return [f"{expiry.setting}: {expiry.sentence or expiry.problem}" for _, expiry in found]


class CertificateWatch:
    """Tells the log what `warnings_of` finds: at once when it is new or worse, and again once a day."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._told: dict[tuple[str, int], float] = {}

    def look(self, now: float) -> None:
        """Look at every file, and log what was not said of it in the last day."""
        found = warnings_of(expiries(self._settings, now), self._settings.tls.warn_days)
        # What was put in order may go wrong again, and is news then.
        current = {(expiry.setting, level) for level, expiry in found}
        self._told = {key: at for key, at in self._told.items() if key in current}
        for level, expiry in found:
            key = (expiry.setting, level)
            if now - self._told.get(key, -PERIOD_S) < PERIOD_S:
                continue
            self._told[key] = now
            log.log(
                level,
                _SENTENCES[expiry.what == "crl", level],
                extra={
                    "setting": expiry.setting,
                    "file": expiry.path,
                    "days_left": expiry.days_left,
                    "reason": expiry.sentence or expiry.problem,
                },
            )


def log_expiries(settings: Settings, now: float) -> None:
    """Log everything that `warnings_of` finds at this time."""
    CertificateWatch(settings).look(now)


@contextmanager
def watched_certificates(settings: Settings) -> Iterator[None]:
    """Look after the certificates of the settings for as long as the block runs, first at once."""
    ended = threading.Event()
    watch = CertificateWatch(settings)

    def run() -> None:
        while True:
            watch.look(time.time())
            if ended.wait(LOOK_S):
                return

    thread = threading.Thread(target=run, name="certificates", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5.0)
