"""Warns in the log, once a day, of certificates that expire soon, are expired, or can't be read any more."""

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


def warnings_of(found: list[Expiry], warn_days: int) -> list[tuple[int, Expiry]]:
    """Return what is to be logged and at which level: an error for what does not hold any more, else a warning."""
    wanted = []
    for expiry in found:
        if expiry.problem:
            wanted.append((logging.ERROR, expiry))
        elif expiry.days_left is not None and expiry.days_left < warn_days:
            wanted.append((logging.WARNING, expiry))
    return wanted


def expiring_soon(settings: Settings, now: float) -> list[str]:
    """Return one sentence for each certificate that `dicom-node check` is to warn of."""
    found = warnings_of(expiries(settings, now), settings.tls.warn_days)
    return [f"{expiry.setting}: {expiry.sentence or expiry.problem}" for _, expiry in found]


def log_expiries(settings: Settings, now: float) -> None:
    """Log what `warnings_of` finds at this time."""
    for level, expiry in warnings_of(expiries(settings, now), settings.tls.warn_days):
        if level == logging.ERROR:
            sentence = "Certificate is expired or can't be read: renew it"
        else:
            sentence = "Certificate expires soon: renew it"
        log.log(
            level,
            sentence,
            extra={
                "setting": expiry.setting,
                "file": expiry.path,
                "days_left": expiry.days_left,
                "reason": expiry.sentence or expiry.problem,
            },
        )


@contextmanager
def watched_certificates(settings: Settings) -> Iterator[None]:
    """Look after the certificates of the settings for as long as the block runs, first at once."""
    ended = threading.Event()

    def watch() -> None:
        while True:
            log_expiries(settings, time.time())
            if ended.wait(PERIOD_S):
                return

    thread = threading.Thread(target=watch, name="certificates", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5.0)
