"""What a header says of how stored values are shown: Modality LUT, VOI LUT, polarity, geometry, cine, shutter.

PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.7.6.3.1.2 (polarity), C.7.6.11 (Display Shutter), C.7.6.5 (Cine),
PS3.4 N.2 (the order of the transformations). Only attributes that describe the image are read, never the patient's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset

from dicom_node.errors import UnsupportedPixels
from dicom_node.functional_groups import frame_macros, has_functional_groups
from dicom_node.part10 import UNREADABLE, detached_view
from dicom_node.pixels import PixelSpec

MAX_PRESETS: Final = 32
"""Of each kind; what is beyond can't be reached by a menu any more."""

_FUNCTIONS: Final = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True, kw_only=True)
class LookupTable:
    """A table of a Modality or VOI LUT Sequence.

    Attributes
    ----------
    first
        Input that the first entry is for; below and above, the first and the last entry hold.
    bits
        Of each entry: the output is 0 to ``2**bits - 1``.
    """

    first: int
    bits: int
    values: tuple[int, ...]
    explanation: str = ""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Window Center and Width with their VOI LUT Function (0028,1056), in units after the Modality LUT."""

    center: float
    width: float
    function: str
    explanation: str = ""


@dataclass(frozen=True, kw_only=True)
class FramePresentation:
    """How the stored values of one frame are shown.

    Attributes
    ----------
    modality_table
        Stands instead of slope and intercept.
    unit
        Rescale Type (0028,1054) or Modality LUT Type (0028,3004); empty where values have no unit.
    """

    slope: float
    intercept: float
    modality_table: LookupTable | None
    unit: str
    windows: tuple[Window, ...]
    tables: tuple[LookupTable, ...]


@dataclass(frozen=True, kw_only=True)
class Shutter:
    """What of the image is shown (C.7.6.11); rows and columns from 1, each part limits on its own."""

    rectangle: tuple[int, int, int, int] | None
    """Left, right, upper and lower edge; what lies on or beyond is hidden."""
    circle: tuple[int, int, int] | None
    """Row and column of the centre, and radius."""
    polygon: tuple[tuple[int, int], ...]
    """Rows and columns of the vertices."""


@dataclass(frozen=True, kw_only=True)
class Presentation:
    """How an image is shown.

    Attributes
    ----------
    inverted
        The lowest value is white: MONOCHROME1.
    frames
        One for all frames, or one for each where they differ.
    row_spacing, column_spacing
        Distance of rows and of columns; in mm where `spacing_at` says where, else only their ratio counts.
    spacing_at
        ``patient`` (Pixel Spacing), ``detector`` (Imager Pixel Spacing), or empty.
    frame_ms
        Time from one frame to the next, in ms; one for all, or one for each frame; empty where nothing is said.
    patient_orientation
        Directions of the rows and of the columns, such as ``("L", "F")``; empty where not said.
    burned_in
        Burned In Annotation (0028,0301): True, False, or None where it is not said.
    """

    inverted: bool
    frames: tuple[FramePresentation, ...]
    row_spacing: float
    column_spacing: float
    spacing_at: str
    frame_ms: tuple[float, ...]
    shutter: Shutter | None
    patient_orientation: tuple[str, ...]
    modality: str
    body_part: str
    view_position: str
    laterality: str
    burned_in: bool | None


def read_presentation(ds: Dataset, spec: PixelSpec) -> Presentation:
    """Return how the image of `ds`, which is left as it is, is shown; what can't be read counts as absent."""
    ds = detached_view(ds)
    row_spacing, column_spacing, at = _spacing(ds, spec)
    burned_in = _code(ds, "BurnedInAnnotation")
    return Presentation(
        inverted=spec.photometric == "MONOCHROME1",
        frames=_frames(ds, spec),
        row_spacing=row_spacing,
        column_spacing=column_spacing,
        spacing_at=at,
        frame_ms=_frame_times(ds, spec.frames),
        shutter=_shutter(_first_of_macro(ds, "FrameDisplayShutterSequence", spec) or ds),
        patient_orientation=_orientation(ds),
        modality=_code(ds, "Modality"),
        body_part=_code(ds, "BodyPartExamined"),
        view_position=_code(ds, "ViewPosition"),
        laterality=_code(ds, "ImageLaterality") or _code(ds, "Laterality"),
        burned_in={"YES": True, "NO": False}.get(burned_in),
    )


def _frames(ds: Dataset, spec: PixelSpec) -> tuple[FramePresentation, ...]:
    if not has_functional_groups(ds):
        return (_frame(ds, ds, spec, _order(ds)),)
    try:
        both = zip(
            frame_macros(ds, "PixelValueTransformationSequence", spec.frames),
            frame_macros(ds, "FrameVOILUTSequence", spec.frames),
            strict=True,
        )
        frames = tuple(_frame(pixels, voi, spec, _order(ds)) for pixels, voi in both)
    except (UnsupportedPixels, *UNREADABLE):
        return (_frame(ds, ds, spec, _order(ds)),)
    return frames[:1] if len(set(frames)) == 1 else frames


def _frame(pixels: Dataset, voi: Dataset, spec: PixelSpec, order: str) -> FramePresentation:
    """Return what a data set or functional group macros say of a frame; `order` is that of bytes in 16-bit words."""
    modality = next(iter(_tables(pixels, "ModalityLUTSequence", spec.signed, order)), None)
    slope = _one(pixels, "RescaleSlope", 1.0) or 1.0
    intercept = _one(pixels, "RescaleIntercept", 0.0)
    may_be_negative = modality is None and (intercept < 0 or slope < 0 or spec.signed)
    unit = "" if modality is not None and not modality.explanation else _code(pixels, "RescaleType")
    return FramePresentation(
        slope=slope,
        intercept=intercept,
        modality_table=modality,
        unit=modality.explanation if modality is not None else unit,
        windows=tuple(_windows(voi)),
        tables=tuple(_tables(voi, "VOILUTSequence", may_be_negative, order)),
    )


def _windows(ds: Dataset) -> Iterator[Window]:
    function = _code(ds, "VOILUTFunction") or "LINEAR"
    explanations = _texts(ds, "WindowCenterWidthExplanation")
    pairs = zip(_numbers(ds, "WindowCenter"), _numbers(ds, "WindowWidth"), strict=False)
    for index, (center, width) in enumerate(pairs):
        if index == MAX_PRESETS:
            return
        # LINEAR needs a width of 1 at least, the others more than 0 (C.11.2.1.2, C.11.2.1.3).
        if width > 0 and (width >= 1 or function != "LINEAR"):
            yield Window(
                center=center,
                width=width,
                function=function if function in _FUNCTIONS else "LINEAR",
                explanation=explanations[index] if index < len(explanations) else "",
            )


def _tables(ds: Dataset, keyword: str, signed: bool, order: str) -> Iterator[LookupTable]:
    for item in list(_value(ds, keyword) or ())[:MAX_PRESETS]:
        try:
            entries, first, bits = (int(v) for v in item.LUTDescriptor)
            values = _entries(item.LUTData, entries or 1 << 16, order)
        except UNREADABLE:
            continue
        if not values or not 1 <= bits <= 16:
            continue
        # Some write 16 bits in which 12 are meant, and others the reverse: the largest entry decides.
        bits = max(bits, max(values).bit_length())
        kind = _code(item, "ModalityLUTType")
        yield LookupTable(
            # The VR of the descriptor may be that of the other sign.
            first=first - 65536 if signed and first > 32767 else first,
            bits=bits,
            values=values,
            explanation=kind or next(iter(_texts(item, "LUTExplanation")), ""),
        )


def _entries(data: Any, entries: int, order: str) -> tuple[int, ...]:
    if isinstance(data, bytes):
        # Entries of 8 bits may come one to a byte (C.11.1.1.1).
        dtype = f"{order}u2" if len(data) >= 2 * entries else "u1"
        return tuple(np.frombuffer(data, dtype)[:entries].tolist()) if len(data) >= entries else ()
    values = tuple(int(v) & 0xFFFF for v in ([data] if isinstance(data, int) else data))
    return values[:entries] if len(values) >= entries else ()


def _order(ds: Dataset) -> str:
    return "<" if ds.original_encoding[1] in (None, True) else ">"


def _spacing(ds: Dataset, spec: PixelSpec) -> tuple[float, float, str]:
    measures = _first_of_macro(ds, "PixelMeasuresSequence", spec) or ds
    for holder, keyword, at in (
        (measures, "PixelSpacing", "patient"),
        (ds, "ImagerPixelSpacing", "detector"),
        (ds, "NominalScannedPixelSpacing", "detector"),
    ):
        values = _numbers(holder, keyword)
        if len(values) == 2 and min(values) > 0:
            return values[0], values[1], at
    # Vertical to horizontal size of a pixel (C.7.6.3.1.7).
    aspect = _numbers(ds, "PixelAspectRatio")
    if len(aspect) == 2 and min(aspect) > 0:
        return aspect[0], aspect[1], ""
    return 1.0, 1.0, ""


def _first_of_macro(ds: Dataset, keyword: str, spec: PixelSpec) -> Dataset | None:
    if not has_functional_groups(ds):
        return None
    try:
        return next(iter(frame_macros(ds, keyword, spec.frames)), None)
    except (UnsupportedPixels, *UNREADABLE):
        return None


def _frame_times(ds: Dataset, frames: int) -> tuple[float, ...]:
    if frames == 1:
        return ()
    vector = _numbers(ds, "FrameTimeVector")
    if len(vector) == frames and min(vector[1:]) > 0:
        # The first increment is that of the first frame to itself, 0; it is how long the last one stays.
        return (*vector[1:], sorted(vector[1:])[(frames - 1) // 2])
    time = _one(ds, "FrameTime", 0.0)
    if time > 0:
        return (time,)
    rates = (_one(ds, keyword, 0.0) for keyword in ("RecommendedDisplayFrameRate", "CineRate"))
    return next(((1000.0 / rate,) for rate in rates if rate > 0), ())


def _shutter(ds: Dataset) -> Shutter | None:
    shapes = set(_texts(ds, "ShutterShape"))
    edges = [
        _one(ds, keyword, math.nan)
        for keyword in (
            "ShutterLeftVerticalEdge",
            "ShutterRightVerticalEdge",
            "ShutterUpperHorizontalEdge",
            "ShutterLowerHorizontalEdge",
        )
    ]
    centre = [*_numbers(ds, "CenterOfCircularShutter"), *_numbers(ds, "RadiusOfCircularShutter")]
    vertices = _numbers(ds, "VerticesOfThePolygonalShutter")
    rectangle = circle = None
    if "RECTANGULAR" in shapes and all(map(math.isfinite, edges)):
        rectangle = (int(edges[0]), int(edges[1]), int(edges[2]), int(edges[3]))
    if "CIRCULAR" in shapes and len(centre) == 3:
        circle = (int(centre[0]), int(centre[1]), int(centre[2]))
    polygon: tuple[tuple[int, int], ...] = ()
    if "POLYGONAL" in shapes and len(vertices) >= 6 and len(vertices) % 2 == 0:
        polygon = tuple((int(r), int(c)) for r, c in zip(vertices[::2], vertices[1::2], strict=True))
    if rectangle is None and circle is None and not polygon:
        return None
    return Shutter(rectangle=rectangle, circle=circle, polygon=polygon)


def _orientation(ds: Dataset) -> tuple[str, ...]:
    directions = tuple(_texts(ds, "PatientOrientation"))
    is_known = len(directions) == 2 and all(d and len(d) <= 3 and set(d) <= set("APRLHF") for d in directions)
    return directions if is_known else ()


def _value(ds: Dataset, keyword: str) -> Any:
    try:
        return ds.get(keyword)
    except UNREADABLE:
        return None


def _numbers(ds: Dataset, keyword: str) -> list[float]:
    value = _value(ds, keyword)
    try:
        found = [float(v) for v in ([value] if isinstance(value, str | int | float) else list(value or []))]
    except UNREADABLE:
        return []
    return found if all(map(math.isfinite, found)) else []


def _one(ds: Dataset, keyword: str, default: float) -> float:
    values = _numbers(ds, keyword)
    return values[0] if len(values) == 1 else default


def _texts(ds: Dataset, keyword: str) -> list[str]:
    value = _value(ds, keyword)
    values: Sequence[Any] = [value] if isinstance(value, str) else list(value or ())
    return [str(v).strip(" \0") for v in values]


def _code(ds: Dataset, keyword: str) -> str:
    """Return the value of a code string, or nothing where it is longer than one can be (16 characters)."""
    values = _texts(ds, keyword)
    return values[0] if len(values) == 1 and len(values[0]) <= 16 else ""
