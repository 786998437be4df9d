"""What `dicom-node doctor` finds, against peers that are well, ill and absent."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from dicom_node.derivation.eligibility import SOP_CLASSES
from dicom_node.destinations.base import ProbeStep, StepState
from dicom_node.destinations.probing import PROBED_CLASSES, WITHOUT_PIXELS
from dicom_node.destinations.storage_scu import StorageScu
from dicom_node.diagnosis import (
    as_json,
    check_data_dir,
    check_free_space,
    check_port,
    check_that,
    diagnose,
    render,
)
from dicom_node.errors import LedgerUnavailable
from tests.support.items import DX, destination
from tests.support.peers import (
    DcmtkStorescp,
    HangingUpPeer,
    MockScp,
    Orthanc,
    RejectingPeer,
    SilentPeer,
    closed_port,
    requires_dcmtk,
    requires_orthanc,
)

OK, WARNING, FAILED, SKIPPED = StepState.OK, StepState.WARNING, StepState.FAILED, StepState.SKIPPED


def probe(port: int, **changes: object) -> dict[str, ProbeStep]:
    steps = StorageScu(destination(port, **changes), node_ae_title="LOWDOSE").probe()
    found = {step.name: step for step in steps}
    assert len(found) == len(steps)
    return found


def states(steps: dict[str, ProbeStep]) -> list[StepState]:
    return [steps[name].state for name in ("name", "tcp", "association", "contexts", "echo")]


def test_a_peer_that_is_well_passes_every_step_in_order() -> None:
    with MockScp() as peer:
        steps = probe(peer.port)
        assert peer.stores == 0
        assert peer.associations == 1
    assert list(steps)[:3] == ["name", "tcp", "association"]
    assert list(steps)[-1] == "echo"
    assert {step.state for step in steps.values()} == {OK}
    assert "explicit VR LE, implicit VR LE, RLE" in steps["contexts: DX for presentation"].sentence
    assert all(step.seconds >= 0 for step in steps.values())


def test_a_refused_class_is_a_warning_and_so_are_peers_that_take_compressed_objects_only() -> None:
    with MockScp(
        contexts={DX: ("1.2.840.10008.1.2.1",), "1.2.840.10008.5.1.4.1.1.1": ("1.2.840.10008.1.2.4.90",)}
    ) as peer:
        steps = probe(peer.port)
    assert steps["contexts: DX for presentation"].state is OK
    assert steps["contexts: CT"].state is WARNING
    assert "CT Image Storage is not taken" in steps["contexts: CT"].sentence
    assert "Enhanced SR Storage is not taken" in steps["contexts: quality report"].sentence
    assert steps["contexts: CR"].state is WARNING
    assert "only in JPEG 2000 lossless" in steps["contexts: CR"].sentence
    assert steps["echo"].state is OK


def test_a_peer_that_takes_no_x_ray_class_has_failed() -> None:
    with MockScp(contexts={}) as peer:
        steps = probe(peer.port)
    assert steps["contexts"].state is FAILED
    assert "is it a storage SCP?" in steps["contexts"].sentence
    assert steps["echo"].state is OK


def test_the_compression_that_is_asked_for_is_judged() -> None:
    both = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80")
    cr, dose_report = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.88.67"
    with MockScp(contexts={DX: both, cr: both[:1], dose_report: both[:1]}) as peer:
        none, some, no_image = probe(peer.port), probe(peer.port, compress="jpeg-ls"), probe(peer.port, compress="rle")
    assert "compression" not in none
    assert some["compression"].state is no_image["compression"].state is WARNING
    assert some["compression"].sentence.startswith("JPEG-LS lossless is refused for CR, which go as they are")
    assert no_image["compression"].sentence.startswith("RLE is refused for all images")
    with MockScp() as peer:
        steps = probe(peer.port, compress="jpeg-2000")
    assert steps["compression"].state is OK
    assert steps["compression"].sentence == "images are taken in JPEG 2000 lossless, as compress asks"
    assert list(steps)[-1] == "echo"
    reports = ("1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.11.1")
    with MockScp(contexts={DX: both, **dict.fromkeys(reports, both[:1])}) as peer:
        assert probe(peer.port, compress="jpeg-ls")["compression"].state is OK, "what has no pixels is not compressed"
    with closed_port() as port:
        assert probe(port, compress="rle")["compression"].state is SKIPPED


def test_documents_without_pixels_need_no_compression() -> None:
    plain, both = ("1.2.840.10008.1.2.1",), ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80")
    documents = {PROBED_CLASSES[name]: plain for name in WITHOUT_PIXELS}
    assert "1.2.840.10008.5.1.4.1.1.88.22" in documents
    with MockScp(contexts={DX: both, **documents}) as peer:
        steps = probe(peer.port, compress="jpeg-ls")
    assert steps["compression"].sentence == "images are taken in JPEG-LS lossless, as compress asks"
    assert steps["contexts: quality report"].sentence == "taken in explicit VR LE"


def test_every_class_that_can_be_enhanced_is_tried() -> None:
    assert {uid for uids in SOP_CLASSES.values() for uid in uids} <= set(PROBED_CLASSES.values())
    with MockScp(contexts={DX: ("1.2.840.10008.1.2.1",)}) as peer:
        steps = probe(peer.port)
    assert steps["contexts: enhanced XA"].state is WARNING
    assert (
        steps["contexts: enhanced XA"].sentence
        == "Enhanced XA Image Storage is not taken; objects of it would be refused"
    )


def test_an_unknown_host_name_fails_first_and_the_rest_is_skipped() -> None:
    steps = probe(104, host="no-such-host.invalid")
    assert states(steps) == [FAILED, SKIPPED, SKIPPED, SKIPPED, SKIPPED]
    assert "correct it or ask for a DNS entry" in steps["name"].sentence


def test_a_host_name_is_told_with_its_address() -> None:
    with MockScp() as peer:
        assert "localhost is" in probe(peer.port, host="localhost")["name"].sentence


def test_a_closed_port_fails_at_tcp() -> None:
    with closed_port() as port:
        steps = probe(port)
    assert states(steps) == [OK, FAILED, SKIPPED, SKIPPED, SKIPPED]
    assert f"nothing listens on port {port}" in steps["tcp"].sentence


@pytest.mark.parametrize("peer_class", [SilentPeer, HangingUpPeer])
def test_a_port_that_speaks_no_dicom_fails_at_the_association(peer_class: type[SilentPeer]) -> None:
    with peer_class() as peer:
        steps = probe(peer.port, acse_timeout_s=1)
    assert states(steps) == [OK, OK, FAILED, SKIPPED, SKIPPED]


def test_a_rejected_association_says_what_the_other_side_must_enter() -> None:
    with RejectingPeer(1, 1, 3) as peer:
        steps = probe(peer.port)
    assert states(steps) == [OK, OK, FAILED, SKIPPED, SKIPPED]
    assert (
        "ask its administrator to add AE title LOWDOSE with the address of this machine"
        in steps["association"].sentence
    )


@requires_dcmtk
def test_storescp_passes(tmp_path: Path) -> None:
    with DcmtkStorescp(tmp_path) as peer:
        steps = probe(peer.port, ae_title="STORESCP")
        assert not list(peer.received_folder.iterdir())
    assert not [step for step in steps.values() if step.state is not OK]


@requires_orthanc
def test_orthanc_passes_and_its_wrong_title_fails(tmp_path: Path) -> None:
    with Orthanc(tmp_path, configuration={"DicomCheckCalledAet": True}) as peer:
        right, wrong = probe(peer.port, ae_title="ORTHANC"), probe(peer.port, ae_title="OTHER")
        assert peer.instances() == []
    assert not [step for step in right.values() if step.state is not OK]
    assert wrong["association"].state is FAILED
    assert "called AE title OTHER not recognised there" in wrong["association"].sentence


def test_a_free_port_is_ok_and_a_taken_one_says_how_to_find_out_who_has_it() -> None:
    with closed_port() as port:
        pass
    assert check_port("127.0.0.1", port).state is OK
    with socket.create_server(("127.0.0.1", 0)) as listener:
        step = check_port("127.0.0.1", listener.getsockname()[1])
    assert step.state is WARNING
    assert "ss -ltnp" in step.sentence


def test_an_address_of_another_machine_can_not_be_bound() -> None:
    step = check_port("192.0.2.1", 11112)
    assert step.state is FAILED
    assert "no address of this machine" in step.sentence


def test_the_data_folder_is_made_and_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    assert check_data_dir(folder).state is OK
    assert list(folder.iterdir()) == []


def test_a_data_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    step = check_data_dir(tmp_path / "file" / "data")
    assert step.state is FAILED
    assert "can't be written" in step.sentence


def test_free_space_is_judged_by_the_watermark(tmp_path: Path) -> None:
    assert check_free_space(tmp_path / "not" / "yet", 0).state is OK
    step = check_free_space(tmp_path, 10**9)
    assert step.state is FAILED
    assert "min_free_mb = 1000000000" in step.sentence


def test_what_is_wired_in_becomes_a_step() -> None:
    def unreachable() -> str:
        raise LedgerUnavailable("connection refused")

    assert check_that("model", lambda: "lite, 12 MB", errors=()).sentence == "lite, 12 MB"
    step = check_that("ledger", unreachable, errors=(LedgerUnavailable,), advice="is PostgreSQL running?")
    assert (step.state, step.sentence) == (FAILED, "connection refused; is PostgreSQL running?")
    with pytest.raises(LedgerUnavailable):
        check_that("ledger", unreachable, errors=(OSError,))


def test_the_whole_diagnosis_as_text_and_as_data() -> None:
    with MockScp() as peer:
        destinations = [StorageScu(destination(peer.port), node_ae_title="LOWDOSE")]
        found = list(diagnose([lambda: ProbeStep(name="port", state=WARNING, sentence="in use")], destinations))
    assert [diagnosis.subject for diagnosis in found] == ["node", "pacs"]
    assert not any(diagnosis.has_failed for diagnosis in found)
    assert render(found[0]) == "node\n  warning  port  in use"
    data = json.loads(json.dumps(as_json(found)))
    assert data["ok"] is True
    assert data["subjects"]["node"] == [{"step": "port", "state": "warning", "sentence": "in use", "seconds": 0.0}]
    assert {step["step"] for step in data["subjects"]["pacs"]} >= {"name", "tcp", "association", "echo"}
