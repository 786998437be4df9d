"""Opening stored files: attributes as they were received, pixel data located, nothing believed."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_node.derivation import is_enhanceable
from dicom_node.errors import UnsupportedPixels
from dicom_node.header_encoding import encode_elements
from dicom_node.part10 import PIXEL_DATA, detached_view, open_part10, read_beginning, readable
from dicom_node.pixels import iter_frames, read_spec
from tests.support.objects import dx_dataset, save, set_transfer_syntax, xa_dataset

SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)


def written(tmp_path: Path, syntax: UID) -> Path:
    ds = dx_dataset(np.arange(12, dtype=np.uint16).reshape(3, 4))
    ds.private_block(0x0029, "PHANTOM", create=True).add_new(0x10, "OB", b"\0\1data")
    ds.DataSetTrailingPadding = bytes(6)
    return save(set_transfer_syntax(ds, UID(syntax)), tmp_path / "object.dcm")


def read_everything(path: Path) -> None:
    with open_part10(path) as part10:
        assert is_enhanceable(part10.header).reason
        spec = read_spec(part10.header)
        if spec.rows * spec.columns * spec.frames < 1_000_000:
            list(iter_frames(part10, spec))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_attribute_is_there_but_for_pixel_data(tmp_path: Path, syntax: UID) -> None:
    with open_part10(written(tmp_path, syntax)) as part10:
        assert part10.transfer_syntax_uid == syntax
        assert PIXEL_DATA not in part10.header
        assert part10.header.PatientName == "Phantom^Low Dose"
        assert part10.header[0x0029, 0x1010].value == b"\0\1data"
        assert part10.header.DataSetTrailingPadding == bytes(6)
        assert part10.pixel_data is not None
        assert part10.pixel_data.encapsulated == syntax.is_encapsulated


@pytest.mark.parametrize("implicit", [False, True])
def test_a_private_sequence_hidden_in_un_is_encoded_as_it_came(tmp_path: Path, implicit: bool) -> None:
    element = struct.pack("<HHI", 0x0029, 0x1011, 4) + b"data"
    items = struct.pack("<HHI", 0xFFFE, 0xE000, len(element)) + element
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    path = written(tmp_path, UID(ExplicitVRLittleEndian))
    plain = struct.pack("<HH2sHI", 0x0029, 0x1010, b"OB", 0, 6) + b"\0\1data"
    hidden = struct.pack("<HH2sHI", 0x0029, 0x1010, b"UN", 0, 0xFFFFFFFF) + items + end
    data = path.read_bytes()
    assert data.count(plain) == 1
    path.write_bytes(data.replace(plain, hidden))
    with open_part10(path) as part10:
        encoded = encode_elements(part10.header, implicit=implicit)
        following = part10.header.get_item(0x00400555)
    expected = struct.pack("<HHI", 0x0029, 0x1010, 0xFFFFFFFF) + items + end if implicit else hidden
    assert expected in encoded
    assert following is not None


def test_looking_at_a_view_leaves_the_bytes_as_they_are(tmp_path: Path) -> None:
    with open_part10(written(tmp_path, UID(ExplicitVRLittleEndian))) as part10:
        before = {tag: part10.header.get_item(tag, keep_deferred=True) for tag in part10.header.keys()}  # noqa: SIM118
        view = detached_view(part10.header)
        assert [str(element) for element in view]
        assert is_enhanceable(part10.header).enhance
        for tag, element in before.items():
            assert part10.header.get_item(tag, keep_deferred=True) is element


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("cut", [2, 12, 30])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, syntax: UID, cut: int) -> None:
    # The last 18 bytes are Data Set Trailing Padding, before them come pixels.
    path = written(tmp_path, syntax)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UnsupportedPixels):
        read_everything(path)


def test_a_deflated_data_set_that_grows_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, UID(DeflatedExplicitVRLittleEndian))
    content = path.read_bytes()
    (group_length,) = struct.unpack("<L", content[140:144])
    bomb = zlib.compressobj(9, wbits=-15)
    # 64 MB of an unknown private element in some kilobytes.
    head = struct.pack("<HH2sHL", 0x0029, 0x1010, b"OB", 0, 2**26)
    deflated = bomb.compress(head + bytes(2**26)) + bomb.flush()
    assert len(deflated) < 100_000
    path.write_bytes(content[: 144 + group_length] + deflated)
    with pytest.raises(UnsupportedPixels, match="inflates beyond"), open_part10(path, max_inflated_bytes=2**24):
        pass


def test_the_bytes_decide_between_implicit_and_explicit_vr(tmp_path: Path) -> None:
    path = written(tmp_path, UID(ImplicitVRLittleEndian))
    content = path.read_bytes().replace(b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0", 1)
    # The file meta grew by two bytes.
    lengths = content[:140] + struct.pack("<L", struct.unpack("<L", content[140:144])[0] + 2) + content[144:]
    at = lengths.index(b"\x02\x00\x10\x00UI") + 6
    path.write_bytes(lengths[:at] + struct.pack("<H", 20) + lengths[at + 2 :])
    with open_part10(path) as part10:
        assert part10.header.PatientID == "PHANTOM-1"


@pytest.fixture(scope="module")
def damaged_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "object.dcm"


@pytest.mark.parametrize("message", ["Invalid value for VR IS: 'Doe^Jane'.", 'unexpected b"Doe^Jane" in it'])
def test_a_reason_quotes_no_value(message: str) -> None:
    with pytest.raises(UnsupportedPixels) as caught, readable("the data set"):
        raise ValueError(message)
    assert "Doe" not in str(caught.value)
    assert "the data set can't be read" in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200)
@given(
    syntax=st.sampled_from(SYNTAXES),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    kept=st.floats(0.2, 1),
)
def test_damaged_files_are_refused_or_read_and_nothing_else(
    damaged_file: Path, syntax: UID, damage: list[tuple[float, int]], kept: float
) -> None:
    ds = xa_dataset(np.arange(24, dtype=np.uint16).reshape(2, 3, 4), SOPInstanceUID="1.2.3", SeriesInstanceUID="1.2.4")
    path = save(set_transfer_syntax(ds, UID(syntax)), damaged_file)
    content = bytearray(path.read_bytes())
    for position, value in damage:
        content[132 + int(position * (len(content) - 133))] = value
    path.write_bytes(content[: int(kept * len(content))])
    # Nothing but this one error may come out, whatever is in the file.
    with contextlib.suppress(UnsupportedPixels):
        read_everything(path)


def rewritten(tmp_path: Path, *elements: bytes) -> Path:
    """Return a file whose data set is these encoded elements, explicit VR."""
    path = written(tmp_path, UID(ExplicitVRLittleEndian))
    content = path.read_bytes()
    (group_length,) = struct.unpack("<L", content[140:144])
    path.write_bytes(content[: 144 + group_length] + b"".join(elements))
    return path


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    head = struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, len(value) if length is None else length)
    return head + value


OPEN_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
ITEM, END_OF_SEQUENCE = struct.pack("<HHL", 0xFFFE, 0xE000, 0), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
UID_ELEMENT = struct.pack("<HH2sH", 8, 0x18, b"UI", 4) + b"1.2\0"


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (element(0x00291001, b"OB", b"ab", 2**27 + 1), "take more than 128 MB"),
        (element(0x00291001, b"OB", bytes(2**27 + 1), 0xFFFFFFFF), "take more than 128 MB"),
        (element(0x00400555, b"SQ", ITEM * 100_000 + END_OF_SEQUENCE, 0xFFFFFFFF), "more than 200000 reads"),
        (element(0x00400555, b"SQ", ITEM * 100_001), "more than 100000 elements"),
        (element(0x00400555, b"UN", ITEM * 100_001), "more than 100000 elements"),
        (
            element(0x00400555, b"SQ", ITEM[:4] + b"\xff" * 4 + element(0x00080104, b"UT", b"") * 100_001),
            "more than 10",
        ),
    ],
    ids=["announced", "endless", "items", "items unparsed", "items of unknown VR", "elements of an item"],
)
def test_what_would_take_too_much_memory_is_refused(tmp_path: Path, hostile: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedPixels, match=reason), open_part10(rewritten(tmp_path, UID_ELEMENT, hostile)):
        pass


def test_what_is_just_within_the_bounds_is_read(tmp_path: Path) -> None:
    items = element(0x00400555, b"SQ", ITEM * 100_000)
    with open_part10(rewritten(tmp_path, UID_ELEMENT, items)) as part10:
        assert len(part10.header[0x00400555].value) == 100_000
    bulk = element(0x00291001, b"OB", bytes(2**26))
    with open_part10(rewritten(tmp_path, UID_ELEMENT, bulk)) as part10:
        assert len(part10.header[0x00291001].value) == 2**26


def test_elements_within_other_elements_are_counted_as_they_stand(tmp_path: Path) -> None:
    # 1 sequence with 40 000 items, each with an element and a sequence of one item: 160 000 headers.
    inner = element(0x00081140, b"SQ", ITEM)
    item = element(0x00080104, b"UT", b"xx") + inner
    items = (ITEM[:4] + struct.pack("<L", len(item)) + item) * 40_000
    path = rewritten(tmp_path, UID_ELEMENT, element(0x00400555, b"SQ", items))
    with pytest.raises(UnsupportedPixels, match="more than 100000 elements"), open_part10(path):
        pass
    with open_part10(rewritten(tmp_path, UID_ELEMENT, element(0x00400555, b"SQ", items[: len(items) // 2]))) as part10:
        assert part10.header[0x00400555].value[19_999].CodeMeaning == "xx"


def test_a_deflated_data_set_is_inflated_in_the_folder_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    asked: list[object] = []
    original = tempfile.TemporaryFile

    def watched(*arguments: object, **options: object) -> object:
        asked.append(options.get("dir"))
        return original(*arguments, **options)  # type: ignore[call-overload]

    path = written(tmp_path, UID(DeflatedExplicitVRLittleEndian))
    monkeypatch.setattr("dicom_node.part10.tempfile.TemporaryFile", watched)
    with open_part10(path, folder=tmp_path):
        assert asked == [tmp_path]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_beginning_is_what_stands_before_pixel_data(tmp_path: Path, syntax: UID) -> None:
    path = written(tmp_path, syntax)
    beginning = read_beginning(path)
    assert (beginning.Modality, beginning.PatientID, beginning.Rows) == ("DX", "PHANTOM-1", 3)
    with open_part10(path) as part10:
        assert set(beginning.keys()) == {tag for tag in part10.header.keys() if tag < PIXEL_DATA}  # noqa: SIM118


@pytest.mark.parametrize(
    "hostile",
    [
        element(0x00291001, b"OB", b"ab", 2**27 + 1),
        element(0x00291001, b"OB", b"ab", 500),
        element(0x00291001, b"OB", b"ab", 0xFFFFFFFF),
        element(0x00400555, b"SQ", ITEM * 100_000 + END_OF_SEQUENCE, 0xFFFFFFFF),
        element(0x00400555, b"SQ", ITEM * 100_001),
        element(0x00400555, b"SQ", OPEN_ITEM, 0xFFFFFFFF) * 3000,
    ],
    ids=["too long", "cut off", "endless", "too many", "too many unparsed", "too deep"],
)
def test_the_beginning_ends_where_something_cannot_be_read(tmp_path: Path, hostile: bytes) -> None:
    rows = struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, 7)
    path = rewritten(tmp_path, UID_ELEMENT, rows, hostile, element(0x00420010, b"UT", b"behind"))
    with pytest.raises(UnsupportedPixels), open_part10(path):
        pass
    beginning = read_beginning(path)
    assert (beginning.SOPInstanceUID, beginning.Rows, len(beginning)) == ("1.2", 7, 2)


def test_the_beginning_of_what_is_no_data_set_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "object.dcm"
    for content in (b"", b"abc", bytes(128) + b"DICM", b"\xff" * 500):
        path.write_bytes(content)
        assert len(read_beginning(path)) == 0
