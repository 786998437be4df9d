"""Associations as requestor and as acceptor: negotiated by pynetdicom, then in the hands of our own data phase.

Everything runs in the calling thread; see `negotiation` and `data_phase` for the two halves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import mmap
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

from pydicom.uid import UID
from pynetdicom import build_role
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AddressInformation

from dicom_node.command_set import (
    RESPONSE,
    CommandField,
    CommandSet,
    build_echo_request,
    build_response,
    build_store_request,
    parse_command_set,
)
from dicom_node.data_phase import (
    DataPhase,
    DataPhaseError,
    PeerSilent,
    ProtocolViolation,
    ReleaseRequested,
    close_gently,
)
from dicom_node.errors import (
    AssociationAborted,
    AssociationRejectedPermanent,
    AssociationRejectedTransient,
    ConnectionFailed,
    ContextRejected,
    NetworkTimeout,
    NodeError,
    TlsFailed,
)
from dicom_node.negotiation import (
    IMPLEMENTATION_VERSION_NAME,
    MAX_CONTEXTS,
    STORAGE_COMMITMENT,
    VERIFICATION,
    AcceptedContext,
    AssociationRequest,
    NegotiatedAssociation,
    NegotiationFailed,
    NoTls,
    ProposedContext,
    RequestRejected,
    application_entity,
    build_context,
)
from dicom_node.rejections import Rejection
from dicom_node.tls import (
    RefusedAfterHandshake,
    RenewedContext,
    TlsSocket,
    TlsUnusable,
    accept_tls,
    connect_tls,
    explain_tls,
)

__all__ = [
    "STORAGE_COMMITMENT",
    "VERIFICATION",
    "AcceptedAssociation",
    "AcceptedContext",
    "AssociationRequest",
    "NegotiationFailed",
    "NoTls",
    "ProposedContext",
    "RequestRejected",
    "RequestedAssociation",
    "StoreResponse",
    "accept_association",
    "open_association",
]

log = logging.getLogger(__name__)

RESPONSE_PDU_BYTES: Final = 16_384
"""Largest PDU that we announce as requestor: what comes back is responses."""


_LOOK_S: Final = 0.25

Answer = Callable[[DataPhase, AcceptedContext, CommandSet], tuple[int, str]]
"""Reads the data set of a request and carries it out; returns status and Error Comment of its response."""


@dataclass(frozen=True, kw_only=True)
class StoreResponse:
    """What a C-STORE-RSP says: Status (0000,0900) and Error Comment (0000,0902)."""

    status: int
    error_comment: str


# ---------------------------------------------------------------------- as requestor


def open_association(
    *,
    host: str,
    port: int,
    called_ae_title: str,
    calling_ae_title: str,
    contexts: Sequence[ProposedContext],
    max_pdu_bytes: int = RESPONSE_PDU_BYTES,
    connect_timeout_s: float = 10.0,
    acse_timeout_s: float = 30.0,
    dimse_timeout_s: float = 60.0,
    tls: RenewedContext | None = None,
    server_name: str | None = None,
    scp_role: str | None = None,
) -> RequestedAssociation:
    """Connect, negotiate, and return the established association.

    Parameters
    ----------
    contexts
        1 to 128; proposed with IDs 1, 3, 5 ... in this order. The same abstract syntax may be proposed several times.
    max_pdu_bytes
        Announced for what we receive, that is, responses; what we send is bounded by the peer's own announcement.
    dimse_timeout_s
        Longest wait for a response, and the longest time without progress while sending.
    tls
        Where given, TLS is spoken, and never anything else.
    server_name
        Name that the peer's certificate is to have, where that is not `host`.
    scp_role
        SOP class that we offer to be the SCP of, instead of its SCU (PS3.7 D.3.3.4). An answer is not waited for:
        old peers leave it out.

    Raises
    ------
    TlsFailed
        The TLS handshake failed, or the peer ended it when it had seen our certificate.
    ConnectionFailed
        Name not resolved, refused, or no TCP connection in `connect_timeout_s`.
    AssociationRejectedTransient, AssociationRejectedPermanent
        With `result`, `source` and `reason`.
    ContextRejected
        The peer accepted the association and none of its contexts; it is aborted.
    AssociationAborted, NetworkTimeout
        During the negotiation.
    """
    if not 1 <= len(contexts) <= MAX_CONTEXTS:
        raise ValueError(f"{len(contexts)} presentation contexts, possible are 1 to {MAX_CONTEXTS}")
    where = f"{called_ae_title} at {host}:{port}"
    try:
        sock = socket.create_connection((host, port), timeout=connect_timeout_s)
    except OSError as error:
        raise ConnectionFailed(f"no connection to {where}: {error}") from error
    if tls is not None:
        try:
            sock = connect_tls(sock, tls.get(), server_name or host, acse_timeout_s)
        except (OSError, TlsUnusable, ValueError) as error:
            sock.close()
            raise TlsFailed(f"{where}: {explain_tls(error)}") from error
    try:
        association = NegotiatedAssociation(application_entity(calling_ae_title, acse_timeout_s), "requestor", sock)
        association.requestor.ae_title = calling_ae_title
        association.acceptor.ae_title = called_ae_title
        association.requestor.maximum_length = max_pdu_bytes
        association.requestor.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        association.requestor.requested_contexts = [
            build_context(2 * n + 1, context.abstract_syntax, context.transfer_syntaxes)
            for n, context in enumerate(contexts)
        ]
        if scp_role is not None:
            association.requestor.add_negotiation_item(build_role(UID(scp_role), scp_role=True))
        association.acse.negotiate_association()
        if not association.is_established:
            raise _negotiation_error(association, where, sock)
        return RequestedAssociation(
            accepted=association.contexts,
            phase=DataPhase(
                sock,
                contexts=association.contexts.keys(),
                max_pdu_bytes=max_pdu_bytes,
                peer_max_pdu_bytes=association.acceptor.maximum_length or 0,
                idle_timeout_s=dimse_timeout_s,
                message_timeout_s=dimse_timeout_s,
            ),
            where=where,
            acse_timeout_s=acse_timeout_s,
        )
    except ProtocolViolation as error:
        _close(sock)
        raise AssociationAborted(f"{where}: {error}") from error
    except BaseException:
        _close(sock)
        raise


class RequestedAssociation:
    """An established association that we requested; as a context manager it is released, or aborted on an error."""

    def __init__(
        self, *, accepted: Mapping[int, AcceptedContext], phase: DataPhase, where: str, acse_timeout_s: float
    ) -> None:
        self.accepted = accepted
        self._phase = phase
        self._where = where
        self._acse_timeout_s = acse_timeout_s
        self._message_id = 0
        self._is_open = True
        self._context_ids = {
            (context.abstract_syntax, context.transfer_syntax): context_id
            for context_id, context in sorted(accepted.items(), reverse=True)
        }

    def context_for(self, sop_class_uid: str, transfer_syntax_uid: str) -> int | None:
        """Return the ID of the first accepted context for the class in exactly this transfer syntax."""
        return self._context_ids.get((sop_class_uid, transfer_syntax_uid))

    def echo(self) -> int:
        """Send C-ECHO and return its status; needs an accepted Verification context.

        Raises
        ------
        ContextRejected, AssociationAborted, NetworkTimeout
        """
        context_id = next((i for i, c in self.accepted.items() if c.abstract_syntax == VERIFICATION), None)
        if context_id is None:
            raise ContextRejected(f"{self._where} did not accept the Verification SOP class")
        message_id = self._next_message_id()
        with self._as_delivery_errors():
            self._phase.send_message(context_id, build_echo_request(message_id))
            return self._response(message_id, CommandField.C_ECHO_RSP).status or 0

    def store(
        self, *, context_id: int, sop_class_uid: str, sop_instance_uid: str, source: Path | bytes, offset: int = 0
    ) -> StoreResponse:
        """Send one C-STORE and wait for its response; the data set goes out as it lies in the file.

        Parameters
        ----------
        context_id
            Of an accepted context, see `context_for`; its transfer syntax must be that of `source`.
        source
            Encoded data set: a file, which is mapped and never read as a whole, or bytes.
        offset
            Where in `source` the data set begins, in bytes: 0, or the end of the file meta information.

        Raises
        ------
        AssociationAborted, NetworkTimeout
            The association is over then, and whether the peer stored the object is unknown.
        OSError
            The file can't be read; nothing was sent, the association goes on.
        """
        message_id = self._next_message_id()
        command = build_store_request(message_id, sop_class_uid, sop_instance_uid)
        if isinstance(source, bytes):
            return self._store(context_id, command, message_id, memoryview(source)[offset:])
        with source.open("rb") as file:
            if source.stat().st_size <= offset:
                return self._store(context_id, command, message_id, memoryview(b""))
            # Not closed by hand: after an error the traceback may still hold views of it, and close would raise.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._store(context_id, command, message_id, memoryview(mapped)[offset:])

    def _store(self, context_id: int, command: bytes, message_id: int, data_set: memoryview) -> StoreResponse:
        if context_id not in self.accepted:
            raise ValueError(f"presentation context {context_id} was not accepted")
        with self._as_delivery_errors():
            self._phase.send_message(context_id, command, data_set)
            response = self._response(message_id, CommandField.C_STORE_RSP)
        return StoreResponse(status=response.status or 0, error_comment=response.error_comment)

    def exchange(
        self,
        context_id: int,
        command: Callable[[int], bytes],
        data_set: bytes,
        *,
        answer: Answer | None = None,
    ) -> CommandSet:
        """Send a request with a data set and wait for its response.

        Parameters
        ----------
        context_id
            Of an accepted context.
        command
            Builds the command set for the Message ID that it is given.
        data_set
            In the transfer syntax of the context.
        answer
            Answers requests of the peer that come before the response; without it they break the protocol.

        Raises
        ------
        AssociationAborted, NetworkTimeout
            The association is over then, and whether the peer did what it was asked is unknown.
        """
        message_id = self._next_message_id()
        request = command(message_id)
        with self._as_delivery_errors():
            self._phase.send_message(context_id, request, memoryview(data_set))
            response_field = CommandField(parse_command_set(request).command_field | RESPONSE)
            while True:
                if answer is None:
                    return self._response(message_id, response_field)
                received_on, received = self._phase.receive_command()
                if received.is_response:
                    return self._checked(received_on, received, message_id, response_field)
                self._answer(received_on, received, answer)

    def listen(self, wait_s: float, *, answer: Answer, is_enough: Callable[[], bool]) -> None:
        """Answer requests of the peer for `wait_s` seconds, or until `is_enough` says so or the peer ends it all."""
        end = time.monotonic() + wait_s
        while self._is_open and not is_enough():
            left_s = end - time.monotonic()
            if left_s <= 0:
                return
            try:
                if self._phase.has_input(min(_LOOK_S, left_s)):
                    received_on, received = self._phase.receive_command()
                    if received.is_response:
                        raise ProtocolViolation("a response to nothing", source=0, reason=0)
                    self._answer(received_on, received, answer)
            except ReleaseRequested:
                self._is_open = False
                self._phase.confirm_release()
                self._phase.close()
            except DataPhaseError as error:
                log.info("The peer ended the association", extra={"peer": self._where, "reason": str(error)})
                self._is_open = False
                self._phase.abort()
                self._phase.close()

    def _answer(self, context_id: int, request: CommandSet, answer: Answer) -> None:
        status, comment = answer(self._phase, self.accepted[context_id], request)
        self._phase.send_message(context_id, build_response(request, status, comment))

    def release(self) -> None:
        """Release the association; a peer that does not confirm in time is aborted, which is logged and no error."""
        if self._is_open:
            self._is_open = False
            if not self._phase.request_release(self._acse_timeout_s):
                log.warning("The peer did not confirm the release", extra={"peer": self._where})

    def abort(self) -> None:
        """Abort the association."""
        if self._is_open:
            self._is_open = False
            self._phase.abort()
            self._phase.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error_type is None:
            self.release()
        else:
            self.abort()

    def _next_message_id(self) -> int:
        if not self._is_open:
            raise AssociationAborted(f"the association with {self._where} is over")
        self._message_id = self._message_id % 65_535 + 1
        return self._message_id

    def _response(self, message_id: int, command_field: CommandField) -> CommandSet:
        return self._checked(*self._phase.receive_command(), message_id, command_field)

    def _checked(
        self, context_id: int, command: CommandSet, message_id: int, command_field: CommandField
    ) -> CommandSet:
        if command.has_data_set:
            self._phase.receive_data_set(context_id, len)
        if command.command_field != command_field or command.message_id_being_responded_to != message_id:
            raise ProtocolViolation(
                f"command 0x{command.command_field:04x} for message {command.message_id_being_responded_to} "
                f"where the response to message {message_id} was due",
                source=0,
                reason=0,
            )
        if command.status is None:
            raise ProtocolViolation("a response without a status", source=0, reason=0)
        return command

    @contextlib.contextmanager
    def _as_delivery_errors(self) -> Iterator[None]:
        """Translate what ends the data phase; the association is over afterwards."""
        try:
            yield
        except PeerSilent as error:
            self.abort()
            raise NetworkTimeout(f"{self._where}: {error}") from error
        except ProtocolViolation as error:
            self._is_open = False
            self._phase.abort(error.source, error.reason)
            self._phase.close()
            raise AssociationAborted(f"{self._where}: {error}") from error
        except ReleaseRequested as error:
            self._is_open = False
            self._phase.confirm_release()
            self._phase.close()
            raise AssociationAborted(f"{self._where}: the peer released the association before its answer") from error
        except DataPhaseError as error:
            self._is_open = False
            self._phase.close()
            raise AssociationAborted(f"{self._where}: {error}") from error


def _negotiation_error(association: NegotiatedAssociation, where: str, sock: socket.socket) -> NodeError:
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        kind = AssociationRejectedPermanent if answer.result == 1 else AssociationRejectedTransient
        return kind(
            f"{where} rejected the association: {answer.reason_str} ({answer.result_str}, {answer.source_str})",
            result=cast(int, answer.result),
            source=cast(int, answer.result_source),
            reason=cast(int, answer.diagnostic),
        )
    if answer is not None and answer.result == 0:
        return ContextRejected(f"{where} accepted none of the proposed presentation contexts")
    error = association.provider.transport_error
    if isinstance(sock, TlsSocket) and error is not None:
        # A TLS 1.3 peer judges our certificate after our side of the handshake; its alert may be lost with the
        # connection.
        cause = error if isinstance(error, ssl.SSLError) else RefusedAfterHandshake(error.errno, error.strerror)
        failure = TlsFailed(f"{where}: {explain_tls(cause)}")
        failure.__cause__ = cause
        return failure
    if association.provider.last_received is None:
        return NetworkTimeout(f"{where} did not answer the association request")
    return AssociationAborted(f"{where} aborted the negotiation or closed the connection")


# ---------------------------------------------------------------------- as acceptor


@dataclass(frozen=True, kw_only=True)
class AcceptedAssociation:
    """An established association that a peer requested."""

    request: AssociationRequest
    contexts: Mapping[int, AcceptedContext]
    phase: DataPhase


def accept_association(
    sock: socket.socket,
    *,
    judge: Callable[[AssociationRequest], Rejection | None],
    choose_transfer_syntax: Callable[[ProposedContext], str | None],
    ae_title: str,
    max_pdu_bytes: int,
    acse_timeout_s: float,
    network_timeout_s: float,
    tls: RenewedContext | None = None,
    peer: tuple[str, int] | None = None,
) -> AcceptedAssociation:
    """Negotiate the association that a peer requests on a new connection.

    Parameters
    ----------
    judge
        Called once with the request; a rejection is sent, ``None`` goes on to the presentation contexts.
    choose_transfer_syntax
        Called for each proposed context: the transfer syntax to accept, an empty text where the abstract syntax is
        fine and no transfer syntax is, ``None`` where the abstract syntax is not supported.
    ae_title
        Our own, for the log; the answer repeats the called AE title (PS3.8 9.3.3).
    acse_timeout_s
        Time from the connection to the complete request, however slowly it trickles in.
    network_timeout_s
        Longest silence on the established association; see `DataPhase`.
    tls
        Where given, the connection begins with a TLS handshake; it takes of the time for the request.
    peer
        Address and port of the peer, where that is not the other end of the connection.

    Raises
    ------
    RequestRejected
        `judge` said no.
    NegotiationFailed
        No association came of it; the connection is closed.
    """
    deadline = time.monotonic() + acse_timeout_s
    if tls is not None:
        try:
            sock = accept_tls(sock, tls.get(), acse_timeout_s)
        except (OSError, TlsUnusable, ValueError) as error:
            sock.close()
            # Who only knocks, such as a load balancer that looks after us, is no fault of anybody.
            kind = NegotiationFailed if isinstance(error, ConnectionError | TimeoutError | ssl.SSLEOFError) else NoTls
            raise kind(f"no TLS with the peer: {explain_tls(error)}") from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        association = NegotiatedAssociation(application_entity(ae_title, acse_timeout_s), "acceptor", sock)
        association.acceptor.maximum_length = max_pdu_bytes
        association.acceptor.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        received = association.provider.receive_pdu(wait=True, timeout=max(deadline - time.monotonic(), 0.001))
        if not isinstance(received, A_ASSOCIATE) or received.result is not None or association.is_rejected:
            raise _no_request(association)
        association.requestor.primitive = received
        request = _association_request(association, received, sock)
        if peer is not None:
            request = dataclasses.replace(request, host=peer[0], port=peer[1])
        rejection = judge(request)
        if rejection is not None:
            association.acse.send_reject(rejection.result, rejection.source, rejection.reason)
            raise RequestRejected(rejection.explanation)
        _accept_contexts(association, received, choose_transfer_syntax)
        return AcceptedAssociation(
            request=request,
            contexts=association.contexts,
            phase=DataPhase(
                sock,
                contexts=association.contexts.keys(),
                max_pdu_bytes=max_pdu_bytes,
                peer_max_pdu_bytes=association.requestor.maximum_length or 0,
                idle_timeout_s=network_timeout_s,
                message_timeout_s=network_timeout_s,
            ),
        )
    except (OSError, ProtocolViolation) as error:
        close_gently(sock)
        raise NegotiationFailed(str(error)) from error
    except BaseException:
        close_gently(sock)
        raise


def _no_request(association: NegotiatedAssociation) -> NegotiationFailed:
    provider = association.provider
    if provider.is_tls_peer:
        return NoTls("the peer speaks TLS on the port without TLS: let it call tls.port")
    if isinstance(provider.transport_error, ssl.SSLError):
        return NoTls(f"no TLS with the peer: {explain_tls(provider.transport_error)}")
    said = "no valid association request came" if provider.last_received else "no association request in time"
    return NegotiationFailed(said)


def _association_request(
    association: NegotiatedAssociation, primitive: A_ASSOCIATE, sock: socket.socket
) -> AssociationRequest:
    address = cast(AddressInformation, association.requestor.address_info)
    return AssociationRequest(
        calling_ae_title=primitive.calling_ae_title.strip(),
        called_ae_title=primitive.called_ae_title.strip(),
        host=address.address,
        port=address.port,
        application_context_name=str(primitive.application_context_name or ""),
        contexts=tuple(
            ProposedContext(
                abstract_syntax=str(context.abstract_syntax),
                transfer_syntaxes=tuple(str(syntax) for syntax in context.transfer_syntax),
            )
            for context in primitive.presentation_context_definition_list
        ),
        is_secure=isinstance(sock, TlsSocket),
        certificate=sock.certificate if isinstance(sock, TlsSocket) else None,
    )


def _accept_contexts(
    association: NegotiatedAssociation,
    primitive: A_ASSOCIATE,
    choose_transfer_syntax: Callable[[ProposedContext], str | None],
) -> None:
    """Let pynetdicom answer the contexts as chosen.

    pynetdicom keeps one list of transfer syntaxes for an abstract syntax and prefers its own order. So each proposed
    context is first reduced to the one syntax that was chosen for it; the union of those is what we support.
    """
    supported: dict[str, list[str]] = {}
    for context in primitive.presentation_context_definition_list:
        abstract_syntax = str(context.abstract_syntax)
        chosen = choose_transfer_syntax(
            ProposedContext(
                abstract_syntax=abstract_syntax,
                transfer_syntaxes=tuple(str(syntax) for syntax in context.transfer_syntax),
            )
        )
        if chosen is None:
            continue
        # "" is no transfer syntax that a peer proposes, so such a context is rejected for its transfer syntaxes.
        syntaxes = supported.setdefault(abstract_syntax, [])
        if chosen:
            context.transfer_syntax = [UID(chosen)]
            syntaxes.append(chosen)
    association.acceptor.supported_contexts = [
        build_context(None, abstract_syntax, syntaxes) for abstract_syntax, syntaxes in supported.items()
    ]
    for context in association.acceptor.supported_contexts:
        if context.abstract_syntax == STORAGE_COMMITMENT:
            # Who brings a report is its SCP and says so (PS3.4 J.3.3); who asks for one is the SCU, by default.
            context.scu_role = context.scp_role = True
    association.acse.negotiate_association()


def _close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
