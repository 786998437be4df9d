"""The same image in two transfer syntaxes is told from a revision, byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_node.sameness import are_same
from tests.support.objects import save, set_transfer_syntax
from tests.support.radiographs import radiograph


def written(path: Path, change: Callable[[Dataset], None] = lambda _: None, syntax: UID = RLELossless) -> Path:
    ds = radiograph(1, size=32)
    change(ds)
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    elif syntax == ImplicitVRLittleEndian:
        ds = set_transfer_syntax(ds, syntax)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    return save(ds, path)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return written(tmp_path / "first.dcm", syntax=ExplicitVRLittleEndian)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, DeflatedExplicitVRLittleEndian])
def test_the_same_image_in_another_transfer_syntax_is_the_same(tmp_path: Path, first: Path, syntax: UID) -> None:
    assert are_same(first, written(tmp_path / "again.dcm", syntax=syntax), folder=tmp_path)


def change_header(ds: Dataset) -> None:
    ds.StudyDescription = "corrected"


def change_pixel(ds: Dataset) -> None:
    values = np.frombuffer(ds.PixelData, "<u2").copy()
    values[-1] ^= 1
    ds.PixelData = values.tobytes()


def change_private(ds: Dataset) -> None:
    ds.private_block(0x0011, "TESTS")[0x01].value = "lost"


@pytest.mark.parametrize("change", [change_header, change_pixel, change_private])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless])
def test_the_least_change_makes_a_revision(
    tmp_path: Path, first: Path, change: Callable[[Dataset], None], syntax: UID
) -> None:
    assert not are_same(first, written(tmp_path / "again.dcm", change, syntax), folder=tmp_path)


def test_what_can_t_be_read_is_a_revision(tmp_path: Path, first: Path) -> None:
    assert not are_same(first, tmp_path / "gone.dcm", folder=tmp_path)
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(first.read_bytes()[:900])
    assert not are_same(first, broken, folder=tmp_path)


def test_big_endian_is_the_same_or_a_revision_and_no_error(tmp_path: Path, first: Path) -> None:
    ds = radiograph(1, size=32)
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert are_same(first, save(ds, tmp_path / "big.dcm"), folder=tmp_path)
