"""The established association on its socket: P-DATA, A-RELEASE and A-ABORT in the hands of one thread.

Messages are read through one reusable buffer and handed on as they come, so that neither an object nor a PDU is held
in memory, whatever length its header names. Nothing here knows about services: command sets and data set bytes go in
and out, and everything that ends an association is an exception.

::

    DataPhaseError
    ├── ReleaseRequested      the peer sent A-RELEASE-RQ
    ├── PeerAborted           the peer sent A-ABORT
    ├── ConnectionLost        the transport connection ended without A-RELEASE or A-ABORT
    ├── PeerSilent            no progress in time
    ├── Interrupted           another thread of ours wants the association to end
    └── ProtocolViolation     the peer sent what PS3.7 or PS3.8 does not allow; answered with A-ABORT
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Container
from typing import Final

from dicom_node.command_set import MAX_COMMAND_SET_BYTES, CommandSet, InvalidCommandSet, parse_command_set
from dicom_node.errors import NodeError

RECEIVE_BUFFER_BYTES: Final = 1 << 18
"""256 KiB: as fast as 1 MiB on loopback, a quarter of the memory, and the read stays in the L2 cache for the digest."""

MIN_BYTES_PER_S: Final = 16_384
"""A message may take its time-out plus its size at this rate, so a peer that trickles bytes is cut off."""

PDU_LENGTH_TOLERANCE: Final = 12
"""Some peers take the announced maximum for the PDV's payload and forget its headers."""

LARGEST_SENT_PDU: Final = 1 << 20
"""Above this, larger PDUs gain nothing; a peer's "no limit" (0) is sent PDUs of this size."""

CLOSE_WAIT_S: Final = 2.0
"""Time that a peer has to close the connection after the last PDU."""

_SEND_BATCH_BYTES: Final = 1 << 22
_SEND_BATCH_BUFFERS: Final = 512

_P_DATA_TF, _A_RELEASE_RQ, _A_RELEASE_RP, _A_ABORT = 4, 5, 6, 7
_UNEXPECTED_PDUS = (1, 2, 3, _A_RELEASE_RP)

_COMMAND, _LAST = 1, 2

_pdu_header = struct.Struct(">BBI")
_pdv_header = struct.Struct(">IBB")
_pdu_and_pdv_header = struct.Struct(">BBIIBB")

# A-ABORT source and reason, PS3.8 9.3.8.
SERVICE_USER: Final = 0
SERVICE_PROVIDER: Final = 2
UNRECOGNIZED_PDU: Final = 1
UNEXPECTED_PDU: Final = 2
INVALID_PDU_PARAMETER: Final = 6


class DataPhaseError(NodeError):
    """The association can't go on."""


class ReleaseRequested(DataPhaseError):
    """The peer asked to release the association."""


class _ReleaseConfirmed(DataPhaseError):
    """The peer confirmed our release."""


class PeerAborted(DataPhaseError):
    """The peer sent A-ABORT, with its source and reason (PS3.8 9.3.8)."""

    def __init__(self, source: int, reason: int) -> None:
        super().__init__(f"A-ABORT from the peer, source {source}, reason {reason}")
        self.source, self.reason = source, reason


class ConnectionLost(DataPhaseError):
    """The transport connection ended."""


class PeerSilent(DataPhaseError):
    """The peer sent or took nothing, or far too little, in the time that it has."""


class Interrupted(DataPhaseError):
    """`DataPhase.interrupt` was called."""


class ProtocolViolation(DataPhaseError):
    """The peer broke the protocol; `source` and `reason` are what our A-ABORT says (PS3.8 9.3.8)."""

    def __init__(self, message: str, *, source: int = SERVICE_PROVIDER, reason: int = INVALID_PDU_PARAMETER) -> None:
        super().__init__(message)
        self.source, self.reason = source, reason


class DataPhase:
    """Exchange messages on an established association; one thread at a time.

    Parameters
    ----------
    sock
        Connected socket, the association's negotiation just over. It is set to TCP_NODELAY and owned from here on.
    contexts
        Accepted presentation context IDs; a PDV on any other is a protocol violation.
    max_pdu_bytes
        What we announced; a longer PDU is a protocol violation.
    peer_max_pdu_bytes
        What the peer announced; 0 means no limit.
    idle_timeout_s
        Longest silence.
    message_timeout_s
        Time for a message beyond what its size takes at `MIN_BYTES_PER_S`.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        contexts: Container[int],
        max_pdu_bytes: int,
        peer_max_pdu_bytes: int,
        idle_timeout_s: float,
        message_timeout_s: float,
    ) -> None:
        # Without it every small response waits for the peer's delayed ACK: 44-51 ms a C-STORE were measured.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(idle_timeout_s)
        self._sock = sock
        self._contexts = contexts
        self._longest_pdu = max_pdu_bytes + PDU_LENGTH_TOLERANCE
        self._fragment_bytes = _fragment_bytes(peer_max_pdu_bytes)
        self._message_timeout_s = message_timeout_s
        self._buffer = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self._start = self._end = 0
        self._pdu_left = 0
        self._deadline: float | None = None
        self._releasing = False
        self._interrupted = False
        self._is_finished = False

    # ------------------------------------------------------------------ receiving

    def receive_command(self) -> tuple[int, CommandSet]:
        """Wait for the next message and return its presentation context ID and its command set.

        Raises
        ------
        DataPhaseError
            One of those that the module names.

        References
        ----------
        PS3.7 6.3.1, PS3.8 9.3.5, Annex E.
        """
        self._deadline = None
        if self._start == self._end:
            self._fill()
        # The clock of a message starts with its first byte; before that only silence is measured.
        self._deadline = time.monotonic() + self._message_timeout_s
        context_id, control, length = self._next_pdv()
        if not control & _COMMAND:
            raise ProtocolViolation("data set fragment without a command", source=SERVICE_USER, reason=0)
        message_context, encoded = context_id, bytearray()
        while True:
            if context_id != message_context or not control & _COMMAND:
                raise ProtocolViolation("fragments of two messages interleaved", source=SERVICE_USER, reason=0)
            if len(encoded) + length > MAX_COMMAND_SET_BYTES:
                raise ProtocolViolation("command set too long", source=SERVICE_USER, reason=0)
            self._read_fragment(length, encoded.extend)
            if control & _LAST:
                break
            context_id, control, length = self._next_pdv()
        try:
            return message_context, parse_command_set(encoded)
        except InvalidCommandSet as error:
            raise ProtocolViolation(str(error), source=SERVICE_USER, reason=0) from error

    def receive_data_set(self, context_id: int, write: Callable[[memoryview], object]) -> int:
        """Pass the message's data set to `write` piece by piece as it comes, and return its length in bytes.

        The pieces are views of the receive buffer: `write` must be done with them when it returns.
        """
        total = 0
        while True:
            fragment_context, control, length = self._next_pdv()
            if fragment_context != context_id or control & _COMMAND:
                raise ProtocolViolation("fragments of two messages interleaved", source=SERVICE_USER, reason=0)
            self._read_fragment(length, write)
            total += length
            if control & _LAST:
                return total

    def grant(self, seconds: float) -> None:
        """Give the message in progress more time, as our side let it wait so long."""
        if self._deadline is not None:
            self._deadline += seconds

    def has_input(self, timeout_s: float) -> bool:
        """Tell whether the peer has sent something, or ended the connection, within `timeout_s`; nothing is taken."""
        if self._start != self._end:
            return True
        # What a TLS layer has decrypted already is not at the socket any more.
        pending = getattr(self._sock, "pending", None)
        return bool((pending is not None and pending()) or select.select([self._sock], [], [], timeout_s)[0])

    def _next_pdv(self) -> tuple[int, int, int]:
        """Read headers up to the next PDV's payload: context ID, control bits, payload length."""
        if self._pdu_left == 0:
            self._open_pdu()
        if self._pdu_left < 6:
            raise ProtocolViolation(f"{self._pdu_left} bytes after the last PDV of a PDU")
        self._need(6)
        length, context_id, control = _pdv_header.unpack_from(self._buffer, self._start)
        self._start += 6
        if length < 2 or length + 4 > self._pdu_left:
            raise ProtocolViolation(f"PDV of {length} bytes where {self._pdu_left} are left in the PDU")
        if context_id not in self._contexts:
            raise ProtocolViolation(f"PDV on presentation context {context_id}, which was not accepted")
        self._pdu_left -= length + 4
        return context_id, control, length - 2

    def _open_pdu(self) -> None:
        """Read a PDU header; returns for P-DATA-TF and raises for everything else (PS3.8 9.2, state Sta6)."""
        self._need(6)
        pdu_type, _, length = _pdu_header.unpack_from(self._buffer, self._start)
        self._start += 6
        if pdu_type == _P_DATA_TF:
            if not 6 <= length <= self._longest_pdu:
                raise ProtocolViolation(f"P-DATA-TF PDU of {length} bytes, announced were {self._longest_pdu}")
            self._pdu_left = length
        elif pdu_type == _A_RELEASE_RQ:
            self._need(4)
            self._start += 4
            raise ReleaseRequested("A-RELEASE-RQ")
        elif pdu_type == _A_RELEASE_RP and self._releasing:
            raise _ReleaseConfirmed("A-RELEASE-RP")
        elif pdu_type == _A_ABORT:
            self._need(4)
            raise PeerAborted(self._buffer[self._start + 2], self._buffer[self._start + 3])
        elif pdu_type in _UNEXPECTED_PDUS:
            raise ProtocolViolation(f"PDU type {pdu_type} on an established association", reason=UNEXPECTED_PDU)
        else:
            raise ProtocolViolation(f"PDU type 0x{pdu_type:02x} is not defined", reason=UNRECOGNIZED_PDU)

    def _read_fragment(self, length: int, write: Callable[[memoryview], object]) -> None:
        while length:
            if self._start == self._end:
                self._fill()
            taken = min(length, self._end - self._start)
            write(self._buffer[self._start : self._start + taken])
            self._start += taken
            length -= taken

    def _need(self, count: int) -> None:
        while self._end - self._start < count:
            self._fill()

    def _fill(self) -> None:
        """Read what the socket has into the buffer; a rest of a header moves to its beginning."""
        rest = self._end - self._start
        if rest:
            self._buffer[:rest] = bytes(self._buffer[self._start : self._end])
        self._start, self._end = 0, rest
        try:
            received = self._sock.recv_into(self._buffer[rest:])
        except TimeoutError:
            raise PeerSilent("the peer sent nothing in time") from None
        except OSError as error:
            raise ConnectionLost(f"reading failed: {error}") from error
        if self._interrupted:
            raise Interrupted("the association is ended from our side")
        if not received:
            raise ConnectionLost("the peer closed the connection")
        self._end = rest + received
        if self._deadline is not None:
            # Progress earns time, a trickle does not.
            self._deadline += received / MIN_BYTES_PER_S
            if time.monotonic() > self._deadline:
                raise PeerSilent("the peer sent far too little in the time of a message")

    # ------------------------------------------------------------------ sending

    def send_message(self, context_id: int, command: bytes, data_set: memoryview | None = None) -> None:
        """Send a command set and, if given, its data set, in PDUs that the peer takes.

        Raises
        ------
        ConnectionLost, PeerSilent
        """
        batch: list[bytes | memoryview] = []
        self._add_fragments(batch, context_id, memoryview(command), _COMMAND)
        if data_set is None:
            self._send(batch)
            return
        step = _SEND_BATCH_BYTES - _SEND_BATCH_BYTES % self._fragment_bytes
        size = len(data_set)
        for offset in range(0, max(size, 1), step):
            is_end = offset + step >= size
            self._add_fragments(batch, context_id, data_set[offset : offset + step], 0, is_end=is_end)
            self._send(batch)
            batch = []

    def _add_fragments(
        self,
        batch: list[bytes | memoryview],
        context_id: int,
        payload: memoryview,
        control: int,
        *,
        is_end: bool = True,
    ) -> None:
        size, step = len(payload), self._fragment_bytes
        for offset in range(0, max(size, 1), step):
            piece = payload[offset : offset + step]
            last = _LAST if is_end and offset + step >= size else 0
            # A fragment has an even length (PS3.8 9.3.5.1); a data set that ends odd, such as a deflated one without
            # its padding (PS3.5 A.5), would make DCMTK and Orthanc stop reading without a word.
            padding = len(piece) % 2
            length = len(piece) + padding
            batch.append(_pdu_and_pdv_header.pack(_P_DATA_TF, 0, length + 6, length + 2, context_id, control | last))
            batch.append(piece)
            if padding:
                batch.append(b"\0")

    def _send(self, buffers: list[bytes | memoryview]) -> None:
        first, deadline = 0, time.monotonic() + self._message_timeout_s
        while first < len(buffers):
            window = buffers[first : first + _SEND_BATCH_BUFFERS]
            try:
                sent = self._sock.sendmsg(window)
            except TimeoutError:
                raise PeerSilent("the peer took nothing in time") from None
            except OSError as error:
                raise ConnectionLost(f"sending failed: {error}") from error
            deadline += sent / MIN_BYTES_PER_S
            if time.monotonic() > deadline:
                raise PeerSilent("the peer took far too little in the time of a message")
            for buffer in window:
                if sent < len(buffer):
                    break
                sent -= len(buffer)
                first += 1
            if sent:
                buffers[first] = memoryview(buffers[first])[sent:]

    # ------------------------------------------------------------------ ending

    def confirm_release(self) -> None:
        """Answer A-RELEASE-RQ: the association is over, the connection is left to `close` (PS3.8 9.2, AR-4)."""
        self._finish(_pdu_header.pack(_A_RELEASE_RP, 0, 4) + bytes(4))

    def request_release(self, timeout_s: float) -> bool:
        """Release the association and close; tell whether the peer confirmed within `timeout_s`.

        What the peer still sends is dropped (PS3.8 7.2.2), and a release that it requests at the same time is
        confirmed (PS3.8 9.2, AR-8, AR-9). A peer that does not answer is sent A-ABORT.
        """
        deadline = time.monotonic() + timeout_s
        self._releasing = True
        try:
            self._sock.sendall(_pdu_header.pack(_A_RELEASE_RQ, 0, 4) + bytes(4))
            while time.monotonic() < deadline:
                self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    _, _, length = self._next_pdv()
                    self._read_fragment(length, len)
                except ReleaseRequested:
                    self._sock.sendall(_pdu_header.pack(_A_RELEASE_RP, 0, 4) + bytes(4))
            raise PeerSilent("no A-RELEASE-RP in time")
        except _ReleaseConfirmed:
            self.close()
            return True
        except (PeerSilent, ProtocolViolation):
            self.abort(SERVICE_PROVIDER, 0)
            self.close()
            return False
        except (DataPhaseError, OSError):
            self.close()
            return False

    def abort(self, source: int = SERVICE_USER, reason: int = 0) -> None:
        """Send A-ABORT: the association is over, the connection is left to `close` (PS3.8 9.2, AA-1, AA-8)."""
        self._finish(_pdu_header.pack(_A_ABORT, 0, 4) + bytes((0, 0, source, reason)))

    def close(self) -> None:
        """Close the connection; after a last PDU of ours the peer is given a moment to read it. Safe to call again."""
        if self._is_finished:
            self._is_finished = False
            close_gently(self._sock)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def interrupt(self) -> None:
        """Make the owning thread's receive end with `Interrupted`; the one call meant for other threads."""
        self._interrupted = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def _finish(self, last_pdu: bytes) -> None:
        with contextlib.suppress(OSError):
            self._sock.settimeout(CLOSE_WAIT_S)
            self._sock.sendall(last_pdu)
            self._sock.shutdown(socket.SHUT_WR)
        self._is_finished = True


def close_gently(sock: socket.socket) -> None:
    """Close a connection after our last PDU on it, without losing that PDU.

    A close with unread bytes in the receive queue sends RST, which can overtake what we sent; so read on until the
    peer closes, but not for long (PS3.8 9.2, state Sta13 with its ARTIM timer).
    """
    deadline = time.monotonic() + CLOSE_WAIT_S
    dropped = bytearray(65_536)
    with contextlib.suppress(OSError):
        sock.settimeout(CLOSE_WAIT_S)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv_into(dropped) and time.monotonic() < deadline:
            pass
    sock.close()


def _fragment_bytes(peer_max_pdu_bytes: int) -> int:
    """Payload of one PDV: the peer's limit counts the PDV's six header bytes, and fragments are even (PS3.8 D.1)."""
    limit = min(peer_max_pdu_bytes or LARGEST_SENT_PDU, LARGEST_SENT_PDU) - 6
    if limit < 2:
        raise ProtocolViolation(f"the peer takes PDUs of {peer_max_pdu_bytes} bytes, which hold no fragment")
    return limit - limit % 2
