"""A cluster whose machines are network namespaces, with haproxy in front; cables are pulled and machines killed."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.balancer import Balancer
from tests.support.cluster import DEAD_AFTER_S, Cluster, Machine
from tests.support.database_outages import own_postgres
from tests.support.faults import slowed
from tests.support.modality import PersistentModality
from tests.support.namespaces import Namespaces
from tests.support.node import CALLING, default_routes, destination
from tests.support.peers import MockScp, wait_until
from tests.support.postgres import PostgresCluster
from tests.support.radiographs import CT, write_radiographs
from tests.support.scenarios import Result, Scenario

PORT = 11112
_PATIENCE_S = 10.0


class NetworkedCluster(Cluster):
    """Machines in namespaces; `net` has a host for each, and those of balancer, modality, PACS and database."""

    def __init__(
        self,
        folder: Path,
        net: Namespaces,
        postgres: PostgresCluster,
        pacs: MockScp,
        *,
        receivers: int,
        workers: int,
        environment: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self.data_dir = folder / "objects"
        url = postgres.create_database()
        # The test looks past all cables.
        self.url = postgres.local_url(url.rsplit("/", 1)[1])
        self._environment = dict(environment)
        self.machines = {}
        self.balancer = None
        for role, count in (("receiver", receivers), ("worker", workers)):
            for number in range(1, count + 1):
                name = f"{role}-{number}"
                tables = {
                    "node": {
                        "name": name,
                        "ae_title": "LOWDOSE",
                        "bind": net.addresses[name],
                        "port": PORT,
                        "data_dir": str(folder / name / "data"),
                        "database_url": url,
                        "database_timeout_s": 5.0,
                        "drain_s": 10,
                        "dead_after_s": DEAD_AFTER_S,
                    },
                    "receiver": {
                        "min_free_mb": 16,
                        "network_timeout_s": 15,
                        "proxy_protocol_from": [net.addresses["balancer"]],
                    },
                    "storage": {"folder": str(folder / "objects")},
                    "model": {"threads": 1, "device": "cpu"},
                    # The modality's own address, and not the balancer's.
                    "sources": [{"name": "xray", "ae_titles": [CALLING], "hosts": [net.addresses["modality"]]}],
                    "destinations": [destination("pacs", pacs.port, host=pacs.host)],
                    "routes": default_routes("pacs"),
                }
                self.machines[name] = Machine(folder / name, name, role, tables, prefix=net.prefix(name))


@dataclass(frozen=True, kw_only=True)
class Round:
    """Machines that are killed, and hosts whose cable is pulled."""

    killed: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


def plan_rounds(count: int, workers: int, seed: int) -> list[Round]:
    """Return what happens: one receiver and one worker always stay; every third round database or PACS is cut off."""
    rng, rounds = random.Random(seed), []
    for number in range(count):
        if number % 3 == 2:
            rounds.append(Round(cut=(("postgres", "pacs")[number // 3 % 2],)))
            continue
        names = rng.sample([f"worker-{n}" for n in range(1, workers + 1)], workers - 1)
        receiver = f"receiver-{rng.randint(1, 2)}"
        # Of the workers one is cut off, the others die; the receiver does the one and the other by turns.
        dead, mute = tuple(names[1:]), names[0]
        rounds.append(
            Round(killed=(*dead, receiver), cut=(mute,))
            if number % 2 == 0
            else Round(killed=dead, cut=(mute, receiver))
        )
    return rounds


def run_namespaces(folder: Path, rounds: Sequence[Round], *, workers: int, images: int) -> Result:
    """Send through haproxy while machines are killed and cables are pulled; returns what was lost."""
    result = Result()
    paths = [
        path
        for series in range(1, images // 4 + 1)
        for path in write_radiographs(folder / "in", 4, series=series, **({"sop_class": CT} if series % 2 else {}))
    ]
    machines = ["receiver-1", "receiver-2", *(f"worker-{number}" for number in range(1, workers + 1))]
    with ExitStack() as stack:
        net = stack.enter_context(Namespaces(["postgres", "pacs", "balancer", "modality", *machines]))
        postgres = stack.enter_context(own_postgres(address=net.addresses["postgres"], prefix=net.prefix("postgres")))
        with net.on("pacs"):
            pacs = stack.enter_context(MockScp(host=net.addresses["pacs"], delay_s=0.05))
        cluster = stack.enter_context(
            NetworkedCluster(
                folder / "cluster",
                net,
                postgres,
                pacs,
                receivers=2,
                workers=workers,
                environment=slowed(folder / "site", 0.1),
            )
        )
        balancer = stack.enter_context(
            Balancer(
                folder / "balancer",
                bind=f"{net.addresses['balancer']}:{PORT}",
                servers={name: f"{net.addresses[name]}:{PORT}" for name in machines[:2]},
                prefix=net.prefix("balancer"),
            )
        )
        is_lossy = net.disturb("modality", delay_ms=5, loss_percent=1.0)
        with net.on("modality"):
            modality = stack.enter_context(
                PersistentModality(
                    PORT, paths, per_association=2, pause_s=0.05, timeout_s=_PATIENCE_S, host=net.addresses["balancer"]
                )
            )
        for number, one in enumerate(rounds):
            at_least = (number + 1) * len(paths) // (len(rounds) + 2)
            wait_until(lambda n=at_least: len(modality.acknowledged) >= n, timeout_s=120, what=f"round {number}")  # type: ignore[misc]
            _disturb(cluster, net, one)
            result.tried += len(one.killed) + len(one.cut)
            told = set(modality.acknowledged)
            recorded = {row[0] for row in cluster.rows("SELECT sop_instance_uid FROM instance WHERE origin='received'")}
            if not told <= recorded:
                result.broken.append(f"acknowledged and not in the ledger: {len(told - recorded)}")
            _wait_until_missed(cluster, one)
            if number == len(rounds) - 1 and not {"postgres", "pacs"} & set(one.cut):
                # Nobody comes back: the others must finish it.
                modality.wait(120)
                cluster.wait_balanced(len(paths))
            _restore(cluster, net, one)
        modality.wait(180)
        cluster.wait_balanced(len(paths), timeout_s=240)
        result.check(cluster, pacs.objects, paths)
        seen = {row[0] for row in cluster.rows("SELECT DISTINCT host FROM association")}
        if seen != {net.addresses["modality"]}:
            result.broken.append(f"addresses of the modality in the ledger: {seen}")
        if not balancer.is_running:
            result.broken.append("haproxy ended")
        result.figures |= {
            "machines killed": sum(len(one.killed) for one in rounds),
            "cables pulled": sum(len(one.cut) for one in rounds),
            "stores that were cut off and sent again": len(modality.failures),
            "packets delayed and lost on the modality's cable": "yes" if is_lossy else "no, the kernel has no netem",
        }
    return result


def _wait_until_missed(cluster: Cluster, one: Round) -> None:
    """Wait until others know of it: by the silence of a machine, or for longer than any time-out."""
    gone = [*one.killed, *(name for name in one.cut if name in cluster.machines)]
    if not gone:
        time.sleep(20.0)
        return
    silent = f"SELECT name FROM process WHERE seen_at < extract(epoch FROM now()) - {DEAD_AFTER_S}"
    wait_until(lambda: len(cluster.rows(silent)) >= len(gone), timeout_s=90, what=f"the silence of {gone}")


def _disturb(cluster: Cluster, net: Namespaces, one: Round) -> None:
    for name in one.cut:
        net.cut(name)
    for name in one.killed:
        cluster.machines[name].kill()


def _restore(cluster: Cluster, net: Namespaces, one: Round) -> None:
    for name in one.cut:
        net.mend(name)
    for name in one.killed:
        cluster.machines[name].start()


NAMESPACES = Scenario(
    name="namespaces",
    tries="Two receivers behind haproxy, three workers, one PostgreSQL and one PACS as hosts of a network of their own "
    "(namespaces on a bridge); machines are killed, and cables are pulled: of receivers, workers, PACS and database.",
    unit="machines",
    run=lambda folder, share: (
        run_namespaces(folder, plan_rounds(max(3, round(12 * share)), 3, seed=7), workers=3, images=48)
        if share
        else run_namespaces(folder, [Round(killed=("receiver-1",), cut=("worker-1",))], workers=2, images=12)
    ),
)
