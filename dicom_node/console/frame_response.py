"""Answers with pixels: sent piece by piece, to a browser that takes them, and compressed where that pays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import imagecodecs
import numpy as np
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dicom_node.console.images import Frame

PIECE: Final = 1 << 20
STALL_S: Final = 60.0
"""A browser that takes no piece for this long is left alone, so that it does not hold memory for ever."""

KEEP: Final = "private, no-cache"
"""May be kept by the browser, and is asked for again each time: who signed out sees nothing any more, and whoever may
see it is answered 304 without decoding."""


class PiecewiseResponse(Response):
    """Sends a large body in pieces, and calls `done` when the last one left or the browser went.

    Parameters
    ----------
    done
        Called once, whatever happens.
    """

    def __init__(self, content: bytes, *, headers: dict[str, str], done: Callable[[], None]) -> None:
        super().__init__(content, headers=headers, media_type="application/octet-stream")
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            whole = memoryview(self.body)
            for begin in range(0, max(len(whole), 1), PIECE):
                piece = bytes(whole[begin : begin + PIECE])
                more = begin + PIECE < len(whole)
                async with asyncio.timeout(STALL_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": more})
        except TimeoutError:
            # The connection is closed by the server: the announced length was not sent.
            return
        finally:
            self._done()


def encode_frame(frame: Frame, *, accept_encoding: str, in_planes: bool) -> tuple[bytes, dict[str, str]]:
    """Return the bytes to send and the headers that describe them.

    Parameters
    ----------
    accept_encoding
        Of the request (RFC 9110 12.5.3); only Zstandard is offered: gzip takes longer than a fast network.
    in_planes
        Low bytes of all values first, then the high ones, which compresses better; no meaning for 8 bits.
    """
    data = frame.data
    headers = {"X-Values": frame.kind, "Vary": "Accept-Encoding, Cookie"}
    if in_planes and frame.kind.endswith("16"):
        data = np.frombuffer(data, np.uint8).reshape(-1, 2).T.tobytes()
        headers["X-Layout"] = "planes"
    if _accepts_zstd(accept_encoding):
        encoded = bytes(imagecodecs.zstd_encode(data, 1))
        if len(encoded) < len(data):
            data = encoded
            headers["Content-Encoding"] = "zstd"
    return data, headers


def _accepts_zstd(accept_encoding: str) -> bool:
    for part in accept_encoding.split(","):
        name, _, weight = part.partition(";")
        if name.strip().lower() == "zstd":
            return weight.replace(" ", "").removeprefix("q=") not in ("0", "0.0", "0.00", "0.000")
    return False
