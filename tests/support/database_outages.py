"""Two receivers and two workers lose their PostgreSQL in the middle of enhancing and delivering: stopped, or silent."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cluster import Cluster
from tests.support.faults import slowed
from tests.support.locked_databases import OUT_OF_RESOURCES, moment_query
from tests.support.modality import ModalityAssociation, PersistentModality
from tests.support.peers import MockScp, read_part10, wait_until
from tests.support.postgres import PostgresCluster
from tests.support.radiographs import CT, write_radiographs
from tests.support.scenarios import Result, Scenario


@dataclass(frozen=True, kw_only=True)
class Outage:
    """How the database goes away, and at which moment of a series' way.

    `stopped` is a crash of the server: connections end, new ones are refused. `silent` is a server, or a network, that
    takes everything and never answers.
    """

    kind: str
    moment: str


OUTAGES = tuple(
    Outage(kind=kind, moment=moment) for kind in ("stopped", "silent") for moment in ("enhancing", "delivering")
)


@contextmanager
def own_postgres(**options: Any) -> Iterator[PostgresCluster]:
    """Run a server that nobody else uses."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        with PostgresCluster(folder, **options) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def away(kind: str, postgres: PostgresCluster, cluster: Cluster) -> Iterator[None]:
    """Take the database away from all machines for the block."""
    if kind == "stopped":
        postgres.stop("immediate")
        try:
            yield
        finally:
            postgres.start()
        return
    for machine in cluster.machines.values():
        machine.database.cut()
    try:
        yield
    finally:
        for machine in cluster.machines.values():
            machine.database.mend()


def run_outages(folder: Path, outages: Sequence[Outage], *, hold_s: float, timeout_s: float) -> Result:
    """Take the database away in one way after the other, for `hold_s` seconds; nothing may need a restart."""
    result = Result()
    patience_s = 4 * timeout_s + 30
    with (
        own_postgres() as postgres,
        MockScp(delay_s=0.5) as pacs,
        Cluster(
            folder / "cluster",
            postgres.create_database(),
            pacs.port,
            workers=2,
            environment=slowed(folder / "site", 0.5),
            node={"database_timeout_s": timeout_s},
        ) as cluster,
    ):
        before = {machine.name: machine.pid for machine in cluster.machines.values()}
        receivers = [machine for machine in cluster.machines.values() if machine.role == "receiver"]
        sent: list[Path] = []
        for number, outage in enumerate(outages, 1):
            paths = write_radiographs(folder / "in", 3, series=2 * number)
            probes = write_radiographs(folder / "in", 2, series=2 * number + 1, sop_class=CT)
            with PersistentModality(cluster.port, paths, timeout_s=patience_s) as modality:
                modality.wait()
                open_before = [ModalityAssociation(machine.port, timeout_s=patience_s) for machine in receivers]
                query = moment_query(outage.moment, 2 * number)
                wait_until(lambda q=query: bool(cluster.rows(q)), timeout_s=90, what=query)  # type: ignore[misc]
                with away(outage.kind, postgres, cluster):
                    until = time.monotonic() + hold_s
                    for association, path, machine in zip(open_before, probes, receivers, strict=True):
                        status = association.store_object(read_part10(path))
                        if status != OUT_OF_RESOURCES:
                            result.broken.append(f"{outage}: {machine.name} answered {status:04X}")
                        with suppress(ConnectionError), ModalityAssociation(machine.port, timeout_s=patience_s):
                            result.broken.append(f"{outage}: {machine.name} accepted an association")
                        association.release()
                    time.sleep(max(0.0, until - time.monotonic()))
            result.tried += 1
            with PersistentModality(cluster.port, probes, timeout_s=patience_s) as modality:
                modality.wait()
            sent += [*paths, *probes]
            cluster.wait_balanced(len(sent), timeout_s=180 + 2 * hold_s)
        result.check(cluster, pacs.objects, sent)
        if before != {machine.name: machine.pid for machine in cluster.machines.values() if machine.is_running}:
            result.broken.append("a process ended")
        result.broken += [
            f"the log of {machine.name} says nothing of the database"
            for machine in cluster.machines.values()
            if "ledger database:" not in machine.log()
        ]
        result.figures["seconds of each outage"] = hold_s
        result.figures["longest wait of the settings, seconds"] = timeout_s
    return result


DATABASE_OUTAGES = Scenario(
    name="database-outages",
    tries="Two receivers and two workers lose their PostgreSQL while a series is enhanced, or delivered: it crashes "
    "and comes back, or takes everything and answers nothing. Receivers answer A700, and nothing needs a restart.",
    unit="outages",
    # Beyond a minute the steps of workflows give up, and workflows end and begin anew.
    run=lambda folder, share: (
        run_outages(folder, OUTAGES, hold_s=max(20.0, 90 * share), timeout_s=15.0)
        if share
        else run_outages(folder, (OUTAGES[0], OUTAGES[3]), hold_s=2.0, timeout_s=0.5)
    ),
)
