from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydicom import dcmwrite
from pydicom.data import get_testdata_file
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.errors import OperationRefused
from dicom_node.sending import NotSendable, find_files, parse_target, read_item, read_items
from tests.support.items import DX, small_image, write_image


@pytest.mark.parametrize(
    ("text", "ae_title", "host", "port"),
    [
        ("LOWDOSE@127.0.0.1:11112", "LOWDOSE", "127.0.0.1", 11112),
        ("PACS 1@pacs.example.org:104", "PACS 1", "pacs.example.org", 104),
        ("A@B@host:4242", "A@B", "host", 4242),
        ("LOWDOSE@[::1]:11112", "LOWDOSE", "::1", 11112),
    ],
)
def test_a_target_is_title_host_and_port(text: str, ae_title: str, host: str, port: int) -> None:
    target = parse_target(text)
    assert (target.ae_title, target.host, target.port) == (ae_title, host, port)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write AET@HOST:PORT"),
        ("LOWDOSE", "write AET@HOST:PORT"),
        ("localhost:11112", "write AET@HOST:PORT"),
        ("@localhost:11112", "write AET@HOST:PORT"),
        ("LOWDOSE@localhost", "write AET@HOST:PORT"),
        ("LOWDOSE@localhost:", "write AET@HOST:PORT"),
        ("LOWDOSE@::1:11112", "write an IPv6 address in brackets"),
        ("LOWDOSE@localhost:dicom", "the port 'dicom' is not a number"),
        ("LOWDOSE@localhost:70000", "less than or equal to 65535"),
        ("LOWDOSE@localhost:0", "greater than or equal to 1"),
        ("A-TITLE-TOO-LONG-BY-FAR@localhost:104", "1 to 16 characters"),
        ("BACK\\SLASH@localhost:104", "without backslash"),
    ],
)
def test_a_target_that_is_none_is_told_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(OperationRefused) as caught:
        parse_target(text)
    assert words in str(caught.value)


def test_files_and_folders_are_found_recursively_in_order(tmp_path: Path) -> None:
    for name in ("b/2.dcm", "b/1.dcm", "a/deep/3.dcm", "9.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_files([tmp_path / "b", tmp_path])]
    assert found == ["b/1.dcm", "b/2.dcm", "9.dcm", "a/deep/3.dcm", "b/1.dcm", "b/2.dcm"]


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperationRefused, match="does not exist; give files or folders"):
        list(find_files([tmp_path / "nothing"]))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_part_10_file_is_known_without_its_pixels(tmp_path: Path, syntax: str) -> None:
    path = write_image(tmp_path, 4, syntax=syntax)
    item = read_item(path, 7)
    assert (item.instance_id, item.sop_class_uid, item.transfer_syntax_uid) == (7, DX, syntax)
    assert item.sop_instance_uid == small_image(4).SOPInstanceUID
    first_tag = path.read_bytes()[item.dataset_offset : item.dataset_offset + 4]
    assert first_tag == (b"\x00\x08\x00\x16" if syntax == ExplicitVRBigEndian else b"\x08\x00\x16\x00")


@pytest.mark.parametrize(
    ("implicit", "syntax"),
    [(True, ImplicitVRLittleEndian), (False, ExplicitVRLittleEndian)],
    ids=["implicit", "explicit"],
)
def test_a_bare_data_set_is_sent_as_what_it_is(tmp_path: Path, implicit: bool, syntax: str) -> None:
    path, ds = tmp_path / "bare", small_image(3)
    del ds.file_meta
    dcmwrite(path, ds, implicit_vr=implicit, little_endian=True)
    item = read_item(path, 0)
    assert (item.dataset_offset, item.transfer_syntax_uid) == (0, syntax)
    assert item.sop_instance_uid == ds.SOPInstanceUID


def test_the_data_set_tells_the_identity_where_the_file_meta_disagrees(tmp_path: Path) -> None:
    path, ds = tmp_path / "x.dcm", small_image(3)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    ds.save_as(path, enforce_file_format=False)
    assert read_item(path, 0).sop_instance_uid == ds.SOPInstanceUID


def test_a_broken_data_set_is_still_sent_for_the_peer_to_judge(tmp_path: Path) -> None:
    source = write_image(tmp_path, 3)
    item = read_item(source, 0)
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(source.read_bytes()[: item.dataset_offset] + b"\x08\x00\x05\x00SQ\x00\x00\xff\xff\x00\x00junk")
    assert read_item(broken, 0).sop_instance_uid == item.sop_instance_uid


@pytest.mark.parametrize("content", [b"", b"{}", b"hello " * 100, b"\x89PNG\r\n\x1a\n" + bytes(300), bytes(1000)])
def test_what_is_no_dicom_object_is_skipped_and_counted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    image = write_image(tmp_path, 1)
    items, skipped = read_items([tmp_path])
    assert [item.path for item in items] == [image]
    assert [(trouble.path.name, trouble.reason) for trouble in skipped] == [("other", "not a DICOM file")]


def test_an_object_without_identity_is_skipped_with_the_reason(tmp_path: Path) -> None:
    path, ds = tmp_path / "x.dcm", small_image(3)
    del ds.SOPInstanceUID
    del ds.file_meta
    dcmwrite(path, ds, implicit_vr=True, little_endian=True)
    with pytest.raises(NotSendable, match="no SOP Class UID or no SOP Instance UID"):
        read_item(path, 0)


def test_a_dicomdir_is_no_storable_object(tmp_path: Path) -> None:
    source = get_testdata_file("DICOMDIR", download=False)
    if not isinstance(source, str):
        pytest.skip("this pydicom carries no DICOMDIR along")
    shutil.copy(source, tmp_path / "DICOMDIR")
    _, skipped = read_items([tmp_path])
    assert "DICOMDIR" in skipped[0].reason
