"""What is derived from real and made objects: conformant, readable by others, different only where it may be."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.uid import UID, EnhancedXRFImageStorage, ExplicitVRBigEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from dicom_node.derivation import is_enhanceable, unexpected_differences
from dicom_node.errors import UnsupportedPixels
from dicom_node.part10 import open_part10
from dicom_node.pixels import iter_frames, read_spec
from tests.support.derived import context, derive_file
from tests.support.objects import (
    cr_dataset,
    dx_dataset,
    enhanced_xa_dataset,
    enhanced_xrf_dataset,
    save,
    set_transfer_syntax,
    xa_dataset,
)
from tests.support.samples import SAMPLE_DATA

CLASSES = ("CR", "DX", "MG", "IO", "XA", "RF", "CT")
FOLDERS = (
    SAMPLE_DATA / "dicom",
    SAMPLE_DATA / "radiographs" / "highbit_dicom",
    SAMPLE_DATA / "more" / "fluoroscopy_static_phantom",
    Path(pydicom.data.__file__).parent / "test_files",
)
MISTAKEN = ("Error - Unrecognized enumerated value <RF> for value 1 of attribute <Modality>",)
"""What dciodvfy says of every Enhanced XRF image; PS3.3 A.48.3.1.1 asks for RF."""
pytestmark = pytest.mark.filterwarnings("ignore")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def is_x_ray(path: Path) -> bool:
    """Tell whether the node would derive from `path` with every class enabled, and its pixels can be read."""
    if path.suffix in (".csv", ".md") or not path.is_file():
        return False
    try:
        with open_part10(path) as part10:
            # An object that comes over the network names its transfer syntax; a bare file need not.
            if "TransferSyntaxUID" not in part10.header.file_meta:
                return False
            if not is_enhanceable(part10.header, CLASSES).enhance:
                return False
            for _ in iter_frames(part10, read_spec(part10.header)):
                pass
    except UnsupportedPixels:
        return False
    return True


def samples() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (path for path in sorted(folder.rglob("*")) if is_x_ray(path))


def make_sources(folder: Path) -> list[Path]:
    rng = np.random.default_rng(8)
    image = rng.integers(0, 4096, (67, 65)).astype(np.uint16)
    cine = rng.integers(0, 1024, (3, 66, 63)).astype(np.uint16)
    made = {
        "dx_processing": dx_dataset(image),
        "dx_presentation": dx_dataset(image, for_presentation=True, bits_stored=12),
        "dx_8": dx_dataset(image // 16, bits_stored=8),
        "dx_padded": dx_dataset(image, PixelPaddingValue=0, BurnedInAnnotation="NO"),
        "dx_j2k": set_transfer_syntax(dx_dataset(image), UID(JPEG2000Lossless)),
        "cr": cr_dataset(image),
        "cr_rle": set_transfer_syntax(cr_dataset(image), UID(RLELossless)),
        "cr_big": set_transfer_syntax(cr_dataset(image), UID(ExplicitVRBigEndian)),
        "xa": xa_dataset(cine),
        "enhanced_xa": enhanced_xa_dataset(cine),
        "enhanced_xa_frames_rle": set_transfer_syntax(
            enhanced_xa_dataset(cine, per_frame_properties=True), UID(RLELossless)
        ),
        "enhanced_xrf": enhanced_xrf_dataset(cine, per_frame_properties=True),
        "xa_jpegls": set_transfer_syntax(xa_dataset(cine), UID(JPEGLSLossless)),
    }
    return [save(ds, folder / f"{name}.dcm") for name, ds in made.items()]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Path, Path]]]:
    """Sources and what is derived from them in each equipment mode: made ones and real ones."""
    folder = tmp_path_factory.mktemp("derived")
    sources = [*make_sources(folder), *samples()]
    found: dict[str, list[tuple[Path, Path]]] = {}
    for equipment in ("standard", "preserve"):
        circumstances = context(equipment=equipment)
        found[equipment] = [
            (source, derive_file(source, folder / f"{equipment}_{number}.dcm", circumstances))
            for number, source in enumerate(sources)
            # The modes differ in attributes alone, so small images do for the second.
            if equipment == "standard" or source.stat().st_size < 1_000_000
        ]
    return found


def stored_values(path: Path) -> NDArray[Any]:
    with open_part10(path) as part10:
        return np.stack([frame.values for frame in iter_frames(part10, read_spec(part10.header))])


@pytest.mark.parametrize("equipment", ["standard", "preserve"])
def test_only_listed_attributes_differ(pairs: dict[str, list[tuple[Path, Path]]], equipment: str) -> None:
    wrong = {}
    for source, derived in pairs[equipment]:
        with open_part10(source) as before, open_part10(derived) as after:
            found = unexpected_differences(before.header, after.header)
        if found:
            wrong[source.name] = [str(difference) for difference in found]
    assert wrong == {}


@pytest.mark.parametrize("equipment", ["standard", "preserve"])
@needs("dciodvfy")
def test_dciodvfy_finds_no_error_that_the_source_did_not_have(
    pairs: dict[str, list[tuple[Path, Path]]], equipment: str
) -> None:
    wrong = {}
    for source, derived in pairs[equipment]:
        # Where the source's own UID is no UID, the reference to it is none either.
        uid = str(pydicom.dcmread(source, stop_before_pixels=True).SOPInstanceUID)
        invalid_uid = not UID(uid).is_valid
        new = dciodvfy_errors(derived) - dciodvfy_errors(source)
        new = {error for error in new if not (invalid_uid and uid in error)}
        if new:
            wrong[source.name] = sorted(new)
    assert wrong == {}


@needs("dciodvfy")
def test_dciodvfy_finds_no_error_in_made_objects(tmp_path: Path) -> None:
    assert {path.name: errors for path in make_sources(tmp_path) if (errors := dciodvfy_errors(path))} == {}


@needs("dcmdump")
@needs("dcmconv")
def test_dcmtk_reads_derived_objects_to_the_end(pairs: dict[str, list[tuple[Path, Path]]], tmp_path: Path) -> None:
    for source, derived in pairs["standard"]:
        # Trouble with the data set is an exit code; +sd has it parse sequences that are hidden in UN.
        for program in (["dcmdump", "-q", "+E", str(derived)], ["dcmconv", "-q", str(derived), str(tmp_path / "copy")]):
            done = subprocess.run(program, capture_output=True, timeout=60, check=False)
            assert done.returncode == 0, (source.name, done.stderr[-500:])


@needs("dcm2pnm")
def test_dcmtk_renders_uncompressed_and_rle_objects(pairs: dict[str, list[tuple[Path, Path]]], tmp_path: Path) -> None:
    rendered = 0
    for source, derived in pairs["standard"]:
        syntax = pydicom.dcmread(derived, stop_before_pixels=True).file_meta.TransferSyntaxUID
        if syntax.is_encapsulated and syntax != RLELossless:
            continue
        done = subprocess.run(
            ["dcm2pnm", "-q", str(derived), str(tmp_path / "image.pgm")], capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, (source.name, done.stderr[-500:])
        rendered += 1
    assert rendered >= 8


def test_simpleitk_with_gdcm_reads_the_same_pixels(pairs: dict[str, list[tuple[Path, Path]]]) -> None:
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    for source, derived in pairs["standard"]:
        ds = pydicom.dcmread(derived, stop_before_pixels=True)
        if ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian and ds.BitsAllocated == 8:
            continue
        if ds.SOPClassUID == EnhancedXRFImageStorage:
            # GDCM does not know the class, and refuses the source too.
            continue
        image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(derived), imageIO="GDCMImageIO"))
        values = stored_values(derived)
        expected = values * float(ds.get("RescaleSlope") or 1) + float(ds.get("RescaleIntercept") or 0)
        shown = image.reshape(values.shape)
        # SimpleITK turns some MONOCHROME1 images around.
        inverted = ds.PhotometricInterpretation == "MONOCHROME1" and np.ptp(shown + expected) < 1
        assert inverted or np.allclose(shown, expected, atol=0.6), source.name


def test_pixels_changed_and_padding_did_not(pairs: dict[str, list[tuple[Path, Path]]]) -> None:
    for source, derived in pairs["standard"]:
        with open_part10(source) as before, open_part10(derived) as after:
            spec, spec_after = read_spec(before.header), read_spec(after.header)
            assert spec_after.padding == spec.padding
            for one, other in zip(iter_frames(before, spec), iter_frames(after, spec_after), strict=True):
                assert np.array_equal(one.native, other.native), source.name
                assert np.array_equal(one.cells[~one.native], other.cells[~one.native]), source.name
                assert np.abs(one.values.astype(int) - other.values.astype(int)).max() <= 2, source.name
                if one.native.sum() > 100:
                    assert not np.array_equal(one.values, other.values), source.name


def dciodvfy_errors(path: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    return {line for line in lines if line.startswith("Error") and line not in MISTAKEN}
