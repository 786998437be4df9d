"""Objects in S3, or in anything that speaks its protocol, with copies on this machine for what is being worked on."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from dicom_node.object_cache import ObjectCache
from dicom_node.object_keeping import QUARANTINED, StoreUnavailable, UnknownObject, require_key

_DIGEST: Final = "sha256"
_CONNECT_TIMEOUT_S: Final = 5.0
_REQUEST_TIMEOUT_S: Final = 60.0
_RETRY_FOR_S: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class BucketPlace:
    """Which bucket, and how it is reached; credentials come from the environment (AWS_ACCESS_KEY_ID ...)."""

    bucket: str
    prefix: str = ""
    region: str = "us-east-1"
    endpoint: str = ""


def open_bucket(place: BucketPlace) -> S3Store:
    """Return the client of a bucket; nothing is asked of it yet.

    Every object goes with its SHA-256, which S3 compares before it acknowledges (x-amz-checksum-sha256).
    """
    options: dict[str, Any] = {"endpoint": place.endpoint} if place.endpoint else {}
    return S3Store(
        place.bucket,
        prefix=place.prefix or None,
        region=place.region,
        checksum_algorithm="SHA256",
        virtual_hosted_style_request=not place.endpoint,
        client_options={
            "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S),
            "timeout": timedelta(seconds=_REQUEST_TIMEOUT_S),
            "allow_http": place.endpoint.startswith("http://"),
        },
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=_RETRY_FOR_S)},
        **options,
    )


class BucketKeeper:
    """Keeps objects in a bucket.

    Parameters
    ----------
    store
        Client of the bucket (`open_bucket`).
    cache
        Copies on this machine; what it stores itself needs no fetching.
    """

    def __init__(self, store: S3Store, cache: ObjectCache) -> None:
        self._store = store
        self._cache = cache

    def check(self) -> None:
        """Raise StoreUnavailable unless the bucket answers."""
        with _unavailable():
            for _ in obstore.list(self._store, prefix="quarantine", chunk_size=1):
                return

    def keep(self, staged: Path, key: str) -> None:
        size = staged.stat().st_size
        with staged.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with _unavailable():
            obstore.put(self._store, _name(key), staged, attributes={_DIGEST: digest})
            kept = obstore.head(self._store, _name(key))["size"]
        if kept != size:
            raise StoreUnavailable(f"object storage kept {kept} of {size} bytes")
        # Durable. A copy that can't be kept is fetched when it is needed.
        try:
            self._cache.adopt(staged, key)
        except OSError:
            staged.unlink(missing_ok=True)

    def path(self, key: str) -> Path:
        require_key(key)
        found = self._cache.find(key)
        if found is None:
            self._fetch(key)
        return self._cache.place(key)

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[str], Path]]:
        links: list[Path] = []

        def hold(key: str) -> Path:
            try:
                link = self._cache.hold(self.path(key))
            except FileNotFoundError:
                # Absent in the bucket: the caller finds out as it does with a folder.
                return self._cache.place(key)
            links.append(link)
            return link

        try:
            yield hold
        finally:
            for link in links:
                link.unlink(missing_ok=True)

    def forget(self, key: str) -> bool:
        require_key(key)
        had_one = self._cache.find(key) is not None
        self._cache.drop(key)
        return had_one

    def size(self, key: str) -> int | None:
        require_key(key)
        try:
            with _unavailable():
                return int(obstore.head(self._store, _name(key))["size"])
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        require_key(key)
        self._cache.drop(key)
        names = [_name(key)]
        if key.startswith(QUARANTINED):
            names.append(_explanation(key))
        for name in names:
            with contextlib.suppress(FileNotFoundError), _unavailable():
                obstore.delete(self._store, name)

    def set_apart(self, key: str, quarantined: str) -> None:
        if self.size(key) is None:
            raise UnknownObject(f"the instance store has no object {key}")
        with _unavailable():
            obstore.copy(self._store, _name(key), _name(quarantined))
        self.delete(key)

    def explain(self, key: str, reason: str) -> None:
        with _unavailable():
            obstore.put(self._store, _explanation(key), (reason + "\n").encode())

    def set_aside(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            with _unavailable():
                obstore.copy(self._store, _name(key), f"orphans/{key}.dcm")
            self.delete(key)

    def keys_older_than(self, age_s: float) -> Iterator[str]:
        before = datetime.now(UTC) - timedelta(seconds=age_s)
        return (key for key, written in self._entries("objects") if written <= before)

    def keys(self) -> Iterator[str]:
        return self._keys("objects")

    def quarantined_keys(self) -> Iterator[str]:
        return self._keys("quarantine")

    def _keys(self, prefix: str) -> Iterator[str]:
        return (key for key, _ in self._entries(prefix))

    def _entries(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        with _unavailable():
            for page in obstore.list(self._store, prefix=prefix):
                for entry in page:
                    name = entry["path"].rsplit("/", 1)[-1]
                    if name.endswith(".dcm"):
                        yield name.removesuffix(".dcm"), entry["last_modified"]

    def _fetch(self, key: str) -> None:
        """Copy an object here and compare its SHA-256; without effect if there is none of this key."""
        with contextlib.suppress(FileNotFoundError), _unavailable():
            found = obstore.get(self._store, _name(key))
            digest = hashlib.sha256()
            with self._cache.filling(key) as descriptor:
                for piece in found.stream(min_chunk_size=1 << 20):
                    view = memoryview(piece)
                    digest.update(view)
                    while view:
                        view = view[os.write(descriptor, view) :]
                if digest.hexdigest() != found.attributes.get(_DIGEST, digest.hexdigest()):
                    # A transfer that went wrong; `verify --deep` tells it from an object that decayed.
                    raise StoreUnavailable("object storage gave other bytes than it was given")


def _explanation(key: str) -> str:
    return _name(key).removesuffix(".dcm") + ".txt"


def _name(key: str) -> str:
    return f"quarantine/{key}.dcm" if key.startswith(QUARANTINED) else f"objects/{key[:2]}/{key}.dcm"


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    """Turn the client's errors into ours; FileNotFoundError stays what it is."""
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(str(error).splitlines()[0][:200]) from error
    except BaseError as error:
        # The text quotes address and bucket; no credentials, which go in signed headers.
        raise StoreUnavailable(f"object storage: {type(error).__name__}") from error
