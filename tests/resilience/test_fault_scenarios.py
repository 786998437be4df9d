"""Scenarios of the reliability page in small: disks, databases and networks that fail under a node or a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.balancer import requires_haproxy
from tests.support.database_outages import DATABASE_OUTAGES
from tests.support.disk_errors import DISK_ERRORS
from tests.support.disk_faults import requires_compiler
from tests.support.handing_over import HAND_OVER
from tests.support.locked_databases import LOCKED_DATABASES
from tests.support.namespaces import requires_namespaces
from tests.support.networked_cluster import NAMESPACES
from tests.support.postgres import requires_postgres

# Each scenario waits for what it did, as long as a slow machine takes.
pytestmark = pytest.mark.timeout(600)


@requires_compiler
def test_whichever_call_to_the_disk_fails_the_answer_is_right(tmp_path: Path) -> None:
    result = DISK_ERRORS.run(tmp_path, 0.0)
    assert result.ok, result


def test_locked_databases_are_waited_for_and_nothing_is_acknowledged_meanwhile(tmp_path: Path) -> None:
    result = LOCKED_DATABASES.run(tmp_path, 0.0)
    assert result.ok, result


@requires_postgres
def test_a_database_that_crashes_or_falls_silent_stops_everybody_and_nobody_for_good(tmp_path: Path) -> None:
    result = DATABASE_OUTAGES.run(tmp_path, 0.0)
    assert result.ok, result


@requires_postgres
def test_a_worker_that_is_stopped_gives_its_work_to_another(tmp_path: Path) -> None:
    result = HAND_OVER.run(tmp_path, 0.0)
    assert result.ok, result


@requires_postgres
@requires_haproxy
def test_hosts_of_a_network_that_are_killed_or_cut_off_lose_nothing(tmp_path: Path) -> None:
    requires_namespaces()
    result = NAMESPACES.run(tmp_path, 0.0)
    assert result.ok, result
