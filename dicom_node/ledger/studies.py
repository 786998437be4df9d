"""The ledger of studies for people: finding them, and what became of each."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select, union

from dicom_node.identifiers import KINDS
from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import arrival, delivery, hold, instance, study, study_term
from dicom_node.ledger.study_index import SENDER
from dicom_node.states import DEAD_LETTERS, ArrivalState, DeliveryState

PAGE = 50


class StudyState(enum.StrEnum):
    """What a study needs, in the order in which it matters; of several the first holds."""

    DEAD_LETTER = "dead letter"
    """A destination refused something of it, or was given up: nobody tries any more."""
    ON_HOLD = "on hold"
    NO_ROUTE = "no route"
    """It is kept, and goes nowhere until a route takes it."""
    IN_WORK = "in work"
    RECEIVING = "receiving"
    DELIVERED = "delivered"


_RECEIVING = (ArrivalState.OPEN.value,)
_ENHANCING = (ArrivalState.COMPLETE.value, ArrivalState.ENHANCING.value, ArrivalState.FOLLOWING.value)
_DEAD = tuple(sorted(state.value for state in DEAD_LETTERS))
_MOVING = (DeliveryState.PENDING.value, DeliveryState.SENDING.value, DeliveryState.COMMITTING.value)


@dataclass(frozen=True, kw_only=True)
class StudyFilter:
    """What is looked for; what is empty does not count.

    Attributes
    ----------
    uid
        Of the study, of a received series or of a received SOP instance.
    terms
        Hashes of patient ID or accession number (`identifiers`), any of which. A study that fits `uid` or one of
        these is found.
    sender
        Calling AE title.
    since, until
        Its latest series was opened then, in seconds since the epoch.
    """

    uid: str = ""
    terms: tuple[str, ...] = ()
    sender: str = ""
    since: float | None = None
    until: float | None = None
    state: StudyState | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a page of the list ends; the next one goes on behind it."""

    at: float
    study_id: int


@dataclass(kw_only=True)
class StudyLine:
    """A study as the list shows it.

    Attributes
    ----------
    patient, accession
        Hashes; they tell studies of one patient apart from others, and name nobody.
    deliveries
        Destination -> state -> number.
    """

    study_id: int
    study_instance_uid: str
    first_at: float
    last_at: float
    state: StudyState = StudyState.DELIVERED
    series: int = 0
    received: int = 0
    derived: int = 0
    purged: int = 0
    senders: tuple[str, ...] = ()
    patient: tuple[str, ...] = ()
    accession: tuple[str, ...] = ()
    deliveries: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StudyPage:
    """One page of the list, and where the next one begins; None at the end."""

    lines: list[StudyLine]
    next: Place | None


class StudyLedger:
    """The side of the ledger that people look for studies in."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, wanted: StudyFilter, *, after: Place | None = None, limit: int = PAGE) -> StudyPage:
        """Return the studies that fit, those with the latest series first."""
        query = select(study).order_by(study.c.last_at.desc(), study.c.id.desc()).limit(limit + 1)
        query = query.where(*_conditions(wanted))
        if after is not None:
            query = query.where(
                or_(study.c.last_at < after.at, and_(study.c.last_at == after.at, study.c.id < after.study_id))
            )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            lines = _lines(connection, rows[:limit])
        last = lines[-1] if lines and len(rows) > limit else None
        return StudyPage(lines=lines, next=Place(at=last.last_at, study_id=last.study_id) if last else None)

    def line(self, study_id: int) -> StudyLine | None:
        """Return one study; None if there is none."""
        with self._database.read() as connection:
            rows = connection.execute(select(study).where(study.c.id == study_id)).all()
            return next(iter(_lines(connection, rows)), None)

    def find(self, study_instance_uid: str) -> int | None:
        """Return the number of the study with this UID; None if there is none."""
        with self._database.read() as connection:
            found: int | None = connection.scalar(
                select(study.c.id).where(study.c.study_instance_uid == study_instance_uid)
            )
            return found

    def senders(self) -> list[str]:
        """Return the AE titles that ever sent a study."""
        query = select(study_term.c.value).where(study_term.c.kind == SENDER).distinct().order_by(study_term.c.value)
        with self._database.read() as connection:
            return list(connection.scalars(query.limit(200)))


def _conditions(wanted: StudyFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    found: list[Select[Any]] = []
    if wanted.uid:
        # One index each; as one condition with OR the database would walk through all of them.
        found += [
            select(study.c.study_instance_uid).where(study.c.study_instance_uid == wanted.uid),
            select(arrival.c.study_instance_uid).where(arrival.c.series_instance_uid == wanted.uid),
            select(instance.c.study_instance_uid).where(instance.c.sop_instance_uid == wanted.uid),
        ]
    if wanted.terms:
        found.append(
            select(study.c.study_instance_uid)
            .join(study_term, study_term.c.study_id == study.c.id)
            .where(study_term.c.kind.in_(KINDS), study_term.c.value.in_(wanted.terms))
        )
    if found:
        conditions.append(study.c.study_instance_uid.in_(union(*found)))
    if wanted.sender:
        conditions.append(
            study.c.id.in_(
                select(study_term.c.study_id).where(study_term.c.kind == SENDER, study_term.c.value == wanted.sender)
            )
        )
    if wanted.since is not None:
        conditions.append(study.c.last_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(study.c.last_at < wanted.until)
    if wanted.state is not None:
        conditions.append(_in_state(wanted.state))
    return conditions


def _in_state(state: StudyState) -> ColumnElement[bool]:
    """Return the condition for studies in `state`; driven by the few arrivals and deliveries that are not done."""
    uid = study.c.study_instance_uid

    def of_arrivals(*states: str) -> ColumnElement[bool]:
        return uid.in_(select(arrival.c.study_instance_uid).where(arrival.c.state.in_(states)))

    def of_deliveries(*states: str) -> ColumnElement[bool]:
        return uid.in_(
            select(arrival.c.study_instance_uid)
            .join(delivery, delivery.c.arrival_id == arrival.c.id)
            .where(delivery.c.state.in_(states))
        )

    unrouted = uid.in_(
        select(arrival.c.study_instance_uid).where(arrival.c.state.in_(_ENHANCING), arrival.c.route.is_(None))
    )
    held = or_(of_deliveries(DeliveryState.HELD.value), uid.in_(select(hold.c.subject).where(hold.c.scope == "study")))
    ranked = {
        StudyState.DEAD_LETTER: of_deliveries(*_DEAD),
        StudyState.ON_HOLD: held,
        StudyState.NO_ROUTE: unrouted,
        StudyState.IN_WORK: or_(of_arrivals(*_ENHANCING), of_deliveries(*_MOVING)),
        StudyState.RECEIVING: of_arrivals(*_RECEIVING),
    }
    before: list[ColumnElement[bool]] = []
    for one, condition in ranked.items():
        if one is state:
            return and_(condition, *(~other for other in before))
        before.append(condition)
    return and_(*(~other for other in before))


def _lines(connection: Connection, rows: Sequence[Any]) -> list[StudyLine]:
    lines = {
        row.study_instance_uid: StudyLine(
            study_id=row.id, study_instance_uid=row.study_instance_uid, first_at=row.first_at, last_at=row.last_at
        )
        for row in rows
    }
    if not lines:
        return []
    uids = list(lines)
    states: dict[str, set[str]] = {uid: set() for uid in uids}
    _read_arrivals(connection, uids, lines, states)
    _read_instances(connection, uids, lines)
    _read_deliveries(connection, uids, lines, states)
    _read_terms(connection, lines)
    held = set(connection.scalars(select(hold.c.subject).where(hold.c.scope == "study", hold.c.subject.in_(uids))))
    for uid, line in lines.items():
        line.state = _state(states[uid], is_held=uid in held)
    return list(lines.values())


def _read_arrivals(
    connection: Connection, uids: list[str], lines: dict[str, StudyLine], states: dict[str, set[str]]
) -> None:
    query = select(
        arrival.c.study_instance_uid,
        arrival.c.series_instance_uid,
        arrival.c.state,
        arrival.c.route,
    ).where(arrival.c.study_instance_uid.in_(uids))
    series: dict[str, set[str]] = {uid: set() for uid in uids}
    for row in connection.execute(query):
        series[row.study_instance_uid].add(row.series_instance_uid)
        is_unrouted = row.state in _ENHANCING and row.route is None
        states[row.study_instance_uid].add("no route" if is_unrouted else row.state)
    for uid, found in series.items():
        lines[uid].series = len(found)


def _read_instances(connection: Connection, uids: list[str], lines: dict[str, StudyLine]) -> None:
    query = (
        select(arrival.c.study_instance_uid, instance.c.origin, instance.c.state, func.count().label("number"))
        .join(arrival, arrival.c.id == instance.c.arrival_id)
        .where(arrival.c.study_instance_uid.in_(uids))
        .group_by(arrival.c.study_instance_uid, instance.c.origin, instance.c.state)
    )
    for row in connection.execute(query):
        line = lines[row.study_instance_uid]
        if row.origin == "received":
            line.received += row.number
            line.purged += row.number if row.state == "purged" else 0
        elif row.origin == "derived":
            line.derived += row.number


def _read_deliveries(
    connection: Connection, uids: list[str], lines: dict[str, StudyLine], states: dict[str, set[str]]
) -> None:
    query = (
        select(arrival.c.study_instance_uid, delivery.c.destination, delivery.c.state, func.count().label("number"))
        .join(arrival, arrival.c.id == delivery.c.arrival_id)
        .where(arrival.c.study_instance_uid.in_(uids))
        .group_by(arrival.c.study_instance_uid, delivery.c.destination, delivery.c.state)
        .order_by(delivery.c.destination, delivery.c.state)
    )
    for row in connection.execute(query):
        lines[row.study_instance_uid].deliveries.setdefault(row.destination, {})[row.state] = row.number
        states[row.study_instance_uid].add(row.state)


def _read_terms(connection: Connection, lines: dict[str, StudyLine]) -> None:
    by_id = {line.study_id: line for line in lines.values()}
    query = select(study_term).where(study_term.c.study_id.in_(by_id)).order_by(study_term.c.value)
    for row in connection.execute(query):
        line = by_id[row.study_id]
        if row.kind == SENDER:
            line.senders += (row.value,)
        elif row.kind == "patient":
            line.patient += (row.value,)
        elif row.kind == "accession":
            line.accession += (row.value,)


def _state(found: set[str], *, is_held: bool) -> StudyState:
    if found & set(_DEAD):
        return StudyState.DEAD_LETTER
    if is_held or DeliveryState.HELD.value in found:
        return StudyState.ON_HOLD
    if "no route" in found:
        return StudyState.NO_ROUTE
    if found & {*_ENHANCING, *_MOVING}:
        return StudyState.IN_WORK
    if found & set(_RECEIVING):
        return StudyState.RECEIVING
    return StudyState.DELIVERED
