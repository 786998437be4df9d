"""JPEG of 8, 12 and 16 bits: the values of independent decoders; damage of any compressed frame only refuses it."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.errors import UnsupportedPixels
from dicom_node.pixels import DECODING_PLUGINS, iter_frames, read_spec
from tests.support.derived import context, derive_data_set
from tests.support.objects import cr_dataset, save, set_transfer_syntax, xa_dataset
from tests.support.samples import DICOM_SAMPLES

needs_dcmtk = pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="DCMTK's dcmcjpeg is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
SAMPLES = sorted(
    path
    for folder in (DICOM_SAMPLES, BUNDLED)
    if folder.is_dir()
    for path in folder.iterdir()
    if "JPLY" in path.name or "JPLL" in path.name or "JPEGProcess" in path.name or path.stem in ("JPGExtended", "IM1")
)


def smooth(shape: tuple[int, int, int], bits: int) -> NDArray[np.uint16]:
    """Return frames that lossy compression changes little: waves over most of the range, and some noise."""
    frames, rows, columns = np.indices(shape)
    waves = 0.5 + 0.4 * np.sin(rows / 9.0 + frames) * np.cos(columns / 7.0)
    noise = np.random.default_rng(12).normal(0, 0.01, shape)
    return np.clip((waves + noise) * (2**bits - 1), 0, 2**bits - 1).astype(np.uint16)


def node_values(path: Path) -> NDArray[np.generic]:
    spec = read_spec(pydicom.dcmread(path))
    return np.stack([frame.values for frame in iter_frames(path, spec)])


def dcmtk_values(path: Path, folder: Path) -> NDArray[np.generic]:
    """Return the stored values that DCMTK decodes."""
    subprocess.run(["dcmdjpeg", str(path), str(folder / "plain.dcm")], check=True, capture_output=True, timeout=60)
    return node_values(folder / "plain.dcm")


def gdcm_values(path: Path) -> NDArray[np.generic]:
    """Return the stored values that GDCM in SimpleITK decodes; the objects here have no Rescale."""
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO"))


@needs_dcmtk
@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 37, 51)])
@pytest.mark.parametrize(
    ("options", "bits", "syntax", "lossless"),
    [
        (("+eb",), 8, JPEGBaseline8Bit, False),
        (("+ee",), 8, JPEGExtended12Bit, False),
        (("+ee",), 10, JPEGExtended12Bit, False),
        (("+ee",), 12, JPEGExtended12Bit, False),
        *((("+el", "+sv", str(p)), 12, JPEGLossless, True) for p in range(1, 8)),
        (("+e1",), 8, JPEGLosslessSV1, True),
        (("+e1",), 12, JPEGLosslessSV1, True),
        (("+e1",), 16, JPEGLosslessSV1, True),
    ],
)
def test_values_are_those_of_two_other_decoders(
    tmp_path: Path, options: tuple[str, ...], bits: int, syntax: UID, lossless: bool, shape: tuple[int, int, int]
) -> None:
    stored = smooth(shape, bits)
    plain = save(xa_dataset(stored, bits_stored=bits), tmp_path / "source.dcm")
    path = tmp_path / "jpeg.dcm"
    subprocess.run(["dcmcjpeg", *options, str(plain), str(path)], check=True, capture_output=True, timeout=60)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    values = node_values(path)
    assert np.array_equal(values, dcmtk_values(path, tmp_path))
    assert np.array_equal(values, gdcm_values(path).reshape(values.shape))
    # DCMTK moves values before it compresses with loss.
    assert np.array_equal(values, stored) if lossless else np.ptp(values) > 2 ** (bits - 1)


@needs_dcmtk
@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in SAMPLES])
def test_real_samples_have_the_values_that_dcmtk_decodes(tmp_path: Path, path: Path) -> None:
    if pydicom.dcmread(path).file_meta.TransferSyntaxUID not in DECODING_PLUGINS:
        pytest.skip("a transfer syntax that the node does not decode")
    assert np.array_equal(node_values(path), dcmtk_values(path, tmp_path))


def jpeg_dataset(stream: bytes, shape: tuple[int, int], *, bits: int, syntax: UID = JPEGExtended12Bit) -> Dataset:
    """Return a CR image whose only frame is `stream`."""
    ds = cr_dataset(np.zeros(shape, np.uint16), bits_stored=bits)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def frames_of(ds: Dataset) -> list[NDArray[np.generic]]:
    return [frame.values for frame in iter_frames(ds, read_spec(ds))]


STREAM = imagecodecs.jpeg8_encode(smooth((1, 40, 56), 12)[0], level=95, bitspersample=12)


def test_a_whole_stream_is_read_with_any_padding_behind_it() -> None:
    (values,) = frames_of(jpeg_dataset(STREAM, (40, 56), bits=12))
    assert values.max() > 3000
    assert np.array_equal(frames_of(jpeg_dataset(STREAM + b"\x14\x01", (40, 56), bits=12))[0], values)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_jpeg_ls_stream_that_is_cut_off_is_refused_at_once(share: float) -> None:
    stream = STREAMS[JPEGLSLossless]
    with pytest.raises(UnsupportedPixels, match="cut off"):
        frames_of(jpeg_dataset(stream[: int(share * len(stream))], (64, 80), bits=12, syntax=JPEGLSLossless))


@pytest.mark.parametrize("kept", [len(STREAM) - 2, len(STREAM) * 2 // 3, 300, 20, 2])
def test_a_stream_that_is_cut_off_is_refused(kept: int) -> None:
    with pytest.raises(UnsupportedPixels):
        frames_of(jpeg_dataset(STREAM[:kept], (40, 56), bits=12))


@pytest.mark.parametrize("shape", [(40, 55), (41, 56), (56, 40), (4000, 5600)])
def test_a_stream_of_another_size_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(UnsupportedPixels):
        frames_of(jpeg_dataset(STREAM, shape, bits=12))


def test_a_stream_that_claims_to_be_huge_asks_for_no_memory() -> None:
    # Rows and columns of the frame header.
    position = STREAM.index(b"\xff\xc1") + 5
    huge = STREAM[:position] + struct.pack(">HH", 65000, 65000) + STREAM[position + 4 :]
    with pytest.raises(UnsupportedPixels, match="has 65000 x 65000 pixels, the attributes say 40 x 56"):
        frames_of(jpeg_dataset(huge, (40, 56), bits=12))


def test_progressive_scans_are_read_up_to_a_number_that_no_encoder_reaches() -> None:
    # Each scan goes over all pixels: at 8000 x 8000 a hundred bytes of it take 33 ms.
    stored = np.full((64, 80), 77, np.uint8)
    encoded = BytesIO()
    Image.fromarray(stored).save(encoded, "JPEG", progressive=True, quality=90)
    stream = encoded.getvalue().removesuffix(b"\xff\xd9")
    scans = stream.count(b"\xff\xda")
    last = stream[stream.rindex(b"\xff\xc4") :]
    most = stream + last * (100 - scans) + b"\xff\xd9"
    assert np.array_equal(frames_of(jpeg_dataset(most, stored.shape, bits=8, syntax=JPEGBaseline8Bit))[0], stored)
    with pytest.raises(UnsupportedPixels, match="101 scans"):
        frames_of(jpeg_dataset(stream + last * (101 - scans) + b"\xff\xd9", (64, 80), bits=8, syntax=JPEGBaseline8Bit))


def test_samples_wider_than_the_cells_are_refused() -> None:
    with pytest.raises(UnsupportedPixels, match="of 12 bits"):
        frames_of(jpeg_dataset(STREAM, (40, 56), bits=8))


def test_overshoot_in_ten_of_twelve_bits_ends_at_the_largest_storable_value() -> None:
    stored = np.full((16, 16), 1100, np.uint16)
    stream = imagecodecs.jpeg8_encode(stored, level=100, bitspersample=12)
    (values,) = frames_of(jpeg_dataset(stream, (16, 16), bits=10))
    assert np.array_equal(values, np.full((16, 16), 1023))


def frame_in(syntax: UID) -> bytes:
    """Return a frame of 64 rows x 80 columns of 12 bits as our encoders make it."""
    ds = set_transfer_syntax(cr_dataset(smooth((1, 64, 80), 12)[0]), syntax)
    return next(generate_frames(ds.PixelData, number_of_frames=1))


STREAMS = {
    JPEGExtended12Bit: imagecodecs.jpeg8_encode(smooth((1, 64, 80), 12)[0], level=95, bitspersample=12),
    JPEGLosslessSV1: imagecodecs.jpeg8_encode(smooth((1, 64, 80), 12)[0], lossless=True, predictor=1, bitspersample=12),
    RLELossless: frame_in(RLELossless),
    JPEGLSLossless: frame_in(JPEGLSLossless),
    JPEG2000Lossless: frame_in(JPEG2000Lossless),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("syntax", [pytest.param(syntax, id=syntax.name) for syntax in STREAMS])
@pytest.mark.parametrize("seed", range(4))
def test_damage_is_refused_or_read_and_never_ends_the_process(syntax: UID, seed: int) -> None:
    rng = random.Random(seed)
    stream = STREAMS[syntax]
    assert frames_of(jpeg_dataset(stream, (64, 80), bits=12, syntax=syntax))[0].max() > 3000
    refused = 0
    for _ in range(60):
        damaged = bytearray(stream)
        if rng.random() < 0.3:
            del damaged[rng.randrange(2, len(damaged)) :]
        for _ in range(rng.randrange(1, 6)):
            # Half of the damage hits tables and headers.
            damaged[rng.randrange(len(damaged) if rng.random() < 0.5 else min(200, len(damaged)))] = rng.randrange(256)
        try:
            (values,) = frames_of(jpeg_dataset(bytes(damaged), (64, 80), bits=12, syntax=syntax))
        except UnsupportedPixels:
            refused += 1
        else:
            assert values.shape == (64, 80)
    assert refused >= 10


@pytest.mark.parametrize(("bits", "syntax"), [(8, JPEGBaseline8Bit), (12, JPEGExtended12Bit)])
@pytest.mark.parametrize("stated", ["00", None, "01"])
def test_lossy_history_is_never_lost(tmp_path: Path, bits: int, syntax: UID, stated: str | None) -> None:
    stored = smooth((1, 64, 64), bits)[0].astype(np.uint8 if bits == 8 else np.uint16)
    stream = imagecodecs.jpeg8_encode(stored, level=95, bitspersample=bits)
    ds = jpeg_dataset(stream, stored.shape, bits=bits, syntax=syntax)
    if stated is None:
        del ds.LossyImageCompression
    else:
        ds.LossyImageCompression = stated
    path = save(ds, tmp_path / "lossy.dcm")
    derived = derive_data_set(path, context(), lambda exposure: exposure)
    assert derived.LossyImageCompression == "01"
    # A source that says "01" and no method is left with what it says.
    assert derived.get("LossyImageCompressionMethod") == (None if stated == "01" else "ISO_10918_1")
    assert not derived.file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(np.frombuffer(derived.PixelData, stored.dtype).reshape(stored.shape), node_values(path)[0])


def test_the_bundled_sample_of_twelve_bits_is_what_its_stream_says() -> None:
    ds = pydicom.dcmread(BUNDLED / "JPGExtended.dcm")
    (stream,) = generate_frames(ds.PixelData, number_of_frames=1)
    (values,) = frames_of(ds)
    # First and last values as DCMTK 3.6 and GDCM 3.2 give them.
    assert np.array_equal(values, imagecodecs.jpeg8_decode(stream))
    assert (values.min(), values.max()) == (0, 264)
