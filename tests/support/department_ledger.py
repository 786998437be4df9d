"""A ledger full of studies, written row by row in bulk: for pages, benchmarks and pictures."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Table, insert

from dicom_node.ledger import schema
from dicom_node.ledger.database import Database

SENDERS: Final = ("XRAY1", "XRAY2", "BUCKY_A", "CARM3")
DESTINATIONS: Final = ("pacs", "archive")
DX: Final = "1.2.840.10008.5.1.4.1.1.1.1"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
# Of a study in its place: how its deliveries stand. Most are done.
_ODD: Final = {0: "refused", 1: "held", 2: "pending", 3: "open", 4: "no route", 5: "abandoned", 6: "enhancing"}


@dataclass
class _Counter:
    study: int = 0
    arrival: int = 0
    instance: int = 0
    delivery: int = 0
    event: int = 0


def fill(database: Database, *, studies: int, odd_every: int = 100, seed: int = 1, until: float | None = None) -> None:
    """Write `studies` studies of one to three series with one to four images each, spread over 30 days up to now.

    Every `odd_every`-th study is not done, in one of seven ways.
    """
    rng = random.Random(seed)
    counter = _Counter()
    until = database.now() if until is None else until
    with database.write() as connection:
        for n, sender in enumerate(SENDERS, 1):
            connection.execute(
                insert(schema.association),
                {
                    "id": n,
                    "receiver": "node:receiver",
                    "calling_ae_title": sender,
                    "called_ae_title": "LOWDOSE",
                    "host": f"10.1.0.{n}",
                    "port": 40000 + n,
                    "opened_at": until - 600 * n,
                    "closed_at": until - 600 * n + 5,
                    "outcome": "released",
                    "acknowledged": 0,
                },
            )
        batch: dict[Table, list[dict[str, Any]]] = {}
        for number in range(studies):
            age = (studies - 1 - number) / studies * 30 * 86_400
            kind = _ODD.get((number // odd_every) % len(_ODD)) if number % odd_every == odd_every - 1 else None
            for table, row in _study(counter, number, until - age - 120, kind, rng):
                batch.setdefault(table, []).append(row)
            if number % 500 == 499 or number == studies - 1:
                for table in schema.metadata.sorted_tables:
                    if rows := batch.pop(table, None):
                        connection.execute(insert(table), rows)


def _study(
    counter: _Counter, number: int, at: float, kind: str | None, rng: random.Random
) -> Iterator[tuple[Table, dict[str, Any]]]:
    counter.study += 1
    uid = f"1.2.826.0.1.3680043.8.498.{number + 1:08d}.{rng.randrange(10**9):09d}"
    sender = number % len(SENDERS)
    yield (
        schema.study,
        {"id": counter.study, "study_instance_uid": uid, "first_at": at, "last_at": at + 20},
    )
    terms = (
        ("patient", f"{rng.randrange(16**12) if number % 5 else number // 5:032x}"),
        ("accession", f"{number + 16**20:032x}"),
        ("sender", SENDERS[sender]),
    )
    for name, value in terms:
        yield schema.study_term, {"study_id": counter.study, "kind": name, "value": value}
    for series in range(1, rng.randint(1, 3) + 1):
        yield from _series(counter, f"{uid}.{series}", uid, at + 5 * series, kind, sender + 1, rng)


def _series(
    counter: _Counter, uid: str, study_uid: str, at: float, kind: str | None, association: int, rng: random.Random
) -> Iterator[tuple[Table, dict[str, Any]]]:
    counter.arrival += 1
    arrival = counter.arrival
    done = kind not in ("open", "no route", "enhancing")
    state = {"open": "open", "no route": "complete", "enhancing": "enhancing"}.get(kind or "", "enhanced")
    yield (
        schema.arrival,
        {
            "id": arrival,
            "series_instance_uid": uid,
            "study_instance_uid": study_uid,
            "generation": 1,
            "state": state,
            "route": None if kind in ("open", "no route") else "radiographs",
            "attempts": 1,
            "opened_at": at,
            "last_received_at": at + 2,
            "completed_at": None if kind == "open" else at + 5,
            "finished_at": at + 9 if done else None,
            "shadow": False,
        },
    )
    yield from _event(counter, "arrival", arrival, None, "open", "open", at)
    items: list[int] = []
    images = rng.randint(1, 4)
    for image in range(1, images + 1):
        counter.instance += 1
        source = counter.instance
        yield schema.instance, _instance(source, "received", arrival, f"{uid}.{image}", study_uid, uid, at, association)
        yield from _event(counter, "instance", source, None, "receive", "stored", at + 0.1 * image)
        if done:
            counter.instance += 1
            derived = counter.instance
            row = _instance(derived, "derived", arrival, f"2.25.{derived}", study_uid, f"2.25.{arrival}", at + 7, None)
            yield schema.instance, {**row, "source_id": source}
            before = rng.uniform(8, 30)
            yield (
                schema.enhancement,
                {
                    "instance_id": source,
                    "attempts": 1,
                    "decision": "enhanced",
                    "derived_id": derived,
                    "strength": 0.7,
                    "noise_before": before,
                    "noise_after": before * rng.uniform(0.3, 0.5),
                    "inference_s": 1.1,
                    "total_s": rng.uniform(1.2, 2.0),
                    "model_digest": "ab" * 32,
                    "at": at + 7,
                },
            )
            yield from _event(counter, "instance", derived, None, "derive", "stored", at + 7)
            yield from _event(counter, "instance", source, "stored", "decide", "enhanced", at + 7)
            items.append(derived)
    if kind != "open":
        yield from _event(counter, "arrival", arrival, "open", "complete", "complete", at + 5)
    if done:
        yield from _event(counter, "arrival", arrival, "complete", "begin", "enhancing", at + 5.5)
        yield from _event(counter, "arrival", arrival, "enhancing", "finish", "enhanced", at + 9)
        for destination in DESTINATIONS:
            odd = kind if destination == DESTINATIONS[0] else None
            yield from _delivery(counter, arrival, destination, items, odd, at + 9, rng)


def _delivery(
    counter: _Counter, arrival: int, destination: str, items: list[int], kind: str | None, at: float, rng: random.Random
) -> Iterator[tuple[Table, dict[str, Any]]]:
    counter.delivery += 1
    number = counter.delivery
    state = kind if kind in ("refused", "held", "pending", "abandoned") else "sent"
    reasons = {
        "refused": "status A900: data set does not match its SOP class",
        "abandoned": "connection refused; given up after 72 h",
        "held": "asked for (anna in the console)",
        "pending": "connection refused",
    }
    yield (
        schema.delivery,
        {
            "id": number,
            "arrival_id": arrival,
            "destination": destination,
            "state": state,
            "attempts": 1,
            "created_at": at,
            "next_attempt_at": at + 3600 if state == "pending" else at,
            "finished_at": at + rng.uniform(0.5, 3) if state in ("sent", "refused", "abandoned") else None,
            "reason": reasons.get(state),
            "part": 0,
        },
    )
    yield from _event(counter, "delivery", number, None, "open", "pending", at)
    yield from _event(counter, "delivery", number, "pending", "begin", "sending", at + 0.3)
    if state == "sent":
        yield from _event(counter, "delivery", number, "sending", "succeed", "sent", at + 2)
    elif state == "refused":
        yield from _event(counter, "delivery", number, "sending", "refuse", "refused", at + 2, reasons["refused"])
    item = {"sent": "sent", "refused": "refused"}.get(state, "pending")
    for instance in items:
        yield (
            schema.delivery_item,
            {"delivery_id": number, "instance_id": instance, "state": item, "in_doubt": False, "at": at + 2},
        )


def _instance(
    number: int, origin: str, arrival: int, uid: str, study: str, series: str, at: float, association: int | None
) -> dict[str, Any]:
    return {
        "id": number,
        "origin": origin,
        "association_id": association,
        "arrival_id": arrival,
        "source_id": None,
        "state": "stored",
        "sop_class_uid": DX,
        "sop_instance_uid": uid,
        "study_instance_uid": study,
        "series_instance_uid": series,
        "transfer_syntax_uid": EXPLICIT,
        "key": f"{number:032x}",
        "size": 18_000_000,
        "dataset_offset": 400,
        "digest": f"{number:064x}",
        "revision": 0,
        "at": at,
    }


def _event(
    counter: _Counter,
    subject: str,
    number: int,
    before: str | None,
    name: str,
    after: str,
    at: float,
    reason: str | None = None,
) -> Iterator[tuple[Table, dict[str, Any]]]:
    counter.event += 1
    yield (
        schema.event,
        {
            "id": counter.event,
            "at": at,
            "subject": subject,
            "subject_id": number,
            "from_state": before,
            "to_state": after,
            "event": name,
            "reason": reason,
        },
    )
