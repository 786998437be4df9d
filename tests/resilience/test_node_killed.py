"""Processes of a running node are killed: nothing acknowledged is lost, nothing is sent under two UIDs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.faults import killed_by, slowed
from tests.support.invariants import check_pacs
from tests.support.modality import ModalityAssociation
from tests.support.node import RunningNode, running_node
from tests.support.peers import MockScp, is_listening, read_part10, requires_dcmtk, wait_until
from tests.support.radiographs import CT, ROOT, write_radiographs

pytestmark = requires_dcmtk


def test_a_killed_worker_goes_on_in_the_middle_of_its_series(tmp_path: Path) -> None:
    # One series is worked on image after image, the larger one is spread over child workflows.
    small = write_radiographs(tmp_path / "in", 4, series=1)
    large = write_radiographs(tmp_path / "in", 9, series=2)
    with (
        MockScp() as pacs,
        running_node(tmp_path / "node", pacs.port, environment=slowed(tmp_path / "site", 0.2)) as node,
    ):
        node.send(*small, *large)
        decided = "SELECT 1 FROM enhancement WHERE decision IS NOT NULL"
        wait_until(lambda: len(node.rows(decided)) >= 4, timeout_s=60, what="the first images")
        old = node.processes()["worker-0"].pid
        node.kill("worker-0")
        assert len(node.rows(decided)) < 13
        node.wait_for_restart("worker-0", old)
        node.wait_balanced(13)
        check_pacs(pacs.objects, [*small, *large], node)
        assert node.rows("SELECT count(*) FROM enhancement WHERE decision = 'enhanced'") == [(13,)]


def test_a_worker_killed_while_the_pacs_stores_does_not_take_its_duplicate_for_a_refusal(tmp_path: Path) -> None:
    # The PACS stores the object, and its answer comes to nobody; the second time it says Duplicate SOP Instance.
    paths = write_radiographs(tmp_path / "in", 1, sop_class=CT)
    with MockScp(delay_s={0: 1.5}, statuses={1: 0x0111}) as pacs, running_node(tmp_path / "node", pacs.port) as node:
        node.send(*paths)
        wait_until(lambda: pacs.stores == 1, timeout_s=30, what="the first store")
        node.kill("worker-0")
        node.wait_balanced(1)
        assert (pacs.stores, len(pacs.objects)) == (2, 1)
        check_pacs(pacs.objects, paths, node)


def test_a_killed_receiver_keeps_what_it_acknowledged_and_nothing_of_a_half_object(tmp_path: Path) -> None:
    paths = write_radiographs(tmp_path / "in", 2)
    (large,) = write_radiographs(tmp_path / "in", 1, series=2, size=2240, sop_class=CT)
    first, second, half = map(read_part10, (*paths, large))
    assert len(half.data) > 10_000_000
    with MockScp() as pacs, running_node(tmp_path / "node", pacs.port) as node:
        old = node.processes()["receiver"].pid
        with ModalityAssociation(node.port) as association:
            assert association.store_object(first) == 0
            assert association.store_object(second) == 0
            association.send_object(half, share=0.5)
            wait_until(
                lambda: any(f.stat().st_size > 1_000_000 for f in (node.data_dir / "incoming").iterdir()),
                what="half an object",
            )
            node.kill("receiver")
            with pytest.raises((EOFError, OSError)):
                association.response()
        node.wait_for_restart("receiver", old)
        # The series does not wait for the association that nobody will end any more.
        node.wait_balanced(2)
        check_pacs(pacs.objects, paths, node)
        with ModalityAssociation(node.port) as association:
            assert association.store_object(half) == 0
            association.release()
        node.wait_balanced(3)
        check_pacs(pacs.objects, [*paths, large], node)


def test_one_poison_image_is_passed_through_and_the_others_go_on(tmp_path: Path) -> None:
    poison = write_radiographs(tmp_path / "in", 3, series=1)
    others = write_radiographs(tmp_path / "in", 2, series=2)
    environment = killed_by(tmp_path / "site", f"{ROOT}.3.1.1")
    with MockScp() as pacs, running_node(tmp_path / "node", pacs.port, environment=environment) as node:
        node.send(*poison, *others)
        node.wait_balanced(5, timeout_s=120)
        check_pacs(pacs.objects, [*poison, *others], node)
        assert node.rows("SELECT attempts, reason FROM enhancement WHERE decision = 'passed_through'") == [
            (3, "processing this image ended the worker 2 times")
        ]
        assert node.rows("SELECT count(*) FROM enhancement WHERE decision = 'enhanced'") == [(4,)]
        assert node.log().count("Process ended and is started again") == 2


def test_a_destination_that_dies_in_the_middle_of_a_series_gets_the_rest_later(tmp_path: Path) -> None:
    paths = write_radiographs(tmp_path / "in", 10, sop_class=CT)
    with (
        MockScp(cut_at=frozenset({3}), abort_at=frozenset({7}), statuses={9: 0xA700}) as pacs,
        running_node(tmp_path / "node", pacs.port) as node,
    ):
        node.send(*paths)
        node.wait_balanced(10)
        check_pacs(pacs.objects, paths, node)
        assert pacs.stores == 13
        assert len(pacs.objects) == 10


def test_however_the_node_is_stopped_no_process_stays_and_nothing_is_lost(tmp_path: Path) -> None:
    first, second, third = (write_radiographs(tmp_path / "in", 3, series=series) for series in (1, 2, 3))
    (late,) = write_radiographs(tmp_path / "in", 1, series=4)
    with (
        MockScp() as pacs,
        running_node(tmp_path / "node", pacs.port, environment=slowed(tmp_path / "site", 0.5)) as node,
    ):
        # SIGTERM lets the association and the image in hand finish.
        node.send(*first)
        node.wait_for_rows("SELECT 1 FROM enhancement")
        with ModalityAssociation(node.port) as association:
            node.interrupt(signal.SIGTERM)
            wait_until(lambda: "Stopping" in node.log(), what="the stop")
            time.sleep(0.3)
            assert association.store_object(read_part10(late)) == 0
            association.release()
        assert node.stop() == 0
        check_gone(node)
        node.start()
        node.wait_balanced(4)
        check_pacs(pacs.objects, [*first, late], node)
        # What was in hand was finished in order: no image was begun twice.
        assert node.rows("SELECT max(attempts) FROM enhancement") == [(1,)]

        # Ctrl-C reaches every process of the terminal's foreground group.
        node.send(*second)
        node.wait_for_rows(
            "SELECT 1 FROM enhancement JOIN instance ON instance.id = instance_id "
            f"WHERE series_instance_uid = '{ROOT}.2.2'"
        )
        os.killpg(os.getpgid(node.processes()["supervisor"].pid), signal.SIGINT)
        assert node.stop(signal.SIGINT) == 0
        check_gone(node)
        node.start()
        node.wait_balanced(7)

        # Children of a supervisor that was killed stop by themselves.
        node.send(*third)
        node.processes()
        node.kill("supervisor")
        wait_until(lambda: not node.left_behind(), timeout_s=25, what="the end of every process")
        check_gone(node)
        node.start()
        node.wait_balanced(10)
        check_pacs(pacs.objects, [*first, *second, *third, late], node)


def check_gone(node: RunningNode) -> None:
    """Check that no process is left, and that what was stored is sound."""
    wait_until(lambda: not node.left_behind(), timeout_s=5, what="the end of every process")
    assert not is_listening(node.port)
    assert node.verify().ok
