"""Images on disk to arrays and back, of the same kind: DICOM, PNG, TIFF."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from model.domain import Domain, counts_down, declared_domain
from model.errors import UnsupportedInput

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

PICTURES = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg"})
_NAMESPACE = uuid.UUID("5a0f4f2e-6f0b-5b7e-9a39-0a5f2f6f7a11")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Grey frames and what is needed to write them back.

    ``frames`` ``(frames, rows, columns)`` in stored values; ``mask`` True where valid; ``domain`` as far as the file
    tells, ``sign`` -1 where greater values are declared to mean less exposure; ``dataset`` for DICOM, else None;
    ``dtype`` and range of the stored values.
    """

    path: Path
    frames: FloatArray
    mask: BoolArray | None
    domain: Domain
    sign: int
    dtype: np.dtype[np.generic]
    low: float
    high: float
    dataset: Dataset | None


def is_dicom(path: Path) -> bool:
    """Tell by the preamble, or by the suffix of files without one."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() in {".dcm", ".dicom"}


def read_picture(path: Path) -> Picture:
    """Read a DICOM, PNG, TIFF or JPEG image with one sample per pixel.

    Raises
    ------
    UnsupportedInput
        If the file is unreadable, in colour, or no image.
    """
    try:
        return _read_dicom(path) if is_dicom(path) else _read_plain(path)
    except UnsupportedInput:
        raise
    except (OSError, RuntimeError, ValueError, AttributeError, KeyError, NotImplementedError) as error:
        raise UnsupportedInput(f"{path.name}: cannot be read as an image ({str(error).splitlines()[0]})") from error


def _read_plain(path: Path) -> Picture:
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if array.ndim == 3 and array.shape[-1] in (3, 4) and np.ptp(array[..., :3].astype(np.int64), axis=-1).max() == 0:
        array = array[..., 0]  # grey stored as colour
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[-1] in (3, 4):
        raise UnsupportedInput(f"{path.name}: not a grey image")
    whole = np.issubdtype(array.dtype, np.integer)
    limits = (np.iinfo(array.dtype).min, np.iinfo(array.dtype).max) if whole else (-np.inf, np.inf)
    return Picture(
        path=path,
        frames=array.astype(np.float32),
        mask=None,
        domain=Domain.DISPLAY,
        sign=1,
        dtype=array.dtype,
        low=float(limits[0]),
        high=float(limits[1]),
        dataset=None,
    )


def _read_dicom(path: Path) -> Picture:
    ds = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in ds.file_meta:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    if int(ds.get("SamplesPerPixel", 1)) != 1 or str(ds.get("PhotometricInterpretation")) not in (
        "MONOCHROME1",
        "MONOCHROME2",
    ):
        raise UnsupportedInput(f"{path.name}: not a grey image")
    stored = ds.pixel_array
    frames = stored.reshape((-1, int(ds.Rows), int(ds.Columns)))
    bits, signed = int(ds.BitsStored), int(ds.PixelRepresentation) == 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    mask = None
    if "PixelPaddingValue" in ds:
        first = int(ds.PixelPaddingValue)
        last = int(ds.get("PixelPaddingRangeLimit", first))
        mask = (frames < min(first, last)) | (frames > max(first, last))
    domain = declared_domain(
        presentation_intent=str(ds.get("PresentationIntentType", "")),
        relationship=str(ds.get("PixelIntensityRelationship", "")),
    )
    return Picture(
        path=path,
        frames=frames.astype(np.float32),
        mask=mask,
        domain=domain,
        sign=-1 if int(ds.get("PixelIntensityRelationshipSign") or 1) < 0 else 1,
        dtype=stored.dtype,
        low=float(low),
        high=float(high),
        dataset=ds,
    )


def toward_exposure(picture: Picture, frames: FloatArray, domain: Domain) -> FloatArray:
    """Return stored values counted in the direction of exposure, or such values as stored ones: its own inverse."""
    return np.float32(picture.high) - frames if counts_down(domain, picture.sign) else frames


def to_stored(picture: Picture, frames: FloatArray) -> NDArray[np.generic]:
    """Round and clip to the stored type; invalid pixels keep their stored value."""
    if not np.issubdtype(picture.dtype, np.integer):
        return frames.astype(picture.dtype)
    return np.clip(np.rint(frames), picture.low, picture.high).astype(picture.dtype)


def write_picture(picture: Picture, frames: FloatArray, folder: Path, *, description: str) -> Path:
    """Write frames as the same kind of file (JPEG becomes PNG: no loss is added); returns the path.

    A DICOM image becomes a derived one: new SOP Instance and Series Instance UIDs, Image Type DERIVED, Derivation
    Description, Source Image Sequence; everything else is kept. Written uncompressed.
    """
    stored = to_stored(picture, frames)
    folder.mkdir(parents=True, exist_ok=True)
    if picture.dataset is not None:
        path = folder / picture.path.name
        _derived(picture.dataset, stored, description).save_as(path, enforce_file_format=True)
        return path
    suffix = ".png" if picture.path.suffix.lower() in {".jpg", ".jpeg"} else picture.path.suffix
    path = folder / (picture.path.stem + suffix)
    sitk.WriteImage(sitk.GetImageFromArray(stored[0] if stored.shape[0] == 1 else stored), str(path))
    return path


def _derived(source: Dataset, stored: NDArray[np.generic], description: str) -> Dataset:
    ds = source
    reference = Dataset()
    reference.ReferencedSOPClassUID = ds.get("SOPClassUID", "")
    reference.ReferencedSOPInstanceUID = ds.get("SOPInstanceUID", "")
    ds.SourceImageSequence = Sequence([reference])
    ds.SOPInstanceUID = _uid(str(reference.ReferencedSOPInstanceUID), description)
    ds.SeriesInstanceUID = _uid(str(ds.get("SeriesInstanceUID", "")), description)
    image_type = [str(value) for value in ds.get("ImageType", [])] or ["DERIVED", "PRIMARY"]
    ds.ImageType = ["DERIVED", *image_type[1:]]
    ds.DerivationDescription = description[:1024]
    if "SmallestImagePixelValue" in ds or "LargestImagePixelValue" in ds:
        vr = "SS" if int(ds.PixelRepresentation) == 1 else "US"
        ds.add_new("SmallestImagePixelValue", vr, int(stored.min()))
        ds.add_new("LargestImagePixelValue", vr, int(stored.max()))
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW" if int(ds.BitsAllocated) > 8 else "OB"
    ds["PixelData"].is_undefined_length = False
    if len(ds.PixelData) % 2:
        ds.PixelData += b"\0"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "")
    return ds


def _uid(source: str, description: str) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, source + description).int}"


def comparison(before: FloatArray, after: FloatArray) -> NDArray[np.uint8]:
    """Return before, after and their difference (6 standard deviations wide) side by side, 8 bit."""
    step = max(1, before.shape[0] // 700)
    first, second = before[::step, ::step], after[::step, ::step]
    low, high = np.percentile(first, (0.5, 99.5))
    difference = first - second
    spread = max(float(difference.std()), 1e-6)
    tiles = [(image - low) / max(float(high - low), 1e-6) for image in (first, second)]
    tiles.append(difference / (6 * spread) + 0.5)
    return np.asarray(np.clip(np.hstack(tiles), 0, 1) * 255, dtype=np.uint8)
