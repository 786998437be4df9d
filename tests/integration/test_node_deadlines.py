"""A running node whose images are late, are only measured, or come again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.derivation.terms import IMAGE_TYPE_TERM
from tests.support.faults import slowed
from tests.support.modality import ModalityAssociation
from tests.support.node import CALLING, default_routes, running_node
from tests.support.objects import save, set_transfer_syntax
from tests.support.peers import MockScp, ReceivedObject, read_part10, requires_dcmtk, wait_until
from tests.support.radiographs import radiograph, write_radiographs

pytestmark = requires_dcmtk


def route(name: str, series: int, **changes: Any) -> dict[str, Any]:
    """Return a route for one series of the synthetic radiographs."""
    match = {"SeriesNumber": {"min": series, "max": series}}
    return {"name": name, "match": match, "quiet_period_s": 0.3, "destinations": ["pacs"], **changes}


def derived(objects: list[ReceivedObject]) -> list[Dataset]:
    found = [obj.dataset() for obj in objects]
    return [ds for ds in found if IMAGE_TYPE_TERM in ds.ImageType]


def test_enhanced_images_follow_their_originals_and_those_of_shadow_mode_never_leave(tmp_path: Path) -> None:
    late = write_radiographs(tmp_path / "in", 3, series=1)
    measured = write_radiographs(tmp_path / "in", 2, series=2)
    routes = [route("late", 1, deadline_s=0.5, late="follow"), route("measured", 2, shadow=True)]
    options: dict[str, Any] = {"routes": routes, "environment": slowed(tmp_path / "site", 1.0)}
    with MockScp() as pacs, running_node(tmp_path / "node", pacs.port, **options) as node:
        node.send(*late, *measured)
        originals = sorted(read_part10(path).data for path in (*late, *measured))
        wait_until(lambda: len(pacs.objects) >= 5, timeout_s=60, what="the originals")
        assert sorted(obj.data for obj in pacs.objects) == originals
        # Killed in the middle of what follows, it goes on with it.
        node.wait_for_rows("SELECT 1 FROM enhancement WHERE decision = 'enhanced'")
        assert node.rows("SELECT 1 FROM arrival WHERE state = 'following'")
        old = node.processes()["worker-0"].pid
        node.kill("worker-0")
        total = node.verify().balance.total
        assert total.in_work >= 2
        assert total.balanced
        node.wait_for_restart("worker-0", old)
        node.wait_balanced(5)
        followed = derived(pacs.objects[5:])
        assert len(pacs.objects) == 8
        assert {ds.SourceImageSequence[0].ReferencedSOPInstanceUID for ds in followed} == {
            str(dcmread(path).SOPInstanceUID) for path in late
        }
        assert len({ds.SeriesInstanceUID for ds in followed}) == 1
        deliveries = sorted(map(tuple, node.rows("SELECT part, state FROM delivery")))
        assert deliveries == [(0, "sent"), (0, "sent"), (1, "sent")]
        states = {row.route: row.state for row in node.rows("SELECT route, state FROM arrival")}
        assert states == {"late": "enhanced", "measured": "passed_through"}
        (summary,) = node.command("shadow")["routes"]
        assert (summary["route"], summary["images"], summary["enhanced"], summary["waiting"]) == ("measured", 2, 2, 0)
        assert summary["noise_after"]["p50"] < summary["noise_before"]["p50"]
        assert node.rows("SELECT count(*) FROM instance WHERE origin = 'derived'") == [(3,)]


def test_a_study_that_is_sent_again_makes_no_second_series_and_no_second_delivery(tmp_path: Path) -> None:
    paths = write_radiographs(tmp_path / "in", 3)
    sources = [{"name": "xray", "ae_titles": [CALLING, "XRAY1B"], "hosts": ["127.0.0.0/8"]}]
    with MockScp() as pacs, running_node(tmp_path / "node", pacs.port, sources=sources) as node:
        # The association is lost before the last response, and all comes again, by another AE title, in another order.
        association = ModalityAssociation(node.port)
        for path in paths[:2]:
            assert association.store_object(read_part10(path)) == 0
        association.send_object(read_part10(paths[2]))
        association.sock.close()
        assert node.send(*reversed(paths), calling="XRAY1B").returncode == 0
        node.wait_balanced(3)
        first = derived(pacs.objects)
        assert len(pacs.objects) == len(first) == 3
        # After the delivery, once more as it was, and once in another transfer syntax.
        implicit = [
            save(set_transfer_syntax(radiograph(number), ImplicitVRLittleEndian), tmp_path / f"implicit-{number}.dcm")
            for number in range(3)
        ]
        node.send(*paths)
        node.send(*implicit)
        node.wait_balanced(6)
        assert len(pacs.objects) == 3
        assert node.rows("SELECT count(*) FROM instance WHERE same_as_id IS NOT NULL") == [(3,)]
        # The same pixels under a corrected header are a revision: another derived object in the same series.
        corrected = radiograph(0)
        corrected.StudyDescription = "corrected"
        node.send(save(corrected, tmp_path / "corrected.dcm"), *write_radiographs(tmp_path / "late", 1, first=3))
        node.wait_balanced(8)
        everything = derived(pacs.objects)
        assert len(pacs.objects) == len(everything) == 5
        assert len({ds.SOPInstanceUID for ds in everything}) == 5
        assert [ds.StudyDescription for ds in everything if "StudyDescription" in ds] == ["corrected"]
        for keyword in ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime"):
            assert len({str(ds[keyword].value) for ds in everything}) == 1, keyword


def test_a_series_whose_route_was_removed_waits_for_one_and_goes_on(tmp_path: Path) -> None:
    environment = slowed(tmp_path / "site", 3.0)
    with MockScp() as pacs, running_node(tmp_path / "node", pacs.port, environment=environment) as node:
        node.send(*write_radiographs(tmp_path / "in", 2))
        node.wait_for_rows("SELECT 1 FROM arrival WHERE state = 'enhancing'")
        node.kill_everything()
        node.write_settings({**node.tables, "routes": [route("others", 99)]})
        node.start()
        wait_until(lambda: bool(node.command("status")["unrouted"]), timeout_s=30, what="a series without a route")
        attempts = node.rows("SELECT attempts FROM arrival")
        assert not pacs.objects
        node.stop()
        assert node.rows("SELECT attempts FROM arrival") == attempts
        node.write_settings({**node.tables, "routes": default_routes("pacs", name="radiographs-of-today")})
        node.start()
        node.wait_balanced(2)
        assert len(derived(pacs.objects)) == 2
        assert node.rows("SELECT route FROM arrival") == [("radiographs-of-today",)]
