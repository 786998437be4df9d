"""How this process's C library hands memory back: the network asks for the same large arrays layer after layer."""

from __future__ import annotations

import ctypes
import functools
import platform

# Parameters of mallopt(3) in glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 2**30


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def keep_freed_memory() -> bool:
    """Make glibc keep freed arrays of up to 1 GiB for the next ones; returns False where there is no glibc.

    By default it returns every array above 32 MB to the system, which then clears new pages for the next layer: up to a
    third of the time of a large image (docs/speed.md). For a process that lives to denoise, with
    `return_freed_memory` after each image.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_MMAP_THRESHOLD, _MOST) and libc.mallopt(_TRIM_THRESHOLD, _MOST))


def return_freed_memory() -> None:
    """Give what is free to the system, once for all layers of an image."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
