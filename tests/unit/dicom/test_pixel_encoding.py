"""Frames of a derived object: lossless, in the source's own syntax where possible, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node import pixel_encoding
from dicom_node.errors import DerivationError
from dicom_node.pixel_encoding import encode_exactly, frame_writer, output_syntax
from dicom_node.pixels import PixelSpec, frame_of, iter_frames, pixel_digest, read_spec
from tests.support.objects import save, xa_dataset

LOSSY_J2K = UID("1.2.840.10008.1.2.4.91")


def spec_of(shape: tuple[int, int, int], syntax: UID, *, bits_stored: int = 12, **changes: object) -> PixelSpec:
    spec = read_spec(xa_dataset(np.zeros(shape, np.uint16), bits_stored=bits_stored))
    return PixelSpec(**{**vars(spec), "transfer_syntax_uid": UID(syntax), **changes})


@pytest.mark.parametrize("bits_stored", [8, 12, 16])
@pytest.mark.parametrize(
    ("source", "derived"),
    [
        (ImplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ExplicitVRLittleEndian),
        (ExplicitVRBigEndian, ExplicitVRBigEndian),
        (DeflatedExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian),
        (RLELossless, RLELossless),
        (JPEGLSLossless, JPEGLSLossless),
        (JPEG2000Lossless, JPEG2000Lossless),
        (HTJ2KLossless, ExplicitVRLittleEndian),
        (HTJ2KLosslessRPCL, ExplicitVRLittleEndian),
        (LOSSY_J2K, ExplicitVRLittleEndian),
    ],
)
def test_what_is_written_is_read_back_exactly(tmp_path: Path, source: UID, derived: UID, bits_stored: int) -> None:
    shape = (3, 65, 63)
    spec = spec_of(shape, source, bits_stored=bits_stored)
    cells = np.random.default_rng(3).integers(0, 2**bits_stored, shape).astype(f"u{spec.bits_allocated // 8}")
    with frame_writer(spec) as writer:
        for index, frame in enumerate(cells):
            writer.add(frame_of(frame // 2, index, spec), frame)
        encoded = writer.finish()
    ds = xa_dataset(np.zeros(shape, np.uint16), bits_stored=bits_stored)
    ds.file_meta.TransferSyntaxUID = encoded.transfer_syntax_uid
    ds.PixelData = encoded.value
    ds["PixelData"].VR = encoded.vr
    read = PixelSpec(**{**vars(spec), "transfer_syntax_uid": encoded.transfer_syntax_uid})
    assert encoded.transfer_syntax_uid == derived
    back = np.stack([frame.cells for frame in iter_frames(save(ds, tmp_path / "derived.dcm"), read)])
    assert np.array_equal(back, cells)
    assert (encoded.smallest, encoded.largest) == (cells.min(), cells.max())


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
@pytest.mark.parametrize(
    ("shape", "bits_stored", "derived"),
    [
        ((3, 65, 63), 16, None),
        ((3, 65, 63), 12, None),
        ((3, 65, 64), 8, None),
        ((3, 65, 63), 8, ExplicitVRLittleEndian),
        ((3, 65, 64), 7, ExplicitVRLittleEndian),
    ],
)
def test_jpeg_lossless_is_written_where_gdcm_can(
    syntax: UID, shape: tuple[int, int, int], bits_stored: int, derived: UID | None
) -> None:
    spec = spec_of(shape, syntax, bits_stored=bits_stored)
    cells = np.random.default_rng(3).integers(0, 2**bits_stored, shape).astype(f"u{spec.bits_allocated // 8}")
    with frame_writer(spec) as writer:
        for index, frame in enumerate(cells):
            writer.add(frame_of(frame // 2, index, spec), frame)
        encoded = writer.finish()
    assert encoded.transfer_syntax_uid == (syntax if derived is None else derived)
    ds = xa_dataset(np.zeros(shape, np.uint16), bits_stored=bits_stored)
    ds.file_meta.TransferSyntaxUID = encoded.transfer_syntax_uid
    ds.PixelData = encoded.value
    ds["PixelData"].VR = encoded.vr
    back = np.stack([frame.cells for frame in iter_frames(ds, read_spec(ds))])
    assert np.array_equal(back, cells)


def test_fewer_than_8_bits_in_jpeg_lossless_do_not_end_the_process() -> None:
    # GDCM would end it, so another one tries.
    program = """
import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1
from dicom_node.jpeg_lossless import encode_jpeg_lossless
from dicom_node.pixels import iter_frames, read_spec
from tests.support.objects import xa_dataset
cells = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 128
ds = xa_dataset(np.zeros((1, 64, 64), np.uint16), bits_stored=7)
ds.PixelData = encapsulate([encode_jpeg_lossless(cells, bits_stored=8)])
ds["PixelData"].VR = "OB"
ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
(frame,) = iter_frames(ds, read_spec(ds))
print(np.array_equal(frame.cells, cells))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr[-500:]


def test_the_source_digest_does_not_depend_on_the_encoding() -> None:
    stored = np.random.default_rng(1).integers(0, 1000, (2, 20, 20)).astype(np.uint16)
    ds = xa_dataset(stored)
    spec = read_spec(ds)
    with frame_writer(spec) as writer:
        for frame in iter_frames(ds, spec):
            writer.add(frame, np.zeros_like(frame.cells))
        assert writer.finish().source_digest == pixel_digest(ds, spec)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_codec_that_can_t_hold_the_cells_gives_way_to_explicit_vr(syntax: UID) -> None:
    spec = spec_of((1, 2, 2), syntax)
    cells = np.array([[1, 2], [3, 4]], np.uint16)
    with frame_writer(spec) as writer:
        writer.add(frame_of(cells, 0, spec), cells)
        encoded = writer.finish()
    assert encoded.transfer_syntax_uid == ExplicitVRLittleEndian
    assert encoded.value == cells.tobytes()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_a_codec_that_errs_by_one_bit_is_not_believed(monkeypatch: pytest.MonkeyPatch, syntax: UID) -> None:
    true_encoder = pixel_encoding.get_encoder(syntax)

    class Erring:
        def encode(self, pixels: NDArray[np.uint16], **options: Any) -> bytes:
            wrong = pixels.copy()
            wrong[5, 7] ^= 1
            return true_encoder.encode(wrong, **options)

    spec = spec_of((1, 64, 64), syntax)
    cells = np.full((64, 64), 1000, np.uint16)
    assert encode_exactly(cells, spec, UID(syntax)) is not None
    monkeypatch.setattr(pixel_encoding, "get_encoder", lambda _: Erring())
    assert encode_exactly(cells, spec, UID(syntax)) is None


def test_bits_beside_the_stored_ones_are_never_lost() -> None:
    cells = np.full((64, 64), 0x8123, np.uint16)
    spec = spec_of((1, 64, 64), JPEG2000Lossless)
    assert encode_exactly(cells, spec, UID(JPEG2000Lossless)) is None
    assert encode_exactly(cells & 0x0FFF, spec, UID(JPEG2000Lossless)) is not None
    assert encode_exactly(cells, spec, UID(RLELossless)) is not None
    assert output_syntax(spec_of((1, 64, 64), JPEG2000Lossless, embedded_overlays=True)) == ExplicitVRLittleEndian


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, RLELossless])
def test_signed_cells_survive_or_are_not_compressed(syntax: UID) -> None:
    spec = spec_of((1, 64, 64), syntax, signed=True)
    values = np.random.default_rng(2).integers(-2048, 2048, (64, 64)).astype(np.int16)
    cells = values.view(np.uint16)
    with frame_writer(spec) as writer:
        writer.add(frame_of(cells, 0, spec), cells)
        encoded = writer.finish()
        ds = xa_dataset(np.zeros((1, 64, 64), np.uint16), bits_stored=12)
        ds.PixelData = encoded.value
        ds["PixelData"].VR = encoded.vr
        read = PixelSpec(**{**vars(spec), "transfer_syntax_uid": encoded.transfer_syntax_uid})
        (frame,) = iter_frames(ds, read)
    assert np.array_equal(frame.values, values)
    assert np.array_equal(frame.cells, cells)


def test_missing_frames_are_an_error() -> None:
    spec = spec_of((2, 4, 4), ExplicitVRLittleEndian)
    with frame_writer(spec) as writer:
        cells = np.zeros((4, 4), np.uint16)
        writer.add(frame_of(cells, 0, spec), cells)
        with pytest.raises(DerivationError, match="1 of 2"):
            writer.finish()


def test_padding_does_not_count_as_smallest_or_largest() -> None:
    spec = spec_of((1, 1, 3), ExplicitVRLittleEndian, padding=(0, 0))
    cells = np.array([[0, 5, 9]], np.uint16)
    with frame_writer(spec) as writer:
        writer.add(frame_of(cells, 0, spec), cells)
        encoded = writer.finish()
    assert (encoded.smallest, encoded.largest) == (5, 9)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_a_long_cine_is_read_and_written_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: UID
) -> None:
    # 500 frames of 128 kB: 64 MB, of which only a few frames may be in memory at once.
    monkeypatch.setattr(pixel_encoding, "MAX_IN_MEMORY_BYTES", 2**20)
    shape = (500, 256, 256)
    path = tmp_path / "cine.dcm"
    ds = xa_dataset(np.zeros((1, *shape[1:]), np.uint16))
    ds.NumberOfFrames = shape[0]
    spec = PixelSpec(**{**vars(read_spec(ds)), "transfer_syntax_uid": UID(syntax)})
    ramp = np.arange(shape[1] * shape[2], dtype=np.uint16).reshape(shape[1:]) % 251
    tracemalloc.start()
    try:
        with frame_writer(spec, folder=tmp_path) as writer:
            for index in range(shape[0]):
                cells = ramp + np.uint16(index)
                writer.add(frame_of(cells, index, spec), cells)
            encoded = writer.finish()
            assert isinstance(encoded.value, BufferedIOBase)
            ds.file_meta.TransferSyntaxUID = encoded.transfer_syntax_uid
            ds.PixelData = encoded.value
            ds["PixelData"].VR = encoded.vr
            save(ds, path)
        sums = [int(frame.values[0, 0]) for frame in iter_frames(path, spec)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sums == list(range(shape[0]))
    assert peak < 8 * 2**20
