"""A database that is locked, silent or away: the receiver says so in time, and whatever waited goes on afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from dicom_node.errors import LedgerUnavailable
from dicom_node.group_commit import GroupCommit
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.bounded_connection import connect_bounded
from dicom_node.ledger.database import Database, bounded_engine_options, bounded_url, ledger_url
from dicom_node.ledger.reception import ReceivedInstance, ReceptionLedger, Recorded
from dicom_node.rejections import LEDGER_UNAVAILABLE
from tests.contract.conftest import received
from tests.support.cluster import Relay
from tests.support.database_locks import locked
from tests.support.network import RawPeer, RunningReceiver, running_receiver
from tests.support.peers import wait_until
from tests.support.postgres import PostgresCluster, requires_postgres

OUT_OF_RESOURCES = 0xA700
TIMEOUT_S = 0.5


class WatchedLedger(ReceptionLedger):
    """Counts what it is asked to write about rejections."""

    rejections = 0

    def record_rejection(self, **_: str) -> None:
        type(self).rejections += 1


@pytest.fixture
def locked_out(tmp_path: Path) -> Iterator[RunningReceiver]:
    database = Database(ledger_url("", tmp_path / "node"), timeout_s=TIMEOUT_S)
    with running_receiver(tmp_path / "node", database=database, ledger_type=WatchedLedger) as running:
        yield running


def files_of(store: InstanceStore) -> int:
    return len([*store.keys(), *store.quarantined_keys()])


def test_while_another_program_locks_the_ledger_objects_are_answered_a700_and_taken_afterwards(
    locked_out: RunningReceiver, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(locked_out.port)) for _ in range(3)]
        for peer in peers:
            assert peer.associate()[0] == 2
        with locked(tmp_path / "node" / "ledger.sqlite"):
            answers = []
            threads = [
                threading.Thread(target=lambda p=peer, n=number: answers.append(p.store(f"1.2.3.{n}")))
                for number, peer in enumerate(peers)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert [answer.status for answer in answers] == [OUT_OF_RESOURCES] * 3
            # A sender that tries for hours does not fill the disk.
            assert files_of(locked_out.store) == 0
            # One that can't be read is no other.
            assert peers[0].store("1.2.3.9", b"no data set").status == OUT_OF_RESOURCES
            assert files_of(locked_out.store) == 0
            # A new association is rejected as a transient condition, without another wait to write that down.
            with RawPeer(locked_out.port) as another:
                kind, body = another.associate()
                assert (kind, tuple(body[1:])) == (
                    3,
                    (LEDGER_UNAVAILABLE.result, LEDGER_UNAVAILABLE.source, LEDGER_UNAVAILABLE.reason),
                )
            assert WatchedLedger.rejections == 0
        for number, peer in enumerate(peers):
            assert peer.store(f"1.2.3.{number}").status == 0
            peer.release()
    assert locked_out.rows("SELECT count(*) FROM instance") == [(3,)]


def test_objects_that_came_while_a_commit_waited_in_vain_wait_no_second_time() -> None:
    begun, may_fail = threading.Event(), threading.Event()
    calls: list[int] = []

    class Away:
        def record_all(self, objects: Sequence[ReceivedInstance]) -> list[Recorded]:
            calls.append(len(objects))
            begun.set()
            may_fail.wait(30)
            raise LedgerUnavailable("locked", may_be_committed=True)

    commit = GroupCommit(Away())  # type: ignore[arg-type]
    errors: dict[int, LedgerUnavailable] = {}

    def record(number: int) -> None:
        try:
            commit.record(received(1, number))
        except LedgerUnavailable as error:
            errors[number] = error

    threads = [threading.Thread(target=record, args=(number,)) for number in range(4)]
    threads[0].start()
    assert begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: len(commit._waiting) == 3, what="three that wait")
    may_fail.set()
    for thread in threads:
        thread.join(30)
    assert calls == [1]
    assert sorted(errors) == [0, 1, 2, 3]
    # Only the first may be in the ledger; the files of the others can go.
    assert [errors[number].may_be_committed for number in range(4)] == [True, False, False, False]


@requires_postgres
def test_a_server_that_takes_everything_and_says_nothing_is_given_up(tmp_path: Path, postgres: PostgresCluster) -> None:
    url = postgres.create_database()
    relay = Relay(postgres.port)
    database = Database(ledger_url(url.replace(f":{postgres.port}/", f":{relay.port}/"), tmp_path), timeout_s=TIMEOUT_S)
    try:
        with running_receiver(tmp_path / "node", database=database) as running, RawPeer(running.port) as peer:
            assert peer.associate()[0] == 2
            assert peer.store("1.2.3.1").status == 0
            relay.cut()
            answer = peer.store("1.2.3.2")
            assert (answer.status, answer.comment[:15]) == (OUT_OF_RESOURCES, "ledger database")
            # Now that this is known, nobody waits for it again at once.
            assert "a moment ago" in peer.store("1.2.3.3").comment
            with RawPeer(running.port) as another:
                assert another.associate()[0] == 3
            relay.mend()
            wait_until(lambda: peer.store("1.2.3.2").status == 0, what="an object that is stored")
            peer.release()
            assert running.rows("SELECT count(*) FROM instance") == [(2,)]
    finally:
        relay.close()


@requires_postgres
def test_a_server_that_lives_ends_what_waits_for_a_lock_and_the_connection_stays(
    tmp_path: Path, postgres: PostgresCluster
) -> None:
    url = postgres.create_database()
    database = Database(ledger_url(url, tmp_path), timeout_s=TIMEOUT_S)
    with running_receiver(tmp_path / "node", database=database) as running, RawPeer(running.port) as peer:
        assert peer.associate()[0] == 2
        with connect_bounded(url, answer_within_s=30) as other:
            other.execute("LOCK TABLE instance IN ACCESS EXCLUSIVE MODE")
            answer = peer.store("1.2.3.1")
            assert (answer.status, "statement timeout" in answer.comment) == (OUT_OF_RESOURCES, True)
            other.rollback()
        assert peer.store("1.2.3.1").status == 0
        peer.release()


@requires_postgres
def test_whoever_listens_may_wait_and_whoever_asks_may_not(postgres: PostgresCluster) -> None:
    url = postgres.create_database()
    with connect_bounded(url, answer_within_s=0.2) as connection:
        # Longer than the limit, and no fault.
        assert list(connection.notifies(timeout=1.0)) == []
        assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(Exception, match=r"has not answered for 0\.2 s"):
            connection.execute("SELECT pg_sleep(20)")
        assert connection.closed


@requires_postgres
def test_the_limits_are_those_of_the_settings(postgres: PostgresCluster, tmp_path: Path) -> None:
    database = Database(ledger_url(postgres.create_database(), tmp_path), timeout_s=7)
    try:
        with database.read() as connection:
            assert connection.scalar(text("SHOW statement_timeout")) == "7s"
            assert connection.connection.driver_connection.answer_within_s == 10  # type: ignore[union-attr]
    finally:
        database.close()


@requires_postgres
def test_the_workflow_engine_s_connections_are_bounded_too(postgres: PostgresCluster, tmp_path: Path) -> None:
    url = bounded_url(ledger_url(postgres.create_database(), tmp_path))
    engine = create_engine(url, **bounded_engine_options(url, 7))
    try:
        with engine.connect() as connection:
            assert connection.connection.driver_connection.answer_within_s == 14  # type: ignore[union-attr]
            assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "45s"
            # It takes this one for an error that trying again can't help.
            assert connection.scalar(text("SHOW statement_timeout")) == "0"
    finally:
        engine.dispose()
