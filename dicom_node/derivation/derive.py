"""Source attributes + denoised pixels -> derived object: pure, and every other attribute kept as its bytes are.

PS3.3 C.12.4 (derived objects), C.7.6.1 (General Image), C.12.1.1.5 (Contributing Equipment).
"""

from __future__ import annotations

import copy
import re
from collections.abc import MutableSequence
from io import BufferedIOBase
from typing import Final

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit

from dicom_node.derivation.context import DerivationContext
from dicom_node.derivation.differences import ALLOWED_DIFFERENCES, Change
from dicom_node.derivation.equipment import describe_equipment
from dicom_node.derivation.frames import describe_frames, refer_to_evidence
from dicom_node.derivation.terms import (
    CODING_SCHEME_DESIGNATOR,
    IMAGE_TYPE_TERM,
    coding_scheme_item,
    denoising_code,
    smoothing_code,
    source_image_purpose,
)
from dicom_node.derivation.text import date_and_time, derivation_description, series_description, zone_of
from dicom_node.derivation.uids import derived_series_instance_uid, derived_sop_instance_uid
from dicom_node.errors import DerivationError, UnsupportedPixels
from dicom_node.functional_groups import has_functional_groups
from dicom_node.part10 import OFFSET_TABLES, PIXEL_DATA, detached_view, readable
from dicom_node.pixel_encoding import EncodedPixels
from dicom_node.pixels import read_spec

ALWAYS_REMOVED: Final = tuple(
    entry.keyword
    for entry in ALLOWED_DIFFERENCES
    if entry.change == Change.REMOVED and not entry.why.startswith("equipment")
)

ALWAYS_LOSSY: Final = {JPEGBaseline8Bit: "ISO_10918_1", JPEGExtended12Bit: "ISO_10918_1"}
"""Transfer syntaxes that can't be lossless, and their Lossy Image Compression Method (PS3.3 C.7.6.1.1.5)."""

SERIES_DESCRIPTION: Final = Tag(0x0008, 0x103E)

_LARGEST_IS = 2**31 - 1
_SIGNATURE_TAGS: Final = (b"\xfa\xff\xfa\xff", b"\xff\xfa\xff\xfa")
"""Digital Signatures Sequence (FFFA,FFFA), little and big endian."""


def derive(source: Dataset, pixels: EncodedPixels, context: DerivationContext) -> Dataset:
    """Return the derived object of `source` with `pixels`; the same arguments give the same object.

    Parameters
    ----------
    source
        Attributes of the source with `file_meta`, without Pixel Data; left as it is.
    pixels
        What a `FrameWriter` made of the denoised frames.
    context
        Model, strengths, noise, time and settings.

    Returns
    -------
    A data set with new file meta information, ready to be written. Attributes that are not in `ALLOWED_DIFFERENCES`
    keep the very bytes that they have in the source.

    Raises
    ------
    DerivationError
        If the source has no UIDs, or its attributes can't be read.
    """
    try:
        with readable("the source"):
            return _derive(source, pixels, context)
    except UnsupportedPixels as error:
        raise DerivationError(str(error)) from error


def _derive(source: Dataset, pixels: EncodedPixels, context: DerivationContext) -> Dataset:
    # Values are looked up in `before`, so that those of `source` and `derived` stay unconverted bytes.
    before = detached_view(source)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        if not str(before.get(keyword) or "").strip():
            raise DerivationError(f"attribute {keyword} is missing")
    derived = copy.deepcopy(detached_view(source))
    _remove_what_is_of_the_source(derived)
    _identify(derived, before, pixels, context)
    _date(derived, before, context)
    if has_functional_groups(before):
        describe_frames(derived, _derivation_of_frames(before, context))
        refer_to_evidence(derived, before)
    else:
        derived.DerivationDescription = _description(before, context, _text(before, "DerivationDescription"))
        derived.DerivationCodeSequence = _codes(before, context)
        derived.SourceImageSequence = _sources(before)
    _explain_code(derived, before, context)
    describe_equipment(derived, before, context)
    _state_lossy_history(derived, before)
    _set_pixels(derived, before, pixels)
    derived.file_meta = _file_meta(derived, pixels.transfer_syntax_uid)
    return derived


def _remove_what_is_of_the_source(derived: Dataset) -> None:
    for keyword in ALWAYS_REMOVED:
        derived.pop(keyword, None)
    for tag in list(derived.keys()):
        # Group lengths are retired and wrong as soon as anything changes.
        if tag in OFFSET_TABLES or tag == PIXEL_DATA or (tag.element == 0 and tag.group > 2):
            del derived[tag]
    _remove_nested_signatures(derived)


def _remove_nested_signatures(ds: Dataset) -> None:
    """Remove signatures of items too: their MAC parameters have gone with those of the object."""
    for tag in list(ds.keys()):
        element = ds.get_item(tag, keep_deferred=True)
        if isinstance(element, RawDataElement):
            # Parsed only where the tag of a signature is in it, so that other sequences keep their bytes.
            if not any(signature in (element.value or b"") for signature in _SIGNATURE_TAGS):
                continue
            element = ds[tag]
        if not isinstance(element, DataElement) or element.VR != "SQ":
            continue
        for item in element.value:
            item.pop("DigitalSignaturesSequence", None)
            item.pop("MACParametersSequence", None)
            _remove_nested_signatures(item)


def _identify(derived: Dataset, before: Dataset, pixels: EncodedPixels, context: DerivationContext) -> None:
    derived.SOPInstanceUID = derived_sop_instance_uid(
        source_sop_instance_uid=str(before.SOPInstanceUID),
        source_pixel_digest=pixels.source_digest,
        model_digest=context.model_digest,
        strength=context.strength,
        revision_digest=context.revision_digest,
    )
    derived.SeriesInstanceUID = derived_series_instance_uid(
        source_series_instance_uid=str(before.SeriesInstanceUID),
        model_digest=context.model_digest,
        strength=context.strength,
    )
    number = before.get("SeriesNumber")
    # An empty number stays empty: a made-up one would sort the series where nobody looks for it.
    if isinstance(number, int) and number + context.settings.series_number_offset <= _LARGEST_IS:
        derived.SeriesNumber = int(number) + context.settings.series_number_offset
    _describe_series(derived, before, context.settings.description_suffix)
    derived.ImageType = _image_type(before)


def _describe_series(derived: Dataset, before: Dataset, suffix: str) -> None:
    text = _text(before, "SeriesDescription")
    appended = _appended(derived.get_item(SERIES_DESCRIPTION), series_description(text, suffix), suffix, before)
    if appended is not None:
        derived[SERIES_DESCRIPTION] = appended
        return
    for former in (text, ""):
        description = series_description(former, suffix)
        if description and _can_be_written(description, before):
            derived.SeriesDescription = description
            break


def _appended(
    element: DataElement | RawDataElement | None, text: str, suffix: str, ds: Dataset
) -> RawDataElement | None:
    """Return the source's own bytes followed by the suffix, or None where that does not say `text`.

    pydicom can't encode all that it decodes: half-width katakana beside Latin letters, and ISO 2022 IR 58.
    """
    if not isinstance(element, RawDataElement) or not element.value or not suffix.isascii() or "\ufffd" in text:
        return None
    value = element.value.strip(b" \0") + suffix.encode("ascii")
    if decode_bytes(value, convert_encodings(ds.get("SpecificCharacterSet", "ISO_IR 6")), set()) != text:
        return None
    value += b" " * (len(value) % 2)
    return element._replace(value=value, length=len(value))


def _date(derived: Dataset, before: Dataset, context: DerivationContext) -> None:
    zone = zone_of(before)
    date, time = date_and_time(context.now, zone)
    derived.InstanceCreationDate, derived.InstanceCreationTime = date, time
    derived.ContentDate, derived.ContentTime = date, time
    derived.SeriesDate, derived.SeriesTime = date_and_time(context.series_time or context.now, zone)


def _derivation_of_frames(before: Dataset, context: DerivationContext) -> Dataset:
    """Return an item of Derivation Image Sequence; what the source was derived from has items of its own."""
    item = Dataset()
    item.DerivationDescription = _description(before, context, "")
    item.DerivationCodeSequence = Sequence([_code(context)])
    item.SourceImageSequence = Sequence([_source(before)])
    return item


def _description(before: Dataset, context: DerivationContext, former: str) -> str:
    description = derivation_description(context, former)
    return description if _can_be_written(description, before) else derivation_description(context, "")


def _code(context: DerivationContext) -> Dataset:
    return smoothing_code() if context.settings.derivation_code == "standard" else denoising_code()


def _codes(before: Dataset, context: DerivationContext) -> Sequence:
    return Sequence(copy.deepcopy([*(before.get("DerivationCodeSequence") or ()), _code(context)]))


def _explain_code(derived: Dataset, before: Dataset, context: DerivationContext) -> None:
    """Name the coding scheme of our private code (PS3.3 C.12.1.1.3)."""
    if context.settings.derivation_code == "standard":
        return
    schemes = list(before.get("CodingSchemeIdentificationSequence") or ())
    if all(item.get("CodingSchemeDesignator") != CODING_SCHEME_DESIGNATOR for item in schemes):
        schemes.append(coding_scheme_item())
    derived.CodingSchemeIdentificationSequence = Sequence(copy.deepcopy(schemes))


def _source(before: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = str(before.SOPClassUID)
    item.ReferencedSOPInstanceUID = str(before.SOPInstanceUID)
    item.SpatialLocationsPreserved = "YES"
    item.PurposeOfReferenceCodeSequence = Sequence([source_image_purpose()])
    return item


def _sources(before: Dataset) -> Sequence:
    # What the source itself was derived from stays on record, after it.
    return Sequence([_source(before), *copy.deepcopy(list(before.get("SourceImageSequence") or ()))])


def _state_lossy_history(derived: Dataset, before: Dataset) -> None:
    """Say that the source was lossy where only its transfer syntax says so: ours no longer does."""
    method = ALWAYS_LOSSY.get(UID(str(before.file_meta.TransferSyntaxUID)))
    if method is None or _text(before, "LossyImageCompression") == "01":
        return
    derived.LossyImageCompression = "01"
    if "LossyImageCompressionMethod" not in before:
        derived.LossyImageCompressionMethod = method


def _set_pixels(derived: Dataset, before: Dataset, pixels: EncodedPixels) -> None:
    signed = read_spec(before).signed
    for keyword, value in (("SmallestImagePixelValue", pixels.smallest), ("LargestImagePixelValue", pixels.largest)):
        if keyword not in before:
            continue
        if value is None:
            del derived[keyword]
        else:
            tag = before[keyword].tag
            derived[tag] = DataElement(tag, "SS" if signed else "US", value)
    value_or_file = pixels.value
    if not isinstance(value_or_file, bytes | BufferedIOBase):
        raise DerivationError("pixel data is neither bytes nor a file")
    element = DataElement(PIXEL_DATA, pixels.vr, value_or_file)
    element.is_undefined_length = bool(pixels.transfer_syntax_uid.is_encapsulated)
    derived[PIXEL_DATA] = element


def _file_meta(derived: Dataset, syntax: UID) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(str(derived.SOPClassUID))
    meta.MediaStorageSOPInstanceUID = UID(str(derived.SOPInstanceUID))
    meta.TransferSyntaxUID = syntax
    return meta


def _image_type(before: Dataset) -> list[str]:
    """Return Image Type: DERIVED, value 2 kept, value 3 there even if empty, the others kept, ours last.

    Value 3 is empty for DX and IO (PS3.3 C.8.11.3.1.1) and has its own meaning for MG, XA, RF and CT. Objects with
    functional groups have four values (CT of several energies five) with a meaning each (C.8.16.1), and none of ours.
    """
    value = before.get("ImageType")
    values = [str(v) for v in value] if isinstance(value, MutableSequence) else []
    if not values and isinstance(value, str):
        # "ORIGINAL PRIMARY" in one value is a common fault.
        values = re.split(r"[\\ ]+", value.strip())
    values += [""] * (3 - len(values))
    values[0] = "DERIVED"
    values[1] = values[1] or "PRIMARY"
    if IMAGE_TYPE_TERM in values[3:] or has_functional_groups(before):
        return values
    return [*values, IMAGE_TYPE_TERM]


def _text(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    if isinstance(value, MutableSequence):
        return "\\".join(str(v) for v in value)
    return "" if value is None else str(value)


def _can_be_written(text: str, ds: Dataset) -> bool:
    """Tell whether `text` survives the data set's own character set; an undecodable source text does not."""
    if "\ufffd" in text or "\\" in text:
        return False
    encodings = convert_encodings(ds.get("SpecificCharacterSet", "ISO_IR 6"))
    try:
        return decode_bytes(encode_string(text, encodings), encodings, set()) == text
    except (UnicodeError, LookupError, ValueError):
        return False
