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

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

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


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise ValueError("1 to 64 letters, digits, dots, hyphens and underscores, the first a letter or digit")
    return value


AeTitle = Annotated[str, AfterValidator(_ae_title)]
HostRule = Annotated[str, AfterValidator(_host_rule)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Name = Annotated[str, AfterValidator(_name)]
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


class SourceSettings(_Table):
    """A modality (or another sender) that may store to this node; senders that match none are rejected."""

    name: Name = Field(..., description="Name of the source in logs and status.")
    ae_titles: tuple[AeTitle, ...] = Field(
        ..., min_length=1, description="Calling AE titles that belong to this source."
    )
    hosts: tuple[HostRule, ...] = Field(
        ("*",), min_length=1, description='Addresses, networks or host names it calls from; "*" allows any.'
    )


class RetrySettings(_Table):
    """How a destination is tried again after a transient failure."""

    initial_delay_s: Seconds = Field(5.0, description="Delay before the second attempt, in seconds.")
    factor: float = Field(2.0, ge=1.0, le=10.0, description="Factor by which each further delay grows.")
    max_delay_s: Seconds = Field(600.0, description="Longest delay between two attempts, in seconds.")
    jitter: float = Field(0.2, ge=0.0, le=1.0, description="Share of the delay that is drawn at random, 0 to 1.")
    max_age_h: float = Field(
        72.0, gt=0, le=8760, description="Age of a delivery after which it is given up with an alarm, in hours."
    )


class DestinationSettings(_Table):
    """A PACS or another storage SCP that receives what routes send to it."""

    name: Name = Field(..., description="Name of the destination; routes refer to it.")
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
    concurrency: int = Field(2, ge=1, le=64, description="Associations that may be open to it at once.")
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
    retry: RetrySettings = Field(RetrySettings(), description="Retry after transient failures.")


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
        description="Time from series completion after which the originals go on without enhancement, in seconds.",
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
    """Where received and derived objects lie; several machines need a place that all of them reach."""

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

    @model_validator(mode="after")
    def _place_is_whole(self) -> Self:
        if (self.objects == "s3") != bool(self.bucket):
            raise ValueError('bucket with objects = "s3", and only there')
        if self.objects == "s3" and self.folder is not None:
            raise ValueError('folder only with objects = "folder"')
        if self.endpoint and not re.match(r"https?://[^/@\s]+/?$", self.endpoint):
            raise ValueError('endpoint as "https://HOST:PORT", without user or password')
        return self


class LoggingSettings(_Table):
    """What is logged and in which form."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity that is logged.")
    format: Literal["text", "json"] = Field("text", description="Form of log lines: text or json.")


class Settings(_Table):
    """The whole settings file."""

    node: NodeSettings = Field(NodeSettings())
    receiver: ReceiverSettings = Field(ReceiverSettings())
    sources: tuple[SourceSettings, ...] = Field(())
    destinations: tuple[DestinationSettings, ...] = Field(())
    routes: tuple[RouteSettings, ...] = Field(())
    fallback: FallbackSettings = Field(FallbackSettings())
    model: ModelSettings = Field(ModelSettings())
    derivation: DerivationSettings = Field(DerivationSettings())
    retention: RetentionSettings = Field(RetentionSettings())
    storage: StorageSettings = Field(StorageSettings())
    logging: LoggingSettings = Field(LoggingSettings())

    def destination(self, name: str) -> DestinationSettings:
        """Return the destination called `name`; KeyError if there is none."""
        for destination in self.destinations:
            if destination.name == name:
                return destination
        raise KeyError(name)

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
