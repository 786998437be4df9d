"""Writes the body of a Store transaction (multipart/related, PS3.18 8.6.1.2) as a stream from files."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicom_node.destinations.base import DeliveryItem
from dicom_node.instance_store import build_file_meta

_CHUNK_BYTES: Final = 262_144
_PART_HEADER: Final = b"Content-Type: application/dicom\r\n\r\n"


class FileTrouble(Exception):
    """A stored object could not be read to its end while it was sent.

    The HTTP client raises it again without its cause, so that is kept as `fault`.
    """

    def __init__(self, part: Part, fault: OSError | EOFError) -> None:
        super().__init__(f"stored object {part.path} can't be read")
        self.part, self.fault = part, fault


@dataclass(frozen=True, kw_only=True)
class Part:
    """One object of a body.

    Attributes
    ----------
    path, offset, size
        The data set: `size` bytes of the file from `offset` on.
    file_meta
        What goes before it: preamble and file meta information.
    """

    path: Path
    offset: int
    size: int
    file_meta: bytes


def make_part(item: DeliveryItem, path: Path, offset: int, transfer_syntax_uid: str, *, ae_title: str) -> Part:
    """Return the part for an object whose data set lies in `path` from `offset` on; `OSError` if it is not there."""
    return Part(
        path=path,
        offset=offset,
        size=path.stat().st_size - offset,
        file_meta=build_file_meta(
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            source_ae_title=ae_title,
        ),
    )


class MultipartBody:
    """The body for some parts; its length is known before the first byte, as servers without chunks need it."""

    def __init__(self, parts: Sequence[Part], *, boundary: str | None = None) -> None:
        self._parts = parts
        # 32 random digits: nobody can put this line into an object.
        self._boundary = secrets.token_hex(16) if boundary is None else boundary
        self.content_type = f'multipart/related; type="application/dicom"; boundary={self._boundary}'
        self.length = len(self._last) + sum(
            len(self._first(number)) + len(part.file_meta) + part.size for number, part in enumerate(parts)
        )

    def __iter__(self) -> Iterator[bytes]:
        """Read the files anew; `FileTrouble` if one of them is not what it was."""
        for number, part in enumerate(self._parts):
            yield self._first(number) + part.file_meta
            yield from _read(part)
        yield self._last

    def _first(self, number: int) -> bytes:
        return (b"\r\n" if number else b"") + f"--{self._boundary}\r\n".encode() + _PART_HEADER

    @property
    def _last(self) -> bytes:
        return f"\r\n--{self._boundary}--\r\n".encode()


def _read(part: Part) -> Iterator[bytes]:
    left = part.size
    try:
        with part.path.open("rb", buffering=0) as file:
            file.seek(part.offset)
            while left:
                chunk = file.read(min(_CHUNK_BYTES, left))
                if not chunk:
                    raise EOFError("the file became shorter")
                left -= len(chunk)
                yield chunk
    except (OSError, EOFError) as error:
        raise FileTrouble(part, error) from error
