"""What becomes of an object in each transfer syntax, found out by asking the code that decides."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage

from dicom_node.association_policy import TRANSFER_SYNTAXES
from dicom_node.destinations.storage_scu import propose_contexts
from dicom_node.pixel_encoding import output_syntax
from dicom_node.pixels import DECODING_PLUGINS, read_spec


@dataclass(frozen=True, kw_only=True)
class SyntaxSupport:
    """A transfer syntax that the receiver accepts.

    Attributes
    ----------
    codecs
        What decodes its pixel data, in the order in which they are tried; empty where nothing has to be decoded.
    decodable
        Whether pixel data in it can be read at all.
    derived
        The transfer syntax of what is derived from an image in it.
    proposed
        The transfer syntaxes of each presentation context that is proposed for an object in it.
    """

    uid: UID
    name: str
    codecs: tuple[str, ...]
    decodable: bool
    derived: UID
    proposed: tuple[tuple[str, ...], ...]


def syntax_supports() -> tuple[SyntaxSupport, ...]:
    """Return all accepted transfer syntaxes, in the order of the receiver's table."""
    return tuple(_support(UID(uid), name) for uid, name in TRANSFER_SYNTAXES.items())


def syntax_name(uid: str) -> str:
    """Return the name of a transfer syntax as the receiver's table has it, or as DICOM does."""
    return TRANSFER_SYNTAXES.get(uid, UID(uid).name)


def _support(uid: UID, name: str) -> SyntaxSupport:
    codecs = DECODING_PLUGINS.get(uid, ())
    contexts = propose_contexts([(ComputedRadiographyImageStorage, uid)])
    return SyntaxSupport(
        uid=uid,
        name=name,
        codecs=codecs,
        decodable=bool(codecs) or not uid.is_encapsulated,
        derived=output_syntax(read_spec(small_image(ComputedRadiographyImageStorage, uid))),
        proposed=tuple(context.transfer_syntaxes for context in contexts),
    )


def small_image(sop_class: UID, syntax: UID) -> Dataset:
    """Return the attributes of a radiograph of 12 bits, to ask the code what it would make of one."""
    ds = Dataset()
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = ds.SeriesInstanceUID = UID("2.25.1")
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    return ds
