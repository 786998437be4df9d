"""A PACS and a modality for Storage Commitment, of stock pynetdicom, which say what they are told to say."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from tests.support.peers import LOOPBACK, TRANSFER_SYNTAXES, wait_until

INSTANCE = UID("1.2.840.10008.1.20.1.1")
CLASS = "1.2.840.10008.5.1.4.1.1.1"


@dataclass(frozen=True)
class Asked:
    """An N-ACTION as it came."""

    transaction_uid: str
    instances: tuple[str, ...]
    calling_ae_title: str


@dataclass(frozen=True)
class Reported:
    """An N-EVENT-REPORT as it came; `failed` with Failure Reasons."""

    transaction_uid: str
    event_type_id: int
    committed: tuple[str, ...]
    failed: Mapping[str, int]
    calling_ae_title: str


def report_dataset(uid: str, committed: Sequence[str] = (), failed: Mapping[str, int] | None = None) -> Dataset:
    """Return the Event Information of a report."""
    ds = Dataset()
    ds.TransactionUID = uid
    if committed:
        ds.ReferencedSOPSequence = [_item(instance) for instance in committed]
    if failed:
        ds.FailedSOPSequence = [_item(instance, reason) for instance, reason in failed.items()]
    return ds


def _item(instance: str, reason: int | None = None, sop_class: str = CLASS) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = instance
    if reason is not None:
        item.FailureReason = reason
    return item


@dataclass(kw_only=True)
class MockCommitmentPacs:
    """Stores, and takes requests for commitment.

    Parameters
    ----------
    status
        Answer to N-ACTION.
    on_same
        Report success on the association of the request, if it lasts.
    context
        Of TLS; without it none is spoken.
    """

    port: int = 0
    context: ssl.SSLContext | None = None
    ae_title: str = "PACS"
    status: int = 0x0000
    on_same: bool = False
    asked: list[Asked] = field(default_factory=list)
    same_statuses: list[int | None] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ae = AE(ae_title=self.ae_title)
        self._ae.add_supported_context(Verification)
        self._ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        for context in AllStoragePresentationContexts:
            self._ae.add_supported_context(str(context.abstract_syntax), list(TRANSFER_SYNTAXES))
        handlers: list[Any] = [(evt.EVT_N_ACTION, self._on_action), (evt.EVT_C_STORE, self._on_store)]
        server: Any = self._ae.start_server(
            (LOOPBACK, self.port), block=False, evt_handlers=handlers, ssl_context=self.context
        )
        self.port = int(server.socket.getsockname()[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ae.shutdown()

    def _on_store(self, event: Any) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _on_action(self, event: Any) -> tuple[int, None]:
        ds = event.action_information
        instances = tuple(str(item.ReferencedSOPInstanceUID) for item in ds.ReferencedSOPSequence)
        asked = Asked(str(ds.TransactionUID), instances, event.assoc.requestor.ae_title)
        self.asked.append(asked)
        if self.on_same:
            threading.Thread(target=self._report_on, args=(event.assoc, asked), daemon=True).start()
        return self.status, None

    def _report_on(self, association: Any, asked: Asked) -> None:
        # After the response, which the handler's return sends.
        time.sleep(0.2)
        answer, _ = association.send_n_event_report(
            report_dataset(asked.transaction_uid, asked.instances), 1, StorageCommitmentPushModel, INSTANCE
        )
        self.same_statuses.append(answer.get("Status"))

    def wait_for(self, number: int, timeout_s: float = 60.0) -> Asked:
        """Return request `number`, from 0, as soon as it has come."""
        wait_until(lambda: len(self.asked) > number, timeout_s=timeout_s, what="a request for commitment")
        return self.asked[number]


def bring_report(
    port: int,
    ds: Dataset,
    *,
    calling: str = "PACS",
    event_type: int | None = None,
    with_role: bool = True,
    instance: str = INSTANCE,
    context: ssl.SSLContext | None = None,
) -> int | None:
    """Bring a report on a new association; returns its status, None where the association was rejected."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    ae.add_requested_context(StorageCommitmentPushModel)
    role = [build_role(StorageCommitmentPushModel, scp_role=True)] if with_role else None
    tls = None if context is None else (context, LOOPBACK)
    association = ae.associate(LOOPBACK, port, ae_title="LOWDOSE", ext_neg=role, tls_args=tls)
    if not association.is_established:
        return None
    try:
        for accepted in association.accepted_contexts:
            assert not with_role or accepted.as_scp, "the role was not accepted"
            accepted._as_scp = True
        kind = event_type if event_type is not None else 2 if "FailedSOPSequence" in ds else 1
        answer, _ = association.send_n_event_report(ds, kind, StorageCommitmentPushModel, UID(instance))
        return answer.get("Status")
    finally:
        association.release()


@dataclass(kw_only=True)
class MockModality:
    """Asks for commitment, and listens for reports; with `context` over TLS alone."""

    ae_title: str = "XRAY1"
    port: int = 0
    status: int = 0x0000
    context: ssl.SSLContext | None = None
    reports: list[Reported] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ae = AE(ae_title=self.ae_title)
        self._ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        server: Any = self._ae.start_server(
            (LOOPBACK, self.port),
            block=False,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report)],
            ssl_context=self.context,
        )
        self.port = int(server.socket.getsockname()[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ae.shutdown()

    def _on_report(self, event: Any) -> tuple[int, None]:
        ds = event.event_information
        self.reports.append(
            Reported(
                transaction_uid=str(ds.TransactionUID),
                event_type_id=int(event.request.EventTypeID),
                committed=tuple(str(i.ReferencedSOPInstanceUID) for i in ds.get("ReferencedSOPSequence", ())),
                failed={str(i.ReferencedSOPInstanceUID): int(i.FailureReason) for i in ds.get("FailedSOPSequence", ())},
                calling_ae_title=event.assoc.requestor.ae_title,
            )
        )
        return self.status, None

    def ask(
        self,
        port: int,
        transaction_uid: str,
        *instances: str,
        stay_for_reports: int = 0,
        action_type: int = 1,
        sop_class: str = CLASS,
        context: ssl.SSLContext | None = None,
    ) -> int | None:
        """Ask for commitment; returns the status, None where the context was not accepted.

        The association stays open until so many reports have come in all.
        """
        ae = AE(ae_title=self.ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
        ae.add_requested_context(StorageCommitmentPushModel)
        association = ae.associate(
            LOOPBACK,
            port,
            ae_title="LOWDOSE",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report)],
            tls_args=None if context is None else (context, LOOPBACK),
        )
        if not association.is_established:
            return None
        try:
            ds = Dataset()
            ds.TransactionUID = transaction_uid
            if instances:
                ds.ReferencedSOPSequence = [_item(instance, sop_class=sop_class) for instance in instances]
            answer, _ = association.send_n_action(ds, action_type, StorageCommitmentPushModel, INSTANCE)
            if stay_for_reports:
                wait_until(lambda: len(self.reports) >= stay_for_reports, what="a report on the same association")
            return answer.get("Status")
        finally:
            association.release()
