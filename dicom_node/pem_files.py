"""PEM files that the settings name: read, or said in words why not."""

from __future__ import annotations

from pathlib import Path

from dicom_node.errors import NodeError


class CertificateUnusable(NodeError):
    """A file holds no certificate, key or list that can be used; the message says what is wrong and what to do."""


def read_pem(path: Path) -> bytes:
    """Return the bytes of a file; CertificateUnusable says why they can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CertificateUnusable("there is no such file") from error
    except OSError as error:
        raise CertificateUnusable(f"the file can't be read ({error.strerror}): give it to the node's user") from error
