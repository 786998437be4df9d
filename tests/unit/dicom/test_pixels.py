"""Stored values <-> denoiser values: exact for every format, padding and overlays untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.errors import DerivationError, UnsupportedPixels
from dicom_node.pixel_encoding import NATIVE
from dicom_node.pixels import (
    PixelSpec,
    StoredFrame,
    domain_of,
    from_exposure,
    iter_frames,
    pixel_digest,
    read_spec,
    to_exposure,
)
from model.domain import Domain
from tests.support.grey_images import grey_image, images
from tests.support.memory import peak_growth
from tests.support.objects import dx_dataset, save, set_transfer_syntax, xa_dataset


def only_frame(ds: Dataset) -> tuple[PixelSpec, StoredFrame]:
    spec = read_spec(ds)
    (frame,) = iter_frames(ds, spec)
    return spec, frame


@settings(max_examples=400)
@given(images())
def test_what_is_not_changed_comes_back_bit_exact(ds: Dataset) -> None:
    spec = read_spec(ds)
    raw = np.frombuffer(ds.PixelData, f"u{ds.BitsAllocated // 8}")[: spec.rows * spec.columns * spec.frames]
    back = [from_exposure(to_exposure(frame.values, spec), frame, spec) for frame in iter_frames(ds, spec)]
    assert np.array_equal(np.concatenate([cells.ravel() for cells in back]), raw)


@settings(max_examples=300)
@given(images(), st.integers(0, 2**32 - 1))
def test_any_change_leaves_padding_and_foreign_bits_alone(ds: Dataset, seed: int) -> None:
    spec = read_spec(ds)
    rng = np.random.default_rng(seed)
    for frame in iter_frames(ds, spec):
        changed = to_exposure(frame.values, spec) + rng.normal(0, 2.0**spec.bits_stored, frame.values.shape)
        cells = from_exposure(changed.astype(np.float32), frame, spec)
        assert np.array_equal(cells[~frame.native], frame.cells[~frame.native])
        stored_bits = ((1 << spec.bits_stored) - 1) << spec.shift
        if spec.embedded_overlays or not spec.signed:
            assert np.array_equal(
                cells & ~np.array(stored_bits, cells.dtype), frame.cells & ~np.array(stored_bits, cells.dtype)
            )
        if spec.padding is not None:
            values = ((cells.astype(np.int64) & stored_bits) >> spec.shift)[frame.native]
            if spec.signed:
                values = np.where(values >= 1 << (spec.bits_stored - 1), values - (1 << spec.bits_stored), values)
            assert not ((values >= spec.padding[0]) & (values <= spec.padding[1])).any()


@settings(max_examples=200)
@given(images())
def test_stored_values_are_what_arithmetic_on_the_bits_says(ds: Dataset) -> None:
    spec = read_spec(ds)
    for frame in iter_frames(ds, spec):
        bits = [(int(cell) >> spec.shift) & ((1 << spec.bits_stored) - 1) for cell in frame.cells.ravel()]
        if spec.signed:
            bits = [b - (1 << spec.bits_stored) if b >> (spec.bits_stored - 1) else b for b in bits]
        assert frame.values.ravel().tolist() == bits


SHAPES = ((1, 1, 1), (1, 3, 3), (3, 1, 5), (2, 64, 33))
# The JPEG-LS and JPEG 2000 encoders make no images as small as the others.
SYNTAX_AND_SHAPE = [
    *((s, shape) for s in (*sorted(NATIVE), DeflatedExplicitVRLittleEndian, RLELossless) for shape in SHAPES),
    *((s, (2, 64, 33)) for s in (JPEGLSLossless, JPEG2000Lossless)),
]


@pytest.mark.parametrize("bits_allocated", [8, 16])
@pytest.mark.parametrize(("syntax", "shape"), SYNTAX_AND_SHAPE)
def test_the_same_pixels_are_read_from_every_lossless_syntax(
    tmp_path: Path, syntax: UID, shape: tuple[int, int, int], bits_allocated: int
) -> None:
    bits = bits_allocated - (4 if bits_allocated == 16 else 0)
    stored = np.random.default_rng(5).integers(0, 2**bits, shape).astype(np.uint16)
    path = save(set_transfer_syntax(xa_dataset(stored, bits_stored=bits), syntax), tmp_path / "image.dcm")
    reference = xa_dataset(stored, bits_stored=bits)
    spec = read_spec(reference)
    read = PixelSpec(**{**vars(spec), "transfer_syntax_uid": UID(syntax)})
    frames = list(iter_frames(path, read))
    assert [frame.index for frame in frames] == list(range(shape[0]))
    assert np.array_equal(np.stack([frame.values for frame in frames]), stored)
    assert pixel_digest(path, read) == pixel_digest(reference, spec)


def test_big_endian_words_of_8_bit_cells_are_read_in_order(tmp_path: Path) -> None:
    stored = np.arange(15, dtype=np.uint16).reshape(1, 3, 5)
    ds = xa_dataset(stored, bits_stored=8)
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    swapped = np.frombuffer(ds.PixelData, "<u2").byteswap().tobytes()
    ds.PixelData = swapped
    ds["PixelData"].VR = "OW"
    spec = read_spec(ds)
    (frame,) = iter_frames(save(ds, tmp_path / "be.dcm"), spec)
    assert np.array_equal(frame.values, stored[0])


def big_endian_words(cells: NDArray[np.uint8]) -> Dataset:
    """Return an image whose 8-bit cells are in big endian words of 16 bits."""
    ds = xa_dataset(np.zeros((len(cells), 1, 1), np.uint16), bits_stored=8)
    ds.Rows, ds.Columns = cells.shape[1:]
    ds.BitsAllocated = 8
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data = cells.tobytes() + b"\0" * (cells.size % 2)
    ds.PixelData = np.frombuffer(data, "<u2").byteswap().tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def test_frames_that_share_a_big_endian_word_are_told_apart(tmp_path: Path) -> None:
    cells = np.random.default_rng(4).integers(0, 256, (5, 3, 7), dtype=np.uint8)
    ds = big_endian_words(cells)
    for source in (ds, save(ds, tmp_path / "be.dcm")):
        assert np.array_equal([frame.values for frame in iter_frames(source, read_spec(ds))], cells)


def test_half_a_big_endian_word_is_refused() -> None:
    ds = big_endian_words(np.ones((1, 3, 5), np.uint8))
    spec = read_spec(ds)
    ds.PixelData = ds.PixelData[:-1]
    with pytest.raises(UnsupportedPixels, match="holds 15 bytes, the attributes ask for 16"):
        list(iter_frames(ds, spec))


def test_big_endian_words_are_read_frame_by_frame(tmp_path: Path) -> None:
    ds = big_endian_words(np.zeros((200, 512, 512), np.uint8))
    path, spec = save(ds, tmp_path / "be.dcm"), read_spec(ds)
    ds.clear()
    with peak_growth() as growth:
        assert sum(1 for _ in iter_frames(path, spec)) == 200
    # The pixels are 52 MB.
    assert growth.bytes < 15 * 10**6


def test_native_pixels_never_take_the_padding_value() -> None:
    cells = np.array([[[10, 11, 0, 200, 201, 255]]], dtype=np.uint8)
    spec, frame = only_frame(grey_image(cells, PixelPaddingValue=0, PixelPaddingRangeLimit=10))
    assert frame.native.tolist() == [[False, True, False, True, True, True]]
    cells = from_exposure(np.array([[90, 3, 90, -50, 10.4, 255]], dtype=np.float32), frame, spec)
    assert cells.tolist() == [[10, 11, 0, 11, 11, 255]]


def test_padding_above_the_image_is_avoided_from_below() -> None:
    cells = np.array([[[250, 255]]], dtype=np.uint8)
    spec, frame = only_frame(grey_image(cells, PixelPaddingValue=255))
    assert from_exposure(np.array([[300, 7]], dtype=np.float32), frame, spec).tolist() == [[254, 255]]


def test_padding_beyond_bits_stored_is_found_in_the_whole_cell() -> None:
    cells = np.array([[[-2000, -1, 100]]], dtype=np.int16).view(np.uint16)
    ds = grey_image(cells, BitsStored=11, HighBit=10, PixelRepresentation=1, PixelPaddingValue=-2000)
    _, frame = only_frame(ds)
    assert frame.native.tolist() == [[False, True, True]]


def test_a_native_pixel_that_would_be_padding_with_its_other_bits_stays() -> None:
    # 2 bits stored under high bit 2; padding of 4 to 152 is told by the whole cell.
    cells = np.array([[[158, 230, 4]]], dtype=np.uint8)
    ds = grey_image(cells, BitsStored=2, HighBit=2, PixelPaddingValue=4, PixelPaddingRangeLimit=152)
    spec, frame = only_frame(ds)
    assert (frame.native.tolist(), frame.values.tolist()) == ([[True, True, False]], [[3, 3, 2]])
    # 0 would make 152 of the first cell, which is padding, and 224 of the second.
    assert from_exposure(np.zeros((1, 3), dtype=np.float32), frame, spec).tolist() == [[158, 224, 4]]


def test_values_are_rounded_and_clipped_to_bits_stored() -> None:
    cells = np.full((1, 1, 5), 1000, dtype=np.uint16)
    spec, frame = only_frame(grey_image(cells, BitsStored=12, HighBit=11))
    wanted = np.array([[1000.4, 1000.6, -7.0, 5000.0, 1e30]], dtype=np.float32)
    assert from_exposure(wanted, frame, spec).tolist() == [[1000, 1001, 0, 4095, 4095]]


def test_sign_extension_of_the_source_is_kept_where_a_value_changes_its_sign() -> None:
    cells = np.array([[[5, -5]]], dtype=np.int16).view(np.uint16)
    spec, frame = only_frame(grey_image(cells, BitsStored=12, HighBit=11, PixelRepresentation=1))
    assert from_exposure(np.array([[-3, 3]], dtype=np.float32), frame, spec).view(np.int16).tolist() == [[-3, 3]]


def test_embedded_overlay_bits_are_restored() -> None:
    overlay = np.array([[[0x8000, 0, 0x8000]]], dtype=np.uint16)
    ds = grey_image(overlay | np.uint16(100), BitsStored=12, HighBit=11)
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 15)
    spec, frame = only_frame(ds)
    assert spec.embedded_overlays
    assert frame.values.tolist() == [[100, 100, 100]]
    cells = from_exposure(np.array([[7, 8, 9]], dtype=np.float32), frame, spec)
    assert cells.tolist() == [[0x8007, 8, 0x8009]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    spec, frame = only_frame(grey_image(np.full((1, 1, 1), 5, dtype=np.uint8)))
    with pytest.raises(DerivationError, match="not finite"):
        from_exposure(np.array([[value]], dtype=np.float32), frame, spec)


@pytest.mark.parametrize(
    ("relationship", "sign", "intent", "domain", "exposure_of_10", "stored_for_one_more"),
    [
        ("LIN", 1, "FOR PROCESSING", Domain.LINEAR, 10, 11),
        ("LIN", -1, "FOR PROCESSING", Domain.LINEAR, 245, 9),
        ("LIN", 1, "", Domain.LINEAR, 10, 11),
        ("LIN", 1, "FOR PRESENTATION", Domain.DISPLAY, 10, 11),
        ("LIN", -1, "FOR PRESENTATION", Domain.DISPLAY, 10, 11),
        ("LOG", -1, "FOR PRESENTATION", Domain.LOG, 10, 11),
        ("LOG", 1, "FOR PROCESSING", Domain.LOG, 10, 11),
        ("DISP", 1, "", Domain.DISPLAY, 10, 11),
        ("", 1, "", Domain.DISPLAY, 10, 11),
        ("DRM", -1, "", Domain.DISPLAY, 10, 11),
    ],
)
def test_relationship_and_intent_decide_the_domain(
    relationship: str, sign: int, intent: str, domain: Domain, exposure_of_10: int, stored_for_one_more: int
) -> None:
    ds = grey_image(np.full((1, 1, 1), 10, dtype=np.uint8), PixelIntensityRelationship=relationship)
    ds.PixelIntensityRelationshipSign, ds.PresentationIntentType = sign, intent
    spec, frame = only_frame(ds)
    assert domain_of(spec) is domain
    assert to_exposure(frame.values, spec).tolist() == [[exposure_of_10]]
    one_more = np.array([[exposure_of_10 + 1]], np.float32)
    assert from_exposure(one_more, frame, spec).item() == stored_for_one_more


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "not grey values"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not grey values"),
        ({"BitsAllocated": 32}, "Bits Allocated is 32"),
        ({"BitsAllocated": 1}, "Bits Allocated is 1"),
        ({"BitsStored": 9}, "don't fit"),
        ({"HighBit": 8}, "don't fit"),
        ({"BitsStored": 4, "HighBit": 2}, "don't fit"),
        ({"Rows": 0}, "no pixels"),
        ({"Rows": None}, "Rows is missing"),
        ({"NumberOfFrames": 2}, "the attributes ask for"),
        ({"Rows": 65535, "Columns": 65535}, "the attributes ask for"),
        ({"PixelData": b""}, "the attributes ask for"),
    ],
)
def test_what_is_not_supported_is_refused_with_a_reason(attributes: dict[str, Any], reason: str) -> None:
    ds = grey_image(np.zeros((1, 3, 2), dtype=np.uint8), **attributes)
    with pytest.raises(UnsupportedPixels, match=reason):
        list(iter_frames(ds, read_spec(ds)))


def test_missing_pixel_data_is_refused(tmp_path: Path) -> None:
    ds = dx_dataset(np.zeros((2, 2), np.uint16))
    spec = read_spec(ds)
    del ds.PixelData
    for source in (ds, save(ds, tmp_path / "empty.dcm")):
        with pytest.raises(UnsupportedPixels, match="no Pixel Data"):
            list(iter_frames(source, spec))


def test_broken_compressed_frames_are_refused(tmp_path: Path) -> None:
    ds = set_transfer_syntax(xa_dataset(np.zeros((2, 16, 16), np.uint16)), UID(RLELossless))
    ds.PixelData = ds.PixelData[:40] + bytes(len(ds.PixelData) - 40)
    with pytest.raises(UnsupportedPixels):
        list(iter_frames(save(ds, tmp_path / "broken.dcm"), read_spec(ds)))


def test_fewer_frames_than_announced_are_refused(tmp_path: Path) -> None:
    ds = set_transfer_syntax(xa_dataset(np.zeros((2, 8, 8), np.uint16)), UID(RLELossless))
    ds.NumberOfFrames = 3
    with pytest.raises(UnsupportedPixels):
        list(iter_frames(save(ds, tmp_path / "short.dcm"), read_spec(ds)))


def test_lossy_overshoot_ends_at_the_largest_storable_value(tmp_path: Path) -> None:
    # A codestream of 16 bits in an image of 12 bits stored, as lossy compression of steep edges leaves it.
    ds = xa_dataset(np.tile(np.array([4095, 4124, 0, 100], np.uint16), (1, 64, 16)), bits_stored=16)
    set_transfer_syntax(ds, UID(JPEG2000Lossless))
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.91")
    ds.BitsStored, ds.HighBit = 12, 11
    (frame,) = iter_frames(save(ds, tmp_path / "lossy.dcm"), read_spec(ds))
    assert frame.values[0, :4].tolist() == [4095, 4095, 0, 100]


def test_reading_the_attributes_leaves_them_as_they_are() -> None:
    ds = grey_image(np.zeros((1, 2, 2), dtype=np.uint8))
    before = {tag: ds.get_item(tag) for tag in ds.keys()}  # noqa: SIM118
    read_spec(ds)
    assert all(ds.get_item(tag) is element for tag, element in before.items())
