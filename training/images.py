"""Radiographs on disk as clean attenuation images, and what is known of each: patient, own noise.

The readers are imported where they are used: a machine that trains from a pack (`training.pack`) needs none of them.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.domain import Domain, declared_domain
from training.clean import CleanImage
from training.settings import ImageFolder

FloatArray = NDArray[np.float32]

SUFFIXES = frozenset({".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ""})

UNREADABLE = (OSError, RuntimeError, ValueError, AttributeError, KeyError)
"""What reading a file that is no picture may raise."""
SMALLEST = 64
"""Side in pixels, after reduction, that an image must have."""
CLEAN_NEPERS = 0.012
"""Own noise up to which an image is truth at 770 quanta per pixel: a third of the noise there."""


def read_grey(path: Path) -> tuple[FloatArray, bool]:
    """Read the first frame of a picture as float32.

    Returns
    -------
    Stored grey values ``(rows, columns)``, and whether greater values are darker
    (MONOCHROME1).

    Raises
    ------
    OSError, RuntimeError, ValueError, AttributeError, KeyError
        If the file is no readable grey or colour picture.
    """
    if path.suffix.lower() in {".dcm", ".dicom", ""}:
        import pydicom

        ds = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in ds.file_meta:
            ds.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        pixels = np.asarray(ds.pixel_array, dtype=np.float32)
        pixels = pixels.reshape((-1, int(ds.Rows), int(ds.Columns)))[0]
        inverted = str(ds.get("PhotometricInterpretation", "")) == "MONOCHROME1"
        return pixels, inverted
    import SimpleITK as sitk

    array = np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), dtype=np.float32)
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        array = array[..., :3].mean(axis=-1)
    return array.reshape((-1, *array.shape[-2:]))[0] if array.ndim == 3 else array, False


def reduce(image: FloatArray, factor: int) -> FloatArray:
    """Average squares of ``factor`` by ``factor`` pixels; a remainder at the edge is cut off."""
    rows, columns = image.shape[0] // factor, image.shape[1] // factor
    cut = image[: rows * factor, : columns * factor]
    return np.asarray(cut.reshape(rows, factor, columns, factor).mean(axis=(1, 3)), dtype=np.float32)


def residual_noise(image: FloatArray, *, lag: int = 3, block: int = 12) -> float:
    """Return a rough standard deviation of the noise: second differences at a lag in the flattest blocks."""
    if min(image.shape) < 4 * block:
        return 0.0
    d = (image[:, : -2 * lag] - 2 * image[:, lag:-lag] + image[:, 2 * lag :]) / np.sqrt(6.0)
    rows, columns = d.shape[0] // block, d.shape[1] // block
    blocks = d[: rows * block, : columns * block].reshape(rows, block, columns, block).std(axis=(1, 3))
    blocks = blocks[blocks > 0]  # saturated and collimated areas say nothing
    return float(np.percentile(blocks, 10)) if blocks.size else 0.0


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file tells besides its pixels: a digest of the ``patient`` (empty: unknown), how values relate to dose."""

    patient: str
    domain: Domain


def read_header(path: Path) -> Header:
    """Read the attributes of a DICOM file; any other picture is taken as a display image of an unknown patient."""
    if path.suffix.lower() not in {".dcm", ".dicom", ""}:
        return Header(patient="", domain=Domain.DISPLAY)
    import pydicom

    ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    patient = str(ds.get("PatientID", ""))
    # A digest: reports name patients, and must not name a person.
    digest = hashlib.sha256(patient.encode()).hexdigest()[:8] if patient else ""
    domain = declared_domain(
        presentation_intent=str(ds.get("PresentationIntentType", "")),
        relationship=str(ds.get("PixelIntensityRelationship", "")),
    )
    return Header(patient=digest, domain=domain)


def patients_of(manifest: Path | None) -> dict[str, str]:
    """Return file name to patient from the notes of a manifest ("patient 226 ..."), empty without one."""
    if manifest is None or not manifest.is_file():
        return {}
    found = {}
    with manifest.open(newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            match = re.search(r"patient ([\w-]+)", row.get("notes", ""))
            if match:
                found[Path(row["file"]).name] = match.group(1)
    return found


def to_attenuation(grey: FloatArray, *, inverted: bool, relation: str, span: float) -> FloatArray:
    """Map grey values to attenuation in nepers.

    Parameters
    ----------
    grey
        Shape ``(rows, columns)``.
    inverted
        Greater values are darker on the screen, that is more exposure.
    relation
        ``"display"``: grey rises with attenuation, its full range becomes ``span`` nepers. ``"linear"``: grey is
        detector exposure, attenuation is ``-log``.
    span
        Range in nepers of a display image.
    """
    if relation == "linear":
        open_field = float(np.percentile(grey, 99.8))
        return np.asarray(-np.log(np.clip(grey / max(open_field, 1e-6), 1e-3, 1.5)), dtype=np.float32)
    low, high = np.percentile(grey, (0.1, 99.9))
    scaled = np.clip((grey - low) / max(float(high - low), 1e-6), -0.05, 1.05)
    return np.asarray(span * (1.0 - scaled if inverted else scaled), dtype=np.float32)


def picture_files(base: Path) -> list[Path]:
    """Return the files of a folder that may be pictures, or the one file."""
    if base.is_file():
        return [base]
    found = sorted(p for p in base.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return [path for path in found if not path.name.startswith((".", "MANIFEST", "README", "DICOMDIR"))]


def _attenuation(grey: FloatArray, folder: ImageFolder, *, inverted: bool, relation: str) -> tuple[FloatArray, float]:
    """Return attenuation and own noise, averaged as often as set; if that is 0, until it is clean or gets small."""

    def averaged(factor: int) -> tuple[FloatArray, float]:
        a = to_attenuation(reduce(grey, factor), inverted=inverted, relation=relation, span=folder.span)
        return a, residual_noise(a)

    attenuation, noise = averaged(folder.reduce or 2)
    for factor in () if folder.reduce else (3, 4):
        if noise <= CLEAN_NEPERS or min(grey.shape) < factor * 4 * SMALLEST:
            break
        attenuation, noise = averaged(factor)
    return attenuation, noise


def clean_images(root: Path, folder: ImageFolder) -> Iterator[CleanImage]:
    """Yield the images of a folder that are clean enough; what is left out is told on stdout."""
    patients = patients_of(root / folder.manifest if folder.manifest else None)
    single = (root / folder.folder).is_file()
    too_noisy = 0
    for path in picture_files(root / folder.folder):
        try:
            grey, inverted = read_grey(path)
            header = read_header(path)
        except UNREADABLE as error:
            print(f"skipped {path.name}: {error}")
            continue
        relation = folder.relation
        if relation == "auto":
            relation = "linear" if header.domain is Domain.LINEAR else "display"
        attenuation, noise = _attenuation(grey, folder, inverted=inverted != folder.inverted, relation=relation)
        if min(attenuation.shape) < SMALLEST:
            print(f"skipped {path.name}: smaller than {SMALLEST * max(2, folder.reduce)} pixels")
        elif noise > folder.max_noise:
            too_noisy += 1
        else:
            known = patients.get(path.name) or ("" if single else header.patient)
            patient = f"{folder.name}:{known or path.stem}"
            yield CleanImage(attenuation=attenuation, own_noise=noise, patient=patient, source=folder.name)
    if too_noisy:
        print(f"{folder.name}: left out {too_noisy} images whose own noise is above {folder.max_noise} nepers")
