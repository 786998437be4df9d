"""Storage Commitment on the receiver's associations: requests of modalities, and reports of destinations."""

from __future__ import annotations

import logging
import time
from typing import Final

from config.settings import Settings, SourceCommitmentSettings
from dicom_node.command_set import CommandField, CommandSet, build_event_report_request
from dicom_node.commitment_messages import (
    PUSH_MODEL_INSTANCE,
    REQUEST_ACTION,
    InvalidCommitmentMessage,
    build_report,
    decode,
    encode,
    parse_request,
)
from dicom_node.commitment_peers import Rights, answering_policy, resend_policies
from dicom_node.commitment_reports import (
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    NO_SUCH_INSTANCE,
    NO_SUCH_SOP_CLASS,
    NOT_AUTHORIZED,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SUCCESS,
    answer_report,
)
from dicom_node.data_phase import DataPhase
from dicom_node.errors import LedgerUnavailable
from dicom_node.ledger.commitment_requests import CommitmentRequestLedger, TransactionUidReused
from dicom_node.ledger.commitments import CommitmentLedger
from dicom_node.ledger.database import Database
from dicom_node.upper_layer import STORAGE_COMMITMENT, AcceptedContext

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 32_000_000
"""100 000 references take about 18 MB."""
OPEN_ASSOCIATION_WAIT_S: Final = 10.0
"""How long an open association is given to bring the report before a new one is opened, where both may."""
_LOOK_S: Final = 0.25


class CommitmentScp:
    """Storage Commitment on one association.

    Parameters
    ----------
    rights
        Of the peer.
    calling_ae_title, host
        Of the peer.
    """

    def __init__(
        self, settings: Settings, database: Database, rights: Rights, *, calling_ae_title: str, host: str
    ) -> None:
        self._settings = settings
        self._rights = rights
        self._requests = CommitmentRequestLedger(database)
        self._reports = CommitmentLedger(database)
        self._calling_ae_title = calling_ae_title
        self._host = host
        # Requests of this association whose report may go on it, with their context and since when they wait.
        self._undecided: dict[int, tuple[AcceptedContext, float]] = {}
        self._unanswered: dict[int, int] = {}
        self._message_id = 0

    def answer(self, phase: DataPhase, context: AcceptedContext, command: CommandSet) -> tuple[int, str]:
        """Read the data set of a request and carry it out; returns status and Error Comment, whatever went wrong."""
        encoded = bytearray()
        is_too_long = False

        def take(piece: memoryview) -> None:
            nonlocal is_too_long
            is_too_long = is_too_long or len(encoded) + len(piece) > MAX_MESSAGE_BYTES
            if not is_too_long:
                encoded.extend(piece)

        if command.has_data_set:
            phase.receive_data_set(context.context_id, take)
        if is_too_long:
            return RESOURCE_LIMITATION, f"message longer than {MAX_MESSAGE_BYTES // 1_000_000} MB"
        try:
            return self._carry_out(context, command, bytes(encoded))
        except InvalidCommitmentMessage as error:
            return INVALID_ARGUMENT, str(error)
        except LedgerUnavailable as error:
            log.error("Commitment request could not be recorded", extra={"reason": str(error)})
            return RESOURCE_LIMITATION, "ledger unavailable"
        except Exception:
            # One request's failure becomes its status, never the association's.
            log.exception("Commitment request failed by an unforeseen error")
            return PROCESSING_FAILURE, ""

    def _carry_out(self, context: AcceptedContext, command: CommandSet, encoded: bytes) -> tuple[int, str]:
        if command.sop_class_uid != STORAGE_COMMITMENT:
            return NO_SUCH_SOP_CLASS, "the presentation context is for Storage Commitment Push Model"
        if command.sop_instance_uid != PUSH_MODEL_INSTANCE:
            return NO_SUCH_INSTANCE, f"the SOP instance is {PUSH_MODEL_INSTANCE}"
        ds = decode(encoded, context.transfer_syntax)
        if command.command_field == CommandField.N_EVENT_REPORT_RQ:
            policies = resend_policies(self._settings, self._rights.destinations)
            return answer_report(self._reports, policies, command.event_type_id, ds)
        source = self._rights.source
        if source is None or source.commitment is None:
            return NOT_AUTHORIZED, "this source is given no commitment"
        if command.action_type_id != REQUEST_ACTION:
            return NO_SUCH_ACTION, f"action type {command.action_type_id} is not of Storage Commitment"
        request = parse_request(ds)
        try:
            request_id = self._requests.record(
                transaction_uid=request.transaction_uid,
                calling_ae_title=self._calling_ae_title,
                host=self._host,
                source=source.name,
                references=request.references,
            )
        except TransactionUidReused:
            return INVALID_ARGUMENT, "Transaction UID is in use for other SOP instances"
        log.info(
            "Commitment asked for",
            extra={
                "request": request_id,
                "source": source.name,
                "transaction_uid": request.transaction_uid,
                "references": len(request.references),
            },
        )
        if source.commitment.same_association or source.commitment.port is None:
            self._undecided[request_id] = (context, time.monotonic())
        return SUCCESS, ""

    def wait(self, phase: DataPhase) -> None:
        """Return when the peer has said something; meanwhile bring the reports that are ready.

        Where the peer has a port for reports they may come there just as well, so it is not kept waiting long.
        """
        while self._undecided and not phase.has_input(0.0):
            for request_id, (context, since) in list(self._undecided.items()):
                self._try_to_report(phase, context, request_id, since)
            if self._undecided and phase.has_input(_LOOK_S):
                return

    def _try_to_report(self, phase: DataPhase, context: AcceptedContext, request_id: int, since: float) -> None:
        source = self._rights.source
        policy = answering_policy(self._settings, source.name) if source is not None else None
        assert source is not None
        assert source.commitment is not None
        try:
            is_mine = (
                policy is not None and self._requests.decide(request_id, policy) and self._requests.take(request_id)
            )
            if is_mine:
                del self._undecided[request_id]
                self._send(phase, context, request_id)
            elif time.monotonic() - since > self._longest_wait_s(source.commitment):
                del self._undecided[request_id]
        except LedgerUnavailable as error:
            log.error("Commitment request could not be decided", extra={"reason": str(error)})

    def _longest_wait_s(self, asked: SourceCommitmentSettings) -> float:
        # Without a port there is no other way for the report than this association, as long as one may be silent.
        return self._settings.receiver.network_timeout_s if asked.port is None else OPEN_ASSOCIATION_WAIT_S

    def _send(self, phase: DataPhase, context: AcceptedContext, request_id: int) -> None:
        request = self._requests.get(request_id)
        event_type_id, ds = build_report(request.transaction_uid, self._requests.outcomes(request_id))
        self._message_id = self._message_id % 65_535 + 1
        self._unanswered[self._message_id] = request_id
        phase.send_message(
            context.context_id,
            build_event_report_request(self._message_id, STORAGE_COMMITMENT, PUSH_MODEL_INSTANCE, event_type_id),
            memoryview(encode(ds, context.transfer_syntax)),
        )

    def take_response(self, command: CommandSet) -> bool:
        """Take the answer to a report of ours; False if it answers none."""
        request_id = self._unanswered.pop(command.message_id_being_responded_to or 0, None)
        if command.command_field != CommandField.N_EVENT_REPORT_RSP or request_id is None:
            return False
        facts = {"request": request_id, "status": f"{command.status or 0:04X}"}
        try:
            if command.status == SUCCESS:
                self._requests.reported(request_id)
                log.info("Commitment reported", extra=facts)
            else:
                reason = f"the report was answered {command.status or 0:04X}"
                self._requests.report_failed(request_id, reason, retry_in_s=30.0)
                log.warning("Commitment report not taken", extra=facts)
        except LedgerUnavailable as error:
            log.error("The answer to a commitment report could not be recorded", extra={"reason": str(error)})
        return True

    def close(self) -> None:
        """Leave what the association did not bring to the worker, which opens one of its own."""
        for request_id in self._unanswered.values():
            try:
                self._requests.report_failed(request_id, "the association ended before the answer", retry_in_s=1.0)
            except LedgerUnavailable:
                return
