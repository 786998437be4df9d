"""What is derived from real and made objects: conformant, readable by others, different only where it may be."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedXRFImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.derivation import is_enhanceable, unexpected_differences
from dicom_node.errors import UnsupportedPixels
from dicom_node.part10 import open_part10
from dicom_node.pixels import iter_frames, read_spec
from tests.support.derived import context, derive_file
from tests.support.objects import (
    cr_dataset,
    ct_dataset,
    dx_dataset,
    enhanced_xa_dataset,
    enhanced_xrf_dataset,
    io_dataset,
    mg_dataset,
    rf_dataset,
    save,
    set_transfer_syntax,
    xa_dataset,
)
from tests.support.peers import Orthanc, requires_orthanc
from tests.support.samples import SAMPLE_DATA
from tests.support.standard_tables import requires_standard_tables
from tests.support.validators import dciodvfy_errors, new_dciodvfy_errors, new_dicom_validator_errors

CLASSES = ("CR", "DX", "MG", "IO", "XA", "RF", "CT")
FOLDERS = (
    SAMPLE_DATA / "dicom",
    SAMPLE_DATA / "radiographs" / "highbit_dicom",
    SAMPLE_DATA / "more" / "fluoroscopy_static_phantom",
    Path(pydicom.data.__file__).parent / "test_files",
)
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
        "mg": mg_dataset(image),
        "io": io_dataset(image),
        "rf": rf_dataset(cine),
        "ct": ct_dataset(image),
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


def transfer_syntax(path: Path) -> UID:
    return UID(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)


def gdcm_values(path: Path) -> NDArray[Any]:
    """Return the stored values of all frames as GDCM decodes them, in one row."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read(), path
    image = reader.GetImage()
    pixel_format = image.GetPixelFormat()
    kind = "i" if pixel_format.GetPixelRepresentation() else "u"
    # Its wrapper hands bytes out as text.
    cells = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(cells, f"<{kind}{pixel_format.GetBitsAllocated() // 8}")


def stretched(values: NDArray[Any], *, inverted: bool) -> NDArray[np.float64]:
    """Return values from 0, the darkest, to 255, the brightest."""
    low, high = float(values.min()), float(values.max())
    grey = (values - low) * (255 / (high - low))
    return 255 - grey if inverted else grey


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
    wrong = {
        source.name: sorted(new)
        for source, derived in pairs[equipment]
        if (new := new_dciodvfy_errors(source, derived))
    }
    assert wrong == {}


@pytest.mark.parametrize("equipment", ["standard", "preserve"])
@requires_standard_tables
def test_dicom_validator_finds_no_error_that_the_source_did_not_have(
    pairs: dict[str, list[tuple[Path, Path]]], equipment: str
) -> None:
    wrong = {
        source.name: sorted(new)
        for source, derived in pairs[equipment]
        if (new := new_dicom_validator_errors(source, derived))
    }
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


DECODERS = {
    str(ExplicitVRLittleEndian): ("dcmconv", "+te"),
    str(ImplicitVRLittleEndian): ("dcmconv", "+te"),
    str(ExplicitVRBigEndian): ("dcmconv", "+te"),
    str(DeflatedExplicitVRLittleEndian): ("dcmconv", "+te"),
    str(RLELossless): ("dcmdrle", "+te"),
    str(JPEGLSLossless): ("dcmdjpls", "+te"),
    str(JPEGLossless): ("dcmdjpeg", "+te"),
    str(JPEGLosslessSV1): ("dcmdjpeg", "+te"),
}
"""The programs of DCMTK that write Explicit VR Little Endian; there is none for JPEG 2000."""


@needs("dcmconv")
@needs("dcmdrle")
@needs("dcmdjpls")
@needs("dcmdjpeg")
def test_dcmtk_decodes_the_same_pixels(pairs: dict[str, list[tuple[Path, Path]]], tmp_path: Path) -> None:
    decoded = set()
    for source, derived in pairs["standard"]:
        syntax = transfer_syntax(derived)
        if syntax == JPEG2000Lossless:
            continue
        program, option = DECODERS[syntax]
        target = tmp_path / "decoded.dcm"
        done = subprocess.run([program, "-q", option, str(derived), str(target)], capture_output=True, timeout=60)
        assert done.returncode == 0, (source.name, done.stderr[-500:])
        assert transfer_syntax(target) == ExplicitVRLittleEndian
        assert np.array_equal(stored_values(target), stored_values(derived)), source.name
        decoded.add(syntax)
    assert decoded >= {ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLSLossless, JPEGLosslessSV1}


@needs("dcmdump")
@pytest.mark.parametrize(
    ("charset", "written", "read"),
    [
        ("ISO_IR 192", "胸部 p.a. ö".encode(), "胸部 p.a. ö"),
        ("GB18030", b"\xd0\xd8\xb2\xbf", "胸部"),
        ("ISO_IR 13", b"\xb7\xd6\xb3\xcc\xde PA", "ｷﾖｳﾌﾞ PA"),
        ("ISO_IR 144", "Грудная клетка".encode("iso8859_5"), "Грудная клетка"),
        ("\\ISO 2022 IR 149", b"\x1b$)C\xc8\xe4\xba\xce PA", "흉부 PA"),
        ("\\ISO 2022 IR 58", b"\x1b$)A\xd0\xd8\xb2\xbf PA", "胸部 PA"),
    ],
)
# Not ISO 2022 IR 87, which Debian's DCMTK can't convert.
def test_dcmtk_reads_text_in_its_character_set(tmp_path: Path, charset: str, written: bytes, read: str) -> None:
    length = len(written) + len(written) % 2
    source = dx_dataset(np.zeros((8, 8), np.uint16), SpecificCharacterSet=charset.split("\\"))
    source.SeriesDescription = source.InstitutionName = "x" * length
    path = save(source, tmp_path / "source.dcm")
    path.write_bytes(path.read_bytes().replace(b"x" * length, written.ljust(length)))
    derived = derive_file(path, tmp_path / "derived.dcm", context())
    done = subprocess.run(["dcmdump", "+U8", "-q", str(derived)], capture_output=True, timeout=60, check=True)
    lines = done.stdout.decode("utf-8").splitlines()
    assert [line for line in lines if f"[{read} (denoised)]" in line and "SeriesDescription" in line]
    # Once of the object, once of the equipment that contributed.
    assert len([line for line in lines if f"[{read}]" in line and "InstitutionName" in line]) == 2


def test_gdcm_decodes_the_same_pixels(pairs: dict[str, list[tuple[Path, Path]]]) -> None:
    for source, derived in pairs["standard"]:
        if pydicom.dcmread(derived, stop_before_pixels=True).SOPClassUID == EnhancedXRFImageStorage:
            # GDCM does not know the class, and refuses the source too.
            continue
        values = stored_values(derived)
        assert np.array_equal(gdcm_values(derived).reshape(values.shape), values), source.name


@requires_orthanc
def test_orthanc_shows_the_same_pixels(pairs: dict[str, list[tuple[Path, Path]]], tmp_path: Path) -> None:
    shown = set()
    with Orthanc(tmp_path / "orthanc") as orthanc:
        for source, derived in pairs["standard"]:
            header, values = pydicom.dcmread(derived, stop_before_pixels=True), stored_values(derived)
            syntax = transfer_syntax(derived)
            # Orthanc has no decoder of its own for JPEG 2000.
            if syntax == JPEG2000Lossless:
                continue
            identifier = orthanc.upload(derived)
            kind = "image-int16" if header.PixelRepresentation else "image-uint16"
            for frame in {0, len(values) - 1}:
                assert np.array_equal(orthanc.picture(identifier, frame, kind), values[frame]), source.name
                preview = orthanc.picture(identifier, frame, "preview")
                expected = stretched(values[frame], inverted=header.PhotometricInterpretation == "MONOCHROME1")
                assert np.abs(preview - expected).max() <= 0.51, source.name
            shown.add(syntax)
    assert shown >= {ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLSLossless}


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
