"""Stored values <-> what the denoiser works on: the only definition of that mapping.

The mapping is the identity on stored values as float32, whatever the Pixel Intensity Relationship, with one
exception: where values fall as exposure rises (sign -1) and are linear, they are counted down from the largest
storable value, so that they are proportional to exposure. Pixel Intensity Relationship describes *stored* values
(PS3.3 C.8.11.3.1.2, C.8.7.1.1.2), so no Rescale or Modality LUT comes in between; for LOG and DISPLAY the model
estimates the noise curve on these values.

Going back adds the *difference* that the denoiser made, rounded, to the stored value. A denoiser that changes
nothing thus returns the same bits for every format.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_node.codestreams import require_same_size
from dicom_node.compressed_frames import iter_compressed_frames, read_compressed_frame
from dicom_node.errors import DerivationError, UnsupportedPixels
from dicom_node.functional_groups import frame_macros, has_functional_groups
from dicom_node.part10 import UNREADABLE, Part10File, PixelDataElement, detached_view, open_part10, readable
from model.domain import Domain, counts_down, declared_domain

_END_OF_ITEMS: Final = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)

Cells = NDArray[np.uint8] | NDArray[np.uint16]
"""Pixel cells as stored, with every bit of Bits Allocated, shape ``(rows, columns)``."""

Values = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int8] | NDArray[np.int16]
"""Stored values: the Bits Stored of each cell, sign extended, shape ``(rows, columns)``."""

_LOSSY_WITH_SIGN: Final = frozenset((JPEG2000, JPEGLSNearLossless, HTJ2K))
_OUR_PLUGINS: Final = {"libjpeg-turbo": "decode_jpeg", "charls": "decode_jpeg_ls"}
"""Plugins that pydicom does not know, and their functions in `jpeg_codec`."""

DECODING_PLUGINS: Final[dict[UID, tuple[str, ...]]] = {
    RLELossless: ("pylibjpeg", "pydicom"),
    JPEGBaseline8Bit: ("libjpeg-turbo",),
    JPEGExtended12Bit: ("libjpeg-turbo",),
    JPEGLossless: ("libjpeg-turbo",),
    JPEGLosslessSV1: ("libjpeg-turbo",),
    JPEGLSLossless: ("charls",),
    JPEGLSNearLossless: ("charls",),
    JPEG2000Lossless: ("pylibjpeg",),
    JPEG2000: ("pylibjpeg",),
    HTJ2KLossless: ("pylibjpeg",),
    HTJ2KLosslessRPCL: ("pylibjpeg",),
    HTJ2K: ("pylibjpeg",),
}
"""Codecs in the order in which they are tried. GDCM is none of them: it ends the process on damaged streams that
others refuse."""

MAX_FRAME_PIXELS: Final = 1 << 27
"""Frames with more pixels are not decoded: stitched radiographs and digitised films stay below 100 million, and 65535
x 65535 would take the memory of the machine."""

_LOSSY: Final = _LOSSY_WITH_SIGN | {JPEGBaseline8Bit, JPEGExtended12Bit}


@dataclass(frozen=True, kw_only=True)
class PixelSpec:
    """What the attributes say about the pixels (PS3.3 C.7.6.3, C.7.5.1.1.2, C.8.11.3).

    Attributes
    ----------
    padding
        Smallest and largest stored value that mark padding, inclusive; None when none is declared.
    relationship
        Pixel Intensity Relationship (0028,1040): ``LIN``, ``LOG``, ``DISP``, another term, or empty.
    sign
        Pixel Intensity Relationship Sign (0028,1041): 1, or -1 where values fall as exposure rises.
    embedded_overlays
        Overlay planes live in bits of the pixel cell that are not stored bits (retired, PS3.5 8.1.2).
    pixel_vr
        VR of native Pixel Data, ``OB`` or ``OW``.
    frame_intensities
        Relationship and sign frame by frame, where the frames of an enhanced object differ; see `of_frame`.
    """

    sop_class_uid: str
    transfer_syntax_uid: UID
    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    relationship: str
    sign: int
    presentation_intent: str
    rescale_slope: float
    rescale_intercept: float
    padding: tuple[int, int] | None
    embedded_overlays: bool
    pixel_vr: str
    frame_intensities: tuple[tuple[str, int], ...] = ()

    def of_frame(self, index: int) -> PixelSpec:
        """Return what holds for the frame `index`, from 0."""
        if not self.frame_intensities:
            return self
        relationship, sign = self.frame_intensities[index]
        return replace(self, relationship=relationship, sign=sign, frame_intensities=())

    @property
    def shift(self) -> int:
        """Bits of the cell below the stored ones."""
        return self.high_bit + 1 - self.bits_stored

    @property
    def lowest(self) -> int:
        """Smallest storable value."""
        return -(1 << (self.bits_stored - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """Largest storable value."""
        return (1 << (self.bits_stored - self.signed)) - 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        return self.rows * self.columns * (self.bits_allocated // 8)


@dataclass(frozen=True, kw_only=True)
class StoredFrame:
    """One frame as it was received.

    Attributes
    ----------
    index
        From 0.
    cells
        Every bit of the pixel cells.
    values
        Stored values of the cells.
    native
        True where the pixel is image, False where it is padding.
    """

    index: int
    cells: Cells
    values: Values
    native: NDArray[np.bool_]


def read_spec(ds: Dataset) -> PixelSpec:
    """Return what the attributes of `ds` say about its pixels; `ds` is left as it is.

    Raises
    ------
    UnsupportedPixels
        If the pixels are not grey values of 8 or 16 bits allocated, or an attribute is missing or contradicts another.
    """
    with readable("the image attributes"):
        return _read_spec(detached_view(ds))


def _read_spec(ds: Dataset) -> PixelSpec:
    if "Rows" not in ds and "PhotometricInterpretation" not in ds:
        raise UnsupportedPixels("it is not an image")
    samples = _integer(ds, "SamplesPerPixel", 1)
    photometric = _text(ds, "PhotometricInterpretation")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnsupportedPixels(
            f"pixels are not grey values ({samples} samples, {photometric or 'no photometric interpretation'})"
        )
    allocated = _integer(ds, "BitsAllocated")
    stored = _integer(ds, "BitsStored", allocated)
    high_bit = _integer(ds, "HighBit", stored - 1)
    if allocated not in (8, 16):
        raise UnsupportedPixels(f"Bits Allocated is {allocated}, not 8 or 16")
    if not 1 < stored <= allocated or not stored - 1 <= high_bit < allocated:
        raise UnsupportedPixels(f"{stored} bits stored under high bit {high_bit} don't fit {allocated} bits allocated")
    rows, columns = _integer(ds, "Rows"), _integer(ds, "Columns")
    frames = _integer(ds, "NumberOfFrames", 1) or 1
    if rows < 1 or columns < 1 or frames < 1:
        raise UnsupportedPixels(f"there are no pixels in {frames} frames of {rows} rows x {columns} columns")
    signed = _integer(ds, "PixelRepresentation", 0) == 1
    syntax = UID(str(ds.file_meta.TransferSyntaxUID))
    if syntax.is_encapsulated and syntax != RLELossless and high_bit != stored - 1:
        raise UnsupportedPixels(f"high bit {high_bit} with {stored} bits stored has no meaning in {syntax.name}")
    intensities = _intensities(ds, frames)
    return PixelSpec(
        sop_class_uid=_text(ds, "SOPClassUID"),
        transfer_syntax_uid=syntax,
        rows=rows,
        columns=columns,
        frames=frames,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit,
        signed=signed,
        photometric=photometric,
        relationship=intensities[0][0],
        sign=intensities[0][1],
        presentation_intent=_text(ds, "PresentationIntentType"),
        rescale_slope=_number(ds, "RescaleSlope", 1.0),
        rescale_intercept=_number(ds, "RescaleIntercept", 0.0),
        padding=_padding(ds, signed=signed),
        embedded_overlays=_has_embedded_overlays(ds),
        pixel_vr="OB" if allocated == 8 and not syntax.is_implicit_VR else "OW",
        frame_intensities=() if len(set(intensities)) == 1 else intensities,
    )


def domain_of(spec: PixelSpec) -> Domain:
    """Return how `to_exposure` values of `spec` relate to exposure."""
    return declared_domain(presentation_intent=spec.presentation_intent, relationship=spec.relationship)


def iter_frames(source: Path | Part10File | Dataset, spec: PixelSpec) -> Iterator[StoredFrame]:
    """Yield the frames one by one; memory is bounded by one frame, and one compressed frame.

    Parameters
    ----------
    source
        A stored file, or a data set in memory that has Pixel Data and `file_meta`.
    spec
        What `read_spec` said about it.

    Raises
    ------
    UnsupportedPixels
        If pixel data is missing, is shorter than the attributes say, or no decoder reads it.
    """
    if isinstance(source, Path):
        with open_part10(source) as part10:
            yield from iter_frames(part10, spec)
        return
    element = _element_in_memory(source, spec) if isinstance(source, Dataset) else source.pixel_data
    if element is None:
        raise UnsupportedPixels("there is no Pixel Data")
    if element.encapsulated != spec.transfer_syntax_uid.is_encapsulated:
        raise UnsupportedPixels(f"the form of Pixel Data is not that of {spec.transfer_syntax_uid.name}")
    cells = _decoded_cells(element, spec) if element.encapsulated else _native_cells(element, spec)
    for index, frame in enumerate(cells):
        yield frame_of(frame, index, spec)


def read_frame(part10: Part10File, spec: PixelSpec, index: int) -> StoredFrame:
    """Return one frame of an open file, from 0; the others are neither read nor decoded.

    Raises
    ------
    UnsupportedPixels
        As `iter_frames`, or if there is no such frame.
    """
    element = part10.pixel_data
    if element is None:
        raise UnsupportedPixels("there is no Pixel Data")
    if element.encapsulated != spec.transfer_syntax_uid.is_encapsulated:
        raise UnsupportedPixels(f"the form of Pixel Data is not that of {spec.transfer_syntax_uid.name}")
    if not 0 <= index < spec.frames:
        raise UnsupportedPixels(f"there is no frame {index + 1} among {spec.frames}")
    only = range(index, index + 1)
    cells = _decoded_cells(element, spec, only) if element.encapsulated else _native_cells(element, spec, only)
    for frame in cells:
        return frame_of(frame, index, spec)
    raise UnsupportedPixels(f"frame {index + 1} can't be read")


def frame_of(cells: Cells, index: int, spec: PixelSpec) -> StoredFrame:
    """Return the frame that `cells` hold: stored values, and where they are image."""
    values = stored_values(cells, spec)
    return StoredFrame(index=index, cells=cells, values=values, native=_native(cells, values, spec))


def _native(cells: Cells, values: Values, spec: PixelSpec) -> NDArray[np.bool_]:
    if spec.padding is None:
        return np.ones(values.shape, dtype=np.bool_)
    low, high = spec.padding
    native = (values < low) | (values > high)
    if _pads_whole_cells(spec):
        whole = cells.view(np.dtype(f"i{cells.itemsize}")) if low < 0 else cells
        native &= (whole < low) | (whole > high)
    return native


def _pads_whole_cells(spec: PixelSpec) -> bool:
    """Tell whether padding is no storable value: some modalities pad with the whole cell, as -2000 in 11 bits."""
    if spec.padding is None or spec.bits_stored == spec.bits_allocated:
        return False
    return not spec.lowest <= spec.padding[0] <= spec.highest


def stored_values(cells: Cells, spec: PixelSpec) -> Values:
    """Return the Bits Stored of each cell under High Bit, sign extended (PS3.5 8.1.1)."""
    unused_above = spec.bits_allocated - 1 - spec.high_bit
    # Up to the top of the cell and down again: the second shift is arithmetic where values are signed.
    aligned = np.left_shift(cells, unused_above) if unused_above else cells
    typed = aligned.view(np.dtype(f"{'i' if spec.signed else 'u'}{cells.itemsize}"))
    unused = spec.bits_allocated - spec.bits_stored
    return cast(Values, np.right_shift(typed, unused) if unused else typed)


def to_exposure(values: NDArray[Any], spec: PixelSpec) -> NDArray[np.float32]:
    """Map stored values to what the denoiser works on; `from_exposure` is its inverse.

    Parameters
    ----------
    values
        Stored values, any shape.
    spec
        Sign, Pixel Intensity Relationship and Presentation Intent decide; of the frame, where the frames differ.

    Returns
    -------
    Same shape, in units of stored values: proportional to detector exposure where `domain_of` says LINEAR, else the
    stored values themselves. Every 16-bit value is exact in float32.

    References
    ----------
    PS3.3 C.8.11.3.1.2 (DX), C.8.7.1.1.2 (XA, RF).
    """
    exposure = values.astype(np.float32)
    if _counts_down(spec):
        exposure = np.float32(spec.highest) - exposure
    return exposure


def from_exposure(exposure: NDArray[np.float32], frame: StoredFrame, spec: PixelSpec) -> Cells:
    """Return pixel cells that hold `exposure`; the inverse of `to_exposure`.

    Parameters
    ----------
    exposure
        Shape ``(rows, columns)``, what became of ``to_exposure(frame.values, spec)``.
    frame
        The frame as it was received: padding and all bits that are not stored bits come from here.

    Returns
    -------
    Shape ``(rows, columns)``: padding bit-exact, image rounded to nearest and clipped to what Bits Stored hold, never
    on a padding value, overlay bits restored.

    Raises
    ------
    DerivationError
        If a value is not finite or the shape differs.
    """
    if exposure.shape != frame.values.shape:
        raise DerivationError(f"the denoiser returned shape {exposure.shape} for {frame.values.shape}")
    change = exposure.astype(np.float32) - to_exposure(frame.values, spec)
    if not np.isfinite(change).all():
        raise DerivationError("the denoiser returned values that are not finite")
    if _counts_down(spec):
        change = -change
    # In float64: a wild change must be clipped, not wrap around an integer type.
    wanted = np.clip(frame.values + np.rint(change.astype(np.float64)), spec.lowest, spec.highest)
    stored = _beside_padding(wanted.astype(np.int32), frame, spec)
    cells = cast(Cells, np.where(frame.native, _into_cells(stored, frame, spec), frame.cells))
    if _pads_whole_cells(spec):
        # Together with the bits beside it, a storable value may be padding: such a pixel stays as it was.
        cells = cast(Cells, np.where(_native(cells, stored_values(cells, spec), spec), cells, frame.cells))
    return cells


def pixel_digest(source: Path | Part10File | Dataset, spec: PixelSpec) -> str:
    """Return the SHA-256, in hexadecimal, of all pixel cells; the same for every lossless encoding of them."""
    digest = hashlib.sha256()
    for frame in iter_frames(source, spec):
        digest.update(cell_bytes(frame.cells))
    return digest.hexdigest()


def cell_bytes(cells: Cells) -> bytes:
    """Return the cells as little endian bytes, row by row."""
    return cells.astype(cells.dtype.newbyteorder("<"), copy=False).tobytes()


def iter_decoded(
    element: PixelDataElement, syntax: UID, *, only: int | None = None, **options: Any
) -> Iterator[tuple[NDArray[Any], dict[str, Any]]]:
    """Yield decoded frames of encapsulated pixel data, with no colour conversion, and what pydicom says of each.

    Unused bits are left as the codec gives them: overlay planes may live there. With `only`, the frame of that index
    alone.
    """
    rows, columns, samples = options["rows"], options["columns"], options["samples_per_pixel"]
    if rows * columns > MAX_FRAME_PIXELS:
        raise ValueError(_too_many_pixels(rows, columns))
    frames = options["number_of_frames"]
    options |= {
        "pixel_keyword": "PixelData",
        "correct_unused_bits": False,
        "allow_excess_frames": False,
        "number_of_frames": 1,
    }
    frame_bytes = rows * columns * samples * options["bits_allocated"] // 8
    if only is None:
        found = iter_compressed_frames(element, frames=frames, frame_bytes=frame_bytes)
    else:
        found = iter((read_compressed_frame(element, only, frames=frames, frame_bytes=frame_bytes),))
    for frame in found:
        require_same_size(
            frame,
            syntax,
            rows=rows,
            columns=columns,
            samples_per_pixel=samples,
            bits_allocated=options["bits_allocated"],
        )
        yield _decode_frame(frame, syntax, options)


def _decode_frame(frame: bytes, syntax: UID, options: dict[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Decode with the first codec that can; frame by frame, since in one go pydicom 3.0 fails to correct a sign."""
    decoder = _decoder(syntax)
    padded = frame + b"\0" * (len(frame) % 2)
    items = struct.pack("<HHLHHL", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(padded)) + padded
    failure: Exception | None = None
    for plugin in DECODING_PLUGINS.get(syntax, ()):
        if plugin not in decoder.available_plugins:
            continue
        try:
            return decoder.as_array(items + _END_OF_ITEMS, index=0, raw=True, decoding_plugin=plugin, **options)
        except UNREADABLE as error:
            failure = failure or error
        except BaseException as error:
            # A panic of a codec in Rust is no Exception to Python (PyO3), and would end the thread that works here. It
            # comes of data that go on beyond the frame, for which the next codec would make room.
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"the codec {plugin} panicked: {error}") from error
    if failure is None:
        raise NotImplementedError(f"no codec for {syntax.name} is installed")
    # pydicom's own message is a headline with the codec's below.
    raise ValueError(str(failure).splitlines()[-1].strip()) from failure


@cache
def _decoder(syntax: UID) -> Decoder:
    """Return pydicom's decoder, or one beside its registry with the codec that pydicom does not know."""
    ours = [name for name in DECODING_PLUGINS.get(syntax, ()) if name in _OUR_PLUGINS]
    if not ours:
        return get_decoder(syntax)
    decoder = Decoder(syntax)
    for name in ours:
        decoder.add_plugin(name, ("dicom_node.jpeg_codec", _OUR_PLUGINS[name]))
    return decoder


def _too_many_pixels(rows: int, columns: int) -> str:
    return f"frames of {rows} x {columns} pixels have more than the {MAX_FRAME_PIXELS} that are decoded"


def _counts_down(spec: PixelSpec) -> bool:
    return counts_down(domain_of(spec), spec.sign)


def _beside_padding(stored: NDArray[np.int32], frame: StoredFrame, spec: PixelSpec) -> NDArray[np.int32]:
    """Move values that fell on a padding value to the nearest one on the side that the pixel came from."""
    if spec.padding is None:
        return stored
    low, high = spec.padding
    hit = (stored >= low) & (stored <= high) & frame.native
    return np.where(hit, np.where(frame.values > high, high + 1, low - 1), stored).astype(np.int32)


def _into_cells(stored: NDArray[np.int32], frame: StoredFrame, spec: PixelSpec) -> Cells:
    dtype = frame.cells.dtype
    mask = ((1 << spec.bits_stored) - 1) << spec.shift
    placed = (stored.astype(np.int64) << spec.shift) & mask
    unused_above = spec.bits_allocated - 1 - spec.high_bit
    kept = frame.cells & dtype.type(((1 << spec.bits_allocated) - 1) ^ mask)
    if spec.signed and unused_above and not spec.embedded_overlays and _sign_extended(frame, spec):
        above = ((1 << unused_above) - 1) << (spec.high_bit + 1)
        kept = (kept & dtype.type(~above & ((1 << spec.bits_allocated) - 1))) | np.where(stored < 0, above, 0).astype(
            dtype
        )
    return cast(Cells, kept | placed.astype(dtype))


def _sign_extended(frame: StoredFrame, spec: PixelSpec) -> bool:
    # Readers that take the cell as a whole rely on it; where the source did so, the result does.
    above = frame.cells >> (spec.high_bit + 1)
    full = (1 << (spec.bits_allocated - 1 - spec.high_bit)) - 1
    return bool((above == np.where(frame.values < 0, full, 0)).all())


def _native_cells(element: PixelDataElement, spec: PixelSpec, only: range | None = None) -> Iterator[Cells]:
    big = spec.transfer_syntax_uid == ExplicitVRBigEndian
    in_words = big and spec.bits_allocated == 8 and element.vr == "OW"
    needed = spec.frame_bytes * spec.frames
    needed += needed % 2 if in_words else 0
    if element.length < needed:
        raise UnsupportedPixels(f"Pixel Data holds {element.length} bytes, the attributes ask for {needed}")
    if spec.rows * spec.columns > MAX_FRAME_PIXELS:
        raise UnsupportedPixels(_too_many_pixels(spec.rows, spec.columns))
    wanted = range(spec.frames) if only is None else only
    if in_words:
        for index in wanted:
            yield _cells_in_words(element, index * spec.frame_bytes, spec)
        return
    dtype = np.dtype(f"{'>' if big else '<'}u{spec.bits_allocated // 8}")
    element.stream.seek(element.offset + wanted.start * spec.frame_bytes)
    for _ in wanted:
        data = element.stream.read(spec.frame_bytes)
        position = element.stream.tell()
        cells = np.frombuffer(data, dtype=dtype).reshape(spec.rows, spec.columns)
        yield cast(Cells, cells.astype(dtype.newbyteorder("="), copy=True))
        element.stream.seek(position)


def _cells_in_words(element: PixelDataElement, begin: int, spec: PixelSpec) -> Cells:
    """Read a frame of 8-bit cells from big endian 16-bit words, where they come as pairs in reverse (PS3.5 8.1.2)."""
    # A frame may begin or end in the middle of a word, which it shares with its neighbour.
    shared = begin % 2
    element.stream.seek(element.offset + begin - shared)
    words = element.stream.read(shared + spec.frame_bytes + (begin + spec.frame_bytes) % 2)
    cells = np.frombuffer(words, dtype="<u2").byteswap().view(np.uint8)
    return cells[shared : shared + spec.frame_bytes].reshape(spec.rows, spec.columns).copy()


def _decoded_cells(element: PixelDataElement, spec: PixelSpec, only: range | None = None) -> Iterator[Cells]:
    dtype = np.dtype(f"u{spec.bits_allocated // 8}")
    frames = iter_decoded(
        element,
        spec.transfer_syntax_uid,
        only=None if only is None else only.start,
        rows=spec.rows,
        columns=spec.columns,
        number_of_frames=spec.frames,
        samples_per_pixel=1,
        photometric_interpretation=spec.photometric,
        bits_allocated=spec.bits_allocated,
        bits_stored=spec.bits_stored,
        pixel_representation=int(spec.signed),
    )
    # Lossy decoding overshoots: 4124 in 12 bits must end as 4095, not wrap around to 28. Codecs other than JPEG 2000
    # and JPEG-LS don't know of a sign, so there the bits of a negative value would look like an overshoot.
    overshoots = spec.transfer_syntax_uid in _LOSSY and not spec.embedded_overlays
    overshoots = overshoots and (not spec.signed or spec.transfer_syntax_uid in _LOSSY_WITH_SIGN)
    for _ in range(spec.frames) if only is None else only:
        with readable("Pixel Data"):
            decoded = next(frames, None)
            if decoded is None:
                return
            # A codec may give 8 bits for what is allocated 16.
            wide = decoded[0].astype(np.dtype(f"{decoded[0].dtype.kind}{dtype.itemsize}"), copy=False)
            if overshoots:
                wide = np.clip(wide, spec.lowest, spec.highest)
        yield cast(Cells, np.ascontiguousarray(wide).view(dtype).reshape(spec.rows, spec.columns))


def _element_in_memory(ds: Dataset, spec: PixelSpec) -> PixelDataElement | None:
    if "PixelData" not in ds:
        return None
    value = ds.PixelData
    stream = cast(BinaryIO, value if hasattr(value, "read") else BytesIO(value))
    length = stream.seek(0, 2)
    stream.seek(0)
    encapsulated = bool(spec.transfer_syntax_uid.is_encapsulated)
    return PixelDataElement(
        stream=stream, offset=0, length=length, encapsulated=encapsulated, vr=str(ds["PixelData"].VR)
    )


def _integer(ds: Dataset, keyword: str, default: int | None = None) -> int:
    value = ds.get(keyword)
    if value is None or value == "":
        if default is None:
            raise UnsupportedPixels(f"attribute {keyword} is missing")
        return default
    if not isinstance(value, int):
        raise UnsupportedPixels(f"attribute {keyword} is not one whole number")
    return int(value)


def _number(ds: Dataset, keyword: str, default: float) -> float:
    value = ds.get(keyword)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return default
    return float(value)


def _text(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    return value.strip() if isinstance(value, str) else ""


def _intensities(ds: Dataset, frames: int) -> tuple[tuple[str, int], ...]:
    """Return Pixel Intensity Relationship and its sign: once, or of each frame of an enhanced object (C.8.19.6.2)."""
    holders: Iterable[Dataset] = (ds,)
    if has_functional_groups(ds):
        holders = frame_macros(ds, "FramePixelDataPropertiesSequence", frames)
    return tuple(
        (
            _text(holder, "PixelIntensityRelationship"),
            -1 if _integer(holder, "PixelIntensityRelationshipSign", 1) < 0 else 1,
        )
        for holder in holders
    )


def _padding(ds: Dataset, *, signed: bool) -> tuple[int, int] | None:
    """Return the smallest and largest padding value (PS3.3 C.7.5.1.1.2)."""
    if ds.get("PixelPaddingValue") is None:
        return None
    ends = [_integer(ds, "PixelPaddingValue")]
    ends.append(_integer(ds, "PixelPaddingRangeLimit", ends[0]))
    # A VR of US for a signed value, or the reverse, is a common fault: the same 16 bits are meant.
    ends = [e - 65536 if signed and e > 32767 else e + 65536 if not signed and e < 0 else e for e in ends]
    return min(ends), max(ends)


def _has_embedded_overlays(ds: Dataset) -> bool:
    # Overlay Bits Allocated without Overlay Data.
    return any((group, 0x0100) in ds and (group, 0x3000) not in ds for group in range(0x6000, 0x6020, 2))
