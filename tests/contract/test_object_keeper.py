"""Every place where objects may lie keeps what it is given: a folder, a folder that is shared, a bucket."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import pytest

from dicom_node.instance_store import InstanceStore, StoredObject, UnknownObject
from dicom_node.object_bucket import BucketKeeper, BucketPlace, open_bucket
from dicom_node.object_cache import GRACE_S, ObjectCache
from dicom_node.object_keeping import FolderKeeper, StoreUnavailable
from tests.support.object_storage import BUCKET, CREDENTIALS, MOTO_SERVER, ObjectStorage, requires_moto

BODY = bytes(range(256)) * 40
Opened = Callable[[str], InstanceStore]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStorage]:
    """Return a running S3 service."""
    with ObjectStorage(tmp_path_factory.mktemp("s3")) as running:
        yield running


def open_machine(service: ObjectStorage, folder: Path, *, prefix: str, cache_bytes: int = 1 << 30) -> InstanceStore:
    """Open the store of one machine on the bucket."""
    place = BucketPlace(bucket=BUCKET, prefix=prefix, endpoint=service.endpoint)
    cache = ObjectCache(folder / "cache", folder / "incoming", cache_bytes)
    return InstanceStore(folder, BucketKeeper(open_bucket(place), cache))


@pytest.fixture(params=["shared folder", "bucket"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Return a function that opens the store as a machine of this name sees it."""
    if request.param == "bucket":
        if MOTO_SERVER is None:
            pytest.skip("moto is not installed (scripts/test makes .moto)")
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        service = request.getfixturevalue("service")
        return lambda name: open_machine(service, tmp_path / name, prefix=tmp_path.name)
    shared = tmp_path / "shared"
    return lambda name: InstanceStore(tmp_path / name, FolderKeeper(shared), shared / "incoming" / name)


def write(store: InstanceStore, body: bytes = BODY) -> str:
    """Store an object; returns its key."""
    incoming = store.create(
        sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid="1.2.840.10008.1.2.1", source_ae_title="A"
    )
    incoming.write(memoryview(body))
    return incoming.commit().key


def test_what_one_machine_stores_another_reads_lists_and_deletes(machine: Opened) -> None:
    here, there = machine("a"), machine("b")
    key = write(here)
    assert there.path(key).read_bytes() == here.path(key).read_bytes()
    assert there.path(key).read_bytes().endswith(BODY)
    assert there.size(key) == here.path(key).stat().st_size
    assert list(there.keys()) == [key]
    there.delete(key)
    there.delete(key)
    assert (list(here.keys()), here.size(key)) == ([], None)
    assert not there.path(key).exists()


def test_nothing_is_left_in_incoming_after_a_commit_or_a_failure(machine: Opened, tmp_path: Path) -> None:
    here = machine("a")
    write(here)
    here.create(sop_class_uid="1", sop_instance_uid="1", transfer_syntax_uid="1", source_ae_title="A").discard()
    assert [path for path in tmp_path.rglob("*") if "incoming" in path.parts and path.is_file()] == []


def test_quarantine_moves_the_object_with_its_reason(machine: Opened) -> None:
    here, there = machine("a"), machine("b")
    key = write(here)
    whole = here.path(key).read_bytes()
    stored = there.quarantine(key, "not what it claims to be")
    assert stored.key == f"q-{key}"
    assert here.path(stored.key).read_bytes() == whole
    assert (list(here.keys()), list(here.quarantined_keys())) == ([], [stored.key])
    assert here.size(key) is None
    with pytest.raises(UnknownObject):
        there.quarantine(key, "again")


def test_a_file_is_held_until_the_block_ends(machine: Opened) -> None:
    here, there = machine("a"), machine("b")
    key = write(here)
    with there.held() as locate:
        path = locate(key)
        assert path.read_bytes().endswith(BODY)
        assert not locate("0" * 32).exists()


def test_a_machine_sweeps_only_what_it_left_itself(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    stores = {
        name: InstanceStore(tmp_path / name, FolderKeeper(shared), shared / "incoming" / name) for name in ("a", "b")
    }
    for name in stores:
        left = shared / "incoming" / name / "left"
        left.write_bytes(b"half")
        os.utime(left, (0, 0))
    assert stores["a"].sweep_incoming(3600) == 1
    assert not (shared / "incoming/a/left").exists()
    assert (shared / "incoming/b/left").exists()


def test_a_rename_whose_answer_was_lost_has_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = InstanceStore(tmp_path)
    rename = os.rename

    def asked_twice(source: Path, target: Path) -> None:
        rename(source, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", asked_twice)
    key = write(store)
    assert store.path(key).read_bytes().endswith(BODY)


@pytest.fixture
def bucket(service: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Return a function that opens the store of a machine with a small cache."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return lambda name: open_machine(service, tmp_path / name, prefix=tmp_path.name, cache_bytes=25_000)


@requires_moto
def test_an_object_goes_into_the_bucket_with_its_sha256(bucket: Opened, service: ObjectStorage, tmp_path: Path) -> None:
    key = write(bucket("a"))
    found = obstore.get(service.client(), f"{tmp_path.name}/objects/{key[:2]}/{key}.dcm")
    assert bytes(found.bytes()) == bucket("a").path(key).read_bytes()
    assert "sha256" in found.attributes


@requires_moto
def test_bytes_that_came_wrong_are_not_used(bucket: Opened, service: ObjectStorage, tmp_path: Path) -> None:
    key = write(bucket("a"))
    name = f"{tmp_path.name}/objects/{key[:2]}/{key}.dcm"
    digest = obstore.get(service.client(), name).attributes["sha256"]
    obstore.put(service.client(), name, b"other", attributes={"sha256": str(digest)})
    there = bucket("b")
    with pytest.raises(StoreUnavailable):
        there.path(key)
    assert not list((tmp_path / "b/cache").iterdir())
    assert not list((tmp_path / "b/incoming").iterdir())


@requires_moto
@pytest.mark.parametrize("damage", [b"", b"other", None], ids=["emptied by a power cut", "decayed", "gone"])
def test_a_copy_that_is_damaged_is_fetched_again(bucket: Opened, tmp_path: Path, damage: bytes | None) -> None:
    key = write(bucket("a"))
    there = bucket("b")
    size = there.path(key).stat().st_size
    expected = StoredObject(
        key=key, size=size, dataset_offset=size - len(BODY), digest=hashlib.sha256(BODY).hexdigest()
    )
    copy = tmp_path / "b/cache" / f"{key}.dcm"
    copy.unlink()
    if damage is not None:
        copy.write_bytes(damage)
    with there.held() as locate:
        path, found = there.examine(key, expected, locate=locate)
        assert found.is_sound
        assert path.read_bytes().endswith(BODY)


@requires_moto
def test_an_object_larger_than_a_part_goes_and_comes_whole(bucket: Opened) -> None:
    body = os.urandom(23_000_001)
    key = write(bucket("a"), body)
    assert bucket("b").path(key).read_bytes().endswith(body)


@requires_moto
def test_the_cache_is_bounded_and_spares_what_is_held(bucket: Opened, tmp_path: Path) -> None:
    here, there = bucket("a"), bucket("b")
    keys = [write(here, os.urandom(10_000)) for _ in range(4)]
    with there.held() as locate:
        held = locate(keys[0])
        before = held.read_bytes()
        for number, key in enumerate(keys[1:]):
            there.path(key)
            # As if some time had passed: what was asked for just now is spared.
            for age, known in enumerate(keys[: number + 2]):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(tmp_path / "b/cache" / f"{known}.dcm", (time.time() - 3 * GRACE_S - 10 + age,) * 2)
        there.path(keys[3])
        write(there, b"last")
        copies = {copy.stem for copy in (tmp_path / "b/cache").iterdir()}
        assert keys[0] not in copies
        assert sum(copy.stat().st_size for copy in (tmp_path / "b/cache").iterdir()) <= 25_000
        assert held.read_bytes() == before
    assert not held.exists()
    assert there.path(keys[0]).read_bytes() == before
    assert not list((tmp_path / "b/incoming").iterdir())


@requires_moto
def test_a_bucket_that_does_not_answer_is_a_passing_state(
    bucket: Opened, service: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.object_bucket._REQUEST_TIMEOUT_S", 0.5)
    monkeypatch.setattr("dicom_node.object_bucket._RETRY_FOR_S", 0.5)
    here, there = bucket("a"), bucket("b")
    key = write(here)
    service.stall()
    try:
        with pytest.raises(StoreUnavailable) as told:
            write(here)
        assert told.value.status == 0xA700
        with pytest.raises(StoreUnavailable):
            there.path(key)
        # What this machine stored itself is at hand.
        assert here.path(key).read_bytes().endswith(BODY)
    finally:
        service.mend()
    assert not list((tmp_path / "a/incoming").iterdir())
    assert there.path(key).read_bytes().endswith(BODY)
    write(here)
