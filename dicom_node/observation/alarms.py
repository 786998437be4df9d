"""What an operator has to look after: the one definition, for status, metrics and alerts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from config.observation import AlarmKind
from config.settings import Settings, SourceSettings
from dicom_node.certificates import Expiry
from dicom_node.ledger.figures import Figures
from dicom_node.states import DEAD_LETTERS

LEAST_JUDGED: Final = 0.5
"""Share of `guard_images` or `deadline_series` that there must be before a rate says anything."""


_RETIRED_S: Final = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One thing to look after.

    Attributes
    ----------
    subject
        What it is about: a destination, a source, a process, a disk, a setting; empty where there is but one.
    sentence
        What is wrong and what to do, in one sentence. May change while the alarm lasts.
    """

    kind: AlarmKind
    subject: str
    sentence: str

    @property
    def key(self) -> str:
        """What makes two findings the same alarm."""
        return f"{self.kind}:{self.subject}"

    def as_json(self) -> dict[str, Any]:
        """Return it as ``alarms`` of `status --json` shows it; ``destination`` stands where it is about one."""
        is_destination = self.kind in (AlarmKind.DESTINATION_DOWN, AlarmKind.DEAD_LETTER, AlarmKind.NO_COMMITMENT)
        about = {"destination": self.subject} if is_destination else {}
        return {"alarm": self.kind.value, "subject": self.subject, **about, "sentence": self.sentence}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What alarms are judged by.

    Attributes
    ----------
    figures
        Of the ledger; None where it can't be read, `trouble` says why.
    disks
        As `dicom_node.disk_care.disk_report` gives them.
    processes
        Of each process of this machine that should run, what is wrong with it; empty where nothing is.
    models
        Of each worker without a usable model, why.
    """

    figures: Figures | None
    trouble: str = ""
    disks: Sequence[Mapping[str, Any]] = ()
    certificates: Sequence[Expiry] = ()
    processes: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


def alarms_of(facts: Facts, settings: Settings) -> list[Alarm]:
    """Return every alarm that is on."""
    found = list(_of_machine(facts, settings))
    if facts.figures is None:
        sentence = f"The ledger can't be read ({facts.trouble}): nothing is received until it can"
        return [Alarm(kind=AlarmKind.LEDGER_UNAVAILABLE, subject="", sentence=sentence), *found]
    of_deliveries = _of_deliveries(facts.figures, settings, known=frozenset(facts.processes))
    return [*of_deliveries, *_of_series(facts.figures, settings), *found]


def _of_deliveries(figures: Figures, settings: Settings, *, known: frozenset[str]) -> Iterator[Alarm]:
    for name, down in figures.down.items():
        if figures.at - down.since >= settings.alarms.destination_down_s:
            sentence = f"{name} is down since {_local(down.since)}: {down.reason}"
            yield Alarm(kind=AlarmKind.DESTINATION_DOWN, subject=name, sentence=sentence)
    dead: dict[str, int] = {}
    for (name, state), number in figures.deliveries.items():
        if state in DEAD_LETTERS:
            dead[name] = dead.get(name, 0) + number
    for name, number in dead.items():
        what = "delivery" if number == 1 else "deliveries"
        sentence = f"{number} {what} to {name} refused or given up; dicom-node queue list --destination {name} -c FILE"
        yield Alarm(kind=AlarmKind.DEAD_LETTER, subject=name, sentence=sentence)
    for name, at in figures.heartbeats.items():
        silent_s = figures.at - at
        own = name.removeprefix(f"{settings.node.name}:")
        # This machine's own are asked directly; and one that is silent for a day was taken away.
        if own not in known and settings.node.dead_after_s <= silent_s < _RETIRED_S:
            sentence = f"{name} was not heard of since {_local(at)}; look at its machine"
            yield Alarm(kind=AlarmKind.PROCESS_DOWN, subject=name, sentence=sentence)
    for name, number in figures.given_up.items():
        what = "delivery" if number == 1 else "deliveries"
        sentence = f"{number} {what} to {name} not committed in time, objects stay; dicom-node commitment list -c FILE"
        yield Alarm(kind=AlarmKind.NO_COMMITMENT, subject=name, sentence=sentence)


def _of_series(figures: Figures, settings: Settings) -> Iterator[Alarm]:
    limits = settings.alarms
    for source in settings.sources:
        # One that was never heard of is being set up, not silent.
        seen = [figures.seen[title] for title in source.ae_titles if title in figures.seen]
        if seen and is_silent(source, max(seen), figures.at):
            sentence = (
                f"{source.name} has opened no association since {_local(max(seen))}, more than "
                f"{source.silent_after_h:g} h; look at the modality and at its network"
            )
            yield Alarm(kind=AlarmKind.SOURCE_SILENT, subject=source.name, sentence=sentence)
    if figures.unrouted:
        what = "series is" if figures.unrouted == 1 else "series are"
        sentence = f"{figures.unrouted} {what} kept because no route matches; add [[routes]] or [fallback]"
        yield Alarm(kind=AlarmKind.NO_ROUTE, subject="", sentence=sentence)
    if figures.damaged:
        what = "stored object is" if figures.damaged == 1 else "stored objects are"
        sentence = f"{figures.damaged} {what} missing, damaged or unreadable; dicom-node status -c FILE names them"
        yield Alarm(kind=AlarmKind.OBJECT_DAMAGED, subject="", sentence=sentence)
    if _is_share(figures.guarded, figures.judged, limits.guard_images, limits.guard_percent):
        sentence = (
            f"the guards refused {figures.guarded} of the last {figures.judged} images, their originals went on; a "
            "detector, a protocol or a route has changed"
        )
        yield Alarm(kind=AlarmKind.GUARD_RATE, subject="", sentence=sentence)
    if _is_share(figures.late, figures.concluded, limits.deadline_series, limits.deadline_percent):
        sentence = (
            f"{figures.late} of the last {figures.concluded} series were late, their originals went on; the workers do "
            "not keep up"
        )
        yield Alarm(kind=AlarmKind.DEADLINE_RATE, subject="", sentence=sentence)


def is_silent(source: SourceSettings, last_at: float, now: float) -> bool:
    """Tell whether a source that called last at `last_at` should have called again by `now`."""
    return bool(source.silent_after_h) and now - last_at >= source.silent_after_h * 3600


def _of_machine(facts: Facts, settings: Settings) -> Iterator[Alarm]:
    for disk in facts.disks:
        path, hours = str(disk["path"]), disk["full_in_h"]
        if disk["state"] == "above high watermark":
            sentence = f"{path} is above its high watermark, nothing is received: {disk['reason']}; make room"
        elif hours is not None and hours <= settings.alarms.disk_full_in_h:
            sentence = f"{path} will be at its high watermark in {hours:.0f} h if it goes on like this; make room"
        else:
            continue
        yield Alarm(kind=AlarmKind.DISK, subject=path, sentence=sentence)
    for certificate in facts.certificates:
        days = certificate.days_left
        if certificate.problem or (days is not None and days < settings.tls.warn_days):
            sentence = f"certificate {certificate.path}: {certificate.sentence or certificate.problem}; renew it"
            yield Alarm(kind=AlarmKind.CERTIFICATE, subject=certificate.setting, sentence=sentence)
    for name, reason in facts.models.items():
        sentence = f"{name} passes every image through: {reason}"
        yield Alarm(kind=AlarmKind.NO_MODEL, subject=name, sentence=sentence)
    for name, problem in facts.processes.items():
        if problem:
            yield Alarm(kind=AlarmKind.PROCESS_DOWN, subject=name, sentence=f"{name}: {problem}; see the node's log")


def _is_share(part: int, whole: int, wanted: int, percent: float) -> bool:
    return whole >= max(5, LEAST_JUDGED * wanted) and part >= whole * percent / 100


def _local(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
