"""The two images of a pair, as the viewer asks for them: what their headers say, and one frame at a time."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydicom.dataset import Dataset

from dicom_node.errors import NodeError, UnsupportedPixels
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.image_pairs import ImagePair, KeptImage
from dicom_node.object_keeping import UnknownObject
from dicom_node.part10 import Part10File, detached_view, open_part10
from dicom_node.pixels import PixelSpec, Values, read_frame, read_spec
from dicom_node.presentation import Presentation, read_presentation
from dicom_node.states import InstanceState

BYTES_PER_PIXEL: Final = 8
"""What one frame takes at most while it is decoded and sent: cells, stored values, mask, and the bytes on their way."""

PATIENT_ATTRIBUTES: Final = (
    ("PatientName", "Name"),
    ("PatientID", "Patient ID"),
    ("PatientBirthDate", "Born"),
    ("PatientSex", "Sex"),
    ("AccessionNumber", "Accession number"),
    ("StudyDate", "Study date"),
    ("StudyDescription", "Study"),
    ("SeriesDescription", "Series"),
)
"""Attributes that only users with the permission for patient data see, and what they are called there."""


class Side(enum.StrEnum):
    """Which of the two images."""

    BEFORE = "before"
    AFTER = "after"


class NoImage(NodeError):
    """The pixels can't be shown; the message says why and what can be done."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """An image that can be shown: its pixels and their presentation."""

    spec: PixelSpec
    presentation: Presentation


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Stored values of a frame as little endian bytes, row by row.

    Attributes
    ----------
    kind
        ``uint8``, ``int8``, ``uint16`` or ``int16``.
    """

    data: bytes
    kind: str


@contextmanager
def open_image(store: InstanceStore, image: KeptImage | None) -> Iterator[Part10File]:
    """Open the object of an image.

    Raises
    ------
    NoImage
        If it is not there any more, or can't be read.
    """
    if image is None:
        raise NoImage("Nothing was derived from this image.")
    if image.state is not InstanceState.STORED:
        raise NoImage(_why_gone(image))
    with store.held() as locate:
        try:
            path = locate(image.key)
            with open_part10(path, folder=store.scratch) as part10:
                yield part10
        except (FileNotFoundError, UnknownObject) as error:
            raise NoImage(
                "The object is missing in the instance store although the ledger says that it is there. "
                "`dicom-node verify --deep -c FILE` tells what else is missing."
            ) from error
        except UnsupportedPixels as error:
            raise NoImage(f"The pixels can't be shown: {error}.") from error


def describe_image(store: InstanceStore, image: KeptImage | None) -> Described:
    """Return what the header of an image says of pixels and presentation; raises `NoImage`."""
    with open_image(store, image) as part10:
        spec = read_spec(part10.header)
        return Described(spec=spec, presentation=read_presentation(part10.header, spec))


def read_values(store: InstanceStore, image: KeptImage | None, number: int) -> Frame:
    """Return the stored values of frame `number`, from 1, at full bit depth; raises `NoImage`."""
    with open_image(store, image) as part10:
        values = read_frame(part10, read_spec(part10.header), number - 1).values
    return Frame(data=_little_endian(values), kind=values.dtype.name)


def read_patient(store: InstanceStore, pair: ImagePair) -> dict[str, str]:
    """Return the attributes of patient and study by their labels; empty where no object of the pair can be read."""
    for image in (pair.source, pair.derived):
        try:
            with open_image(store, image) as part10:
                ds = detached_view(part10.header)
                return {label: text for keyword, label in PATIENT_ATTRIBUTES if (text := _text(ds, keyword))}
        except NoImage:
            continue
    return {}


def described_as_json(described: Described) -> dict[str, Any]:
    """Return a description for the browser; tables are lists of numbers."""
    spec = described.spec
    whole = dataclasses.asdict(described.presentation)
    return {
        "rows": spec.rows,
        "columns": spec.columns,
        "frame_count": spec.frames,
        "bits_stored": spec.bits_stored,
        "signed": spec.signed,
        "lowest": spec.lowest,
        "highest": spec.highest,
        "photometric": spec.photometric,
        # Padding that is no storable value can't be told from the stored values.
        "padding": spec.padding if spec.padding and spec.lowest <= spec.padding[0] <= spec.highest else None,
        **whole,
    }


def frame_bytes(spec: PixelSpec) -> int:
    """Return the memory that reading one frame takes at most."""
    return spec.rows * spec.columns * BYTES_PER_PIXEL


def _why_gone(image: KeptImage) -> str:
    when = (
        "" if image.left_at is None else f" on {datetime.fromtimestamp(image.left_at).astimezone():%Y-%m-%d at %H:%M}"
    )
    if image.state is InstanceState.QUARANTINED:
        reason = f": {image.left_because}" if image.left_because else ""
        return f"The object was set apart in quarantine{when}{reason}. `dicom-node verify -c FILE` names its file."
    return (
        f"The object was deleted{when}, after every destination had it (settings: [retention]). "
        "It can be looked at there."
    )


def _little_endian(values: Values) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _text(ds: Dataset, keyword: str) -> str:
    try:
        value = ds.get(keyword)
        return "" if value is None else str(value).strip()
    except Exception:  # noqa: BLE001 - whatever pydicom makes of a broken value: the others are still shown
        return ""
