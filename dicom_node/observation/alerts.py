"""Bringing a message of an alarm to somebody: by a webhook or by mail."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Final

import httpx

from config.observation import AlertSettings
from dicom_node import __version__

_TITLES: Final[Mapping[str, str]] = {"raised": "ALARM", "reminder": "STILL", "resolved": "OVER", "test": "TEST"}


class NotBrought(Exception):
    """A message was not taken; the text says why, and what can be done."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """What is told.

    Attributes
    ----------
    event
        raised, reminder, resolved or test.
    key
        The same for each attempt at one message, so that who gets it twice can tell.
    since, at
        When the alarm was raised, and when this was written, in seconds since the epoch.
    """

    event: str
    alarm: str
    subject: str
    sentence: str
    node: str
    machine: str
    key: str
    since: float
    at: float

    def as_json(self) -> dict[str, Any]:
        """Return the object that a webhook gets."""
        return {
            "event": self.event,
            "alarm": self.alarm,
            "subject": self.subject,
            "sentence": self.sentence,
            "node": self.node,
            "machine": self.machine,
            "since": _iso(self.since),
            "at": _iso(self.at),
            "key": self.key,
        }


def trial_notice(node: str, now: float) -> Notice:
    """Return what `dicom-node alert test` tells."""
    return Notice(
        event="test",
        alarm="test",
        subject="",
        sentence="This is a trial of the alerts; nothing is wrong.",
        node=node,
        machine=socket.gethostname(),
        key=f"{node}-test-{now:.0f}",
        since=now,
        at=now,
    )


def bring(alert: AlertSettings, notice: Notice) -> None:
    """Bring a message; returns when the other side has taken it.

    Raises
    ------
    NotBrought
        If it has not.
    """
    if alert.kind == "webhook":
        _post(alert, notice)
    else:
        _mail(alert, notice)


def _post(alert: AlertSettings, notice: Notice) -> None:
    headers = {"User-Agent": f"dicom-node/{__version__}", "Idempotency-Key": notice.key}
    if alert.token_file is not None:
        headers["Authorization"] = f"Bearer {_secret(alert.token_file)}"
    try:
        with httpx.Client(verify=_trust(alert), timeout=alert.timeout_s, follow_redirects=False) as client:
            response = client.post(alert.url, json=notice.as_json(), headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotBrought(f"{alert.url} does not answer ({_kind(error)})") from error
    if not response.is_success:
        raise NotBrought(f"{alert.url} answers HTTP {response.status_code}")


def _mail(alert: AlertSettings, notice: Notice) -> None:
    where = f"{alert.host}:{alert.port}"
    try:
        with _session(alert) as session:
            if alert.security == "starttls":
                session.starttls(context=_trust(alert))
            if alert.username and alert.password_file is not None:
                session.login(alert.username, _secret(alert.password_file))
            refused = session.send_message(_letter(alert, notice))
    except smtplib.SMTPAuthenticationError as error:
        raise NotBrought(f"{where} does not take the user name or password") from error
    except smtplib.SMTPNotSupportedError as error:
        raise NotBrought(f"{where} does not offer what security or username ask for ({error})") from error
    except smtplib.SMTPRecipientsRefused as error:
        raise NotBrought(f"{where} refuses every recipient") from error
    except smtplib.SMTPResponseException as error:
        raise NotBrought(f"{where} answers {error.smtp_code}") from error
    except (smtplib.SMTPException, OSError) as error:
        raise NotBrought(f"{where} does not answer ({_kind(error)})") from error
    if refused:
        raise NotBrought(f"{where} refuses {len(refused)} of {len(alert.recipients)} recipients")


def _session(alert: AlertSettings) -> smtplib.SMTP:
    if alert.security == "tls":
        return smtplib.SMTP_SSL(alert.host, alert.port, timeout=alert.timeout_s, context=_trust(alert))
    return smtplib.SMTP(alert.host, alert.port, timeout=alert.timeout_s)


def _letter(alert: AlertSettings, notice: Notice) -> EmailMessage:
    letter = EmailMessage()
    title = _TITLES[notice.event]
    letter["Subject"] = f"[{notice.node}] {title}: {_one_line(notice.sentence)[:120]}"
    letter["From"] = str(alert.sender)
    letter["To"] = ", ".join(alert.recipients)
    letter["Date"] = format_datetime(datetime.fromtimestamp(notice.at, UTC))
    letter["Message-ID"] = f"<{notice.key}@{alert.sender and alert.sender.split('@')[1]}>"
    # RFC 3834: out-of-office replies to it are not wanted.
    letter["Auto-Submitted"] = "auto-generated"
    letter["X-Alarm"] = f"{notice.alarm} {notice.event}"
    lines = [notice.sentence, "", f"Alarm:   {notice.alarm} {notice.subject}".rstrip()]
    lines += [f"Since:   {_iso(notice.since)}", f"Node:    {notice.node}", f"Machine: {notice.machine}", ""]
    lines += ["dicom-node status -c FILE shows what is on now; dicom-node alert list what was told.", ""]
    letter.set_content("\n".join(lines))
    return letter


def _trust(alert: AlertSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if alert.ca_file is None else str(alert.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise NotBrought(f"{alert.ca_file} can't be used as ca_file ({_kind(error)})") from error


def _secret(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotBrought(f"{file} can't be read ({_kind(error)}): give it to the node's user") from error


def _kind(error: BaseException) -> str:
    # What a server or a library says may quote what it was sent.
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
