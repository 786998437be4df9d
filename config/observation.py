"""The settings of what tells the outside how the node is: metrics, alarms, alerts, audit messages, traces."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class AlarmKind(enum.StrEnum):
    """What an operator has to look after; the names are kept."""

    DEAD_LETTER = "dead_letter"
    DESTINATION_DOWN = "destination_down"
    SOURCE_SILENT = "source_silent"
    DISK = "disk"
    GUARD_RATE = "guard_rate"
    DEADLINE_RATE = "deadline_rate"
    CERTIFICATE = "certificate"
    OBJECT_DAMAGED = "object_damaged"
    NO_COMMITMENT = "no_commitment"
    NO_ROUTE = "no_route"
    NO_MODEL = "no_model"
    PROCESS_DOWN = "process_down"
    LEDGER_UNAVAILABLE = "ledger_unavailable"


ALARM_MEANINGS: dict[AlarmKind, str] = {
    AlarmKind.DEAD_LETTER: "A destination refused something for good, or deliveries were given up.",
    AlarmKind.DESTINATION_DOWN: "A destination has not answered for alarms.destination_down_s.",
    AlarmKind.SOURCE_SILENT: "A source with silent_after_h has opened no association for that long.",
    AlarmKind.DISK: "A disk is above its high watermark, or will be within alarms.disk_full_in_h.",
    AlarmKind.GUARD_RATE: "The guards refused alarms.guard_percent of the last alarms.guard_images images.",
    AlarmKind.DEADLINE_RATE: "alarms.deadline_percent of the last alarms.deadline_series series were late.",
    AlarmKind.CERTIFICATE: "A certificate of the settings expires within tls.warn_days, is expired or can't be read.",
    AlarmKind.OBJECT_DAMAGED: "A stored object is missing, damaged or can't be read.",
    AlarmKind.NO_COMMITMENT: "A destination has not committed in time, and is not asked any more.",
    AlarmKind.NO_ROUTE: "A series is kept because no route takes it.",
    AlarmKind.NO_MODEL: "A worker has no usable model: every image is passed through.",
    AlarmKind.PROCESS_DOWN: "A process of this machine does not run, does not answer, or says that it does not work.",
    AlarmKind.LEDGER_UNAVAILABLE: "The ledger can't be read.",
}
"""Each kind of alarm in one sentence."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricsSettings(_Table):
    """Where `/metrics`, `/healthz` and `/readyz` are served by HTTP, one listener on each machine."""

    bind: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address on which they are served, to anybody who reaches it: there is no log-in, and nothing of "
        "a patient.",
    )
    port: int = Field(9104, ge=0, le=65535, description="TCP port on which they are served; 0: not at all.")


class AlarmSettings(_Table):
    """From when on something is an alarm in status, metrics and alerts."""

    destination_down_s: float = Field(
        300.0, ge=0, le=604_800, description="Time that a destination must be down before that is an alarm, in seconds."
    )
    disk_full_in_h: float = Field(
        12.0,
        ge=0,
        le=8760,
        description="Time in which a disk would reach its high watermark, if it goes on like this, that is an alarm, "
        "in hours; 0: only the watermark itself.",
    )
    guard_images: int = Field(
        50, ge=5, le=10_000, description="Images over which the share refused by the guards is counted, the last ones."
    )
    guard_percent: float = Field(
        50.0, gt=0, le=100, description="Share of them that the guards refused which is an alarm, in percent."
    )
    deadline_series: int = Field(
        20, ge=5, le=10_000, description="Series over which missed deadlines are counted, the last ones."
    )
    deadline_percent: float = Field(
        20.0, gt=0, le=100, description="Share of them that was late which is an alarm, in percent."
    )


def _web_address(value: str) -> str:
    if not value:
        return value
    parts = urlsplit(value.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError('an address such as "https://alerts.hospital.example/node"')
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address without user and password; use token_file")
    return value.strip()


def _mail_address(value: str) -> str:
    if not re.fullmatch(r"[^\s@<>,;\x00-\x1f]+@[^\s@<>,;\x00-\x1f]+", value.strip()):
        raise ValueError('a mail address such as "pacs-admin@hospital.example"')
    return value.strip()


MailAddress = Annotated[str, AfterValidator(_mail_address)]


class AlertSettings(_Table):
    """Who is told of alarms, by a webhook or by mail. `dicom-node alert test` tries each."""

    name: str = Field(..., pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Name of this way of telling.")
    kind: Literal["webhook", "email"] = Field(
        ..., description="webhook: a JSON object by HTTP POST to url; email: by SMTP."
    )
    alarms: tuple[AlarmKind, ...] = Field((), description="Kinds of alarm that are told; empty: all.")
    repeat_h: float = Field(
        24.0, ge=0, le=8760, description="Time after which an alarm that lasts is told again, in hours; 0: never."
    )
    resolved: bool = Field(True, description="Also tell when an alarm is over.")
    give_up_h: float = Field(
        24.0, gt=0, le=8760, description="Time for which a message that can't be brought is tried again, in hours."
    )
    timeout_s: float = Field(10.0, gt=0, le=120, description="Longest wait for each answer of the server, in seconds.")
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) of the authorities that are trusted; none: those of the system."
    )
    url: Annotated[str, AfterValidator(_web_address)] = Field("", description="webhook: address that takes the POST.")
    token_file: Path | None = Field(None, description="webhook: file with a bearer token; read anew for every message.")
    host: str = Field("", max_length=253, description="email: host of the SMTP server.")
    port: int = Field(587, ge=1, le=65535, description="email: TCP port of the SMTP server.")
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="email: starttls, tls (from the first byte, port 465) or none."
    )
    username: str = Field("", max_length=253, description="email: user to log in with; empty: no log-in.")
    password_file: Path | None = Field(None, description="email: file with the password of username.")
    sender: MailAddress | None = Field(None, description="email: address in From.")
    recipients: tuple[MailAddress, ...] = Field((), description="email: addresses in To.")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.kind == "webhook" and not self.url:
            raise ValueError('url with kind = "webhook"')
        if self.kind == "email" and not (self.host and self.sender and self.recipients):
            raise ValueError('host, sender and recipients with kind = "email"')
        if bool(self.username) != (self.password_file is not None):
            raise ValueError("username and password_file together, or neither")
        if self.username and self.security == "none":
            raise ValueError('security = "starttls" or "tls" with username: the password would go in the clear')
        return self


class AuditSettings(_Table):
    """DICOM audit messages (PS3.15 A.5, IHE ATNA): a hash-chained file, and from there to a syslog server."""

    enabled: bool = Field(
        False, description="Write audit messages. They name users, hosts and studies, and patients where patients says."
    )
    patients: bool = Field(
        False,
        description="Name the patient by Patient ID, as the standard asks; false: by the study alone. The files are "
        "then as sensitive as the images.",
    )
    rotate_mb: int = Field(64, ge=1, le=10_000, description="Size at which a new file is begun, in megabytes.")
    keep_days: int = Field(3650, ge=1, le=36_500, description="Time for which files are kept that were sent, in days.")
    host: str = Field("", max_length=253, description="Host of the syslog server; empty: the file alone.")
    port: int = Field(6514, ge=1, le=65535, description="Port of the syslog server.")
    transport: Literal["tls", "udp"] = Field(
        "tls", description="tls (RFC 5425) or udp (RFC 5426: what is lost on the way nobody notices)."
    )
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) of the authorities of the server; none: those of the system."
    )
    certificate: Path | None = Field(None, description="Certificate (PEM) that we show the server.")
    key: Path | None = Field(None, description="Private key (PEM, no passphrase) of certificate.")
    site: str = Field("", max_length=64, description="Audit Enterprise Site ID in every message; empty: none.")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key together, or neither")
        return self


class TracingSettings(_Table):
    """OpenTelemetry traces (extra `tracing`): one trace for each study, from association to commitment."""

    endpoint: Annotated[str, AfterValidator(_web_address)] = Field(
        "",
        description='OTLP/HTTP address that takes traces, such as "http://127.0.0.1:4318/v1/traces"; empty: none are '
        "made.",
    )
    sample_percent: float = Field(
        100.0, ge=0, le=100, description="Share of the studies whose traces are sent, in percent."
    )
