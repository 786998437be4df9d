"""A file of which each line carries the SHA-256 of the one before: what is changed, removed or moved shows.

Lines are JSON objects: ``n`` (numbered from 1), ``at`` (seconds since the epoch), ``previous`` (SHA-256 of the line
before, without its end) and ``message``. The chain goes on over the files that rotation begins. `head` holds number and
SHA-256 of the last line, so that lines taken from the end show too.

Whoever can write to the folder could make a whole new chain; a copy at the syslog server, or of `head` elsewhere,
tells.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FIRST: Final = "0" * 64
_NAME: Final = "audit-{:06d}.jsonl"
_PATTERN: Final = "audit-*.jsonl"
HEAD: Final = "head.json"
_TAIL_BYTES: Final = 262_144


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the chain."""

    number: int
    at: float
    message: str
    digest: str
    file: str


@dataclass(frozen=True, kw_only=True)
class Break:
    """A place at which the chain does not hold; `number` is that of the line, as far as it is known."""

    file: str
    line: int
    number: int | None
    what: str


@dataclass(frozen=True, kw_only=True)
class _End:
    """The last line that was written: its number, SHA-256 and file, and the length of that file then."""

    number: int
    digest: str
    file: Path
    size: int


class AuditChain:
    """Appends to the files of a folder; for any number of threads and processes of this machine.

    Parameters
    ----------
    folder
        Made if absent, for its owner alone.
    rotate_bytes
        Size at which a new file is begun.
    """

    def __init__(self, folder: Path, *, rotate_bytes: int) -> None:
        self._folder = folder
        self._rotate_bytes = rotate_bytes
        self._end: _End | None = None

    def append(self, message: str, at: float) -> Entry:
        """Write a message at the end of the chain; it is on the disk when this returns.

        Raises
        ------
        OSError
            If it can't be written.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with self._locked():
            end = self._find_end()
            number = end.number + 1
            line = json.dumps({"n": number, "at": round(at, 3), "previous": end.digest, "message": message}).encode()
            file, size = end.file, end.size
            if size and size + len(line) > self._rotate_bytes:
                file, size = self._folder / _NAME.format(number_of(file) + 1), 0
            digest = hashlib.sha256(line).hexdigest()
            self._write(file, size, line + b"\n")
            self._end = _End(number=number, digest=digest, file=file, size=size + len(line) + 1)
            self._write_head(self._end)
        return Entry(number=number, at=at, message=message, digest=digest, file=file.name)

    def _write(self, file: Path, size: int, line: bytes) -> None:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                # From the end of the last whole line: a line that a crash or a full disk cut off is written over.
                os.ftruncate(descriptor, size)
                if os.pwrite(descriptor, line, size) != len(line):
                    raise OSError(28, "No space left on device")
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if not size:
            _sync(self._folder)

    def _write_head(self, end: _End) -> None:
        # Behind by one after a crash here, which verification allows for.
        new = self._folder / f"{HEAD}.new"
        new.write_text(json.dumps({"n": end.number, "sha256": end.digest}) + "\n")
        new.replace(self._folder / HEAD)

    def _find_end(self) -> _End:
        files = files_of(self._folder)
        last = files[-1] if files else self._folder / _NAME.format(1)
        size = last.stat().st_size if files else 0
        if self._end is not None and (self._end.file, self._end.size) == (last, size):
            return self._end
        for file in reversed(files):
            for start, line in _lines_from_the_end(file):
                with suppress(ValueError, KeyError, TypeError):
                    number = int(json.loads(line)["n"])
                    size = start + len(line) + 1 if file == last else last.stat().st_size
                    return _End(number=number, digest=hashlib.sha256(line).hexdigest(), file=last, size=size)
        return _End(number=0, digest=FIRST, file=last, size=0)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _lines_from_the_end(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of a file, the last first, with where each begins; what no line end follows is left out."""
    length = file.stat().st_size
    with open(file, "rb") as stream:
        # Nearly always the last line is whole and short; otherwise all of the file is looked at.
        for begin in (max(0, length - _TAIL_BYTES), 0):
            stream.seek(begin)
            data = stream.read()
            end = data.rfind(b"\n")
            while end > 0:
                start = data.rfind(b"\n", 0, end) + 1
                if start == 0 and begin:
                    # It begins before what was read.
                    break
                yield begin + start, data[start:end]
                end = start - 1
            if not begin:
                return


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def number_of(file: Path) -> int:
    """Return the number in the name of a file of the chain."""
    return int(file.stem.removeprefix("audit-"))


def files_of(folder: Path) -> list[Path]:
    """Return the files of the chain in a folder, the oldest first."""
    return sorted(folder.glob(_PATTERN), key=number_of)


def read_entries(folder: Path, after: int = 0) -> Iterator[Entry]:
    """Yield the entries behind number `after`, oldest first; lines that can't be read are left out."""
    files = files_of(folder)
    firsts = [_first_number(file) for file in files]
    for index, file in enumerate(files):
        # A file whose successor begins at or before what is wanted holds nothing of it.
        if index + 1 < len(files) and (begins := firsts[index + 1]) is not None and begins <= after + 1:
            continue
        with open(file, "rb") as stream:
            for line in stream:
                if line.endswith(b"\n") and (entry := _entry(line[:-1], file)) is not None and entry.number > after:
                    yield entry


def _first_number(file: Path) -> int | None:
    with open(file, "rb") as stream:
        entry = _entry(stream.readline().rstrip(b"\n"), file)
    return None if entry is None else entry.number


def _entry(line: bytes, file: Path) -> Entry | None:
    try:
        found: dict[str, Any] = json.loads(line)
        return Entry(
            number=int(found["n"]),
            at=float(found["at"]),
            message=str(found["message"]),
            digest=hashlib.sha256(line).hexdigest(),
            file=file.name,
        )
    except (ValueError, KeyError, TypeError):
        return None


def verify(folder: Path) -> tuple[int, list[Break]]:
    """Go through the whole chain; returns how many entries there are, and where it does not hold.

    Notes
    -----
    Files that retention removed from the beginning are missing rightly where an entry further on says so
    (`removal_note`): number and SHA-256 of the last line that went.
    """
    found: list[Break] = []
    count = 0
    expected, previous = 1, FIRST
    begins: tuple[int, str] | None = None
    removed: set[tuple[int, str]] = set()
    digests: dict[int, str] = {}
    for file in files_of(folder):
        data = file.read_bytes()
        lines = data.split(b"\n")
        if lines[-1]:
            found.append(Break(file=file.name, line=len(lines), number=None, what="the last line was cut off"))
        for place, line in enumerate(lines[:-1], 1):
            entry = _entry(line, file)
            if entry is None:
                found.append(Break(file=file.name, line=place, number=None, what="can't be read"))
                continue
            said = str(json.loads(line).get("previous"))
            if not count and entry.number != 1:
                begins = (entry.number - 1, said)
                expected, previous = entry.number, said
            if entry.number != expected:
                what = f"number {entry.number} follows {expected - 1}"
                found.append(Break(file=file.name, line=place, number=entry.number, what=what))
            elif said != previous:
                what = "the line before it is not the one that was written there"
                found.append(Break(file=file.name, line=place, number=entry.number, what=what))
            note = _removal_of(entry.message)
            if note is not None:
                removed.add(note)
            count += 1
            expected, previous = entry.number + 1, entry.digest
            digests[entry.number] = entry.digest
    if begins is not None and begins not in removed:
        what = f"entries 1 to {begins[0]} are gone, and no entry says that retention removed them"
        found.append(Break(file="", line=0, number=None, what=what))
    found += _check_head(folder, digests, expected - 1)
    return count, found


def _check_head(folder: Path, digests: dict[int, str], last: int) -> Iterator[Break]:
    try:
        head = json.loads((folder / HEAD).read_text())
        number, digest = int(head["n"]), str(head["sha256"])
    except FileNotFoundError:
        if digests:
            yield Break(file=HEAD, line=0, number=None, what="it is gone")
        return
    except (OSError, ValueError, KeyError, TypeError):
        yield Break(file=HEAD, line=0, number=None, what="can't be read")
        return
    if number > last:
        yield Break(file=HEAD, line=0, number=number, what=f"entries {last + 1} to {number} are gone from the end")
    elif number in digests and digests[number] != digest:
        yield Break(file=HEAD, line=0, number=number, what="the entry is not the one that was written there")


_REMOVAL: Final = "removed by retention up to "


def removal_note(last: Entry) -> str:
    """Return the message that says that everything up to an entry was removed by retention."""
    return f"{_REMOVAL}{last.number} {last.digest}"


def _removal_of(message: str) -> tuple[int, str] | None:
    if not message.startswith(_REMOVAL):
        return None
    parts = message.removeprefix(_REMOVAL).split()
    return (int(parts[0]), parts[1]) if len(parts) == 2 and parts[0].isdigit() else None
