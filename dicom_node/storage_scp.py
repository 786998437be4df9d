"""The services of the receiver on one association: every request answered, every object durable before its success.

The order of a C-STORE: the data set goes to a file as it comes; its header is compared with the command; the file is
synced, renamed into place, its folder synced; the ledger commits its row; then, and only then, 0000.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from dicom_node.audit.transfers import Tally
from dicom_node.command_set import CommandField, CommandSet, build_response
from dicom_node.commitment_scp import CommitmentScp
from dicom_node.data_phase import (
    SERVICE_USER,
    ConnectionLost,
    DataPhaseError,
    PeerAborted,
    ProtocolViolation,
    ReleaseRequested,
)
from dicom_node.dataset_header import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    DatasetHeader,
    inflated_bytes,
    is_identifier,
    require_whole,
    scan_header,
)
from dicom_node.disk_space import DiskSpace
from dicom_node.errors import DatasetMismatch, LedgerUnavailable, OutOfResources, UnparsableDataset
from dicom_node.fault_points import fault_point
from dicom_node.group_commit import GroupCommit
from dicom_node.identifiers import Identifiers
from dicom_node.instance_store import IncomingObject, InstanceStore, StoredObject
from dicom_node.ledger.balance import StoredFile
from dicom_node.ledger.reception import ReceivedInstance, ReceptionLedger, RecordOutcome
from dicom_node.observation.correlation import correlated, follow, fresh, trace_id_of
from dicom_node.observation.definitions import DUPLICATES, RECEIVE_SECONDS, RECEIVED_BYTES, RECEIVED_OBJECTS
from dicom_node.observation.metering import count, observe
from dicom_node.observation.tracing import emit, is_tracing
from dicom_node.pace import Pace
from dicom_node.receive_statuses import PROCESSING_FAILURE, SUCCESS, UNRECOGNIZED_OPERATION, status_for
from dicom_node.upper_layer import (
    STORAGE_COMMITMENT,
    VERIFICATION,
    AcceptedAssociation,
    AcceptedContext,
    AssociationRequest,
)

log = logging.getLogger(__name__)

_HEADER_BYTES: Final = 32_768
"""What is looked at first for the header; only where that is too short the whole file is mapped."""
_STUDIES_SHOWN: Final = 10


class AssociationOutcome(enum.StrEnum):
    """How an association ended, as the ledger knows it."""

    RELEASED = "released"
    ABORTED = "aborted"
    LOST = "lost"


class StorageScp:
    """Serves one association to its end.

    Parameters
    ----------
    association_id
        Of the association in the ledger.
    recorder
        Commits received objects to `ledger`, those of several associations together.
    max_object_bytes
        A longer data set is read to its end, dropped, and answered A700.
    pace
        How fast objects of this source may come. What comes faster waits a little, and is answered A700 where that
        would be too long.
    disks
        Objects that come while one of them is above its high watermark are answered A700.
    commitment
        Answers Storage Commitment, where the peer may use it.
    identifiers
        Hashes what studies are searched by; without it they are not found by patient or order.
    source
        Name of the peer in metrics.
    """

    def __init__(
        self,
        association: AcceptedAssociation,
        *,
        association_id: int,
        store: InstanceStore,
        ledger: ReceptionLedger,
        recorder: GroupCommit,
        max_object_bytes: int,
        disks: DiskSpace,
        pace: Pace | None = None,
        commitment: CommitmentScp | None = None,
        identifiers: Identifiers | None = None,
        source: str = "",
    ) -> None:
        self._source = source
        self._association = association
        self._identifiers = identifiers
        self._commitment = commitment
        self._association_id = association_id
        self._store = store
        self._ledger = ledger
        self._recorder = recorder
        self._max_object_bytes = max_object_bytes
        self._pace = pace
        self._interrupted = threading.Event()
        self._disks = disks
        self._facts = {
            "association": association_id,
            "calling_ae_title": association.request.calling_ae_title,
            "host": association.request.host,
        }
        self._studies: dict[str, None] = {}
        self.tally = Tally()
        """What was stored, for the audit."""
        self.acknowledged = 0
        """C-STORE requests that were answered with success."""
        self.duplicates = 0
        """Those among them whose object was there before."""

    @property
    def request(self) -> AssociationRequest:
        """The request of the association."""
        return self._association.request

    def run(self) -> AssociationOutcome:
        """Answer requests until the association ends, end it by the standard, and return how it ended.

        The connection stays open for its last PDU to be read: `close` is to follow.
        """
        phase = self._association.phase
        begun_ns = time.time_ns()
        log.info("Association accepted", extra=self._facts)
        try:
            while True:
                if self._commitment is not None:
                    self._commitment.wait(phase)
                self._answer(*phase.receive_command())
        except ReleaseRequested:
            outcome, reason = AssociationOutcome.RELEASED, ""
            phase.confirm_release()
        except PeerAborted as error:
            outcome, reason = AssociationOutcome.ABORTED, str(error)
        except ConnectionLost as error:
            outcome, reason = AssociationOutcome.LOST, str(error)
        except ProtocolViolation as error:
            outcome, reason = AssociationOutcome.ABORTED, str(error)
            phase.abort(error.source, error.reason)
        except DataPhaseError as error:
            outcome, reason = AssociationOutcome.ABORTED, str(error)
            phase.abort()
        except BaseException:
            phase.abort()
            raise
        finally:
            if self._commitment is not None:
                self._commitment.close()
        if is_tracing():
            for uid in self._studies:
                with correlated(uid):
                    failure = "" if outcome is AssociationOutcome.RELEASED else f"{outcome.value}: {reason}"
                    emit(
                        "association", begun_ns, association=self._association_id, source=self._source, failure=failure
                    )
        log.info(
            "Association ended",
            extra={
                **self._facts,
                "outcome": outcome.value,
                "reason": reason,
                "acknowledged": self.acknowledged,
                **self._trace_ids(),
            },
        )
        return outcome

    def _trace_ids(self) -> dict[str, object]:
        """Return the id of the study that came, or of the first ones where a device empties its archive."""
        found = [trace_id_of(uid) for uid in self._studies]
        return {"trace_id": found[0]} if len(found) == 1 else {"trace_ids": found or None}

    def close(self) -> None:
        """Close the connection."""
        self._association.phase.close()

    def interrupt(self) -> None:
        """Make `run` abort the association soon; to be called by another thread."""
        self._interrupted.set()
        self._association.phase.interrupt()

    def _answer(self, context_id: int, command: CommandSet) -> None:
        phase = self._association.phase
        context = self._association.contexts[context_id]
        if command.command_field == CommandField.C_STORE_RQ and context.abstract_syntax not in (
            VERIFICATION,
            STORAGE_COMMITMENT,
        ):
            status, comment = self._store_instance(context, command)
            phase.send_message(context_id, build_response(command, status, comment))
            fault_point("reception.answered")
            return
        if context.abstract_syntax == STORAGE_COMMITMENT and self._commitment is not None:
            if command.command_field in (CommandField.N_ACTION_RQ, CommandField.N_EVENT_REPORT_RQ):
                status, comment = self._commitment.answer(phase, context, command)
                phase.send_message(context_id, build_response(command, status, comment))
                return
            if command.is_response and self._commitment.take_response(command):
                if command.has_data_set:
                    phase.receive_data_set(context_id, len)
                return
        if command.is_response:
            raise ProtocolViolation("a response to nothing", source=SERVICE_USER, reason=0)
        if command.has_data_set:
            phase.receive_data_set(context_id, len)
        if command.command_field == CommandField.C_CANCEL_RQ:
            return
        is_echo = command.command_field == CommandField.C_ECHO_RQ
        phase.send_message(context_id, build_response(command, SUCCESS if is_echo else UNRECOGNIZED_OPERATION))

    @fresh
    def _store_instance(self, context: AcceptedContext, command: CommandSet) -> tuple[int, str]:
        """Receive the data set and store it; returns status and Error Comment, whatever went wrong."""
        begun_at, begun_ns = time.perf_counter(), time.time_ns()
        reception = _Reception(self._max_object_bytes)
        try:
            reception.attempt(lambda: self._begin(context, command, reception))
            if command.has_data_set:
                self._association.phase.receive_data_set(context.context_id, reception.write)
            reception.attempt(lambda: self._conclude(context, command, reception))
        finally:
            reception.drop()
        facts = {**self._facts, "sop_instance_uid": command.sop_instance_uid, "sop_class_uid": command.sop_class_uid}
        count(RECEIVED_BYTES, self._source, amount=reception.bytes)
        observe(RECEIVE_SECONDS, time.perf_counter() - begun_at, self._source)
        if reception.error is None:
            count(RECEIVED_OBJECTS, self._source, "0000")
            emit("store", begun_ns, association=self._association_id, source=self._source, bytes=reception.bytes)
            self.acknowledged += 1
            sentence = "Received before, nothing to do" if reception.is_duplicate else "Stored instance"
            log.info(sentence, extra={**facts, "bytes": reception.bytes})
            return SUCCESS, ""
        status, comment = status_for(reception.error)
        count(RECEIVED_OBJECTS, self._source, f"{status:04X}")
        emit("store", begun_ns, association=self._association_id, source=self._source, failure=comment)
        if status == PROCESSING_FAILURE:
            log.error("Instance not stored, unforeseen error", extra=facts, exc_info=reception.error)
        else:
            log.warning("Instance not stored", extra={**facts, "status": f"{status:04X}", "reason": comment})
        return status, comment

    def _begin(self, context: AcceptedContext, command: CommandSet, reception: _Reception) -> None:
        self._keep_pace()
        if not command.sop_class_uid or not command.sop_instance_uid:
            raise DatasetMismatch("the command names no SOP class or no SOP instance")
        if not is_identifier(command.sop_class_uid) or not is_identifier(command.sop_instance_uid):
            raise DatasetMismatch("what the command names as SOP class or instance is no UID")
        if command.sop_class_uid != context.abstract_syntax:
            raise DatasetMismatch("the command's SOP class is not that of the presentation context")
        if not command.has_data_set:
            raise DatasetMismatch("the command announces no data set")
        if self._disks.refusal() is not None:
            raise OutOfResources("disk watermark reached")
        reception.incoming = self._store.create(
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            transfer_syntax_uid=context.transfer_syntax,
            source_ae_title=self._association.request.calling_ae_title,
        )

    def _keep_pace(self) -> None:
        if self._pace is None:
            return
        wait_s = self._pace.take()
        if wait_s is None:
            raise OutOfResources("this source sends more than max_objects_per_minute")
        if wait_s:
            # Meanwhile the peer's data set fills the buffers of the network, and then the peer waits.
            self._association.phase.grant(wait_s)
            self._interrupted.wait(wait_s)

    def _conclude(self, context: AcceptedContext, command: CommandSet, reception: _Reception) -> None:
        incoming = reception.incoming
        assert incoming is not None
        try:
            if context.transfer_syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN and incoming.dataset_bytes:
                _require_inflatable(incoming, self._max_object_bytes)
            header = _read_header(incoming, context.transfer_syntax)
        except UnparsableDataset as error:
            self._quarantine(context, command, incoming, str(error))
            raise
        _compare(header, command)
        follow(header.study_instance_uid)
        if len(self._studies) < _STUDIES_SHOWN:
            self._studies[header.study_instance_uid] = None
        stored = incoming.commit()
        try:
            recorded = self._recorder.record(
                ReceivedInstance(
                    association_id=self._association_id,
                    sop_class_uid=header.sop_class_uid,
                    sop_instance_uid=header.sop_instance_uid,
                    study_instance_uid=header.study_instance_uid,
                    series_instance_uid=header.series_instance_uid,
                    transfer_syntax_uid=context.transfer_syntax,
                    key=stored.key,
                    size=stored.size,
                    dataset_offset=stored.dataset_offset,
                    digest=stored.digest,
                    terms=self._identifiers.of_header(header) if self._identifiers else (),
                )
            )
        except LedgerUnavailable as error:
            # Where the commit may have happened all the same the file stays: a row without its file would be a loss,
            # a file without a row is found by comparing the two. Otherwise it goes, or a sender that tries for hours
            # would fill the disk.
            if not error.may_be_committed:
                self._store.delete(stored.key)
            raise
        fault_point("reception.recorded")
        self.tally.add(header.study_instance_uid, header.sop_class_uid, stored.key)
        if recorded.outcome is RecordOutcome.DUPLICATE:
            fault_point("reception.duplicate")
            self.duplicates += 1
            reception.is_duplicate = True
            count(DUPLICATES, self._source)
            self._store.delete(self._superfluous(recorded.instance_id, stored))

    def _superfluous(self, instance_id: int, again: StoredObject) -> str:
        """Return the key of the file that is not needed of an object received twice: the first if it is no more sound.

        Raises
        ------
        LedgerUnavailable
            The sender tries again then; the file stays, where the ledger may name it.
        """
        kept = self._ledger.find_stored(instance_id)
        if kept is None:
            return again.key
        _, examined = self._store.examine(kept.key, kept)
        if examined.is_sound:
            return again.key
        new = StoredFile(key=again.key, size=again.size, dataset_offset=again.dataset_offset, digest=again.digest)
        if not self._ledger.replace_file(instance_id, old_key=kept.key, new=new, reason=examined.reason):
            return again.key
        log.warning("A damaged object was received again and is sound now", extra={**self._facts, "key": again.key})
        return kept.key

    def _quarantine(self, context: AcceptedContext, command: CommandSet, incoming: IncomingObject, reason: str) -> None:
        stored = self._store.quarantine(incoming, reason)
        fault_point("quarantine.explained")
        try:
            self._ledger.record_quarantined(
                association_id=self._association_id,
                key=stored.key,
                size=stored.size,
                dataset_offset=stored.dataset_offset,
                digest=stored.digest,
                reason=reason,
                sop_class_uid=command.sop_class_uid,
                sop_instance_uid=command.sop_instance_uid,
                transfer_syntax_uid=context.transfer_syntax,
            )
        except LedgerUnavailable as error:
            # As in `_conclude`: the sender is told to try again, and each try would leave a copy.
            if not error.may_be_committed:
                self._store.delete(stored.key)
            raise


class _Reception:
    """An object on its way in: after the first error the rest of its message is still read, but dropped."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.incoming: IncomingObject | None = None
        self.error: Exception | None = None
        self.bytes = 0
        self.is_duplicate = False

    def attempt(self, step: Callable[[], None]) -> None:
        """Run a step unless an earlier one failed; keep the error it raises."""
        if self.error is None:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - one object's failure becomes its status, never the association's
                self.error = error

    def write(self, piece: memoryview) -> None:
        """Take a piece of the data set."""
        if self.error is not None:
            return
        assert self.incoming is not None
        self.bytes += len(piece)
        try:
            if self.bytes > self._max_bytes:
                raise OutOfResources(f"data set longer than {self._max_bytes // 1_000_000} MB")
            self.incoming.write(piece)
        except Exception as error:  # noqa: BLE001 - as in `attempt`
            self.error = error
            self.drop()

    def drop(self) -> None:
        """Remove what was written, unless it was committed."""
        if self.incoming is not None:
            self.incoming.discard()


def _read_header(incoming: IncomingObject, transfer_syntax_uid: str) -> DatasetHeader:
    beginning = incoming.read_beginning(_HEADER_BYTES)
    is_whole = incoming.dataset_bytes <= len(beginning)
    header = scan_header(beginning, transfer_syntax_uid, is_whole=is_whole)
    if header is not None and not incoming.dataset_bytes:
        return header
    with incoming.mapped() as data_set:
        if header is None:
            # Large sequences or private elements before the Series Instance UID.
            header = scan_header(data_set, transfer_syntax_uid, is_whole=True)
        require_whole(data_set, transfer_syntax_uid)
    assert header is not None
    return header


def _require_inflatable(incoming: IncomingObject, max_bytes: int) -> None:
    """Raise unless a deflated data set inflates to its end, and to no more than an object may have.

    Some kilobytes can stand for gigabytes, for us and for every system after us.
    """
    with incoming.mapped() as data_set:
        if inflated_bytes(data_set, most=max_bytes) > max_bytes:
            raise OutOfResources(f"data set inflates beyond {max_bytes // 1_000_000} MB")


def _compare(header: DatasetHeader, command: CommandSet) -> None:
    """Raise DatasetMismatch unless the data set is what the command announced, and names study and series."""
    if header.sop_class_uid != command.sop_class_uid:
        raise DatasetMismatch("the data set's SOP Class UID is not that of the command")
    if header.sop_instance_uid != command.sop_instance_uid:
        raise DatasetMismatch("the data set's SOP Instance UID is not that of the command")
    if not header.study_instance_uid or not header.series_instance_uid:
        raise DatasetMismatch("no Study Instance UID or no Series Instance UID")
