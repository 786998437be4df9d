"""Association negotiation by pynetdicom, in the calling thread: the node's one extension of that library.

Its ACSE, its primitives and its PDU classes negotiate; but its DUL service provider, a second thread that polls the
socket and passes PDUs through queues, is replaced by `SynchronousProvider`, which reads and writes the negotiation's
PDUs where it is called. So nothing has to be handed from thread to thread when the association is established, and no
response can be lost between two of them. `tests/unit/test_negotiation.py` pins the versions and the names of
pynetdicom that this module relies on.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.certificates import Certificate
from dicom_node.errors import NodeError
from dicom_node.rejections import PROTOCOL_VERSION

log = logging.getLogger(__name__)

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model."""
IMPLEMENTATION_CLASS_UID: Final = "2.25.302165408935870443190571894301776905671"
IMPLEMENTATION_VERSION_NAME: Final = "LOWDOSE-NODE-0.1"
MAX_CONTEXTS: Final = 128

_MAX_NEGOTIATION_PDU: Final = 1 << 20
"""128 contexts with 30 syntaxes each take 270 KB; an unknown peer gets no more memory of us than this."""

_pdu_header = struct.Struct(">BBI")


class NegotiationFailed(NodeError):
    """No association came of a connection that a peer opened; the message says why."""


class NoTls(NegotiationFailed):
    """No TLS came about with a peer, or it spoke TLS where none is: somebody set something up wrongly."""


class RequestRejected(NegotiationFailed):
    """The request was judged and rejected; whoever judged it has told why."""


@dataclass(frozen=True, kw_only=True)
class ProposedContext:
    """A presentation context to propose: one abstract syntax and its transfer syntaxes, the preferred one first."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AcceptedContext:
    """An accepted presentation context and its one transfer syntax."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, kw_only=True)
class AssociationRequest:
    """An A-ASSOCIATE-RQ as it came, from the address it came from.

    `is_secure` tells that it came over TLS; `certificate` is what the sender showed, verified by then.
    """

    calling_ae_title: str
    called_ae_title: str
    host: str
    port: int
    application_context_name: str
    contexts: tuple[ProposedContext, ...]
    is_secure: bool = False
    certificate: Certificate | None = None


class SynchronousProvider(DULServiceProvider):
    """pynetdicom's DUL service provider without its thread: for the negotiation only, in the calling thread."""

    last_received: A_ASSOCIATE | A_ABORT | A_P_ABORT | None = None
    transport_error: OSError | None = None
    """What the connection failed with, if it did; a TLS peer says no only after the handshake (RFC 8446 4.4.2)."""
    is_tls_peer: bool = False
    """Whether what came is the beginning of a TLS handshake instead of a PDU."""

    def send_pdu(self, primitive: object) -> None:
        """Encode a primitive of the negotiation and send it at once."""
        if isinstance(primitive, A_ASSOCIATE):
            if primitive.result is None:
                encoded = A_ASSOCIATE_RQ(primitive).encode()
            elif primitive.result == 0:
                encoded = A_ASSOCIATE_AC(primitive).encode()
            else:
                encoded = A_ASSOCIATE_RJ(primitive).encode()
        elif isinstance(primitive, A_ABORT | A_P_ABORT):
            encoded = A_ABORT_RQ(primitive).encode()
        else:
            raise TypeError(f"{type(primitive).__name__} is no part of a negotiation")
        with contextlib.suppress(OSError):
            # A connection that broke shows at the next read, where there is somebody to tell.
            self._connection.sendall(encoded)

    def receive_pdu(
        self,
        wait: bool = True,  # noqa: ARG002 - pynetdicom's signature; a negotiation always waits
        timeout: float | None = None,
    ) -> A_ASSOCIATE | A_ABORT | A_P_ABORT | None:
        """Read one PDU; ``None`` if none comes in `timeout` seconds, A-P-ABORT if the connection ends or it is invalid.

        Exactly one PDU is taken from the socket: whatever follows it belongs to the data phase.
        """
        self.last_received = self._receive(timeout)
        return self.last_received

    def _receive(self, timeout: float | None) -> A_ASSOCIATE | A_ABORT | A_P_ABORT | None:
        try:
            header, body = _read_pdu(self._connection, timeout)
        except TimeoutError:
            return None
        except (OSError, EOFError) as error:
            if isinstance(error, OSError):
                self.transport_error = error
            return _provider_abort(0)
        self.is_tls_peer = header[:2] == b"\x16\x03"
        pdu_class = {1: A_ASSOCIATE_RQ, 2: A_ASSOCIATE_AC, 3: A_ASSOCIATE_RJ, 7: A_ABORT_RQ}.get(header[0])
        if body is None or pdu_class is None:
            return self._invalid(2 if header[0] in (4, 5, 6) else 1)
        try:
            pdu = pdu_class()
            pdu.decode(header + body)
            primitive = pdu.to_primitive()
        except (
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            AssertionError,
            NotImplementedError,
            struct.error,
        ) as error:
            # pynetdicom's decoders raise whatever the malformed bytes lead to.
            log.warning("A PDU of the negotiation can't be decoded", extra={"error": repr(error)})
            return self._invalid(6)
        if isinstance(primitive, A_ASSOCIATE) and pdu_class is A_ASSOCIATE_RQ and not _are_valid_contexts(primitive):
            log.warning("The presentation contexts of an association request are invalid")
            return self._invalid(6)
        if pdu_class is A_ASSOCIATE_RQ and not pdu.protocol_version & 1:
            cause = PROTOCOL_VERSION
            self.assoc.acse.send_reject(cause.result, cause.source, cause.reason)
        return cast("A_ASSOCIATE | A_ABORT | A_P_ABORT", primitive)

    @property
    def _connection(self) -> socket.socket:
        if self.socket is None or self.socket.socket is None:
            raise OSError("the connection is closed")
        return self.socket.socket

    def _invalid(self, reason: int) -> A_P_ABORT:
        self.assoc.acse.send_ap_abort(reason)
        return _provider_abort(reason)


class NegotiatedAssociation(Association):
    """pynetdicom's association as far as its establishment; its two threads are never started."""

    def __init__(self, ae: AE, mode: str, sock: socket.socket) -> None:
        super().__init__(ae, mode)
        self.provider = self.dul = SynchronousProvider(self)
        self.set_socket(AssociationSocket(self, client_socket=sock))
        for user in (self.requestor, self.acceptor):
            user.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        local = AddressInformation.from_tuple(sock.getsockname())
        try:
            remote = AddressInformation.from_tuple(sock.getpeername())
        except OSError:
            if mode != "requestor":
                raise
            # It is gone already, and what it said before it went is still to be read; its address is of no use to us.
            remote = local
        self.requestor.address_info, self.acceptor.address_info = (
            (local, remote) if self.is_requestor else (remote, local)
        )

    def _bind_defaults(self) -> None:
        """Bind what answers negotiation items; the default logging handlers would format every PDU for nobody."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    @property
    def contexts(self) -> dict[int, AcceptedContext]:
        """The accepted presentation contexts by their ID."""
        return {
            cast(int, context.context_id): AcceptedContext(
                context_id=cast(int, context.context_id),
                abstract_syntax=str(context.abstract_syntax),
                transfer_syntax=str(context.transfer_syntax[0]),
            )
            for context in self.accepted_contexts
        }


def application_entity(ae_title: str, acse_timeout_s: float) -> AE:
    """Make the pynetdicom application entity that an association takes its settings from."""
    entity = AE(ae_title)
    entity.acse_timeout = acse_timeout_s
    return entity


def build_context(
    context_id: int | None, abstract_syntax: str, transfer_syntaxes: Sequence[str]
) -> PresentationContext:
    """Make a pynetdicom presentation context; as acceptor without an ID."""
    context = PresentationContext()
    context.context_id = context_id
    context.abstract_syntax = UID(abstract_syntax)
    context.transfer_syntax = [UID(syntax) for syntax in transfer_syntaxes]
    return context


def _are_valid_contexts(request: A_ASSOCIATE) -> bool:
    """Tell whether there are 1 to 128 contexts of different IDs, each with its syntaxes (PS3.8 9.3.2.2).

    Of two contexts with one ID the peer and we could mean different ones.
    """
    contexts = request.presentation_context_definition_list
    identifiers = {context.context_id for context in contexts}
    is_unambiguous = 1 <= len(contexts) == len(identifiers) <= MAX_CONTEXTS
    return is_unambiguous and all(context.abstract_syntax and context.transfer_syntax for context in contexts)


def _provider_abort(reason: int) -> A_P_ABORT:
    primitive = A_P_ABORT()
    primitive.provider_reason = reason
    return primitive


def _read_pdu(sock: socket.socket, timeout_s: float | None) -> tuple[bytes, bytes | None]:
    """Read exactly one PDU within `timeout_s` as header and body; no body if it is longer than a negotiation's."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    header = _read_exactly(sock, 6, deadline)
    _, _, length = _pdu_header.unpack(header)
    return header, None if length > _MAX_NEGOTIATION_PDU else _read_exactly(sock, length, deadline)


def _read_exactly(sock: socket.socket, count: int, deadline: float | None) -> bytes:
    received = bytearray()
    while len(received) < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
        piece = sock.recv(count - len(received))
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)
