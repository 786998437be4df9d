"""The scanner finds what pydicom finds, in every transfer syntax, and stops in bounded time."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import struct
import time
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from dicom_node.dataset_header import DatasetHeader, inflated_bytes, is_identifier, require_whole, scan_header
from dicom_node.errors import UnparsableDataset
from tests.support.network import BIG_ENDIAN, CT, DEFLATED, EXPLICIT, IMPLICIT, data_set, element

SHARED_DICOM = Path(__file__).resolve().parents[4] / "shared" / "data" / "dicom"
HEADER = DatasetHeader(
    sop_class_uid=CT,
    sop_instance_uid="1.2.3.4",
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.1",
    modality="CT",
)
WITH_PATIENT = dataclasses.replace(HEADER, patient_id=b"TEST")


def nested_data_set(syntax: str, *, undefined_length: bool) -> bytes:
    inner = Dataset()
    inner.StudyInstanceUID, inner.SOPInstanceUID = "9.9.9", "9.9.8"
    inner.CodeMeaning = "inner"
    middle = Dataset()
    middle.ReferencedSOPSequence = Sequence([inner, inner])
    middle.is_undefined_length_sequence_item = undefined_length
    inner.is_undefined_length_sequence_item = undefined_length
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CT, "1.2.3.4", "CT"
    ds.ReferencedStudySequence = Sequence([middle])
    ds.ReferencedSeriesSequence = Sequence([])
    ds["ReferencedStudySequence"].is_undefined_length = undefined_length
    ds.private_block(0x0009, "TEST", create=True).add_new(1, "OB", b"\xfe\xff\xdd\xe0" * 5)
    ds.PatientName = "A^B"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    ds.Rows = 4
    target = DicomBytesIO()
    target.is_implicit_VR, target.is_little_endian = syntax == IMPLICIT, syntax != BIG_ENDIAN
    write_dataset(target, ds)
    encoded = target.getvalue()
    return deflate(encoded) if syntax == DEFLATED else encoded


def deflate(encoded: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(encoded) + compressor.flush()


@pytest.mark.parametrize("undefined_length", [False, True])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED, "1.2.840.10008.1.2.4.90"])
def test_identifiers_are_those_of_the_top_level(syntax: str, undefined_length: bool) -> None:
    encoded = nested_data_set(syntax, undefined_length=undefined_length)
    assert scan_header(encoded, syntax, is_whole=True) == HEADER


def test_undefined_length_of_unknown_vr_holds_implicit_little_endian_items() -> None:
    inner = struct.pack("<HHI", 0x0008, 0x0018, 4) + b"9.9\0"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    unknown = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF) + item
    unknown += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    whole = data_set()
    cut = whole.index(struct.pack("<HH", 0x0010, 0x0020))
    assert scan_header(whole[:cut] + unknown + whole[cut:], EXPLICIT, is_whole=True) == WITH_PATIENT


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_every_beginning_is_enough_or_asks_for_more(syntax: str) -> None:
    encoded = data_set(syntax=syntax)
    answers = [scan_header(encoded[:n], syntax, is_whole=False) for n in range(len(encoded) + 1)]
    first = next(n for n, answer in enumerate(answers) if answer is not None)
    assert all(answer is None for answer in answers[:first])
    assert all(answer == WITH_PATIENT for answer in answers[first:])
    assert first < len(encoded)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_a_data_set_cut_in_its_header_is_unparsable(syntax: str) -> None:
    encoded = data_set(syntax=syntax)
    with pytest.raises(UnparsableDataset):
        scan_header(encoded[:30], syntax, is_whole=True)


def test_absent_identifiers_are_empty() -> None:
    encoded = element(0x0008, 0x0060, b"CS", b"CT") + element(0x0028, 0x0010, b"US", b"\1\0")
    header = scan_header(encoded, EXPLICIT, is_whole=True)
    assert header is not None
    assert (header.sop_instance_uid, header.study_instance_uid, header.modality) == ("", "", "CT")
    assert scan_header(b"", EXPLICIT, is_whole=True) is not None


@pytest.mark.parametrize(
    ("encoded", "syntax"),
    [
        (data_set(syntax=IMPLICIT), EXPLICIT),
        (data_set(syntax=EXPLICIT), IMPLICIT),
        (b"GET / HTTP/1.1\r\n\r\n" * 4, EXPLICIT),
        (data_set(), DEFLATED),
        (deflate(data_set())[:-20], DEFLATED),
        (element(0x0008, 0x0018, b"UI", b"1" * 5000), EXPLICIT),
    ],
    ids=["implicit as explicit", "explicit as implicit", "no DICOM", "not deflated", "deflated and cut", "long UID"],
)
def test_bytes_of_another_kind_are_unparsable(encoded: bytes, syntax: str) -> None:
    with pytest.raises(UnparsableDataset):
        scan_header(encoded, syntax, is_whole=True)


def test_work_is_bounded() -> None:
    many = element(0x0008, 0x0005, b"CS", b"") * 300_000
    nested = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    bomb = deflate(element(0x0008, 0x0005, b"OB", b"\0" * 300_000_000))
    begin = time.process_time()
    for encoded, syntax in ((many, EXPLICIT), (nested * 100_000, EXPLICIT), (bomb, DEFLATED)):
        with pytest.raises(UnparsableDataset):
            scan_header(encoded, syntax, is_whole=True)
    assert time.process_time() - begin < 3


@settings(max_examples=300)
@given(st.binary(max_size=300), st.sampled_from([IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED]), st.booleans())
def test_any_bytes_are_scanned_or_unparsable(encoded: bytes, syntax: str, is_whole: bool) -> None:
    try:
        header = scan_header(encoded, syntax, is_whole=is_whole)
    except UnparsableDataset:
        return
    assert header is not None or not is_whole


@pytest.mark.skipif(not SHARED_DICOM.is_dir(), reason="no ../shared/data/dicom")
def test_scanner_agrees_with_pydicom_on_real_files() -> None:
    compared = 0
    for path in sorted(SHARED_DICOM.iterdir()):
        whole = path.read_bytes()
        if whole[128:136] != b"DICM\2\0\0\0":
            continue
        offset = 144 + struct.unpack_from("<I", whole, 140)[0]
        try:
            ds = pydicom.dcmread(io.BytesIO(whole), stop_before_pixels=True)
            syntax = ds.file_meta.TransferSyntaxUID
            header = scan_header(whole[offset:], syntax, is_whole=True)
        except (UnparsableDataset, pydicom.errors.InvalidDicomError, AttributeError, EOFError, OSError):
            continue
        assert header is not None
        expected = (ds.get("SOPClassUID", ""), ds.get("SOPInstanceUID", ""), ds.get("SeriesInstanceUID", ""))
        assert (header.sop_class_uid, header.sop_instance_uid, header.series_instance_uid) == expected, path.name
        compared += 1
    assert compared > 150


@pytest.mark.parametrize("undefined_length", [False, True])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED, "1.2.840.10008.1.2.4.90"])
def test_a_whole_data_set_is_whole(syntax: str, undefined_length: bool) -> None:
    require_whole(nested_data_set(syntax, undefined_length=undefined_length), syntax)


def with_pixels(syntax: str, pixels: bytes) -> bytes:
    """Return a data set whose last element is Pixel Data of `pixels`."""
    ds = Dataset()
    ds.SOPInstanceUID, ds.Rows, ds.PixelData = "1.2.3.4", 4, pixels
    ds["PixelData"].VR = "OW"
    target = DicomBytesIO()
    target.is_implicit_VR, target.is_little_endian = syntax == IMPLICIT, syntax != BIG_ENDIAN
    write_dataset(target, ds)
    return bytes(target.getvalue())


@pytest.mark.parametrize("missing", [1, 2, 31, 32, 36, 39])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_a_data_set_cut_in_its_pixel_data_is_known_as_such(syntax: str, missing: int) -> None:
    encoded = with_pixels(syntax, b"\1" * 32)
    require_whole(encoded, syntax)
    with pytest.raises(UnparsableDataset, match="cut off"):
        require_whole(encoded[:-missing], syntax)


@pytest.mark.parametrize("missing", [1, 8, 9, 20])
def test_encapsulated_pixel_data_cut_in_its_fragments_is_known_as_such(missing: int) -> None:
    items = [struct.pack("<HHI", 0xFFFE, 0xE000, length) + b"\1" * length for length in (0, 30, 12)]
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    begin = element(0x0008, 0x0018, b"UI", b"1.2.3.4\0")
    encoded = begin + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + b"".join(items) + end
    require_whole(encoded, "1.2.840.10008.1.2.4.90")
    with pytest.raises(UnparsableDataset, match=r"cut off in or after \(7fe0,0010\)"):
        require_whole(encoded[:-missing], "1.2.840.10008.1.2.4.90")


@pytest.mark.parametrize(
    "tail",
    [b"\0", b"\0" * 7, b"\0" * 64, element(0x0008, 0x0005, b"CS", b"ISO_IR 100")[:-4], b"\xff" * 40],
    ids=["one zero", "seven zeros", "many zeros", "an earlier element", "no element"],
)
def test_what_lies_behind_the_last_element_proves_nothing(tail: bytes) -> None:
    require_whole(with_pixels(EXPLICIT, b"\1" * 32) + tail, EXPLICIT)


@settings(max_examples=300)
@given(st.binary(max_size=300), st.sampled_from([IMPLICIT, EXPLICIT, BIG_ENDIAN]))
def test_any_bytes_are_whole_or_unparsable(encoded: bytes, syntax: str) -> None:
    with contextlib.suppress(UnparsableDataset):
        require_whole(encoded, syntax)


@pytest.mark.parametrize("megabytes", [0, 1, 9])
def test_a_deflated_data_set_is_measured_to_its_end(megabytes: int) -> None:
    size = megabytes << 20
    packed = deflate(bytes(size) + b"end")
    assert inflated_bytes(packed, most=1 << 30) == size + 3
    assert inflated_bytes(packed + b"\0", most=1 << 30) == size + 3
    with pytest.raises(UnparsableDataset, match="cut off"):
        inflated_bytes(packed[:-1], most=1 << 30)


def test_a_deflated_bomb_is_not_followed_to_its_end() -> None:
    packed = deflate(bytes(64 << 20))
    assert 1 << 20 < inflated_bytes(packed, most=1 << 20) < 8 << 20


def test_a_deflated_stream_that_breaks_is_no_data_set() -> None:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    begin = compressor.compress(bytes(9 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    # The last block is of the third type, which there is none of (RFC 1951 3.2.3).
    broken = begin + b"\x07" + bytes(100)
    with pytest.raises(UnparsableDataset, match="broken"):
        inflated_bytes(broken, most=1 << 30)


@pytest.mark.parametrize("uid", ["1.2.3", "1.002", "../../etc", "1." * 32, "a b"])
def test_what_every_system_can_carry_is_an_identifier(uid: str) -> None:
    assert is_identifier(uid)


@pytest.mark.parametrize("tag", [0x0000_0100, 0x0002_0010, 0x0004_1200, 0x0007_0001])
def test_elements_of_other_places_are_none_of_a_data_set(tag: int) -> None:
    encoded = element(tag >> 16, tag & 0xFFFF, b"UI", b"1.2\0") + data_set()
    with pytest.raises(UnparsableDataset, match="has no place in a data set"):
        scan_header(encoded, EXPLICIT, is_whole=True)


def test_an_identifier_that_is_there_twice_must_be_the_same() -> None:
    encoded = data_set()
    cut = encoded.index(struct.pack("<HH", 0x0008, 0x0060))
    same, other = (element(0x0008, 0x0018, b"UI", uid) for uid in (b"1.2.3.4", b"1.2.3.5"))
    assert scan_header(encoded[:cut] + same + encoded[cut:], EXPLICIT, is_whole=True) == WITH_PATIENT
    with pytest.raises(UnparsableDataset, match="twice"):
        scan_header(encoded[:cut] + other + encoded[cut:], EXPLICIT, is_whole=True)
