"""The periodic work of Storage Commitment: ask destinations, decide requests of modalities, bring them reports."""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association

from config.settings import DicomDestinationSettings, PeerTlsSettings, RetrySettings, Settings
from dicom_node.commitment_messages import PUSH_MODEL_INSTANCE, REQUEST_ACTION, build_report, build_request
from dicom_node.commitment_peers import answering_policy, asking_policy, resend_policies
from dicom_node.commitment_reports import PROCESSING_FAILURE, SUCCESS, answer_report
from dicom_node.commitment_scp import OPEN_ASSOCIATION_WAIT_S
from dicom_node.destinations.base import retry_after
from dicom_node.errors import AssociationAborted, DeliveryError
from dicom_node.ledger.commitment_requests import CommitmentRequestLedger, Request
from dicom_node.ledger.commitments import CommitmentLedger, Transaction
from dicom_node.ledger.database import Database
from dicom_node.negotiation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.observation.correlation import trace_id_of
from dicom_node.tls import TlsUnusable, client_files
from dicom_node.upper_layer import STORAGE_COMMITMENT

log = logging.getLogger(__name__)

_PERIOD_S: Final = 1.0
_LOOK_S: Final = 0.05
REPORT_RETRY: Final = RetrySettings(initial_delay_s=10.0, factor=2.0, max_delay_s=900.0)
"""How a report that a modality did not take is tried again."""
REPORT_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Whom an association is opened with, and how long it may take."""

    ae_title: str
    host: str
    port: int
    calling_ae_title: str
    connect_timeout_s: float
    acse_timeout_s: float
    dimse_timeout_s: float
    tls: PeerTlsSettings | None = None


class CommitmentJobs:
    """The jobs of one worker; each may run in every worker at once, and end at any moment: the ledger has it all."""

    def __init__(
        self, settings: Settings, database: Database, *, clock: Callable[[], float] = time.time, rng: random.Random
    ) -> None:
        self._settings = settings
        self._ledger = CommitmentLedger(database)
        self._requests = CommitmentRequestLedger(database)
        self._clock = clock
        self._rng = rng
        self._failures: dict[str, int] = {}

    def jobs(self) -> list[tuple[str, Callable[[], None], float]]:
        """Return name, function and period of each job; one peer that is slow delays no other."""
        ask = [
            (f"commitment of {entry.name}", functools.partial(self.ask, entry.name), _PERIOD_S)
            for entry in self._settings.dicom_destinations
            if entry.commitment is not None
        ]
        sources = [entry for entry in self._settings.sources if entry.commitment is not None]
        report = [
            (f"commitment reports to {entry.name}", functools.partial(self.report, entry.name), _PERIOD_S)
            for entry in sources
        ]
        decide = [("commitment requests", self.decide, _PERIOD_S)] if sources else []
        return [*ask, *decide, *report]

    # -- as SCU ---------------------------------------------------------------------------------

    def ask(self, name: str) -> None:
        """Ask a destination for the commitment of what is due."""
        settings = self._settings.destination(name)
        asked = settings.commitment if isinstance(settings, DicomDestinationSettings) else None
        if not isinstance(settings, DicomDestinationSettings) or asked is None:
            return
        transactions: list[Transaction] = []
        for delivery_id in self._ledger.due(name, asked.delay_s):
            transactions += self._ledger.begin(delivery_id, asking_policy(asked), new_transaction_uid)
            if self._ledger.is_given_up(delivery_id):
                log.error(
                    "No commitment in time: nothing is asked any more, and the objects stay",
                    extra={
                        "trace_id": trace_id_of(self._ledger.study_of(delivery_id)),
                        "delivery": delivery_id,
                        "destination": name,
                    },
                )
        if not transactions:
            return
        peer = Peer(
            ae_title=asked.ae_title or settings.ae_title,
            host=asked.host or settings.host,
            port=asked.port or settings.port,
            calling_ae_title=settings.calling_ae_title or self._settings.node.ae_title,
            connect_timeout_s=settings.connect_timeout_s,
            acse_timeout_s=settings.acse_timeout_s,
            dimse_timeout_s=settings.dimse_timeout_s,
            tls=settings.tls if settings.tls.enabled else None,
        )
        left = list(transactions)
        try:
            with self._associated(peer, as_scp=False, destination=name) as association:
                while left:
                    self._request(association, left[0], settings.retry)
                    left.pop(0)
                self._wait_for_reports(association, transactions, asked.wait_s)
            self._failures.pop(name, None)
        except DeliveryError as error:
            self._failures[name] = self._failures.get(name, 0) + 1
            retry_in_s = retry_after(self._failures[name], settings.retry, self._rng)
            log.warning(
                "Commitment can't be asked for now",
                extra={"destination": name, "reason": str(error), "retry_in_s": round(retry_in_s, 1)},
            )
            for transaction in left:
                self._ledger.request_failed(transaction.transaction_uid, str(error), retry_in_s=retry_in_s)

    def _request(self, association: Association, transaction: Transaction, retry: RetrySettings) -> None:
        ds = build_request(transaction.transaction_uid, transaction.references)
        try:
            answer, _ = association.send_n_action(ds, REQUEST_ACTION, UID(STORAGE_COMMITMENT), UID(PUSH_MODEL_INSTANCE))
        except (RuntimeError, ValueError) as error:
            raise AssociationAborted(f"the association was lost: {error}") from error
        if "Status" not in answer:
            raise AssociationAborted("no answer to N-ACTION")
        facts = {
            "trace_id": trace_id_of(self._ledger.study_of(transaction.delivery_id)),
            "delivery": transaction.delivery_id,
            "transaction_uid": transaction.transaction_uid,
            "references": len(transaction.references),
        }
        if answer.Status == SUCCESS:
            self._ledger.requested(transaction.transaction_uid)
            log.info("Commitment requested", extra=facts)
            return
        reason = f"N-ACTION was answered {answer.Status:04X} {answer.get('ErrorComment', '')}".rstrip()
        self._ledger.request_failed(transaction.transaction_uid, reason, retry_in_s=retry.max_delay_s)
        log.warning("Commitment request not taken", extra={**facts, "reason": reason})

    def _wait_for_reports(self, association: Association, transactions: list[Transaction], wait_s: float) -> None:
        uids = [transaction.transaction_uid for transaction in transactions]
        end = time.monotonic() + wait_s
        while time.monotonic() < end and association.is_established and self._ledger.open_transactions(uids):
            time.sleep(_LOOK_S)

    def _take_report(self, destination: str, event: Any) -> tuple[int, None]:
        try:
            policies = resend_policies(self._settings, frozenset({destination}))
            status, _ = answer_report(self._ledger, policies, event.request.EventTypeID, event.event_information)
        except Exception:
            # The edge of pynetdicom's thread: a report that we can't take is answered so.
            log.exception("Commitment report failed by an unforeseen error")
            status = PROCESSING_FAILURE
        return status, None

    # -- as SCP ---------------------------------------------------------------------------------

    def decide(self) -> None:
        """Decide the requests of modalities for which everything is known, or whose time is over."""
        for request in self._requests.waiting():
            policy = answering_policy(self._settings, request.source)
            source = next((entry for entry in self._settings.sources if entry.name == request.source), None)
            if policy is None or source is None or source.commitment is None:
                continue
            asked, age_s = source.commitment, self._clock() - request.received_at
            if (asked.same_association or asked.port is None) and age_s < OPEN_ASSOCIATION_WAIT_S:
                # Its own association decides it, and brings the report, if it lasts.
                continue
            if self._requests.decide(request.request_id, policy):
                log.info("Commitment request decided", extra={"request": request.request_id, "source": request.source})

    def report(self, source_name: str) -> None:
        """Bring a source the reports that are due."""
        source = next(entry for entry in self._settings.sources if entry.name == source_name)
        asked = source.commitment
        if asked is None:
            return
        for request in self._requests.due(source_name):
            if self._clock() - request.received_at > asked.wait_s + asked.max_age_h * 3600:
                reason = f"not brought in time; last: {request.reason or 'never tried'}"
                log.error("Commitment report given up", extra={"request": request.request_id, "reason": reason})
                self._requests.abandon(request.request_id, reason)
                continue
            # Without a port only the association of a request can take its report: the source has to ask again.
            if asked.port is None:
                if self._clock() - request.received_at > asked.wait_s:
                    self._requests.abandon(request.request_id, "its association ended, and commitment.port is not set")
                continue
            if not self._requests.take(request.request_id):
                continue
            peer = Peer(
                ae_title=asked.ae_title or request.calling_ae_title,
                host=asked.host or request.host,
                port=asked.port,
                calling_ae_title=self._settings.node.ae_title,
                connect_timeout_s=REPORT_TIMEOUT_S,
                acse_timeout_s=REPORT_TIMEOUT_S,
                dimse_timeout_s=REPORT_TIMEOUT_S,
            )
            try:
                self._bring(peer, request)
            except DeliveryError as error:
                retry_in_s = retry_after(request.attempts + 1, REPORT_RETRY, self._rng)
                self._requests.report_failed(request.request_id, str(error), retry_in_s=retry_in_s)
                log.warning(
                    "Commitment report not brought",
                    extra={"request": request.request_id, "source": source_name, "reason": str(error)},
                )
                # The others of this source would meet the same.
                return

    def _bring(self, peer: Peer, request: Request) -> None:
        event_type_id, ds = build_report(request.transaction_uid, self._requests.outcomes(request.request_id))
        with self._associated(peer, as_scp=True) as association:
            try:
                answer, _ = association.send_n_event_report(
                    ds, event_type_id, UID(STORAGE_COMMITMENT), UID(PUSH_MODEL_INSTANCE)
                )
            except (RuntimeError, ValueError) as error:
                raise AssociationAborted(f"the association was lost: {error}") from error
            if answer.get("Status") != SUCCESS:
                status = f"answered {answer.Status:04X}" if "Status" in answer else "not answered"
                raise AssociationAborted(f"the report was {status}")
            self._requests.reported(request.request_id)
            log.info("Commitment reported", extra={"request": request.request_id, "source": request.source})

    @contextmanager
    def _associated(self, peer: Peer, *, as_scp: bool, destination: str = "") -> Iterator[Association]:
        """Give an association for Storage Commitment; `DeliveryError` says why there is none."""
        where = f"{peer.ae_title} at {peer.host}:{peer.port}"
        entity = AE(peer.calling_ae_title)
        entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.connection_timeout = peer.connect_timeout_s
        entity.acse_timeout = peer.acse_timeout_s
        entity.dimse_timeout = peer.dimse_timeout_s
        entity.network_timeout = None
        try:
            tls = None if peer.tls is None else (client_files(peer.tls).get(), peer.tls.server_name or peer.host)
        except TlsUnusable as error:
            raise AssociationAborted(f"{where} can't be called over TLS: {error}") from error
        entity.add_requested_context(STORAGE_COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        association = entity.associate(
            peer.host,
            peer.port,
            ae_title=peer.ae_title,
            # Whoever brings a report is its SCP (PS3.4 J.3.3); for a request the default roles are right.
            tls_args=tls,
            ext_neg=[build_role(STORAGE_COMMITMENT, scp_role=True)] if as_scp else None,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, functools.partial(self._take_report, destination))],
        )
        if not association.is_established:
            refused = association.is_rejected
            raise AssociationAborted(
                f"{where} {'rejected the association' if refused else 'can not be reached, or took no context'}"
            )
        for context in association.accepted_contexts:
            # A peer that leaves the proposed role unanswered takes reports all the same, as old ones do.
            context._as_scp = context._as_scp or as_scp
        try:
            yield association
        finally:
            if association.is_established:
                association.release()


def new_transaction_uid() -> str:
    """Return a Transaction UID that nobody has used: 2.25 and a random UUID (PS3.5 B.2)."""
    return str(generate_uid(prefix=None))
