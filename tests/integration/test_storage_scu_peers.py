"""The storage SCU against servers of other makers: DCMTK storescp and Orthanc."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.destinations.base import DeliveryItem, Outcome
from dicom_node.destinations.storage_scu import StorageScu
from dicom_node.errors import UnsupportedPixels
from dicom_node.sending import read_items
from tests.support.items import DX, Outcomes, destination, items_of, write_image, write_series
from tests.support.objects import cr_dataset, dx_dataset, save, set_transfer_syntax, xa_dataset
from tests.support.peers import DcmtkStorescp, Orthanc, ReceivedObject, requires_dcmtk, requires_orthanc

SENT, REFUSED, RETRY = Outcome.SENT, Outcome.REFUSED, Outcome.RETRY

BUNDLED = [
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "JPEG2000.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEG-lossy.dcm",
    "JPGExtended.dcm",
    "image_dfl.dcm",
    "rtplan.dcm",
    "reportsi.dcm",
    "waveform_ecg.dcm",
]
"""Real objects that pydicom carries along: ten transfer syntaxes, and classes that hold no image."""


def bundled_paths() -> list[Path]:
    found = [get_testdata_file(name, download=False) for name in BUNDLED]
    return [Path(path) for path in found if isinstance(path, str)]


def even(data: bytes) -> bytes:
    """Return a data set with the byte that makes its length even (PS3.5 A.5, PS3.8 9.3.5.1)."""
    return data + b"\0" * (len(data) % 2)


def by_uid(objects: list[ReceivedObject]) -> dict[str, ReceivedObject]:
    return {entry.sop_instance_uid: entry for entry in objects}


@requires_dcmtk
def test_storescp_gets_every_real_object_byte_for_byte(tmp_path: Path) -> None:
    items, skipped = read_items(bundled_paths())
    assert (len(items), skipped) == (len(BUNDLED), [])
    outcomes = Outcomes()
    with DcmtkStorescp(tmp_path) as peer:
        settings = destination(peer.port, ae_title="STORESCP")
        StorageScu(settings, node_ae_title="LOWDOSE").deliver(items, on_outcome=outcomes.append)
    assert {outcome.reason: outcome.outcome for outcome in outcomes} == {"": SENT}
    sent = [
        (item.sop_instance_uid, item.transfer_syntax_uid, even(item.path.read_bytes()[item.dataset_offset :]))
        for item in items
    ]
    assert sorted((o.sop_instance_uid, o.transfer_syntax_uid, o.data) for o in peer.objects()) == sorted(sent)


@requires_dcmtk
@pytest.mark.parametrize("option", ["--implicit", "--prefer-little"])
def test_storescp_that_takes_uncompressed_only_gets_equal_values(tmp_path: Path, option: str) -> None:
    paths = [
        write_image(tmp_path / "source", 0, syntax=RLELossless),
        write_image(tmp_path / "source", 1, syntax=ExplicitVRLittleEndian),
        write_image(tmp_path / "source", 2, syntax=ImplicitVRLittleEndian),
    ]
    outcomes = Outcomes()
    with DcmtkStorescp(tmp_path / "peer", option) as peer:
        settings = destination(peer.port, ae_title="STORESCP")
        StorageScu(settings, node_ae_title="LOWDOSE").deliver(items_of(paths), on_outcome=outcomes.append)
    assert outcomes.states() == {0: SENT, 1: SENT, 2: SENT}
    received = {dcmread(path).SOPInstanceUID: dcmread(path) for path in peer.received_folder.iterdir()}
    for path in paths:
        source = dcmread(path)
        assert (received[source.SOPInstanceUID].pixel_array == source.pixel_array).all()
        assert received[source.SOPInstanceUID].PatientName == source.PatientName


def derived_images(folder: Path) -> list[DeliveryItem]:
    """Return uncompressed images of several kinds, a cine among them, as if they had been derived here."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    dx = dx_dataset(rng.integers(0, 2**14, (65, 63)).astype(np.uint16))
    cine = xa_dataset(rng.integers(0, 1024, (3, 47, 49)).astype(np.uint16))
    signed = cr_dataset(np.zeros((64, 64), np.uint16))
    signed.PixelRepresentation = 1
    signed.PixelData = rng.integers(-2048, 2048, (64, 64)).astype("<i2").tobytes()
    narrow = cr_dataset(np.zeros((51, 54), np.uint16))
    narrow.BitsAllocated, narrow.BitsStored, narrow.HighBit = 8, 8, 7
    narrow.PixelData = rng.integers(0, 256, (51, 54)).astype(np.uint8).tobytes()
    kinds = {
        "dx": dx,
        "cine": set_transfer_syntax(cine, ImplicitVRLittleEndian),
        "signed": set_transfer_syntax(signed, DeflatedExplicitVRLittleEndian),
        "narrow": narrow,
    }
    items, skipped = read_items([save(ds, folder / f"{name}.dcm") for name, ds in kinds.items()])
    assert not skipped
    return [replace(item, is_derived=True) for item in items]


def assert_same_object(source: Dataset, received: Dataset) -> None:
    """Compare pixels, and every other attribute by its value but trailing padding, which pydicom drops from files."""
    assert np.array_equal(received.pixel_array, source.pixel_array)
    apart = ("PixelData", "DataSetTrailingPadding")
    assert [e for e in received if e.keyword not in apart] == [e for e in source if e.keyword not in apart]


COMPRESSIONS = {
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
    "jpeg-lossless": JPEGLosslessSV1,
    "rle": RLELossless,
}


@requires_dcmtk
@pytest.mark.parametrize("compress", COMPRESSIONS)
@pytest.mark.parametrize(
    ("option", "taken"),
    [
        ("--accept-all", "jpeg-ls jpeg-2000 rle jpeg-lossless"),
        ("--prefer-jls-lossless", "jpeg-ls"),
        ("--prefer-j2k-lossless", "jpeg-2000"),
        ("--prefer-rle", "rle"),
        ("--prefer-lossless", "jpeg-lossless"),
        ("--prefer-little", ""),
    ],
)
def test_storescp_gets_derived_images_compressed_if_it_takes_that_and_as_they_are_if_not(
    tmp_path: Path, option: str, taken: str, compress: str
) -> None:
    items = derived_images(tmp_path / "source")
    outcomes = Outcomes()
    with DcmtkStorescp(tmp_path / "peer", option) as peer:
        settings = destination(peer.port, ae_title="STORESCP", compress=compress)
        StorageScu(settings, node_ae_title="LOWDOSE", scratch_folder=tmp_path).deliver(
            items, on_outcome=outcomes.append
        )
    assert {outcome.reason: outcome.outcome for outcome in outcomes} == {"": SENT}
    received = by_uid(peer.objects())
    for item in items:
        got = received[item.sop_instance_uid]
        if compress in taken.split():
            assert got.transfer_syntax_uid == COMPRESSIONS[compress]
        else:
            assert not UID(got.transfer_syntax_uid).is_compressed or got.transfer_syntax_uid == item.transfer_syntax_uid
        assert_same_object(dcmread(item.path), got.dataset())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["peer", "source"]


@requires_dcmtk
def test_originals_go_byte_for_byte_unless_the_destination_asks_for_more(tmp_path: Path) -> None:
    items = [replace(item, is_derived=False) for item in derived_images(tmp_path / "source")]
    items += read_items(bundled_paths())[0]
    items = [replace(item, instance_id=number) for number, item in enumerate(items)]
    untouched, compressed = Outcomes(), Outcomes()
    with DcmtkStorescp(tmp_path / "peer") as peer:
        settings = destination(peer.port, ae_title="STORESCP", compress="jpeg-ls")
        StorageScu(settings, node_ae_title="LOWDOSE").deliver(items, on_outcome=untouched.append)
    sent = [(i.sop_instance_uid, i.transfer_syntax_uid, even(i.path.read_bytes()[i.dataset_offset :])) for i in items]
    assert sorted((o.sop_instance_uid, o.transfer_syntax_uid, o.data) for o in peer.objects()) == sorted(sent)
    with DcmtkStorescp(tmp_path / "second") as peer:
        settings = destination(peer.port, ae_title="STORESCP", compress="jpeg-ls", compress_originals=True)
        StorageScu(settings, node_ae_title="LOWDOSE").deliver(items, on_outcome=compressed.append)
    assert {outcome.reason: outcome.outcome for outcome in [*untouched, *compressed]} == {"": SENT}
    # Reports, colour images and what is compressed already are untouched; grey images are compressed, and equal.
    objects = peer.objects()
    untouched_at_peer = {(o.sop_instance_uid, o.transfer_syntax_uid, o.data) for o in objects}
    grey = [item for item, as_sent in zip(items, sent, strict=True) if as_sent not in untouched_at_peer]
    names = {item.path.name for item in grey}
    assert names >= {"dx.dcm", "cine.dcm", "signed.dcm", "narrow.dcm", "CT_small.dcm", "MR_small_bigendian.dcm"}
    assert not names & {"JPEG2000.dcm", "MR_small_RLE.dcm", "JPEG-lossy.dcm", "rtplan.dcm", "reportsi.dcm"}
    jpeg_ls = {o.sop_instance_uid: o for o in objects if o.transfer_syntax_uid == JPEGLSLossless}
    for item in grey:
        # The MR images hold one instance in several transfer syntaxes.
        if not item.path.name.startswith("MR_"):
            assert_same_object(dcmread(item.path), jpeg_ls[item.sop_instance_uid].dataset())


@requires_dcmtk
@pytest.mark.parametrize("trouble", [UnsupportedPixels("no"), OSError(28, "no space"), ValueError("a codec's")])
def test_an_image_that_can_t_be_compressed_goes_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise trouble

    monkeypatch.setattr("dicom_node.transcoding.write_compressed", fail)
    items = derived_images(tmp_path / "source")
    outcomes = Outcomes()
    with DcmtkStorescp(tmp_path / "peer") as peer:
        settings = destination(peer.port, ae_title="STORESCP", compress="rle")
        StorageScu(settings, node_ae_title="LOWDOSE").deliver(items, on_outcome=outcomes.append)
    assert set(outcomes.states().values()) == {SENT}
    received = by_uid(peer.objects())
    for item in items:
        assert received[item.sop_instance_uid].transfer_syntax_uid == item.transfer_syntax_uid
        assert received[item.sop_instance_uid].data == even(item.path.read_bytes()[item.dataset_offset :])


@requires_dcmtk
def test_kinds_beyond_128_contexts_go_on_further_associations(tmp_path: Path) -> None:
    paths = [
        write_image(tmp_path / "source", number, sop_class=f"1.2.826.0.1.3680043.10.9.{number}", size=8)
        for number in range(70)
    ]
    outcomes = Outcomes()
    with DcmtkStorescp(tmp_path / "peer") as peer:
        settings = destination(peer.port, ae_title="STORESCP")
        StorageScu(settings, node_ae_title="LOWDOSE").deliver(items_of(paths), on_outcome=outcomes.append)
    assert set(outcomes.states().values()) == {SENT}
    assert len(outcomes) == len(peer.objects()) == 70


@requires_dcmtk
def test_storescp_that_refuses_associations_is_told_with_its_reason(tmp_path: Path) -> None:
    outcomes = Outcomes()
    with DcmtkStorescp(tmp_path / "peer", "--refuse") as peer:
        settings = destination(peer.port, ae_title="STORESCP")
        items = items_of(write_series(tmp_path / "source", 2))
        StorageScu(settings, node_ae_title="LOWDOSE").deliver(items, on_outcome=outcomes.append)
    assert outcomes.states() == {0: REFUSED, 1: REFUSED}
    assert "refused the association: it gives no reason; its log should" in outcomes.reason(0)


@requires_dcmtk
@pytest.mark.parametrize("option", ["--abort-after", "--abort-during"])
def test_storescp_that_aborts_leaves_everything_to_be_tried_again(tmp_path: Path, option: str) -> None:
    outcomes = Outcomes()
    with DcmtkStorescp(tmp_path / "peer", option) as peer:
        settings = destination(peer.port, ae_title="STORESCP")
        items = items_of(write_series(tmp_path / "source", 3))
        StorageScu(settings, node_ae_title="LOWDOSE").deliver(items, on_outcome=outcomes.append)
    assert outcomes.states() == {0: RETRY, 1: RETRY, 2: RETRY}
    assert "the association was lost" in outcomes.reason(0)


@requires_dcmtk
def test_an_abort_over_an_invalid_uid_is_that_objects_fault_and_is_not_tried_again(tmp_path: Path) -> None:
    """storescp aborts at a UID of more than 64 characters."""
    items = items_of(write_series(tmp_path / "source", 3))
    items[1] = replace(items[1], sop_instance_uid="1.2.826.0.1.3680043.10.1." + "1234567890" * 5)
    outcomes = Outcomes()
    with DcmtkStorescp(tmp_path / "peer") as peer:
        settings = destination(peer.port, ae_title="STORESCP")
        StorageScu(settings, node_ae_title="LOWDOSE").deliver(items, on_outcome=outcomes.append)
    assert outcomes.states() == {0: SENT, 1: REFUSED, 2: SENT}
    assert "UID of the object is invalid" in outcomes.reason(1)


@requires_dcmtk
def test_storescp_killed_in_mid_series_and_started_again_ends_up_with_everything(tmp_path: Path) -> None:
    items = items_of(write_series(tmp_path / "source", 8))
    first, second = Outcomes(), Outcomes()
    peer = DcmtkStorescp(tmp_path / "peer")

    def kill_after_three(outcome: object) -> None:
        first.append(outcome)  # type: ignore[arg-type]
        if len(first) == 3:
            peer.kill()

    with peer:
        scu = StorageScu(destination(peer.port, ae_title="STORESCP"), node_ae_title="LOWDOSE")
        scu.deliver(items, on_outcome=kill_after_three)
        assert [first.states()[number] for number in range(8)] == [SENT] * 3 + [RETRY] * 5
        peer.start()
        left = [item for item in items if first.states()[item.instance_id] is RETRY]
        scu.deliver(left, on_outcome=second.append)
    assert set(second.states().values()) == {SENT}
    assert set(by_uid(peer.objects())) == {item.sop_instance_uid for item in items}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@requires_orthanc
def test_orthanc_gets_every_real_object_with_its_pixels_unchanged(orthanc: Orthanc, tmp_path: Path) -> None:
    found, _ = read_items(bundled_paths())
    # Several of the files hold one instance in several transfer syntaxes, of which Orthanc keeps the first.
    items = list({item.sop_instance_uid: item for item in reversed(found)}.values())
    outcomes = Outcomes()
    scu = StorageScu(destination(orthanc.port, ae_title="ORTHANC"), node_ae_title="LOWDOSE")
    scu.deliver(items, on_outcome=outcomes.append)
    assert {outcome.reason: outcome.outcome for outcome in outcomes} == {"": SENT}
    for item in items:
        source = dcmread(item.path, force=True)
        stored = dcmread(io.BytesIO(orthanc.file(item.sop_instance_uid)), force=True)
        assert stored.SOPInstanceUID == source.SOPInstanceUID
        # Orthanc writes big endian and deflated objects as explicit VR little endian, so values are compared.
        if item.transfer_syntax_uid in (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
            assert (stored.pixel_array == source.pixel_array).all()
        else:
            assert stored.file_meta.TransferSyntaxUID == item.transfer_syntax_uid
            assert stored.get("PixelData") == source.get("PixelData")


@requires_orthanc
@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_orthanc_gets_derived_images_compressed_with_equal_pixels(
    orthanc: Orthanc, tmp_path: Path, compress: str
) -> None:
    items = derived_images(tmp_path / "source")
    outcomes = Outcomes()
    settings = destination(orthanc.port, ae_title="ORTHANC", compress=compress)
    StorageScu(settings, node_ae_title="LOWDOSE").deliver(items, on_outcome=outcomes.append)
    assert set(outcomes.states().values()) == {SENT}
    for item in items:
        stored = dcmread(io.BytesIO(orthanc.file(item.sop_instance_uid)))
        assert stored.file_meta.TransferSyntaxUID == COMPRESSIONS[compress]
        assert_same_object(dcmread(item.path), stored)


@requires_orthanc
def test_sending_again_to_orthanc_is_harmless(orthanc: Orthanc, tmp_path: Path) -> None:
    items = items_of([write_image(tmp_path, 77)])
    scu = StorageScu(destination(orthanc.port, ae_title="ORTHANC"), node_ae_title="LOWDOSE")
    before = len(orthanc.instances())
    for _ in range(2):
        outcomes = Outcomes()
        scu.deliver(items, on_outcome=outcomes.append)
        assert outcomes.states() == {0: SENT}
    assert len(orthanc.instances()) == before + 1


@requires_orthanc
def test_orthanc_that_checks_its_title_says_that_ours_for_it_is_wrong(tmp_path: Path) -> None:
    items = items_of([write_image(tmp_path / "source", 1)])
    wrong, right = Outcomes(), Outcomes()
    with Orthanc(tmp_path / "peer", configuration={"DicomCheckCalledAet": True}) as server:
        StorageScu(destination(server.port, ae_title="OTHER"), node_ae_title="LOWDOSE").deliver(
            items, on_outcome=wrong.append
        )
        StorageScu(destination(server.port, ae_title="ORTHANC"), node_ae_title="LOWDOSE").deliver(
            items, on_outcome=right.append
        )
    assert wrong.states() == {0: REFUSED}
    assert "called AE title OTHER not recognised there; correct the AE title" in wrong.reason(0)
    assert right.states() == {0: SENT}


@requires_orthanc
def test_orthanc_that_does_not_know_us_refuses_with_a_sentence_and_stores_once_it_does(tmp_path: Path) -> None:
    items = items_of([write_image(tmp_path / "source", 1, sop_class=DX)])
    unknown, known = Outcomes(), Outcomes()
    closed: dict[str, object] = {"DicomAlwaysAllowStore": False, "DicomAlwaysAllowEcho": False}
    entered = {"DicomModalities": {"node": ["LOWDOSE", "127.0.0.1", 104]}}
    with Orthanc(tmp_path / "peer", configuration=closed) as server:
        StorageScu(destination(server.port, ae_title="ORTHANC"), node_ae_title="LOWDOSE").deliver(
            items, on_outcome=unknown.append
        )
    with Orthanc(tmp_path / "peer", configuration=closed | entered) as server:
        StorageScu(destination(server.port, ae_title="ORTHANC"), node_ae_title="LOWDOSE").deliver(
            items, on_outcome=known.append
        )
    assert known.states() == {0: SENT}
    assert unknown.states() == {0: REFUSED}
    assert "ask its administrator to add AE title LOWDOSE" in unknown.reason(0)
