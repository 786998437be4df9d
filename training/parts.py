"""A large file in parts that can be carried one by one, joined again only if every byte is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

PART_BYTES = 15 * 2**20


class PartsError(ValueError):
    """A part is missing or altered."""


def split_file(path: Path, folder: Path, *, part_bytes: int = PART_BYTES) -> list[Path]:
    """Cut a file into parts with a ``.parts.json`` that names their SHA-256; returns all files written, the index last.

    Parameters
    ----------
    path
        The file.
    folder
        Where the parts go; made if absent.
    part_bytes
        Greatest size of a part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes()
    written, digests = [], {}
    for i, start in enumerate(range(0, max(len(content), 1), part_bytes)):
        part = folder / f"{path.name}.part{i:02d}"
        part.write_bytes(content[start : start + part_bytes])
        digests[part.name] = hashlib.sha256(part.read_bytes()).hexdigest()
        written.append(part)
    index = folder / f"{path.name}.parts.json"
    facts = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "parts": digests}
    index.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return [*written, index]


def join_parts(index: Path, folder: Path) -> Path:
    """Put a file together from the parts beside its index and verify it; returns its path in ``folder``.

    Raises
    ------
    PartsError
        If a part is missing, or a digest is not that of the index; nothing is written then.
    """
    try:
        facts = json.loads(index.read_text(encoding="utf-8"))
        parts = dict(facts["parts"])
        name, whole_digest = str(facts["file"]), str(facts["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PartsError(f"{index}: no index of parts ({error})") from error
    content = bytearray()
    for part, digest in parts.items():
        try:
            piece = (index.parent / Path(part).name).read_bytes()
        except OSError as error:
            raise PartsError(f"part {part} can't be read: {error}") from error
        if hashlib.sha256(piece).hexdigest() != digest:
            raise PartsError(f"part {part} was altered: its SHA-256 is not that of {index.name}")
        content += piece
    if hashlib.sha256(content).hexdigest() != whole_digest:
        raise PartsError(f"{name}: the parts don't make the file that was split")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / Path(name).name
    target.write_bytes(content)
    return target
