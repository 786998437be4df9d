"""Transcoding for peers that refuse a syntax: values exact, text and private bytes as they are."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.errors import DerivationError, UnsupportedPixels
from dicom_node.transcoding import to_uncompressed, write_uncompressed
from tests.support.objects import dx_dataset, private_dataset, save, set_transfer_syntax, sr_dataset, xa_dataset

TARGETS = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
SOURCES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
]
STORED = np.random.default_rng(4).integers(0, 1024, (2, 33, 35)).astype(np.uint16)


def transcoded(path: Path, syntax: UID) -> Dataset:
    target = BytesIO()
    write_uncompressed(path, syntax, target)
    target.seek(0)
    ds = read_dataset(target, syntax.is_implicit_VR, True)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def with_all_kinds_of_values() -> Dataset:
    ds = xa_dataset(STORED, SpecificCharacterSet="ISO_IR 192", PatientName="山田^太郎")
    ds.LossyImageCompression = "01"
    ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = "3.5", "ISO_14495_1"
    ds.CTDIvol = 0.1
    ds.add_new(0x00181600, "CS", "RECTANGULAR")
    ds.add_new(0x60003000, "OW", b"\1\2\3\4")
    ds.add_new(0x00280120, "US", 63)
    item = Dataset()
    item.RequestedProcedureID = "R1"
    inner = Dataset()
    inner.CodeValue, inner.LongCodeValue = "1", "x" * 70
    item.RequestedProcedureCodeSequence = Sequence([inner, inner])
    ds.RequestAttributesSequence = Sequence([item, Dataset()])
    ds.DataSetTrailingPadding = bytes(4)
    return ds


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_value_is_the_same_in_the_other_syntax(tmp_path: Path, source: UID, target: UID) -> None:
    original = with_all_kinds_of_values()
    if source == ExplicitVRBigEndian:
        # pydicom writes words as they are given.
        original[0x60003000].value = b"\2\1\4\3"
    path = save(set_transfer_syntax(original, UID(source)), tmp_path / "source.dcm")
    result = transcoded(path, UID(target))
    assert np.array_equal(result.pixel_array, STORED)
    expected = with_all_kinds_of_values()
    assert result[0x60003000].value == b"\1\2\3\4"
    assert set(result.keys()) == set(expected.keys())
    unique = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PixelData")
    for element in expected:
        if element.keyword not in unique:
            assert result[element.tag].value == element.value, element


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits_stored", [7, 8])
def test_odd_length_pixels_are_padded(tmp_path: Path, target: UID, bits_stored: int) -> None:
    stored = np.arange(15, dtype=np.uint16).reshape(1, 3, 5)
    path = save(
        set_transfer_syntax(xa_dataset(stored, bits_stored=bits_stored), UID(RLELossless)), tmp_path / "odd.dcm"
    )
    result = transcoded(path, UID(target))
    assert len(result.PixelData) == 16
    assert np.array_equal(result.pixel_array, stored[0])


@pytest.mark.parametrize("target", TARGETS)
def test_broken_text_keeps_its_bytes(tmp_path: Path, target: UID) -> None:
    path = save(dx_dataset(STORED[0], SpecificCharacterSet="ISO_IR 192", StudyDescription="?abc"), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"?abc", b"\xff\xfebc"))
    result = transcoded(path, UID(target))
    assert result.get_item(0x00081030).value == b"\xff\xfebc"


@pytest.mark.parametrize("target", TARGETS)
def test_objects_without_pixels_go_through(tmp_path: Path, target: UID) -> None:
    report = transcoded(
        save(set_transfer_syntax(sr_dataset(), UID(DeflatedExplicitVRLittleEndian)), tmp_path / "sr"), UID(target)
    )
    assert report.ContentSequence[0].TextValue == "No finding."
    private = transcoded(save(private_dataset(b"\0\1\2\3"), tmp_path / "p"), UID(target))
    assert private[0x0099, 0x1001].value == b"\0\1\2\3"


def test_what_implicit_vr_says_nothing_about_becomes_un(tmp_path: Path) -> None:
    path = save(set_transfer_syntax(private_dataset(), UID(ImplicitVRLittleEndian)), tmp_path / "p.dcm")
    result = transcoded(path, UID(ExplicitVRLittleEndian))
    assert result.get_item(0x00990010).VR == "LO"
    assert result.get_item(0x00991001).VR == "UN"


@pytest.mark.parametrize(("signed", "vr"), [(0, "US"), (1, "SS")])
def test_pixel_representation_decides_us_or_ss(tmp_path: Path, signed: int, vr: str) -> None:
    ds = dx_dataset(STORED[0], PixelRepresentation=signed)
    ds.add_new(0x00280120, "SS" if signed else "US", -5 if signed else 5)
    path = save(set_transfer_syntax(ds, UID(ImplicitVRLittleEndian)), tmp_path / "ds.dcm")
    element = transcoded(path, UID(ExplicitVRLittleEndian))[0x00280120]
    assert (element.VR, element.value) == (vr, -5 if signed else 5)


def test_a_text_beyond_a_short_length_becomes_un(tmp_path: Path) -> None:
    ds = dx_dataset(STORED[0])
    ds.add_new(0x00204000, "LT", "x" * 70_000)
    path = save(set_transfer_syntax(ds, UID(ImplicitVRLittleEndian)), tmp_path / "ds.dcm")
    assert transcoded(path, UID(ExplicitVRLittleEndian)).get_item(0x00204000).VR == "UN"


def test_the_file_goes_when_it_was_sent(tmp_path: Path) -> None:
    source = save(set_transfer_syntax(xa_dataset(STORED), UID(RLELossless)), tmp_path / "source.dcm")
    with to_uncompressed(source, ExplicitVRLittleEndian, folder=tmp_path) as path:
        assert path.read_bytes()[:2] == b"\x08\x00"
        assert path.parent == tmp_path
    assert list(tmp_path.iterdir()) == [source]


def test_what_can_t_be_transcoded_is_refused_with_a_reason(tmp_path: Path) -> None:
    source = save(dx_dataset(STORED[0]), tmp_path / "source.dcm")
    with pytest.raises(DerivationError, match="not an uncompressed"):
        write_uncompressed(source, RLELossless, BytesIO())
    broken = set_transfer_syntax(xa_dataset(STORED), UID(JPEG2000Lossless))
    broken.PixelData = broken.PixelData[:40] + bytes(60) + broken.PixelData[100:]
    with pytest.raises(UnsupportedPixels, match="Pixel Data can't be read"):
        write_uncompressed(save(broken, tmp_path / "broken.dcm"), ExplicitVRLittleEndian, BytesIO())
