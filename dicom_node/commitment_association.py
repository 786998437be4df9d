"""Associations that the node opens for Storage Commitment: with whom, over which TLS, and what goes out on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.settings import CommitmentSettings, DicomDestinationSettings, PeerTlsSettings, SourceCommitmentSettings
from dicom_node.command_set import build_action_request, build_event_report_request
from dicom_node.commitment_messages import PUSH_MODEL_INSTANCE, REQUEST_ACTION, build_report, build_request, encode
from dicom_node.commitment_reports import SUCCESS
from dicom_node.destinations.explanations import Peer
from dicom_node.tls import RenewedContext, client_files
from dicom_node.upper_layer import (
    STORAGE_COMMITMENT,
    AcceptedContext,
    Answer,
    ProposedContext,
    RequestedAssociation,
    open_association,
)

REPORT_TIMEOUT_S: Final = 30.0
"""Longest wait for a modality: for the connection, for the association, and for its answer."""

CONTEXT: Final = ProposedContext(
    abstract_syntax=STORAGE_COMMITMENT, transfer_syntaxes=(ExplicitVRLittleEndian, ImplicitVRLittleEndian)
)


@dataclass(frozen=True, kw_only=True)
class CommitmentPeer:
    """Whom an association is opened with, as SCP of the service or its SCU, and how long it may take."""

    named: Peer
    is_modality: bool
    connect_timeout_s: float
    acse_timeout_s: float
    dimse_timeout_s: float
    tls: PeerTlsSettings | None

    @classmethod
    def of_destination(cls, settings: DicomDestinationSettings, asked: CommitmentSettings, node_ae_title: str) -> Self:
        """Return the Storage Commitment SCP of a destination."""
        tls = settings.tls if asked.tls is None else asked.tls
        return cls(
            named=Peer(
                name=settings.name,
                ae_title=asked.ae_title or settings.ae_title,
                host=asked.host or settings.host,
                port=asked.port or settings.port,
                calling_ae_title=settings.calling_ae_title or node_ae_title,
            ),
            is_modality=False,
            connect_timeout_s=settings.connect_timeout_s,
            acse_timeout_s=settings.acse_timeout_s,
            dimse_timeout_s=settings.dimse_timeout_s,
            tls=tls if tls.enabled else None,
        )

    @classmethod
    def of_source(
        cls,
        name: str,
        asked: SourceCommitmentSettings,
        *,
        ae_title: str,
        host: str,
        port: int,
        calling_ae_title: str,
    ) -> Self:
        """Return where a source takes reports."""
        return cls(
            named=Peer(name=name, ae_title=ae_title, host=host, port=port, calling_ae_title=calling_ae_title),
            is_modality=True,
            connect_timeout_s=REPORT_TIMEOUT_S,
            acse_timeout_s=REPORT_TIMEOUT_S,
            dimse_timeout_s=REPORT_TIMEOUT_S,
            tls=asked.tls if asked.tls.enabled else None,
        )


class CommitmentPeers:
    """Opens associations with peers; the certificate files of each are read again when they change."""

    def __init__(self) -> None:
        self._tls: dict[PeerTlsSettings, RenewedContext] = {}

    def open(self, peer: CommitmentPeer) -> RequestedAssociation:
        """Open an association for Storage Commitment; `DeliveryError` says why there is none."""
        tls = None if peer.tls is None else self._tls.setdefault(peer.tls, client_files(peer.tls))
        return open_association(
            host=peer.named.host,
            port=peer.named.port,
            called_ae_title=peer.named.ae_title,
            calling_ae_title=peer.named.calling_ae_title,
            contexts=(CONTEXT,),
            connect_timeout_s=peer.connect_timeout_s,
            acse_timeout_s=peer.acse_timeout_s,
            dimse_timeout_s=peer.dimse_timeout_s,
            tls=tls,
            server_name=None if peer.tls is None else peer.tls.server_name,
            # Whoever brings a report is its SCP (PS3.4 J.3.3); for a request the default roles are right.
            scp_role=STORAGE_COMMITMENT if peer.is_modality else None,
        )


def request_commitment(
    association: RequestedAssociation,
    transaction_uid: str,
    references: Iterable[tuple[str, str]],
    *,
    answer: Answer,
) -> int:
    """Send N-ACTION and return its status; a report that comes before it goes to `answer`."""
    context = _context(association)
    response = association.exchange(
        context.context_id,
        lambda message_id: build_action_request(message_id, STORAGE_COMMITMENT, PUSH_MODEL_INSTANCE, REQUEST_ACTION),
        encode(build_request(transaction_uid, references), context.transfer_syntax),
        answer=answer,
    )
    return response.status or SUCCESS


def bring_report(
    association: RequestedAssociation, transaction_uid: str, outcomes: Iterable[tuple[str, str, int]]
) -> int:
    """Send N-EVENT-REPORT and return its status."""
    context = _context(association)
    event_type_id, ds = build_report(transaction_uid, outcomes)
    response = association.exchange(
        context.context_id,
        lambda message_id: build_event_report_request(
            message_id, STORAGE_COMMITMENT, PUSH_MODEL_INSTANCE, event_type_id
        ),
        encode(ds, context.transfer_syntax),
    )
    return response.status or SUCCESS


def _context(association: RequestedAssociation) -> AcceptedContext:
    # There is one, or the association would not have been opened.
    return next(iter(association.accepted.values()))
