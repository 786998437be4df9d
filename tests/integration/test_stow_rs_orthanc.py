"""The STOW-RS destination against Orthanc with its DICOMweb plugin, over HTTP and HTTPS, and from a whole node."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicom_node.destinations.base import Outcome, StepState
from dicom_node.destinations.stow_rs import StowRs
from tests.support.items import CT, Outcomes, items_of, write_image
from tests.support.node import running_node
from tests.support.peers import LOOPBACK, read_part10
from tests.support.radiographs import write_radiographs
from tests.support.web_certificates import WebAuthority
from tests.support.web_peers import (
    WebOrthanc,
    orthanc_with_dicomweb,
    requires_orthanc_dicomweb,
    tls_in_front,
    web_destination,
)

pytestmark = requires_orthanc_dicomweb


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebOrthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    users = {"node": "p4ss"}
    with orthanc_with_dicomweb(folder, users=users) as peer:
        yield peer


def login(folder: Path, password: str = "p4ss") -> dict[str, object]:
    (folder / "password").write_text(password)
    return {"username": "node", "password_file": folder / "password"}


def test_orthanc_gets_every_object_as_it_was(orthanc: WebOrthanc, tmp_path: Path) -> None:
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless)
    paths = [write_image(tmp_path / str(n), 100 + n, syntax=syntax) for n, syntax in enumerate(syntaxes)]
    paths += [write_image(tmp_path / "ct", 110 + n, sop_class=CT) for n in range(20)]
    outcomes = Outcomes()
    scu = StowRs(web_destination(orthanc.http_port, max_objects=9, **login(tmp_path)), node_ae_title="LOWDOSE")
    scu.deliver(items_of(paths), on_outcome=outcomes.append)
    assert set(outcomes.states().values()) == {Outcome.SENT}, outcomes.reason(0)
    for path in paths:
        sent = dcmread(path)
        (tmp_path / "there.dcm").write_bytes(orthanc.file(sent.SOPInstanceUID))
        there = read_part10(tmp_path / "there.dcm")
        if sent.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian:
            assert there.transfer_syntax_uid == ExplicitVRLittleEndian
            assert there.dataset().PixelData == sent.PixelData
        else:
            assert there.data == read_part10(path).data


def test_sending_again_to_orthanc_is_harmless(orthanc: WebOrthanc, tmp_path: Path) -> None:
    items = items_of([write_image(tmp_path, 150)])
    scu = StowRs(web_destination(orthanc.http_port, **login(tmp_path)), node_ae_title="LOWDOSE")
    for _ in range(2):
        outcomes = Outcomes()
        scu.deliver(items, on_outcome=outcomes.append)
        assert outcomes.states() == {0: Outcome.SENT}


def test_orthanc_does_not_take_what_is_no_dicom_and_the_others_arrive(orthanc: WebOrthanc, tmp_path: Path) -> None:
    paths = [write_image(tmp_path, 160 + number) for number in range(4)]
    items = items_of(paths)
    paths[2].write_bytes(paths[2].read_bytes()[: items[2].dataset_offset] + b"no data set at all" * 40)
    outcomes = Outcomes()
    scu = StowRs(web_destination(orthanc.http_port, **login(tmp_path)), node_ae_title="LOWDOSE")
    scu.deliver(items, on_outcome=outcomes.append)
    assert outcomes.states()[2] is not Outcome.SENT
    assert {outcomes.states()[number] for number in (0, 1, 3)} == {Outcome.SENT}
    assert orthanc.find(items[2].sop_instance_uid) is None


def test_a_wrong_password_keeps_everything_waiting(orthanc: WebOrthanc, tmp_path: Path) -> None:
    scu = StowRs(web_destination(orthanc.http_port, **login(tmp_path, "wrong")), node_ae_title="LOWDOSE")
    outcomes = Outcomes()
    scu.deliver(items_of([write_image(tmp_path, 170)]), on_outcome=outcomes.append)
    assert outcomes.states() == {0: Outcome.RETRY}
    assert "HTTP 401" in outcomes.reason(0)
    step = scu.probe()[-1]
    assert (step.state, "password" in step.sentence) == (StepState.FAILED, True)


def test_orthanc_passes_the_probe(orthanc: WebOrthanc, tmp_path: Path) -> None:
    before = orthanc_count(orthanc)
    steps = StowRs(web_destination(orthanc.http_port, **login(tmp_path)), node_ae_title="LOWDOSE").probe()
    # The password goes in the clear here, of which the login step warns.
    assert [step.state for step in steps if step.name != "login"] == [StepState.OK] * 3
    assert orthanc_count(orthanc) == before


def orthanc_count(orthanc: WebOrthanc) -> int:
    return len(list((orthanc.folder / "storage").rglob("*-*")))


def test_orthanc_over_tls_with_a_client_certificate(orthanc: WebOrthanc, tmp_path: Path) -> None:
    authority = WebAuthority(tmp_path)
    context = authority.server(names=(LOOPBACK,))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)
    certificate, key = authority.sign("node", names=("node.local",))
    items = items_of([write_image(tmp_path, 180 + number, size=700) for number in range(4)])
    with tls_in_front(orthanc.http_port, context) as port:
        url = {"url": f"https://{LOOPBACK}:{port}/dicom-web", "ca_file": authority.file, **login(tmp_path)}
        stranger = Outcomes()
        StowRs(web_destination(1, **url), node_ae_title="LOWDOSE").deliver(items, on_outcome=stranger.append)
        assert {(o.outcome, o.in_doubt) for o in stranger} == {(Outcome.RETRY, False)}
        assert orthanc.find(items[0].sop_instance_uid) is None
        known = StowRs(
            web_destination(1, **url, client_certificate=certificate, client_key=key), node_ae_title="LOWDOSE"
        )
        assert [step.sentence for step in known.probe() if step.state is not StepState.OK] == []
        outcomes = Outcomes()
        known.deliver(items, on_outcome=outcomes.append)
    assert set(outcomes.states().values()) == {Outcome.SENT}
    for item in items:
        (tmp_path / "there.dcm").write_bytes(orthanc.file(item.sop_instance_uid))
        assert read_part10(tmp_path / "there.dcm").data == read_part10(item.path).data


def test_a_node_sends_enhanced_images_and_originals_to_orthanc_by_stow(orthanc: WebOrthanc, tmp_path: Path) -> None:
    url = f"http://{LOOPBACK}:{orthanc.http_port}/dicom-web"
    # A relative path starts at the settings file.
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "secret").write_text("p4ss")
    pacs = {"name": "web", "kind": "dicomweb", "url": url, "username": "node", "password_file": "secret"}
    images = write_radiographs(tmp_path / "in", 2, series=70)
    ct = write_radiographs(tmp_path / "in", 1, series=71, sop_class=CT)
    before = orthanc_uids(orthanc)
    with running_node(tmp_path / "node", destinations=[pacs]) as node:
        node.send(*images, *ct)
        node.wait_balanced(3)
        log = node.log()
        doctor = node.command("doctor", exit_codes=(0, 1))
    arrived = orthanc_uids(orthanc) - before
    sources = {dcmread(path).SOPInstanceUID for path in images}
    derived = {uid for uid in arrived if uid.startswith("2.25.")}
    found = [orthanc.tags(uid) for uid in derived]
    assert {
        tags["SourceImageSequence"][0]["ReferencedSOPInstanceUID"] for tags in found if "SourceImageSequence" in tags
    } == sources
    (tmp_path / "there.dcm").write_bytes(orthanc.file(dcmread(ct[0]).SOPInstanceUID))
    assert read_part10(tmp_path / "there.dcm").data == read_part10(ct[0]).data
    assert "p4ss" not in log
    assert [step["step"] for step in doctor["subjects"]["web"]] == ["name", "tcp", "login", "service"]


def orthanc_uids(orthanc: WebOrthanc) -> set[str]:
    return {orthanc.uid_of(identifier) for identifier in orthanc.instances()}
