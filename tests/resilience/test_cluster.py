"""Two receivers and three workers as machines of their own: whichever is killed or cut off, the balance closes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cluster import DEAD_AFTER_S, Cluster, Relay, disturb, restore
from tests.support.faults import slowed
from tests.support.invariants import check_pacs
from tests.support.modality import ModalityAssociation, PersistentModality
from tests.support.object_storage import CREDENTIALS, MOTO_SERVER, ObjectStorage
from tests.support.peers import MockScp, read_part10, wait_until
from tests.support.postgres import PostgresCluster, requires_postgres
from tests.support.radiographs import CT, write_radiographs

pytestmark = [requires_postgres, pytest.mark.timeout(280)]

SILENT = f"SELECT name FROM process WHERE seen_at < extract(epoch FROM now()) - {DEAD_AFTER_S}"
SENDER = "SELECT executor_id FROM dbos.workflow_status WHERE workflow_uuid LIKE 'deliver:%%' AND status = 'PENDING'"


@pytest.fixture(params=["folder", "s3"])
def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStorage | None]:
    """Return the S3 service where objects lie, or None for a folder that all machines share."""
    if request.param == "folder":
        yield None
        return
    if MOTO_SERVER is None:
        pytest.skip("moto is not installed (scripts/test makes .moto)")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with ObjectStorage(tmp_path) as running:
        yield running


def run_disturbed(
    folder: Path, postgres: PostgresCluster, storage: ObjectStorage | None, *, rounds: int, images: int, seed: int
) -> dict[str, int]:
    """Send through a cluster of which machines are killed and cut off in rounds; returns how many of each.

    Every check is inside: what was acknowledged is in the ledger, the balance closes, the PACS has every image once
    under one UID, originals bit-exact.
    """
    rng = random.Random(seed)
    paths = [
        path
        for series in range(1, images // 4 + 1)
        for path in write_radiographs(folder / "in", 4, series=series, **({"sop_class": CT} if series % 2 else {}))
    ]
    environment = {**slowed(folder / "site", 0.1), **CREDENTIALS}
    settings = None if storage is None else storage.settings
    counts = {"killed": 0, "cut": 0, "sent": len(paths)}
    with (
        MockScp(delay_s=0.05) as pacs,
        Cluster(
            folder / "cluster", postgres.create_database(), pacs.port, storage=settings, environment=environment
        ) as cluster,
        PersistentModality(cluster.port, paths, per_association=2, pause_s=0.05, timeout_s=8) as modality,
    ):
        for number in range(rounds):
            at_least = (number + 1) * len(paths) // (rounds + 2)
            wait_until(lambda n=at_least: len(modality.acknowledged) >= n, timeout_s=100, what="the next round")
            # One receiver and one worker stay, which have to do all of the work. Of the workers one dies, and one is
            # cut off; of the receivers the one or the other.
            dead, mute, _ = rng.sample(["worker-1", "worker-2", "worker-3"], 3)
            receiver = f"receiver-{rng.randint(1, 2)}"
            killed, cut = ([dead, receiver], [mute]) if rng.random() < 0.5 else ([dead], [mute, receiver])
            disturb(cluster, killed, cut)
            counts["killed"] += len(killed)
            counts["cut"] += len(cut)
            told = set(modality.acknowledged)
            recorded = {row[0] for row in cluster.rows("SELECT sop_instance_uid FROM instance WHERE origin='received'")}
            assert told <= recorded
            wait_until(lambda: bool(cluster.rows(SILENT)), timeout_s=60, what="the silence")
            if number == rounds - 1:
                # Nobody comes back: the others must finish it.
                modality.wait(100)
                cluster.wait_balanced(len(paths))
            restore(cluster, killed, cut)
        modality.wait(100)
        cluster.wait_balanced(len(paths))
        check_pacs(pacs.objects, paths, None)
    return counts


def test_whichever_machines_are_killed_or_cut_off_the_balance_closes(
    tmp_path: Path, postgres: PostgresCluster, storage: ObjectStorage | None
) -> None:
    run_disturbed(tmp_path, postgres, storage, rounds=1, images=12, seed=20261125)


def test_a_receiver_that_is_gone_holds_up_no_series_and_a_name_is_one_machine_s(
    tmp_path: Path, postgres: PostgresCluster
) -> None:
    first, second = write_radiographs(tmp_path / "in", 2)
    with (
        MockScp() as pacs,
        ExitStack() as stack,
        Cluster(tmp_path / "cluster", postgres.create_database(), pacs.port, workers=1) as cluster,
    ):
        ports = [cluster.machines[f"receiver-{n}"].port for n in (1, 2)]
        # One series over two machines at once.
        left = stack.enter_context(ModalityAssociation(ports[0]))
        right = stack.enter_context(ModalityAssociation(ports[1]))
        assert left.store_object(read_part10(first)) == 0
        assert right.store_object(read_part10(second)) == 0
        right.release()
        cluster.machines["receiver-1"].kill()
        # Never started again: another machine ends the association.
        cluster.wait_balanced(2)
        assert cluster.rows("SELECT outcome FROM association ORDER BY outcome") == [("interrupted",), ("released",)]
        assert cluster.rows("SELECT count(*) FROM arrival") == [(1,)]
        check_pacs(pacs.objects, [first, second], None)

        # A copy of a machine's settings on another machine.
        other = cluster.machines["receiver-1"]
        text = other.file.read_text().replace("receiver-1", "receiver-2", 1)
        other.file.write_text(text)
        other.start()
        assert other.end() == 2
        assert "runs receiver-2:receiver already" in other.log()


def test_a_worker_that_was_cut_off_while_it_sent_changes_nothing_when_it_comes_back(
    tmp_path: Path, postgres: PostgresCluster
) -> None:
    paths = write_radiographs(tmp_path / "in", 3, sop_class=CT)
    # The first object takes the PACS longer than the cluster needs to give the worker up.
    with (
        MockScp(delay_s={0: 3 * DEAD_AFTER_S}) as pacs,
        Cluster(tmp_path / "cluster", postgres.create_database(), pacs.port, receivers=1, workers=2) as cluster,
    ):
        with ModalityAssociation(cluster.port) as association:
            for path in paths:
                assert association.store_object(read_part10(path)) == 0
            association.release()
        wait_until(lambda: pacs.stores == 1, timeout_s=60, what="the first store")
        # Which of the two sends is in the engine's table, as `take_over` reads it.
        ((sender,),) = cluster.rows(SENDER)
        machine = cluster.machines[sender.split(":")[0]]
        machine.database.cut()
        cluster.wait_balanced(3)
        finished = cluster.rows("SELECT id, state, attempts FROM delivery")
        assert finished[0][1:] == ("sent", 2)
        # The PACS has the first object from both, the answer to the one that is cut off comes late.
        wait_until(lambda: len(pacs.objects) == 4, timeout_s=60, what="the late answer")
        machine.database.mend()
        wait_until(lambda: not cluster.rows(SILENT), timeout_s=60, what="the return")
        # It ends what it has in hand: nothing.
        assert machine.stop() == 0
        assert cluster.rows("SELECT id, state, attempts FROM delivery") == finished
        assert pacs.stores == 4
        check_pacs(pacs.objects, paths, None)
        assert cluster.verify(deep=True).ok


def test_the_relay_can_be_cut_and_mended() -> None:
    with MockScp() as pacs:
        relay = Relay(pacs.port)
        ModalityAssociation(relay.port).sock.close()
        relay.cut()
        with pytest.raises((OSError, EOFError)):
            ModalityAssociation(relay.port, timeout_s=0.5)
        relay.mend()
        ModalityAssociation(relay.port).sock.close()
        relay.close()
