"""Opening stored files: attributes as they were received, pixel data located, nothing believed."""

from __future__ import annotations

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
from dicom_node.part10 import PIXEL_DATA, detached_view, open_part10
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
    ds.private_block(0x0029, "PHANTOM", create=True).add_new(0x10, "OB", b"\0odd ")
    ds.DataSetTrailingPadding = bytes(6)
    return save(set_transfer_syntax(ds, UID(syntax)), tmp_path / "object.dcm")


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_attribute_is_there_but_for_pixel_data(tmp_path: Path, syntax: UID) -> None:
    with open_part10(written(tmp_path, syntax)) as part10:
        assert part10.transfer_syntax_uid == syntax
        assert PIXEL_DATA not in part10.header
        assert part10.header.PatientName == "Phantom^Low Dose"
        assert part10.header[0x0029, 0x1010].value == b"\0odd "
        assert part10.header.DataSetTrailingPadding == bytes(6)
        assert part10.pixel_data is not None
        assert part10.pixel_data.encapsulated == syntax.is_encapsulated


def test_looking_at_a_view_leaves_the_bytes_as_they_are(tmp_path: Path) -> None:
    with open_part10(written(tmp_path, UID(ExplicitVRLittleEndian))) as part10:
        before = {tag: part10.header.get_item(tag, keep_deferred=True) for tag in part10.header.keys()}  # noqa: SIM118
        view = detached_view(part10.header)
        assert [str(element) for element in view]
        assert is_enhanceable(part10.header).enhance
        for tag, element in before.items():
            assert part10.header.get_item(tag, keep_deferred=True) is element


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_file_cut_anywhere_in_the_pixels_is_refused(tmp_path: Path, syntax: UID) -> None:
    path = written(tmp_path, syntax)
    content = path.read_bytes()
    for cut in (1, 10, 40):
        path.write_bytes(content[:-cut])
        with pytest.raises(UnsupportedPixels), open_part10(path) as part10:
            # Trailing padding alone may be lost unseen only where an element ends at the cut.
            list(iter_frames(part10, read_spec(part10.header)))
            raise UnsupportedPixels("nothing but the padding was cut off" if cut > 20 else "")


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


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    syntax = data.draw(st.sampled_from(SYNTAXES))
    ds = xa_dataset(np.arange(24, dtype=np.uint16).reshape(2, 3, 4))
    path = save(set_transfer_syntax(ds, UID(syntax)), folder / "object.dcm")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(132, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(200, len(content))) :]
    path.write_bytes(content)
    try:
        with open_part10(path) as part10:
            decision = is_enhanceable(part10.header)
            assert decision.reason
            spec = read_spec(part10.header)
            if spec.rows * spec.columns * spec.frames < 1_000_000:
                list(iter_frames(part10, spec))
    except UnsupportedPixels as error:
        assert str(error)
