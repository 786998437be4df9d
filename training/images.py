"""Radiographs on disk as clean attenuation images, and what is known of each: patient, own noise."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

from training.settings import ImageFolder

FloatArray = NDArray[np.float32]

SUFFIXES = frozenset({".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ""})


@dataclass(frozen=True, kw_only=True)
class CleanImage:
    """A radiograph that may serve as truth.

    ``attenuation`` in nepers ``(rows, columns)``; ``own_noise`` its residual noise in nepers (0: none, as in a
    phantom); ``patient`` groups images for the split; ``source`` names where it comes from.
    """

    attenuation: FloatArray
    own_noise: float
    patient: str
    source: str


def read_grey(path: Path) -> tuple[FloatArray, bool]:
    """Read the first frame of a picture as float32.

    Returns
    -------
    Grey values ``(rows, columns)`` after Modality rescale, and whether greater values are darker
    (MONOCHROME1).

    Raises
    ------
    OSError, RuntimeError, ValueError, AttributeError
        If the file is no readable grey or colour picture.
    """
    if path.suffix.lower() in {".dcm", ".dicom", ""}:
        ds = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in ds.file_meta:
            ds.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        pixels = np.asarray(ds.pixel_array, dtype=np.float32)
        pixels = pixels.reshape((-1, int(ds.Rows), int(ds.Columns)))[0]
        inverted = str(ds.get("PhotometricInterpretation", "")) == "MONOCHROME1"
        return pixels, inverted
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


def clean_images(root: Path, folder: ImageFolder) -> Iterator[CleanImage]:
    """Yield the images of a folder that are clean enough, unreadable files are skipped with a line on stdout."""
    patients = patients_of(root / folder.manifest if folder.manifest else None)
    base = root / folder.folder
    files = [base] if base.is_file() else sorted(p for p in base.rglob("*") if p.suffix.lower() in SUFFIXES)
    for path in files:
        if not path.is_file() or path.name.startswith((".", "MANIFEST", "README")):
            continue
        try:
            grey, inverted = read_grey(path)
        except (OSError, RuntimeError, ValueError, AttributeError) as error:
            print(f"skipped {path.name}: {error}")
            continue
        attenuation = to_attenuation(
            reduce(grey, folder.reduce),
            inverted=inverted != folder.inverted,
            relation=folder.relation,
            span=folder.span,
        )
        noise = residual_noise(attenuation)
        if noise > folder.max_noise or min(attenuation.shape) < 64:
            continue
        patient = f"{folder.name}:{patients.get(path.name, path.stem)}"
        yield CleanImage(attenuation=attenuation, own_noise=noise, patient=patient, source=folder.name)
