"""A metered stream refuses before it reads."""

from __future__ import annotations

from io import BytesIO

import pytest

from dicom_node.metered import MeteredStream


def test_bytes_are_counted_before_they_are_read() -> None:
    stream = BytesIO(bytes(range(100)))
    metered = MeteredStream(stream, max_bytes=10)
    assert metered.read(4) == b"\0\1\2\3"
    metered.seek(0)
    assert metered.read(6) == b"\0\1\2\3\4\5"
    with pytest.raises(ValueError, match="take more than"):
        metered.read(1)
    assert stream.tell() == metered.tell() == 6


def test_a_length_that_is_none_reads_nothing() -> None:
    stream = BytesIO(bytes(100))
    for count in (-1, -1000):
        with pytest.raises(ValueError, match="take more than"):
            MeteredStream(stream, max_bytes=1000).read(count)
    assert stream.tell() == 0


def test_reads_are_counted_however_short() -> None:
    metered = MeteredStream(BytesIO(b""), max_bytes=10, max_reads=3)
    assert [metered.read(0) for _ in range(3)] == [b"", b"", b""]
    with pytest.raises(ValueError, match="more than 3 reads"):
        metered.read(0)
