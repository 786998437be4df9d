"""A stream that gives only so much: what bounds parsers that believe the lengths in a file."""

from __future__ import annotations

from typing import BinaryIO


class MeteredStream:
    """Reads from `stream`, and refuses before it reads more than it may.

    Parameters
    ----------
    max_bytes
        All that may be read, counted again where it is read again.
    max_reads
        Times that anything may be read: each element and each item takes one at least.
    """

    def __init__(self, stream: BinaryIO, *, max_bytes: int, max_reads: int = 1_000_000) -> None:
        self._stream = stream
        self._max_bytes = self._bytes_left = max_bytes
        self._max_reads = self._reads_left = max_reads
        self.tell = stream.tell
        self.seek = stream.seek

    def read(self, count: int = -1) -> bytes:
        """Return up to `count` bytes; ValueError where that is more than is left, or no number."""
        self._bytes_left -= count
        self._reads_left -= 1
        if count < 0 or self._bytes_left < 0:
            raise ValueError(f"its values take more than {self._max_bytes >> 20} MB")
        if self._reads_left < 0:
            raise ValueError(f"its elements take more than {self._max_reads} reads")
        return self._stream.read(count)
