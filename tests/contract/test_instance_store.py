"""What everybody may rely on in the instance store: durable or not there, and never anything in between."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.errors import OutOfResources
from dicom_node.instance_store import IncomingObject, InstanceStore, UnknownObject
from tests.support.network import CT, EXPLICIT, data_set

BODY = data_set(pixels=bytes(range(256)) * 40)


@pytest.fixture
def store(tmp_path: Path) -> InstanceStore:
    return InstanceStore(tmp_path / "data")


def create(store: InstanceStore) -> IncomingObject:
    return store.create(
        sop_class_uid=CT, sop_instance_uid="1.2.3.4", transfer_syntax_uid=EXPLICIT, source_ae_title="XRAY1"
    )


def write(store: InstanceStore, body: bytes = BODY) -> IncomingObject:
    incoming = create(store)
    for begin in range(0, len(body), 1000):
        incoming.write(memoryview(body)[begin : begin + 1000])
    return incoming


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_committed_object_is_a_part10_file_with_the_bytes_that_came(store: InstanceStore) -> None:
    stored = write(store).commit()
    content = store.path(stored.key).read_bytes()
    assert content[stored.dataset_offset :] == BODY
    assert (stored.size, stored.digest) == (len(content), hashlib.sha256(BODY).hexdigest())
    ds = pydicom.dcmread(store.path(stored.key))
    meta = ds.file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, "1.2.3.4")
    assert (meta.TransferSyntaxUID, meta.SourceApplicationEntityTitle) == (EXPLICIT, "XRAY1")
    assert UID(meta.ImplementationClassUID).is_valid
    assert len(meta.ImplementationVersionName) <= 16
    assert ds.PixelData == bytes(range(256)) * 40


def test_nothing_is_in_place_before_commit_and_nothing_is_left_after_discard(
    store: InstanceStore, tmp_path: Path
) -> None:
    incoming = write(store)
    assert list(store.keys()) == []
    incoming.discard()
    incoming.discard()
    assert files_below(tmp_path) == []


def test_discard_after_commit_leaves_the_object(store: InstanceStore) -> None:
    incoming = write(store)
    stored = incoming.commit()
    incoming.discard()
    assert store.path(stored.key).exists()


def _watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record fsync and rename as they happen: which kind of file, and where to."""
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        steps.append("fsync folder" if stat.S_ISDIR(mode) else "fsync file")
        fsync(descriptor)

    def watched_rename(source: Path, target: Path) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    return steps


def _store_received(store: InstanceStore) -> None:
    write(store).commit()


def _store_derived(store: InstanceStore) -> None:
    store.save(derived(ExplicitVRLittleEndian))


def _store_quarantined(store: InstanceStore) -> None:
    store.quarantine(write(store), "no data set")


@pytest.mark.parametrize("action", [_store_received, _store_derived, _store_quarantined])
def test_file_is_synced_then_renamed_then_its_folder_is_synced(
    store: InstanceStore, monkeypatch: pytest.MonkeyPatch, action: Callable[[InstanceStore], None]
) -> None:
    steps = _watch(monkeypatch)
    action(store)
    assert steps == ["fsync file", "rename", "fsync folder"]


def test_new_folders_are_synced_before_the_first_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = _watch(monkeypatch)
    InstanceStore(tmp_path / "new")
    assert steps == ["fsync folder"] * 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open"])
def test_a_disk_that_fails_is_out_of_resources_and_leaves_nothing(
    store: InstanceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    def attempt() -> None:
        write(store).commit()

    incoming = write(store) if call in ("fsync", "rename") else None
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutOfResources, match=os.strerror(number)):
        incoming.commit() if incoming else attempt()
    monkeypatch.undo()
    assert files_below(tmp_path) == []


def test_a_derived_object_that_cannot_be_written_leaves_nothing(
    store: InstanceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutOfResources):
        store.save(derived(ExplicitVRLittleEndian))
    assert files_below(tmp_path) == []


def test_files_and_folders_are_for_the_owner_alone(store: InstanceStore, tmp_path: Path) -> None:
    stored = write(store).commit()
    quarantined = store.quarantine(write(store), "no data set")
    saved = store.save(derived(ExplicitVRLittleEndian))
    for key in (stored.key, quarantined.key, saved.key):
        assert stat.S_IMODE(store.path(key).stat().st_mode) == 0o600
    for folder in ("incoming", "objects", "quarantine"):
        assert stat.S_IMODE((tmp_path / "data" / folder).stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "key", ["", "..", "../x", "1.2.3.4", "A" * 32, "a" * 31, "a" * 32 + "/x", "q-", "x-" + "a" * 32]
)
def test_only_keys_of_the_store_name_files(store: InstanceStore, key: str) -> None:
    with pytest.raises(UnknownObject):
        store.path(key)


def test_keys_tell_nothing_of_the_object_and_never_repeat(store: InstanceStore) -> None:
    keys = {write(store).commit().key for _ in range(50)}
    assert len(keys) == 50
    assert sorted(keys) == sorted(store.keys())


def test_delete_removes_once_and_is_no_error_twice(store: InstanceStore) -> None:
    stored = write(store).commit()
    store.delete(stored.key)
    store.delete(stored.key)
    assert list(store.keys()) == []


def test_an_incoming_object_goes_to_quarantine_with_its_reason(store: InstanceStore) -> None:
    stored = store.quarantine(write(store), "an element runs over the end")
    path = store.path(stored.key)
    assert path.read_bytes()[stored.dataset_offset :] == BODY
    assert stored.digest == hashlib.sha256(BODY).hexdigest()
    assert path.with_suffix(".txt").read_text() == "an element runs over the end\n"
    assert (list(store.keys()), list(store.quarantined_keys())) == ([], [stored.key])


def test_a_stored_object_goes_to_quarantine_unchanged(store: InstanceStore) -> None:
    first = write(store).commit()
    content = store.path(first.key).read_bytes()
    stored = store.quarantine(first.key, "operator")
    assert (stored.size, stored.dataset_offset, stored.digest) == (first.size, first.dataset_offset, first.digest)
    assert store.path(stored.key).read_bytes() == content
    assert not store.path(first.key).exists()
    with pytest.raises(UnknownObject):
        store.quarantine(first.key, "again")


def test_sweep_removes_what_a_crash_left_and_spares_what_is_being_written(store: InstanceStore, tmp_path: Path) -> None:
    write(store)
    fresh = write(store)
    old = files_below(tmp_path / "data" / "incoming")
    left = next(path for path in old if path.name != fresh.key)
    os.utime(left, (0, 0))
    assert store.sweep_incoming(older_than_s=3600) == 1
    assert [path.name for path in files_below(tmp_path / "data" / "incoming")] == [fresh.key]
    assert fresh.commit().key in set(store.keys())


def test_a_second_store_on_the_folder_sees_the_same_objects(store: InstanceStore, tmp_path: Path) -> None:
    stored = write(store).commit()
    again = InstanceStore(tmp_path / "data")
    assert list(again.keys()) == [stored.key]
    assert again.path(stored.key).read_bytes() == store.path(stored.key).read_bytes()


def test_beginning_and_mapping_show_the_data_set_alone(store: InstanceStore) -> None:
    incoming = write(store)
    assert incoming.read_beginning(10) == BODY[:10]
    assert incoming.read_beginning(1 << 20) == BODY
    with incoming.mapped() as mapped:
        assert bytes(mapped) == BODY
    assert incoming.dataset_bytes == len(BODY)
    incoming.discard()


def derived(syntax: UID) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientName = CT, "1.2.3.5", "A^B"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.2"
    ds.Rows = ds.Columns = 4
    ds.BitsAllocated = 16
    ds.add_new("PixelData", "OW", bytes(range(32)))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CT, "1.2.3.5"
    return ds


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_saved_data_set_reads_back_and_gives_the_same_bytes_again(store: InstanceStore, syntax: UID) -> None:
    first, second = store.save(derived(syntax)), store.save(derived(syntax))
    content = store.path(first.key).read_bytes()
    assert content == store.path(second.key).read_bytes()
    assert first.key != second.key
    assert (first.size, first.digest) == (len(content), hashlib.sha256(content[first.dataset_offset :]).hexdigest())
    ds = pydicom.dcmread(store.path(first.key))
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert (ds.PatientName, ds.PixelData) == ("A^B", bytes(range(32)))
