"""From file to file over every format and transfer syntax: what is not denoised comes back bit by bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, RLELossless

from dicom_node.derivation import unexpected_differences
from dicom_node.part10 import open_part10
from dicom_node.pixel_encoding import ENCODABLE, output_syntax
from dicom_node.pixels import PixelSpec, StoredFrame, iter_frames, read_spec
from tests.support.derived import context, derive_file
from tests.support.grey_images import ENCODERS, UNCOMPRESSED, objects, write_as

SYNTAXES = [pytest.param(UID(syntax), id=UID(syntax).name) for syntax in (*UNCOMPRESSED, *ENCODERS)]
pytestmark = pytest.mark.filterwarnings("ignore")


def frames_in(path: Path) -> list[StoredFrame]:
    with open_part10(path) as part10:
        return list(iter_frames(part10, read_spec(part10.header)))


def cells_in(path: Path) -> NDArray[Any]:
    return np.stack([frame.cells for frame in frames_in(path)])


@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(max_examples=60)
@given(ds=objects())
def test_what_is_not_changed_comes_back_bit_by_bit_and_attributes_as_allowed(ds: Dataset, syntax: UID) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, cells = write_as(ds, syntax, Path(folder) / "source.dcm")
        target = derive_file(source, Path(folder) / "derived.dcm", context(), lambda exposure: exposure)
        read = cells_in(source)
        # Codecs of values give the bits beside the stored ones by sign; the others every bit.
        whole = syntax in UNCOMPRESSED or syntax == RLELossless
        compared = read.dtype.type((1 << (ds.BitsAllocated if whole else ds.BitsStored)) - 1)
        assert np.array_equal(read & compared, cells)
        assert np.array_equal(cells_in(target), read)
        with open_part10(source) as before, open_part10(target) as after:
            assert unexpected_differences(before.header, after.header) == ()
            spec = read_spec(before.header)
            assert after.transfer_syntax_uid == output_syntax(spec) or output_syntax(spec) in ENCODABLE


def expected_value(value: int, change: float, spec: PixelSpec) -> int:
    """Return what a native pixel becomes, by plain arithmetic: rounded, within the storable range, beside padding."""
    counted_down = spec.sign < 0 and spec.relationship == "LIN" and spec.presentation_intent != "FOR PRESENTATION"
    wanted = value + round(-change if counted_down else change)
    wanted = min(max(wanted, spec.lowest), spec.highest)
    if spec.padding is not None and spec.padding[0] <= wanted <= spec.padding[1]:
        return spec.padding[0] - 1 if value < spec.padding[0] else spec.padding[1] + 1
    return wanted


@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(max_examples=60)
@given(ds=objects(), seed=st.integers(0, 2**32 - 1), share=st.sampled_from((0.001, 0.1, 2.0)))
def test_what_is_changed_is_rounded_clipped_and_never_padding(
    ds: Dataset, syntax: UID, seed: int, share: float
) -> None:
    shape = (ds.NumberOfFrames, ds.Rows, ds.Columns)
    # Halves would leave open where a value is rounded to.
    changes = np.random.default_rng(seed).integers(-1000, 1001, shape) * (share * 2**ds.BitsStored / 1000)
    changes = np.where(np.abs(changes % 1 - 0.5) < 0.05, np.floor(changes), changes).astype(np.float32)
    left = iter(changes)
    with tempfile.TemporaryDirectory() as folder:
        source, _ = write_as(ds, syntax, Path(folder) / "source.dcm")
        target = derive_file(source, Path(folder) / "derived.dcm", context(), lambda exposure: exposure + next(left))
        with open_part10(source) as part10:
            spec = read_spec(part10.header)
        for before, after, change in zip(frames_in(source), frames_in(target), changes, strict=True):
            assert np.array_equal(before.native, after.native)
            assert np.array_equal(before.cells[~before.native], after.cells[~before.native])
            expected = [
                expected_value(int(value), float(delta), spec)
                for value, delta in zip(before.values[before.native], change[before.native], strict=True)
            ]
            padded_by_cells = spec.padding is not None and not spec.lowest <= spec.padding[0] <= spec.highest
            for value, wanted, found in zip(
                before.values[before.native].tolist(), expected, after.values[before.native].tolist(), strict=True
            ):
                # Where padding is a value of the whole cell, a pixel that would become it stays as it was.
                assert found == wanted or (padded_by_cells and found == value)
            if spec.embedded_overlays or not spec.signed:
                beside = ~before.cells.dtype.type(((1 << spec.bits_stored) - 1) << spec.shift)
                assert np.array_equal(before.cells & beside, after.cells & beside)
