"""Quality reports of a running node: delivered with their series, and never in the way of an image."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from highdicom.sr import EnhancedSR
from pydicom import dcmread
from pydicom.uid import EnhancedSRStorage

from tests.support.faults import fault_in_report
from tests.support.invariants import check_pacs
from tests.support.node import RunningNode, default_routes, running_node
from tests.support.peers import UNCOMPRESSED, MockScp, ReceivedObject, requires_dcmtk, wait_until
from tests.support.quality_reports import numbers_of
from tests.support.radiographs import CT, DX, ROOT, radiograph, write_radiographs

pytestmark = requires_dcmtk
ROUTES = default_routes("pacs", report=True)
NO_REPORT = "SELECT reason FROM event WHERE event = 'no_report'"


def reports(objects: Iterable[ReceivedObject]) -> list[ReceivedObject]:
    return [obj for obj in objects if obj.sop_class_uid == EnhancedSRStorage]


def images(objects: Iterable[ReceivedObject]) -> list[ReceivedObject]:
    return [obj for obj in objects if obj.sop_class_uid != EnhancedSRStorage]


def parsed(report: ReceivedObject) -> EnhancedSR:
    return EnhancedSR.from_dataset(report.dataset())


def wait_for_deliveries(node: RunningNode, count: int) -> None:
    """Wait until all deliveries have ended; the balance counts images alone."""
    ended = "SELECT id FROM delivery WHERE finished_at IS NOT NULL"
    wait_until(lambda: len(node.rows(ended)) == count, timeout_s=60, what=f"the end of {count} deliveries")


def quality_control_image(folder: Path, number: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    ds = radiograph(number, series=1)
    ds.QualityControlImage = "YES"
    path = folder / "control.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def ledger_figures(node: RunningNode) -> list[dict[str, Any]]:
    query = (
        "SELECT sop_instance_uid, decision, enhancement.reason, strength, noise_before, noise_after "
        "FROM enhancement JOIN instance ON instance.id = instance_id ORDER BY instance_id"
    )
    return [dict(row._mapping) for row in node.rows(query)]


def test_a_report_goes_with_its_series_and_tells_what_the_ledger_knows(tmp_path: Path) -> None:
    with MockScp() as pacs, running_node(tmp_path / "node", pacs.port, routes=ROUTES) as node:
        first = [*write_radiographs(tmp_path / "in", 2), quality_control_image(tmp_path / "in", 2)]
        node.send(*first)
        node.wait_balanced(3)
        wait_for_deliveries(node, 1)
        assert [obj.sop_class_uid for obj in pacs.objects].count(DX) == 3
        # Last: an image never waits for it on the association either.
        assert pacs.objects[-1].sop_class_uid == EnhancedSRStorage
        (received,) = reports(pacs.objects)
        report = parsed(received)
        found = numbers_of(report)
        known = ledger_figures(node)
        assert len(found) == 3
        for told, row in zip(found, known, strict=True):
            assert told["sources"][0] == row["sop_instance_uid"]
            assert told["decision"] == row["decision"].upper()
            assert told["comment"] == row["reason"]
            assert told.get("NOISE_BEFORE") == row["noise_before"]
            assert told.get("NOISE_AFTER") == row["noise_after"]
            assert told.get("STRENGTH_APPLIED") == row["strength"]
        assert found[0]["NOISE_AFTER"] < found[0]["NOISE_BEFORE"]
        assert found[2]["comment"] == "it is a quality control image"
        derived = {obj.sop_instance_uid for obj in images(pacs.objects) if obj.sop_instance_uid.startswith("2.25.")}
        assert {told["sources"][1] for told in found[:2]} == derived

        # A late image: another report in the same series.
        late = write_radiographs(tmp_path / "in", 1, first=7)
        node.send(*late)
        node.wait_balanced(4)
        wait_for_deliveries(node, 2)
        _, second = map(parsed, reports(pacs.objects))
        assert second.SeriesInstanceUID == report.SeriesInstanceUID
        assert second.SOPInstanceUID != report.SOPInstanceUID
        assert (report.InstanceNumber, second.InstanceNumber) == (1, 2)
        assert (report.SeriesDate, report.SeriesTime) == (second.SeriesDate, second.SeriesTime)
        assert [told["sources"][0] for told in numbers_of(second)] == [f"{ROOT}.3.1.7"]

        # The same again is no new work, and what is passed through as a whole has no report.
        node.send(*first, *late, *write_radiographs(tmp_path / "in", 1, series=2, sop_class=CT))
        node.wait_balanced(5)
        wait_for_deliveries(node, 3)
        assert len(reports(pacs.objects)) == 2
        status = node.command("status")
        assert status["instances"] == {"received stored": 5, "derived stored": 3, "report stored": 2}
        assert node.command("verify", "--deep")["ok"] is True
        # highdicom's own lines.
        assert "attributes of module" not in node.log()
        check_pacs(images(pacs.objects), [*first, *late, tmp_path / "in" / "002-00000-0.dcm"], node)


def test_a_destination_that_takes_no_reports_gets_its_images_and_the_report_is_a_dead_letter(tmp_path: Path) -> None:
    with (
        MockScp(contexts={DX: UNCOMPRESSED}) as pacs,
        running_node(tmp_path / "node", pacs.port, routes=ROUTES) as node,
    ):
        node.send(*write_radiographs(tmp_path / "in", 2))
        found = node.wait_balanced(2)
        wait_for_deliveries(node, 1)
        assert (found.balance.total.delivered, found.balance.total.in_work) == (2, 0)
        assert len(pacs.objects) == 2
        (letter,) = node.command("queue", "list")["deliveries"]
        assert (letter["state"], letter["sent"], letter["refused"]) == ("refused", 2, 1)
        assert "Enhanced SR" in letter["reason"]


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("raise RuntimeError('broken library')", "unforeseen RuntimeError"),
        ("raise ImportError('no highdicom')", "unforeseen ImportError"),
        ("os._exit(139)", "making it was begun 2 times and never ended"),
    ],
)
def test_a_report_that_fails_is_recorded_and_the_images_go_on(tmp_path: Path, before: str, reason: str) -> None:
    fault = fault_in_report(tmp_path / "site", before=before, method="_build")
    with (
        MockScp() as pacs,
        running_node(tmp_path / "node", pacs.port, routes=ROUTES, environment=fault) as node,
    ):
        paths = write_radiographs(tmp_path / "in", 2)
        node.send(*paths)
        node.wait_balanced(2, timeout_s=120)
        check_pacs(pacs.objects, paths, node)
        assert {obj.sop_instance_uid[:5] for obj in pacs.objects} == {"2.25."}
        assert node.rows(NO_REPORT) == [(reason,)]


def test_the_deadline_does_not_wait_for_a_report(tmp_path: Path) -> None:
    routes = default_routes("pacs", report=True, deadline_s=4.0)
    fault = fault_in_report(tmp_path / "site", before="time.sleep(12)", method="_build")
    with (
        MockScp() as pacs,
        running_node(tmp_path / "node", pacs.port, routes=routes, environment=fault) as node,
    ):
        node.send(*write_radiographs(tmp_path / "in", 1))
        node.wait_balanced(1)
        ((waited,),) = node.rows("SELECT finished_at - completed_at FROM arrival")
        assert 4.0 <= waited < 9.0
        assert node.rows(NO_REPORT) == [("the route's deadline passed before there was a report",)]
        # What is ready after that is dropped, and its file with it.
        wait_until(lambda: "Concluded meanwhile" in node.log(), timeout_s=40, what="the late report")
        assert node.verify().orphans == ()
        assert [obj.sop_class_uid for obj in pacs.objects] == [DX]


@pytest.mark.parametrize(
    ("place", "method"),
    [("before", "_build"), ("after", "_build"), ("after", "make")],
)
def test_a_worker_killed_around_its_report_sends_one_report(tmp_path: Path, place: str, method: str) -> None:
    fault = fault_in_report(tmp_path / "site", method=method, **{place: "if is_first():\n    os._exit(139)"})
    with (
        MockScp() as pacs,
        running_node(tmp_path / "node", pacs.port, routes=ROUTES, environment=fault) as node,
    ):
        paths = write_radiographs(tmp_path / "in", 2)
        node.send(*paths)
        found = node.wait_balanced(2, timeout_s=120)
        wait_for_deliveries(node, 1)
        assert node.log().count("Process ended and is started again") == 1
        check_pacs(images(pacs.objects), paths, node)
        assert len(reports(pacs.objects)) == 1
        # Killed after the file was safe and before the ledger knew: the file is an orphan, with the same content.
        orphans = [dcmread(node.data_dir / "objects" / key[:2] / f"{key}.dcm") for key in found.orphans]
        assert len(orphans) == ((place, method) == ("after", "make"))
        for orphan in orphans:
            with io.BytesIO() as encoded:
                orphan.save_as(encoded, enforce_file_format=True)
                assert encoded.getvalue().endswith(reports(pacs.objects)[0].data)
