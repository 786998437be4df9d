"""A worker is told to stop while it enhances or delivers: another one goes on, before anybody misses it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.database_outages import own_postgres
from tests.support.faults import slowed
from tests.support.locked_databases import moment_query
from tests.support.modality import PersistentModality
from tests.support.peers import MockScp, wait_until
from tests.support.radiographs import write_radiographs
from tests.support.scenarios import Result, Scenario

# Nobody takes anybody for dead in this time: what goes on was handed over.
_DEAD_AFTER_S = 3600.0
_DRAIN_S = 2.0
_WHO = (
    "SELECT executor_id FROM dbos.workflow_status WHERE workflow_uuid LIKE '{kind}:%%' AND status = 'PENDING' "
    "ORDER BY created_at DESC"
)
_KINDS = {"enhancing": "enhance", "delivering": "deliver"}


def run_hand_over(folder: Path, moments: Sequence[str]) -> Result:
    """Stop the worker that has a series in hand, once for each of `moments`; returns what was lost."""
    result = Result()
    delays: dict[int, float] = {}
    with (
        own_postgres() as postgres,
        MockScp(delay_s=delays) as pacs,
        Cluster(
            folder / "cluster",
            postgres.create_database(),
            pacs.port,
            receivers=1,
            workers=2,
            environment=slowed(folder / "site", 1.0),
            node={"dead_after_s": _DEAD_AFTER_S, "drain_s": _DRAIN_S},
        ) as cluster,
    ):
        sent: list[Path] = []
        for number, moment in enumerate(moments, 1):
            if moment == "delivering":
                # The worker is stopped in the middle of a C-STORE, and has no time to see its end.
                delays[pacs.stores] = 5 * _DRAIN_S
            paths = write_radiographs(folder / "in", 4, series=number)
            with PersistentModality(cluster.port, paths) as modality:
                modality.wait()
            sent += paths
            query = moment_query(moment, number)
            stores = pacs.stores
            wait_until(lambda q=query: bool(cluster.rows(q)), timeout_s=90, what=query)  # type: ignore[misc]
            if moment == "delivering":
                wait_until(lambda n=stores: pacs.stores > n, timeout_s=90, what="the C-STORE")  # type: ignore[misc]
            who = cluster.rows(_WHO.format(kind=_KINDS[moment]))[0][0].split(":")[0]
            if cluster.machines[who].stop() != 0:
                result.broken.append(f"{who} did not end in order")
            result.tried += 1
            cluster.wait_balanced(len(sent))
            if "Work was handed over" not in cluster.machines[who].log():
                result.broken.append(f"{who} handed nothing over while {moment}")
            cluster.machines[who].start()
            cluster.machines[who].wait()
        result.check(cluster, pacs.objects, sent)
        attempts = cluster.rows("SELECT max(attempts) FROM enhancement")[0][0]
        if attempts > 1:
            result.broken.append(f"an image was counted {attempts} times, as if it had ended a worker")
        result.figures["objects sent twice, with the same bytes"] = len(pacs.objects) - len(
            {obj.sop_instance_uid for obj in pacs.objects}
        )
    return result


HAND_OVER = Scenario(
    name="hand-over",
    tries="A worker is told to stop while it enhances, or in the middle of a C-STORE; another one goes on at once, by "
    "settings by which nobody would miss it for an hour.",
    unit="stops",
    run=lambda folder, share: run_hand_over(folder, ("enhancing", "delivering") * max(1, round(5 * share))),
)
