"""Another program locks the node's SQLite databases, in the middle of receiving, enhancing and delivering."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.database_locks import locked
from tests.support.faults import slowed
from tests.support.kill_matrix import send_until_stored, wait_done
from tests.support.modality import ModalityAssociation, PersistentModality
from tests.support.node import RunningNode, running_node
from tests.support.peers import MockScp, read_part10, wait_until
from tests.support.radiographs import CT, ROOT, write_radiographs
from tests.support.scenarios import Result, Scenario

OUT_OF_RESOURCES = 0xA700
LEDGER, WORKFLOWS = "ledger.sqlite", "workflows.sqlite"


@dataclass(frozen=True, kw_only=True)
class Lock:
    """What is locked, and at which moment of a series' way."""

    moment: str
    files: tuple[str, ...]


LOCKS = (
    Lock(moment="receiving", files=(LEDGER,)),
    Lock(moment="enhancing", files=(LEDGER, WORKFLOWS)),
    Lock(moment="delivering", files=(LEDGER, WORKFLOWS)),
    Lock(moment="enhancing", files=(WORKFLOWS,)),
)


def moment_query(moment: str, series: int) -> str:
    """Return the query that has a row while a series is being enhanced, or delivered."""
    of_series = f"series_instance_uid = '{ROOT}.2.{series}'"
    if moment == "enhancing":
        return f"SELECT 1 FROM arrival WHERE state = 'enhancing' AND {of_series}"
    joined = "delivery JOIN arrival ON arrival.id = arrival_id"
    return f"SELECT 1 FROM {joined} WHERE delivery.state = 'sending' AND {of_series}"


def run_locks(folder: Path, locks: Sequence[Lock], *, hold_s: float, timeout_s: float) -> Result:
    """Hold one lock after the other for `hold_s` seconds; nothing may need a restart."""
    result = Result()
    with (
        MockScp(delay_s=0.5) as pacs,
        running_node(
            folder / "node",
            pacs.port,
            node={"database_timeout_s": timeout_s},
            environment=slowed(folder / "site", 0.5),
        ) as node,
    ):
        before = {name: process.pid for name, process in node.processes().items()}
        sent: list[Path] = []
        for number, lock in enumerate(locks, 1):
            paths = write_radiographs(folder / "in", 3, series=2 * number)
            probes = write_radiographs(folder / "in", 3, series=2 * number + 1, sop_class=CT)
            files = [node.data_dir / name for name in lock.files]
            with (
                ModalityAssociation(node.port, timeout_s=4 * timeout_s + 30) as open_before,
                PersistentModality(
                    node.port, paths, pause_s=0.3 if lock.moment == "receiving" else 0.0, timeout_s=4 * timeout_s + 30
                ) as modality,
            ):
                _wait_for_moment(node, lock, 2 * number, modality)
                with locked(*files):
                    until = time.monotonic() + hold_s
                    result.broken += _probe(node, lock, open_before, probes, until, timeout_s)
                    time.sleep(max(0.0, until - time.monotonic()))
                result.tried += 1
                modality.wait()
            for path in probes:
                send_until_stored(node, path)
            sent += [*paths, *probes]
            wait_done(node, len(sent), timeout_s=120 + 2 * hold_s)
        result.check(node, pacs.objects, sent)
        if before != {name: process.pid for name, process in node.processes().items()}:
            result.broken.append("a process ended")
        if "database is locked" not in node.log():
            result.broken.append("the log says nothing of a lock")
        result.figures["seconds that each lock was held"] = hold_s
        result.figures["longest wait of the settings, seconds"] = timeout_s
    return result


def _wait_for_moment(node: RunningNode, lock: Lock, series: int, modality: PersistentModality) -> None:
    if lock.moment == "receiving":
        wait_until(lambda: bool(modality.acknowledged), timeout_s=60, what="the first acknowledgement")
    else:
        node.wait_for_rows(moment_query(lock.moment, series))


def _probe(
    node: RunningNode,
    lock: Lock,
    association: ModalityAssociation,
    paths: Sequence[Path],
    until: float,
    timeout_s: float,
) -> list[str]:
    """Store while the lock is held, on an association that was open before, and on a new one."""
    # The one lets nothing be recorded; the other is no concern of the receiver's.
    expected = OUT_OF_RESOURCES if LEDGER in lock.files else 0
    found = []
    for path in paths:
        begun = time.monotonic()
        status = association.store_object(read_part10(path))
        # An answer after the end of the lock may be a success.
        if status != expected and (expected == 0 or time.monotonic() < until):
            found.append(f"{lock}: {status:04X} after {time.monotonic() - begun:.1f} s")
    if expected and time.monotonic() < until:
        found += _is_refused(lambda: ModalityAssociation(node.port, timeout_s=4 * timeout_s + 30), until, str(lock))
    association.release()
    return found


def _is_refused(associate: Callable[[], ModalityAssociation], until: float, what: str) -> list[str]:
    try:
        with associate():
            return [f"{what}: an association was accepted"] if time.monotonic() < until else []
    except ConnectionError:
        return []


LOCKED_DATABASES = Scenario(
    name="locked-databases",
    tries="Another program holds an exclusive lock on the SQLite ledger, on the workflows' database, or on both, while "
    "series are being received, enhanced and delivered; the receiver answers A700, and nothing needs a restart.",
    unit="locks",
    run=lambda folder, share: (
        run_locks(folder, LOCKS, hold_s=max(20.0, 60 * share), timeout_s=15.0)
        if share
        else run_locks(folder, LOCKS[:3], hold_s=3.0, timeout_s=0.5)
    ),
)
