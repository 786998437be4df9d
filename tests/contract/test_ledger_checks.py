"""Early retention against a model of all states, checks of objects, and orphans, on every database."""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path

import pytest

from dicom_node.disk_space import FileSystem, Usage
from dicom_node.instance_store import InstanceStore
from dicom_node.integrity import Examined, Finding, examine
from dicom_node.ledger.checks import CheckLedger
from dicom_node.ledger.disk_samples import DiskSampleLedger
from dicom_node.orphans import MOST_ORPHANS, OrphanSweep
from dicom_node.scrub import Scrub
from dicom_node.states import ArrivalState, DeliveryState, InstanceState, ItemState
from tests.contract.conftest import Ledger
from tests.contract.test_instance_store import write

SOUND = Examined(finding=Finding.SOUND)
DAMAGED = Examined(finding=Finding.DAMAGED, reason="other bytes")


def test_early_retention_takes_only_what_everybody_has(ledger: Ledger) -> None:
    """Every combination of states of instance, arrival, two deliveries and their items; the model says what may go."""
    released = {DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.REROUTED}
    expected: dict[str, bool] = {}
    association = ledger.associate()
    combinations = [
        *itertools.product(
            InstanceState, [ArrivalState.ENHANCED], DeliveryState, [DeliveryState.SENT], [ItemState.SENT]
        ),
        *itertools.product([InstanceState.STORED], ArrivalState, DeliveryState, [DeliveryState.COMMITTED], ItemState),
        *itertools.product(
            [InstanceState.STORED], [ArrivalState.PASSED_THROUGH], DeliveryState, DeliveryState, ItemState
        ),
    ]
    at = ledger.database.now()
    false = "0" if ledger.url.startswith("sqlite") else "false"
    with ledger.database.write() as connection:
        run = connection.exec_driver_sql
        for n, (inst, arr, one, two, item) in enumerate(combinations, start=1000):
            run(
                "INSERT INTO arrival (id, series_instance_uid, study_instance_uid, generation, state, attempts,"
                " opened_at, last_received_at, finished_at, shadow)"
                f" VALUES ({n}, '1.2.{n}', '1', 1, '{arr.value}', 0, 0, 0, {at - n}, {false})"
            )
            run(
                "INSERT INTO instance (id, origin, association_id, arrival_id, state, key, size, dataset_offset,"
                " digest, revision, at, sop_instance_uid) VALUES"
                f" ({n}, 'received', {association}, {n}, '{inst.value}', 'k{n}', 10, 1, 'd', 0, 0, '1.2.{n}.1')"
            )
            for number, state in ((2 * n, one), (2 * n + 1, two)):
                run(
                    "INSERT INTO delivery (id, arrival_id, destination, state, attempts, created_at, next_attempt_at,"
                    f" finished_at, part) VALUES ({number}, {n}, 'd{number}', '{state.value}', 1, 0, 0, {at - 1}, 0)"
                )
            run(
                "INSERT INTO delivery_item (delivery_id, instance_id, state, in_doubt)"
                f" VALUES ({2 * n}, {n}, '{item.value}', {false})"
            )
            expected[f"k{n}"] = (
                inst is InstanceState.STORED
                and arr in (ArrivalState.ENHANCED, ArrivalState.PASSED_THROUGH)
                and {one, two} <= released
                and item is ItemState.SENT
            )
    may_go = {key for key, may in expected.items() if may}
    assert 5 < len(may_go) < len(expected) / 5
    # The oldest first, and no more than is wanted: an arrival of a higher number was finished earlier.
    first, second = (key for key, _ in ledger.retention.purge_early(15))
    order = sorted(may_go, key=lambda key: -int(key[1:]))
    assert [first, second] == order[:2]
    gone = {first, second}
    while batch := ledger.retention.purge_early(1 << 40):
        gone |= {key for key, _ in batch}
    assert gone == may_go


def test_an_object_another_delivery_still_carries_is_kept(ledger: Ledger) -> None:
    """An operator may send an object again with a delivery of another arrival."""
    first, second = ledger.complete(series="1"), ledger.complete(series="2")
    with ledger.database.write() as connection:
        run = connection.exec_driver_sql
        run(f"UPDATE arrival SET state = 'enhanced', finished_at = 1 WHERE id IN ({first}, {second})")
        for number, (arrival, state) in enumerate(((first, "sent"), (second, "pending")), start=1):
            run(
                "INSERT INTO delivery (id, arrival_id, destination, state, attempts, created_at, next_attempt_at,"
                f" finished_at, part) VALUES ({number}, {arrival}, 'pacs', '{state}', 1, 0, 0, 1, 0)"
            )
        run(
            "INSERT INTO delivery_item (delivery_id, instance_id, state, in_doubt)"
            f" SELECT 2, id, 'sent', {'0' if ledger.url.startswith('sqlite') else 'false'} FROM instance"
            f" WHERE arrival_id = {first}"
        )
    assert ledger.retention.purge_early(1 << 40) == []
    assert ledger.retention.purge_delivered(0) == []


def test_checks_come_round_the_longest_waiting_first_and_faults_raise_one_alarm(ledger: Ledger) -> None:
    ledger.complete(3)
    checks = CheckLedger(ledger.database)
    keys = [one.key for one in checks.due(100)]
    assert len(keys) == 3
    assert checks.record([(keys[0], SOUND), (keys[1], DAMAGED), ("unknown", DAMAGED)]) == [keys[1]]
    assert [one.key for one in checks.due(100)] == [keys[2]]
    ledger.clock.advance(50)
    assert checks.record([(keys[2], SOUND)]) == []
    ledger.clock.advance(51)
    assert [one.key for one in checks.due(100)] == keys[:2]
    # Known already: no second alarm. Sound again, as after it was restored: no fault any more.
    assert checks.record([(keys[1], DAMAGED)]) == []
    assert [row["key"] for row in checks.summary().findings] == [keys[1]]
    assert checks.checked_since(ledger.clock() - 60) == {keys[2]}
    assert checks.record([(keys[1], SOUND)]) == []
    summary = checks.summary()
    assert (summary.objects, summary.checked, summary.faults) == (3, 3, 0)
    assert ledger.rows("SELECT event, reason FROM event WHERE event = 'damaged'") == [("damaged", "other bytes")]


def test_what_was_purged_meanwhile_is_not_missing(ledger: Ledger) -> None:
    ledger.complete(1)
    checks = CheckLedger(ledger.database)
    (one,) = checks.due(1)
    with ledger.database.write() as connection:
        connection.exec_driver_sql("UPDATE instance SET state = 'purged'")
    assert checks.record([(one.key, Examined(finding=Finding.MISSING))]) == []
    assert checks.summary().faults == 0


def test_samples_are_kept_for_two_days(ledger: Ledger) -> None:
    samples = DiskSampleLedger(ledger.database, "here")
    system = FileSystem(path=Path("/a"), holds=("objects",))
    for free in (3, 2, 1):
        samples.record([(system, Usage(free_bytes=free, total_bytes=9, free_inodes=0, total_inodes=0))])
        ledger.clock.advance(30 * 3600)
    assert [free for _, free in samples.samples(system, 1e9)] == [2, 1]
    assert DiskSampleLedger(ledger.database, "there").samples(system, 1e9) == []


def add_row(ledger: Ledger, key: str, state: str = "stored") -> None:
    association = ledger.associate()
    recorded = ledger.receive(association, association, series="7", content=key[:1])
    with ledger.database.write() as connection:
        connection.exec_driver_sql(
            f"UPDATE instance SET key = '{key}', state = '{state}' WHERE id = {recorded.instance_id}"
        )


def aged(store: InstanceStore) -> str:
    key = write(store).commit().key
    os.utime(store.path(key), (0, 0))
    return key


@pytest.mark.parametrize("action", ["report", "move", "delete"])
def test_orphans_are_found_and_nothing_else_is_touched(ledger: Ledger, tmp_path: Path, action: str) -> None:
    store = InstanceStore(tmp_path / "data")
    known, orphan, left_over = aged(store), aged(store), aged(store)
    young = write(store).commit().key
    add_row(ledger, known)
    add_row(ledger, left_over, "purged")
    sweep = OrphanSweep(
        ledger=CheckLedger(ledger.database),
        store=store,
        age_s=3600,
        action=action,  # type: ignore[arg-type]
    )
    found = sweep.sweep()
    assert (found.orphans, found.left_over) == ((orphan,), (left_over,))
    aside = tmp_path / "data" / "orphans" / f"{orphan}.dcm"
    assert set(store.keys()) == {known, young, *([orphan] if action == "report" else [])}
    assert aside.exists() is (action == "move")
    events = ledger.rows("SELECT reason FROM event WHERE event = 'orphan'")
    assert [orphan in row[0] for row in events] == ([] if action == "report" else [True])


def test_a_ledger_older_than_the_files_is_not_believed(ledger: Ledger, tmp_path: Path) -> None:
    """After a restore from a backup every file received since then has no row: they are the only copies."""
    store = InstanceStore(tmp_path / "data")
    keys = {aged(store) for _ in range(MOST_ORPHANS + 1)}
    sweep = OrphanSweep(ledger=CheckLedger(ledger.database), store=store, age_s=3600, action="delete")
    assert sweep.sweep().is_ledger_suspect
    assert set(store.keys()) == keys


def test_the_scrub_finds_what_decayed_and_keeps_to_its_rate(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = InstanceStore(tmp_path / "data")
    stored = [write(store).commit() for _ in range(4)]
    for one in stored:
        add_row(ledger, one.key)
        with ledger.database.write() as connection:
            connection.exec_driver_sql(
                f"UPDATE instance SET size = {one.size}, dataset_offset = {one.dataset_offset},"
                f" digest = '{one.digest}' WHERE key = '{one.key}'"
            )
    content = bytearray(store.path(stored[0].key).read_bytes())
    content[-1] ^= 1
    store.path(stored[0].key).write_bytes(content)
    store.path(stored[1].key).unlink()
    now = [0.0]
    scrub = Scrub(
        ledger=CheckLedger(ledger.database), store=store, period_s=60, bytes_per_s=stored[0].size, clock=lambda: now[0]
    )
    assert scrub.step() == 0
    read = []
    for _ in range(5):
        now[0] += 1.0
        read.append(scrub.step())
    assert sum(read) == 4
    assert max(read) == 2  # the one that is not there costs next to nothing
    summary = CheckLedger(ledger.database).summary()
    assert {row["key"]: row["finding"] for row in summary.findings} == {
        stored[0].key: "damaged",
        stored[1].key: "missing",
    }

    def alarms() -> set[str]:
        return {record.key for record in caplog.records if record.levelno == logging.ERROR}  # type: ignore[attr-defined]

    # Each alarm once: what is known is no news when it is read again.
    assert alarms() == {stored[0].key, stored[1].key}
    caplog.clear()
    ledger.clock.advance(61)
    for _ in range(5):
        now[0] += 1.0
        read.append(scrub.step())
    assert sum(read) == 8
    assert alarms() == set()


def test_a_file_of_another_size_is_damaged_without_being_read(tmp_path: Path) -> None:
    store = InstanceStore(tmp_path / "data")
    stored = write(store).commit()
    path = store.path(stored.key)
    path.write_bytes(path.read_bytes()[:-2])
    for deep in (False, True):
        found = examine(path, stored, deep=deep)
        assert (found.finding, found.read_bytes) == (Finding.DAMAGED, 0)


def test_the_scrub_saves_up_no_more_than_a_moment(ledger: Ledger, tmp_path: Path) -> None:
    store = InstanceStore(tmp_path / "data")
    stored = [write(store).commit() for _ in range(30)]
    for one in stored:
        add_row(ledger, one.key)
        with ledger.database.write() as connection:
            connection.exec_driver_sql(
                f"UPDATE instance SET size = {one.size}, dataset_offset = {one.dataset_offset},"
                f" digest = '{one.digest}' WHERE key = '{one.key}'"
            )
    now = [0.0]
    # One object a second, of which the smallest count for 4096 bytes.
    rate = max(stored[0].size - stored[0].dataset_offset, 4096)
    checks = CheckLedger(ledger.database)
    scrub = Scrub(ledger=checks, store=store, period_s=60, bytes_per_s=rate, clock=lambda: now[0])
    # After an hour in which the machine slept, not everything at once.
    now[0] = 3600.0
    assert scrub.step() == 10
