"""Patient IDs and accession numbers as keyed hashes: what the ledger may be searched by without holding them."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path
from typing import Final

from config.settings import Settings
from dicom_node.dataset_header import DatasetHeader

log = logging.getLogger(__name__)

KEY_FILE: Final = "identifiers.key"
_KEY_BYTES: Final = 32
_LEAST_BYTES: Final = 16

PATIENT: Final = "patient"
ACCESSION: Final = "accession"
KINDS: Final = (PATIENT, ACCESSION)

# An identifier that somebody types is compared with bytes in the character set of the object. Beyond ASCII it is
# looked for in those that X-ray departments use (PS3.3 C.12.1.1.2).
_ENCODINGS: Final = ("utf-8", "latin-1", "iso8859-2", "iso8859-5", "iso8859-7", "shift_jis", "euc_kr", "gb18030")


class Identifiers:
    """Hashes identifiers with the secret key of the node (HMAC-SHA-256, cut to 128 bits).

    Who has the ledger and not the key can't try out all patient IDs that there are.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < _LEAST_BYTES:
            raise ValueError(f"the key has {len(key)} bytes, less than {_LEAST_BYTES}")
        self._key = key

    def of_header(self, header: DatasetHeader) -> tuple[tuple[str, str], ...]:
        """Return kind and hash of the identifiers that an object has."""
        values = ((PATIENT, header.patient_id), (ACCESSION, header.accession_number))
        return tuple((kind, self._hash(kind, value)) for kind, value in values if value)

    def of_text(self, kind: str, text: str) -> list[str]:
        """Return the hashes under which what somebody typed can stand in the ledger; none for an empty text."""
        encoded = set()
        for encoding in _ENCODINGS:
            try:
                encoded.add(text.strip().encode(encoding))
            except UnicodeEncodeError:
                continue
        return sorted(self._hash(kind, value) for value in encoded if value)

    def derive(self, purpose: str) -> bytes:
        """Return a key for another purpose, from which this one can't be told."""
        return hmac.new(self._key, b"key for " + purpose.encode(), hashlib.sha256).digest()

    def _hash(self, kind: str, value: bytes) -> str:
        return hmac.new(self._key, kind.encode() + b"\0" + value, hashlib.sha256).hexdigest()[:32]


def key_file(settings: Settings) -> Path:
    """Return where the secret key of the node lies."""
    return settings.node.identifier_key or settings.node.data_dir / KEY_FILE


def open_identifiers(settings: Settings) -> Identifiers:
    """Return the hashing of this node; its key is made where there is none.

    Raises
    ------
    OSError
        If the key can't be read or written.
    ValueError
        If it is too short.
    """
    path = key_file(settings)
    try:
        return Identifiers(path.read_bytes())
    except FileNotFoundError:
        _make_key(path)
        return Identifiers(path.read_bytes())


def try_identifiers(settings: Settings) -> Identifiers | None:
    """Return the hashing of this node, or nothing: what is received can then not be searched by patient or order."""
    try:
        return open_identifiers(settings)
    except (OSError, ValueError) as error:
        log.error(
            "The key of identifiers can't be used: studies are not found by patient ID and accession number",
            extra={"reason": str(error)},
        )
        return None


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            # Whole or not at all, and never over the key that another process makes at this moment.
            os.link(new, path)
        except FileExistsError:
            return
    finally:
        new.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
