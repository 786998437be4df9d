"""The periodic work of Storage Commitment: ask destinations, decide requests of modalities, bring them reports."""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable
from typing import Final

from pydicom.uid import generate_uid

from config.settings import DicomDestinationSettings, RetrySettings, Settings
from dicom_node.commitment_association import CommitmentPeer, CommitmentPeers, bring_report, request_commitment
from dicom_node.commitment_peers import Rights, answering_policy, asking_policy
from dicom_node.commitment_reports import SUCCESS
from dicom_node.commitment_scp import OPEN_ASSOCIATION_WAIT_S, CommitmentScp
from dicom_node.destinations.base import retry_after
from dicom_node.destinations.explanations import explain_failure
from dicom_node.errors import DeliveryError
from dicom_node.ledger.commitment_requests import CommitmentRequestLedger, Request
from dicom_node.ledger.commitments import CommitmentLedger, Transaction
from dicom_node.ledger.database import Database
from dicom_node.observation.correlation import trace_id_of
from dicom_node.upper_layer import RequestedAssociation

log = logging.getLogger(__name__)

_PERIOD_S: Final = 1.0
_DROP_PERIOD_S: Final = 60.0
REPORT_RETRY: Final = RetrySettings(initial_delay_s=10.0, factor=2.0, max_delay_s=900.0)
"""How a report that a modality did not take is tried again."""


class CommitmentJobs:
    """The jobs of one worker; each may run in every worker at once, and end at any moment: the ledger has it all."""

    def __init__(
        self, settings: Settings, database: Database, *, clock: Callable[[], float] | None = None, rng: random.Random
    ) -> None:
        self._settings = settings
        self._ledger = CommitmentLedger(database)
        self._requests = CommitmentRequestLedger(database)
        # That of the ledger, by which requests were received: this machine's may be another.
        self._clock = clock or database.now
        self._rng = rng
        self._failures: dict[str, int] = {}
        self._database = database
        self._peers = CommitmentPeers()

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
        drop = [("commitments that nobody asks for any more", self.drop, _DROP_PERIOD_S)]
        return [*ask, *decide, *report, *drop]

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
        peer = CommitmentPeer.of_destination(settings, asked, self._settings.node.ae_title)
        left = list(transactions)
        try:
            with self._peers.open(peer) as association:
                speaker = self._speaker(peer)
                while left:
                    self._request(association, left[0], speaker, settings.retry)
                    left.pop(0)
                uids = [transaction.transaction_uid for transaction in transactions]
                association.listen(
                    asked.wait_s, answer=speaker.answer, is_enough=lambda: not self._ledger.open_transactions(uids)
                )
            self._failures.pop(name, None)
        except DeliveryError as error:
            self._failures[name] = self._failures.get(name, 0) + 1
            retry_in_s = retry_after(self._failures[name], settings.retry, self._rng)
            reason = explain_failure(peer.named, error)
            log.warning(
                "Commitment can't be asked for now",
                extra={"destination": name, "reason": reason, "retry_in_s": round(retry_in_s, 1)},
            )
            for transaction in left:
                self._ledger.request_failed(transaction.transaction_uid, reason, retry_in_s=retry_in_s)

    def drop(self) -> None:
        """Wait no more for destinations that are still there, and are not to commit any more."""
        silent = [entry.name for entry in self._settings.destinations if getattr(entry, "commitment", None) is None]
        for delivery_id in self._ledger.drop(silent):
            log.warning(
                "Commitment is not waited for any more: the settings ask for none", extra={"delivery": delivery_id}
            )

    def _speaker(self, peer: CommitmentPeer) -> CommitmentScp:
        """Return what answers the destination on our association: it may bring its own reports there, and no more."""
        rights = Rights(source=None, destinations=frozenset({peer.named.name}))
        return CommitmentScp(
            self._settings, self._database, rights, calling_ae_title=peer.named.ae_title, host=peer.named.host
        )

    def _request(
        self, association: RequestedAssociation, transaction: Transaction, speaker: CommitmentScp, retry: RetrySettings
    ) -> None:
        facts = {
            "trace_id": trace_id_of(self._ledger.study_of(transaction.delivery_id)),
            "delivery": transaction.delivery_id,
            "transaction_uid": transaction.transaction_uid,
            "references": len(transaction.references),
        }
        status = request_commitment(
            association, transaction.transaction_uid, transaction.references, answer=speaker.answer
        )
        if status == SUCCESS:
            self._ledger.requested(transaction.transaction_uid)
            log.info("Commitment requested", extra=facts)
            return
        # Without the Error Comment, in which a peer may quote what it likes.
        reason = f"N-ACTION was answered {status:04X}"
        self._ledger.request_failed(transaction.transaction_uid, reason, retry_in_s=retry.max_delay_s)
        log.warning("Commitment request not taken", extra={**facts, "reason": reason})

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
            peer = CommitmentPeer.of_source(
                source_name,
                asked,
                ae_title=asked.ae_title or request.calling_ae_title,
                host=asked.host or request.host,
                port=asked.port,
                calling_ae_title=self._settings.node.ae_title,
            )
            try:
                status = self._bring(peer, request)
            except DeliveryError as error:
                reason = explain_failure(peer.named, error)
            else:
                if status == SUCCESS:
                    continue
                reason = f"the report was answered {status:04X}"
            retry_in_s = retry_after(request.attempts + 1, REPORT_RETRY, self._rng)
            self._requests.report_failed(request.request_id, reason, retry_in_s=retry_in_s)
            log.warning(
                "Commitment report not brought",
                extra={"request": request.request_id, "source": source_name, "reason": reason},
            )
            # The others of this source would meet the same.
            return

    def _bring(self, peer: CommitmentPeer, request: Request) -> int:
        outcomes = self._requests.outcomes(request.request_id)
        with self._peers.open(peer) as association:
            status = bring_report(association, request.transaction_uid, outcomes)
            if status == SUCCESS:
                self._requests.reported(request.request_id)
                log.info("Commitment reported", extra={"request": request.request_id, "source": request.source})
        return status


def new_transaction_uid() -> str:
    """Return a Transaction UID that nobody has used: 2.25 and a random UUID (PS3.5 B.2)."""
    return str(generate_uid(prefix=None))
