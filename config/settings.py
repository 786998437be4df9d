"""The schema of the settings file: every setting with its default, its unit and one sentence.

The commented example file and the settings page of the documentation are rendered from these models
(`config.example`), so a description written here is what a user reads.
"""

from __future__ import annotations

import difflib
import enum
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from config.attribute_paths import FORMS, is_keyword, parse_path
from config.conditions import Condition

FALLBACK = "fallback"
"""Name of the route that [fallback] stands for; no route of the settings may have it."""

STRENGTH_PRESETS = {"mild": 0.4, "standard": 0.7, "strong": 0.9}


def _ae_title(value: str) -> str:
    # PS3.5 6.2, VR AE: at most 16 characters, no control characters or backslash; outer spaces don't count.
    stripped = value.strip(" ")
    if not 1 <= len(stripped) <= 16:
        raise ValueError("an AE title of 1 to 16 characters")
    if not all(" " <= c <= "~" and c != "\\" for c in stripped):
        raise ValueError("an AE title of printable ASCII characters without backslash")
    return stripped


def _host_rule(value: str) -> str:
    text = value.strip()
    if text == "*":
        return text
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        if (
            "/" in text
            or re.fullmatch(r"[0-9.]+", text)
            or not re.fullmatch(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?", text)
        ):
            raise ValueError('an address, a network such as "10.1.0.0/16", a host name, or "*"') from None
    return text


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"each destination once; {name!r} is there {count} times")
    return names


def _certificate_rule(value: str) -> str:
    text = value.strip()
    digits = text.lower().removeprefix("sha256:").replace(":", "").replace(" ", "")
    if re.fullmatch(r"[0-9a-f]{64}", digits):
        return f"sha256:{digits}"
    if text.lower().startswith("sha256:") or not re.fullmatch(r"[^\x00-\x1f]{1,253}", text):
        raise ValueError('a name in the certificate, or "sha256:" and 64 hexadecimal digits of its fingerprint')
    return text


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise ValueError("1 to 64 letters, digits, dots, hyphens and underscores, the first a letter or digit")
    return value


AeTitle = Annotated[str, AfterValidator(_ae_title)]
HostRule = Annotated[str, AfterValidator(_host_rule)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Name = Annotated[str, AfterValidator(_name)]
CertificateRule = Annotated[str, AfterValidator(_certificate_rule)]
DestinationNames = Annotated[tuple[Name, ...], AfterValidator(_each_once)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeSettings(_Table):
    """Who this node is and where it keeps what it holds."""

    name: Name = Field("node", description="Name of this node in logs, in status and in the ledger.")
    ae_title: AeTitle = Field("LOWDOSE", description="AE title that modalities call, and that we call the PACS with.")
    bind: str = Field("0.0.0.0", min_length=1, description="Address on which the receiver listens.")
    port: Port = Field(11112, description="TCP port on which the receiver listens.")
    data_dir: Path = Field(
        Path("node-data"),
        description="Folder for received and derived objects and for the default databases; "
        "relative paths start at the settings file.",
    )
    database_url: str = Field(
        "",
        description='Ledger and workflow database: empty for SQLite files in data_dir, or "postgresql://user:password@host/db".',
    )
    identifier_key: Path | None = Field(
        None,
        description="File with the secret key by which patient IDs and accession numbers are hashed in the ledger; the "
        "same on every machine of a cluster. None: identifiers.key in data_dir, made at the first start.",
    )
    workers: int = Field(1, ge=0, le=64, description="Worker processes that this machine runs.")
    drain_s: Seconds = Field(
        30.0, description="Time that a stop waits for associations and images in progress, in seconds."
    )

    dead_after_s: float = Field(
        60.0,
        ge=3,
        le=3600,
        description="Silence after which a process is taken for dead and others take over its work, in seconds; "
        "the same on every machine of a cluster.",
    )

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if value and not re.match(r"^(sqlite|postgresql(\+psycopg)?)://", value):
            raise ValueError('empty, "sqlite:///PATH" or "postgresql://user:password@host/db"')
        return value


class ReceiverSettings(_Table):
    """What the receiver accepts at once, and how long it waits."""

    max_associations: int = Field(
        100, ge=1, le=10_000, description="Associations served at once; more are refused as a transient condition."
    )
    max_pdu_bytes: int = Field(
        1_048_576, ge=4096, le=134_217_728, description="Largest P-DATA PDU that we announce to peers, in bytes."
    )
    acse_timeout_s: Seconds = Field(30.0, description="Longest wait for the association request, in seconds.")
    network_timeout_s: Seconds = Field(
        60.0, description="Longest silence on an open association before it is aborted, in seconds."
    )
    max_object_mb: int = Field(
        4096,
        ge=1,
        le=1_048_576,
        description="Largest object that is taken, in megabytes; a larger one is answered A700.",
    )
    min_free_mb: int = Field(
        1024,
        ge=0,
        description="Free space of data_dir under which associations are refused as transient, in megabytes.",
    )


class TlsSettings(_Table):
    """DICOM over TLS towards senders; off unless a certificate is named."""

    certificate: Path | None = Field(
        None,
        description="PEM file with the node's certificate, and behind it those of intermediate authorities; relative "
        "paths start at the settings file. Read again when it changes. None: no TLS.",
    )
    key: Path | None = Field(
        None, description="PEM file with the private key of the certificate, without a password, for the node alone."
    )
    ca: Path | None = Field(
        None, description="PEM file with the authorities whose client certificates are accepted; no others are."
    )
    client_certificates: Literal["required", "optional", "none"] = Field(
        "required",
        description="Whether a sender must show a certificate (required), may (optional), or is not asked (none).",
    )
    port: Port = Field(2762, description="TCP port on which the receiver listens for TLS, beside node.port.")
    only: bool = Field(False, description="Listen for TLS alone: node.port is not opened.")
    min_version: Literal["1.2", "1.3"] = Field("1.2", description="Oldest version of TLS that is spoken: 1.2 or 1.3.")
    warn_days: int = Field(
        30,
        ge=0,
        le=3650,
        description="Days before a certificate expires, the node's or a destination's, from which on log, status and "
        "doctor warn.",
    )

    @property
    def enabled(self) -> bool:
        """Whether the receiver speaks TLS."""
        return self.certificate is not None

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key together, or neither")
        if self.only and not self.enabled:
            raise ValueError("only = true where certificate and key are set")
        if self.enabled and self.client_certificates != "none" and self.ca is None:
            raise ValueError(
                'ca, the file with the authorities of the senders\' certificates; or client_certificates = "none"'
            )
        return self


class PeerTlsSettings(_Table):
    """DICOM over TLS towards a destination; `tls = true` is short for a table of defaults."""

    enabled: bool = Field(
        False, description="Speak TLS with it, and nothing else; true too where anything else stands in this table."
    )
    ca: Path | None = Field(
        None,
        description="PEM file with the authorities that its certificate may come from, or with that certificate itself "
        "where it signed itself. None: those of the operating system.",
    )
    certificate: Path | None = Field(
        None, description="PEM file with the certificate that we show it. None: that of [tls], if there is one."
    )
    key: Path | None = Field(None, description="PEM file with the private key of that certificate.")
    check_name: bool = Field(
        True, description="Its certificate must be for its host (or server_name); false: for anybody whom ca signed."
    )
    server_name: str | None = Field(
        None, min_length=1, max_length=253, description="Name in its certificate, where that is not its host."
    )
    min_version: Literal["1.2", "1.3"] = Field("1.2", description="Oldest version of TLS that is spoken: 1.2 or 1.3.")

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: object) -> object:
        if isinstance(value, bool):
            return {"enabled": value}
        if isinstance(value, dict) and value and "enabled" not in value:
            return {"enabled": True, **value}
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key together, or neither")
        return self


class CommitmentSettings(_Table):
    """How a destination is asked for Storage Commitment of what it was sent, and who may bring its reports."""

    ae_title: AeTitle | None = Field(
        None, description="AE title of its Storage Commitment SCP, where it differs from the destination's."
    )
    host: str | None = Field(
        None, min_length=1, max_length=253, description="Host of its Storage Commitment SCP, where it differs."
    )
    port: Port | None = Field(None, description="TCP port of its Storage Commitment SCP, where it differs.")
    report_ae_titles: tuple[AeTitle, ...] = Field(
        (), description="Further AE titles that it brings reports with; the two above always may."
    )
    report_hosts: tuple[HostRule, ...] = Field(
        (), description='Further addresses, networks or host names that reports come from; "*" allows any.'
    )
    delay_s: float = Field(
        5.0, ge=0, le=86_400, description="Time between the last C-STORE of a delivery and the request, in seconds."
    )
    wait_s: float = Field(
        5.0,
        ge=0,
        le=600,
        description="Time that the association of the request is kept open for the report, in seconds; later it comes "
        "on an association that the destination opens.",
    )
    timeout_s: Seconds = Field(
        3600.0,
        description="Time without a report after which is asked again, under a new Transaction UID, in seconds; it "
        "doubles each time, up to a day.",
    )
    max_age_h: float = Field(
        72.0,
        gt=0,
        le=8760,
        description="Time without a commitment after which an alarm is raised and nothing is asked any more, in "
        "hours; the objects stay.",
    )
    max_references: int = Field(
        500, ge=1, le=100_000, description="SOP instances that one request names at most; more take several requests."
    )
    max_resends: int = Field(
        3,
        ge=0,
        le=100,
        description="Times that an object is sent again because its commitment failed, before it is a dead letter.",
    )


class SourceCommitmentSettings(_Table):
    """What a source that asks this node for Storage Commitment is answered, and where the answer goes."""

    ae_title: AeTitle | None = Field(
        None, description="AE title that takes the report; the one that the request was made with unless given."
    )
    host: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        description="Host that takes the report; the address that the request came from unless given.",
    )
    port: Port | None = Field(
        None,
        description="TCP port that takes the report, on an association that this node opens; without one it goes on "
        "the association of the request alone.",
    )
    same_association: bool = Field(
        False,
        description="Report on the association of the request first, where it is still open; always so without port.",
    )
    wait_s: Seconds = Field(
        86_400.0,
        description="Time that a request waits for objects that are still on their way, in seconds; what is not "
        "committed then is reported as failed.",
    )
    counts: Literal["committed", "sent"] = Field(
        "committed",
        description="What counts at a destination that is not asked for commitment itself: committed: nothing does, "
        "the answer is a failure; sent: that it answered the C-STORE with success.",
    )
    originals: Literal["required", "replaced"] = Field(
        "required",
        description="What counts for an original of which only the enhanced image was sent: required: a failure, the "
        "modality must keep it; replaced: the enhanced image stands for it, and nobody keeps the original.",
    )
    max_age_h: float = Field(
        72.0, gt=0, le=8760, description="Time that the report is tried to be brought, in hours; then an alarm."
    )


def _commitment(value: object) -> object:
    """Return a table for `true` and nothing for `false`."""
    return {} if value is True else None if value is False else value


class SourceSettings(_Table):
    """A modality (or another sender) that may store to this node; senders that match none are rejected."""

    name: Name = Field(..., description="Name of the source in logs and status.")
    ae_titles: tuple[AeTitle, ...] = Field(
        ..., min_length=1, description="Calling AE titles that belong to this source."
    )
    hosts: tuple[HostRule, ...] = Field(
        ("*",), min_length=1, description='Addresses, networks or host names it calls from; "*" allows any.'
    )
    commitment: Annotated[SourceCommitmentSettings | None, BeforeValidator(_commitment)] = Field(
        None,
        description="Answer its Storage Commitment requests: true, or a table; yes is said only when the destinations "
        "have committed. false: its requests are refused.",
    )
    tls: Literal["optional", "required"] = Field(
        "optional", description="required: its associations are taken over TLS alone; optional: without it too."
    )
    certificates: tuple[CertificateRule, ...] = Field(
        (),
        description="Certificates, one of which it must show: a name in it (DNS name, address or Common Name), or its "
        'SHA-256 fingerprint as "sha256:HEX". TLS is required then. Empty: any that [tls] accepts.',
    )
    max_associations: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Associations that it may have open at once; more are refused as a transient condition. 0: as "
        "many as receiver.max_associations.",
    )
    max_objects_per_minute: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Objects a minute that it may send, all of its associations together; what comes faster is taken "
        "more slowly. 0: no limit.",
    )

    @property
    def requires_tls(self) -> bool:
        """Whether its associations are taken over TLS alone."""
        return self.tls == "required" or bool(self.certificates)


class RetrySettings(_Table):
    """How a destination is tried again after a transient failure."""

    initial_delay_s: Seconds = Field(5.0, description="Delay before the second attempt, in seconds.")
    factor: float = Field(2.0, ge=1.0, le=10.0, description="Factor by which each further delay grows.")
    max_delay_s: Seconds = Field(600.0, description="Longest delay between two attempts, in seconds.")
    jitter: float = Field(0.2, ge=0.0, le=1.0, description="Share of the delay that is drawn at random, 0 to 1.")
    max_age_h: float = Field(
        72.0, gt=0, le=8760, description="Age of a delivery after which it is given up with an alarm, in hours."
    )


class BreakerSettings(_Table):
    """When a destination counts as down: nothing is sent to it then until it answers a probe (C-ECHO)."""

    failures: int = Field(
        3, ge=1, le=1000, description="Attempts in a row without any answer after which the destination is down."
    )
    probe_every_s: Seconds = Field(30.0, description="Time between two probes while it is down, in seconds.")


class DestinationSettings(_Table):
    """What every kind of destination has: its name, how much goes to it at once, and when it is tried again."""

    name: Name = Field(..., description="Name of the destination; routes refer to it.")
    kind: Literal["dicom", "dicomweb"] = Field(
        "dicom", description="Kind of destination: dicom (C-STORE) or dicomweb (STOW-RS)."
    )
    concurrency: int = Field(2, ge=1, le=64, description="Associations or requests that may be open to it at once.")
    compress: Literal["no", "jpeg-ls", "jpeg-2000", "jpeg-lossless", "rle"] = Field(
        "no",
        description="Lossless compression of uncompressed images on their way to it: no, jpeg-ls, jpeg-2000, "
        "jpeg-lossless (process 14 SV1) or rle. Every frame is decoded again and compared. What the destination "
        "refuses in this form, takes more than 20 seconds, or was on its way when an association was lost, goes as it "
        "is.",
    )
    compress_originals: bool = Field(
        False,
        description="Compress originals too; false: enhanced images alone, and originals arrive byte for byte.",
    )
    objects_per_minute: float = Field(
        0.0,
        ge=0,
        le=100_000,
        description="Most objects sent to it in a minute, over all workers; 0: no limit.",
    )
    failover: Name | None = Field(
        None,
        description="Destination that gets what this one lacks while it is down; that is not sent here again.",
    )
    failover_after_s: Seconds = Field(
        600.0, description="Time that the destination must be down before its deliveries go to failover, in seconds."
    )
    retry: RetrySettings = Field(RetrySettings(), description="Retry after transient failures.")
    breaker: BreakerSettings = Field(BreakerSettings(), description="When it counts as down.")


class DicomDestinationSettings(DestinationSettings):
    """A PACS or another storage SCP that receives what routes send to it."""

    kind: Literal["dicom"] = Field("dicom", description="Kind of destination: dicom (C-STORE).")
    ae_title: AeTitle = Field(..., description="AE title that the destination answers to.")
    host: str = Field(..., min_length=1, max_length=253, description="Host name or address of the destination.")
    port: Port = Field(..., description="TCP port of the destination.")
    calling_ae_title: AeTitle | None = Field(
        None, description="AE title that we call with, where it differs from the node's own."
    )
    connect_timeout_s: Seconds = Field(10.0, description="Longest wait for the TCP connection, in seconds.")
    acse_timeout_s: Seconds = Field(
        30.0, description="Longest wait for the answer to an association request, in seconds."
    )
    dimse_timeout_s: Seconds = Field(60.0, description="Longest wait for one C-STORE response, in seconds.")
    tls: PeerTlsSettings = Field(PeerTlsSettings(), description="DICOM over TLS.")
    commitment: Annotated[CommitmentSettings | None, BeforeValidator(_commitment)] = Field(
        None,
        description="Ask it for Storage Commitment of what it was sent: true, or a table; objects then stay until it "
        "has committed. false: a C-STORE answered with success is enough.",
    )


def _service_url(value: str) -> str:
    parts = urlsplit(value.strip())
    try:
        port_is_fine = parts.port != 0
    except ValueError:
        port_is_fine = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise ValueError('the base of a DICOMweb service, such as "https://pacs.example.org/dicom-web"')
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL without user and password; name them by username and password_file")
    if parts.query or parts.fragment:
        raise ValueError("a URL without ? and #; further facts for the server go into headers")
    return value.strip().rstrip("/")


def _own_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"names of HTTP headers; {name!r} is none")
        if name.lower() in _HEADERS_OF_OURS:
            raise ValueError(f"headers that the node does not set itself; {name} is one that it sets")
        if not re.fullmatch(r"[\t\x20-\x7e]*", value):
            raise ValueError(f"printable ASCII text; that of {name} is not")
    return headers


_HEADERS_OF_OURS = frozenset(
    ("accept", "authorization", "connection", "content-length", "content-type", "host", "transfer-encoding")
)

ServiceUrl = Annotated[str, AfterValidator(_service_url)]


class DicomwebDestinationSettings(DestinationSettings):
    """A PACS or another origin server that receives what routes send to it by STOW-RS (PS3.18 10.5)."""

    kind: Literal["dicomweb"] = Field(..., description="Kind of destination: dicomweb (STOW-RS).")
    url: ServiceUrl = Field(
        ..., description='Base of the DICOMweb service, such as "https://pacs.example.org/dicom-web"; /studies follows.'
    )
    token_file: Path | None = Field(None, description="File with a bearer token; read anew for every attempt.")
    token_variable: str = Field("", description="Environment variable with a bearer token, instead of a file.")
    username: str = Field("", description="User for basic authentication; needs password_file or password_variable.")
    password_file: Path | None = Field(None, description="File with the password of username.")
    password_variable: str = Field("", description="Environment variable with the password, instead of a file.")
    oauth_url: str = Field(
        "", description="Token endpoint of OAuth 2.0 client credentials; empty: no tokens are asked for."
    )
    oauth_client_id: str = Field("", description="Client identifier there.")
    oauth_secret_file: Path | None = Field(None, description="File with the client secret.")
    oauth_secret_variable: str = Field("", description="Environment variable with the client secret.")
    oauth_scope: str = Field("", description="Scope that is asked for; empty: none is named.")
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) of the authorities that are trusted; none: those of the system."
    )
    client_certificate: Path | None = Field(
        None, description="Certificate (PEM) that we show the server, with those between it and its authority."
    )
    client_key: Path | None = Field(
        None, description="Private key (PEM, no passphrase) of client_certificate; none: it is in the same file."
    )
    verify: bool = Field(
        True, description="Verify the server's certificate and name. false leaves nothing of TLS but scrambling."
    )
    headers: Annotated[dict[str, str], AfterValidator(_own_headers)] = Field(
        default_factory=dict, description='Further HTTP headers of every request, such as { "X-Tenant" = "radiology" }.'
    )
    connect_timeout_s: Seconds = Field(
        10.0, description="Longest wait for the TCP connection and the TLS handshake, in seconds."
    )
    send_timeout_s: Seconds = Field(
        60.0, description="Longest time in which the server takes no byte of a request, in seconds."
    )
    response_timeout_s: Seconds = Field(
        300.0, description="Longest wait for the response after the last byte of a request, in seconds."
    )
    max_objects: int = Field(50, ge=1, le=10_000, description="Most objects in one request.")
    max_request_mb: int = Field(
        512,
        ge=1,
        le=1_048_576,
        description="Size that a request of several objects does not exceed, in megabytes; a larger object goes alone.",
    )

    @field_validator("oauth_url")
    @classmethod
    def _token_endpoint(cls, value: str) -> str:
        return _service_url(value) if value else value

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        token = self.token_file is not None or bool(self.token_variable)
        ways = [
            name
            for name, used in (("token", token), ("username", self.username), ("oauth_url", self.oauth_url))
            if used
        ]
        if len(ways) > 1:
            raise ValueError(f"one way to log in; there are {', '.join(ways)}")
        for needed, file, variable, owner in (
            (bool(self.username), self.password_file, self.password_variable, "password"),
            (bool(self.oauth_url), self.oauth_secret_file, self.oauth_secret_variable, "oauth_secret"),
            (token, self.token_file, self.token_variable, "token"),
        ):
            if needed != (file is not None or bool(variable)) or (file is not None and variable):
                user = {"password": "username", "oauth_secret": "oauth_url", "token": "token"}[owner]
                raise ValueError(f"{owner}_file or {owner}_variable, one of them, exactly where {user} is set")
        if self.oauth_url and not self.oauth_client_id:
            raise ValueError("oauth_client_id beside oauth_url")
        if self.client_key is not None and self.client_certificate is None:
            raise ValueError("client_certificate beside client_key")
        return self

    def with_whole_paths(self, folder: Path) -> Self:
        """Return these settings with relative paths taken from `folder`."""
        paths = {name: getattr(self, name) for name in SECRET_AND_TLS_FILES}
        return self.model_copy(update={name: (folder / path).resolve() for name, path in paths.items() if path})


SECRET_AND_TLS_FILES = (
    "token_file",
    "password_file",
    "oauth_secret_file",
    "ca_file",
    "client_certificate",
    "client_key",
)


def _kind_of(value: object) -> object:
    if isinstance(value, DestinationSettings):
        return value.kind
    return value.get("kind", "dicom") if isinstance(value, dict) else "dicom"


AnyDestination = Annotated[
    Annotated[DicomDestinationSettings, Tag("dicom")] | Annotated[DicomwebDestinationSettings, Tag("dicomweb")],
    Discriminator(_kind_of),
]
"""Each kind has settings of its own; kind = "dicom" may be left out."""


class Late(enum.StrEnum):
    """What becomes of images that are not enhanced when the deadline of their route passes."""

    ORIGINAL_ONLY = "original-only"
    FOLLOW = "follow"


class Content(enum.StrEnum):
    """What of a series goes to the destinations."""

    ORIGINAL = "original"
    ENHANCED = "enhanced"


SENDER_FACTS = ("calling_ae_title", "called_ae_title", "source")
"""What a condition may ask of the association instead of the object."""


def _condition_key(key: str) -> str:
    if key in SENDER_FACTS:
        return key
    if not re.match(r"[A-Z(]", key):
        keyword = key[:1].upper() + key[1:]
        near = [keyword] if is_keyword(keyword) else difflib.get_close_matches(key, SENDER_FACTS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{FORMS}; or one of {', '.join(SENDER_FACTS)}; {key!r} is none{hint}")
    parse_path(key)
    return key


ConditionKey = Annotated[str, AfterValidator(_condition_key)]


class RouteSettings(_Table):
    """What happens to a series whose first instance matches; the first route that matches wins."""

    name: Name = Field(..., description="Name of the route.")
    match: dict[ConditionKey, Condition] = Field(
        default_factory=dict,
        description="Conditions, all of which must hold. Each is for an attribute, by keyword, tag (gggg,eeee) or "
        "private tag with its creator (gggg,xxee,CREATOR), in items of sequences by a path such as "
        "RequestAttributesSequence.ScheduledProcedureStepDescription; or for calling_ae_title, called_ae_title, "
        "source. It is a regular expression (RE2) for the whole text, a list of them, a range { min = 0, max = 1 } of "
        'numbers, dates ("2026-01-31"), times ("08:30") or ages ("18Y"), { not = ... } of one of these, or '
        "{ present = true }. "
        "Any of several values or items may match. Empty matches everything.",
    )
    enhance: bool = Field(
        True, description="Denoise the images of enabled SOP classes; false passes everything through."
    )
    strength: Literal["mild", "standard", "strong"] | Annotated[float, Field(gt=0, le=1)] = Field(
        "standard",
        description="Share of the estimated noise that is removed: mild (0.4), standard (0.7), strong (0.9) or 0 to 1.",
    )
    sop_classes: tuple[str, ...] = Field(
        ("CR", "DX", "IO", "XA", "RF"),
        description="Images that are enhanced: CR, DX, MG, IO, XA, RF, CT or SOP Class UIDs; XA, RF and CT include "
        "their enhanced multi-frame classes.",
    )
    quiet_period_s: float = Field(
        3.0,
        ge=0,
        le=86_400,
        description="Silence after the last association before a series counts as complete, in seconds.",
    )
    deadline_s: Seconds = Field(
        900.0,
        description="Time from series completion after which the originals go on without enhancement, in seconds. It "
        "holds for a series as a whole, however many images it has.",
    )
    late: Late = Field(
        Late.ORIGINAL_ONLY,
        description="What becomes of images that are late: original-only leaves it at the original; follow enhances "
        "them behind everything that is in time, and delivers them after their originals.",
    )
    follow_limit_s: Seconds = Field(
        86_400.0,
        description="Time from series completion after which images that were to follow, or to be measured in shadow "
        "mode, are given up, in seconds.",
    )
    shadow: bool = Field(
        False,
        description="Forward the originals alone, at once, and enhance behind them to measure: what would have come of "
        "it shows `dicom-node shadow`. Nothing that was enhanced leaves or is kept.",
    )
    send: tuple[Content, ...] = Field(
        (Content.ENHANCED,),
        min_length=1,
        description="What is delivered: enhanced, original or both; where an image was not enhanced, its original "
        "always stands in.",
    )
    report: bool = Field(
        False,
        description="Also deliver a DICOM SR with the noise before and after, the strength and the guards' findings of "
        "each image, where at least one was enhanced.",
    )
    destinations: DestinationNames = Field(..., min_length=1, description="Destinations by name.")

    @field_validator("match", mode="before")
    @classmethod
    def _flat(cls, match: object) -> object:
        # TOML reads a dotted key without quotes as tables in tables.
        return dict(_dotted(match)) if isinstance(match, dict) else match

    @field_validator("sop_classes")
    @classmethod
    def _sop_classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if not re.fullmatch(r"CR|DX|MG|IO|XA|RF|CT|[0-2](\.(0|[1-9][0-9]*)){1,31}", entry):
                raise ValueError(f"CR, DX, MG, IO, XA, RF, CT or a SOP Class UID; {entry!r} is none")
        return value

    @model_validator(mode="after")
    def _report_has_a_subject(self) -> Self:
        if self.report and not (self.enhance and Content.ENHANCED in self.send):
            raise ValueError(
                'report = true only where enhance = true and send has "enhanced": it tells of those images'
            )
        return self

    @model_validator(mode="after")
    def _what_follows_is_wanted(self) -> Self:
        if self.late is Late.FOLLOW and not (self.enhance and Content.ENHANCED in self.send):
            raise ValueError(
                'late = "follow" only where enhance = true and send has "enhanced": nothing else could follow'
            )
        if self.late is Late.FOLLOW and self.follow_limit_s <= self.deadline_s:
            raise ValueError(
                "follow_limit_s must be more than deadline_s: both count from the completion of the series"
            )
        if self.shadow and not self.enhance:
            raise ValueError("shadow = true only where enhance = true: there is nothing else to measure")
        return self

    @property
    def strength_value(self) -> float:
        """Share of the estimated noise that is removed, 0 to 1."""
        return STRENGTH_PRESETS[self.strength] if isinstance(self.strength, str) else self.strength


def _dotted(match: dict[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for key, value in match.items():
        if isinstance(value, dict) and value and all(re.match(r"[A-Z(]", str(inner)) for inner in value):
            yield from _dotted(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


class FallbackSettings(_Table):
    """What happens to a series that no route takes: it is forwarded untouched, or kept."""

    destinations: DestinationNames = Field(
        (),
        description="Destinations by name that get, untouched, what no route takes. Empty: such a series is kept, "
        "`dicom-node status` names it, and it goes on when a route or a destination here takes it after a restart.",
    )


class ModelSettings(_Table):
    """The denoiser and what it may use of the machine."""

    weights: str = Field(
        "lite",
        min_length=1,
        description="Published weights by name, or a path to a .safetensors file with its manifest.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the network runs: auto, cpu or cuda.")
    threads: int = Field(0, ge=0, le=256, description="CPU threads of one worker; 0 takes all cores.")
    memory_mb: int = Field(
        1024, ge=128, le=1_048_576, description="Memory that one inference may take beyond the image, in megabytes."
    )


class DerivationSettings(_Table):
    """How derived objects describe themselves."""

    equipment: Literal["standard", "preserve"] = Field(
        "standard",
        description="standard: the node in General Equipment, the modality in Contributing Equipment; "
        "preserve: the reverse.",
    )
    series_number_offset: int = Field(1000, ge=0, le=1_000_000, description="Added to the Series Number of the source.")
    report_number_offset: int = Field(
        1000, ge=1, le=1_000_000, description="Added to the Series Number of the derived series for that of its report."
    )
    description_suffix: str = Field(" (denoised)", max_length=32, description="Appended to the Series Description.")
    derivation_code: Literal["private", "standard"] = Field(
        "private",
        description="Derivation Code: private (denoising, with Smoothing as its equivalent) or standard "
        "(113087, DCM, Smoothing) alone.",
    )


class RetentionSettings(_Table):
    """How long delivered objects are kept on disk."""

    keep_h: float = Field(
        168.0,
        ge=0,
        le=87_600,
        description="Time that objects stay after every destination of their route has them, in hours.",
    )
    keep_events_days: int = Field(3650, ge=1, description="Time that the audit of state changes is kept, in days.")


class StorageSettings(_Table):
    """Where received and derived objects lie, watermarks of the disks, and the care for what lies on them.

    Several machines need a place for objects that all of them reach. `receiver.min_free_mb` is the high watermark.
    """

    objects: Literal["folder", "s3"] = Field(
        "folder", description="Kind of place: folder, or s3 for a bucket of Amazon S3 or of what speaks its protocol."
    )
    folder: Path | None = Field(
        None,
        description="Folder for objects that several machines share (NFS or a cluster file system); absent: "
        "data_dir, which then belongs to one machine.",
    )
    bucket: str = Field(
        "",
        max_length=63,
        description="Bucket for objects; credentials come from the environment (AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), never from this file.",
    )
    prefix: str = Field("", max_length=200, description="What the names of all objects in the bucket begin with.")
    region: str = Field("us-east-1", min_length=1, max_length=64, description="Region of the bucket.")
    endpoint: str = Field(
        "", description='Address of an S3 service other than Amazon\'s, such as "https://minio.hospital.example:9000".'
    )
    cache_mb: int = Field(
        20_480,
        ge=64,
        description="Copies of the bucket's objects that this machine keeps in data_dir, in megabytes; those in use "
        "come on top.",
    )
    resume_free_mb: int = Field(
        0,
        ge=0,
        description="Free space from which on associations are taken again, in megabytes; "
        "0: a quarter more than receiver.min_free_mb.",
    )
    max_used_percent: float = Field(
        100.0,
        ge=1,
        le=100,
        description="Share of a file system in use above which associations are refused as transient, in percent; "
        "100: receiver.min_free_mb alone counts.",
    )
    resume_used_percent: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Share in use below which they are taken again, in percent; 0: two less than max_used_percent.",
    )
    min_free_inodes: int = Field(
        10_000,
        ge=0,
        description="Free inodes under which associations are refused, in number; never more than a twentieth of all.",
    )
    reserve_mb: int = Field(
        64,
        ge=0,
        le=65_536,
        description="Space that a file named reserve holds back for the ledger on a disk that fills up, in megabytes.",
    )
    purge_early: bool = Field(
        True,
        description="Above the high watermark, delete delivered objects before retention.keep_h, the oldest first, "
        "down to the low one; never what a destination does not have, or is yet to commit.",
    )
    orphans: Literal["report", "move", "delete"] = Field(
        "move",
        description="What becomes of files that the ledger does not know: report, move to the folder orphans, delete.",
    )
    orphan_age_h: float = Field(
        72.0, ge=1, le=87_600, description="Age from which such a file counts as an orphan, in hours."
    )
    scrub_days: float = Field(
        7.0,
        ge=0,
        le=3650,
        description="Time in which every file is read again and its SHA-256 compared, in days; 0: never.",
    )
    scrub_mb_per_s: float = Field(20.0, gt=0, le=10_000, description="Most that this reads, in megabytes per second.")

    @model_validator(mode="after")
    def _place_is_whole(self) -> Self:
        if (self.objects == "s3") != bool(self.bucket):
            raise ValueError('bucket with objects = "s3", and only there')
        if self.objects == "s3" and self.folder is not None:
            raise ValueError('folder only with objects = "folder"')
        if self.endpoint and not re.match(r"https?://[^/@\s]+/?$", self.endpoint):
            raise ValueError('endpoint as "https://HOST:PORT", without user or password')
        return self

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.resume_used_percent > self.max_used_percent:
            raise ValueError("resume_used_percent is at most max_used_percent")
        return self


def _trusted_proxy(value: str) -> str:
    try:
        ipaddress.ip_network(value.strip(), strict=False)
    except ValueError:
        raise ValueError('an address or a network, such as "10.1.0.5" or "10.1.0.0/24"') from None
    return value.strip()


def is_loopback(bind: str) -> bool:
    """Tell whether an address to listen on can be reached from this machine alone."""
    if bind == "localhost":
        return True
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return False


class RoleName(enum.StrEnum):
    """What a user of the console may do, from the least to the most."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class OidcSettings(_Table):
    """Sign-in to the console by OpenID Connect, beside users with a password; off unless an issuer is named."""

    issuer: str = Field(
        "",
        description='Issuer, such as "https://login.hospital.example/realms/radiology"; its configuration is read from '
        "/.well-known/openid-configuration below it. Empty: no sign-in by OpenID Connect.",
    )
    client_id: str = Field("", description="Client identifier of this console there.")
    secret_file: Path | None = Field(
        None, description="File with the client secret; none: a public client, which PKCE alone protects."
    )
    scope: str = Field("openid profile", description="Scopes that are asked for.")
    name_claim: str = Field(
        "preferred_username", min_length=1, description="Claim with the name that the audit shows for the user."
    )
    role_claim: str = Field(
        "groups", min_length=1, description="Claim with the groups or roles of the user; dots lead into its inside."
    )
    roles: dict[str, RoleName] = Field(
        default_factory=dict,
        description='Value of that claim = role here, such as { "pacs-admins" = "admin" }; of several the highest '
        "counts. Who has none of them is not let in.",
    )
    patient_groups: tuple[str, ...] = Field(
        (), description="Values of that claim that let a user see patient data; empty: nobody who signs in this way."
    )
    ca: Path | None = Field(
        None, description="PEM file with the authorities of the issuer's certificate. None: those of the system."
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.issuer:
            return self
        host = urlsplit(self.issuer).hostname or ""
        if not self.issuer.startswith("https://") and not (self.issuer.startswith("http://") and is_loopback(host)):
            raise ValueError("issuer as https://...; http:// on this machine alone")
        if not self.client_id or not self.roles:
            raise ValueError("client_id and roles beside issuer: without roles nobody is let in")
        return self


class ConsoleSettings(_Table):
    """The web console."""

    enabled: bool = Field(True, description="`dicom-node run` serves the console.")
    bind: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address on which it listens; beyond this machine with certificate and key, or behind a proxy of "
        "trusted_proxies, alone.",
    )
    port: Port = Field(8411, description="TCP port on which it listens.")
    hosts: tuple[str, ...] = Field(
        (),
        description="Names that browsers may call it by, beside localhost, bind and the names of this machine; "
        "requests for others are refused.",
    )
    certificate: Path | None = Field(
        None,
        description="PEM file with its certificate, and behind it those of intermediate authorities. Read again when "
        "it changes. None: no TLS.",
    )
    key: Path | None = Field(None, description="PEM file with the private key of the certificate, without a password.")
    trusted_proxies: tuple[Annotated[str, AfterValidator(_trusted_proxy)], ...] = Field(
        (),
        description="Addresses and networks of the proxy that speaks TLS for it; with them, requests from elsewhere "
        "than there and this machine are refused, and X-Forwarded-For and X-Forwarded-Proto are believed.",
    )
    session_h: float = Field(10.0, gt=0, le=720, description="Time after which a user signs in again, in hours.")
    idle_min: float = Field(
        30.0, gt=0, le=1440, description="Time without a click after which a user signs in again, in minutes."
    )
    free_attempts: int = Field(
        5,
        ge=1,
        le=100,
        description="Wrong passwords in a row for one user before each further attempt waits, twice as long each time.",
    )
    max_wait_min: float = Field(15.0, gt=0, le=1440, description="Longest such wait, in minutes.")
    keep_audit_days: int = Field(3650, ge=1, description="Time that the audit of what users did is kept, in days.")
    oidc: OidcSettings = Field(OidcSettings(), description="Sign-in by OpenID Connect.")

    @model_validator(mode="after")
    def _is_closed_to_listeners(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key together, or neither")
        if self.enabled and not is_loopback(self.bind) and self.certificate is None and not self.trusted_proxies:
            raise ValueError(
                "certificate and key where bind is not this machine alone: passwords would cross the network in the "
                "clear; or trusted_proxies, where a proxy speaks TLS for it"
            )
        return self


class LoggingSettings(_Table):
    """What is logged and in which form."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity that is logged.")
    format: Literal["text", "json"] = Field("text", description="Form of log lines: text or json.")


class Settings(_Table):
    """The whole settings file."""

    node: NodeSettings = Field(NodeSettings())
    receiver: ReceiverSettings = Field(ReceiverSettings())
    tls: TlsSettings = Field(TlsSettings())
    sources: tuple[SourceSettings, ...] = Field(())
    destinations: tuple[AnyDestination, ...] = Field(())
    routes: tuple[RouteSettings, ...] = Field(())
    fallback: FallbackSettings = Field(FallbackSettings())
    model: ModelSettings = Field(ModelSettings())
    derivation: DerivationSettings = Field(DerivationSettings())
    retention: RetentionSettings = Field(RetentionSettings())
    storage: StorageSettings = Field(StorageSettings())
    console: ConsoleSettings = Field(ConsoleSettings())
    logging: LoggingSettings = Field(LoggingSettings())

    def destination(self, name: str) -> DicomDestinationSettings | DicomwebDestinationSettings:
        """Return the destination called `name`; KeyError if there is none."""
        for destination in self.destinations:
            if destination.name == name:
                return destination
        raise KeyError(name)

    @property
    def dicom_destinations(self) -> tuple[DicomDestinationSettings, ...]:
        """The destinations that are storage SCPs."""
        return tuple(entry for entry in self.destinations if isinstance(entry, DicomDestinationSettings))

    @property
    def routes_in_order(self) -> tuple[RouteSettings, ...]:
        """The routes, and behind them the one that forwards untouched what none of them takes, where that is set."""
        if not self.fallback.destinations:
            return self.routes
        last = RouteSettings(
            name=FALLBACK, enhance=False, send=(Content.ORIGINAL,), destinations=self.fallback.destinations
        )
        return (*self.routes, last)

    def route(self, name: str) -> RouteSettings:
        """Return the route called `name`, the fallback's too; KeyError if there is none."""
        for route in self.routes_in_order:
            if route.name == name:
                return route
        raise KeyError(name)
