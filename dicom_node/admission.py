"""Which associations are open: each request judged, counted, and in the ledger from its acceptance to its end."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from config.settings import Settings
from dicom_node.association_policy import ReceiverLoad, host_names, judge_association
from dicom_node.errors import LedgerUnavailable
from dicom_node.fault_points import fault_point
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.reception import ReceptionLedger
from dicom_node.rejections import LEDGER_UNAVAILABLE, Rejection
from dicom_node.upper_layer import AssociationRequest

log = logging.getLogger(__name__)

HOST_NAMES_FOR_S: Final = 60.0
_FIRST_DELAY_S: Final = 0.25
_LONGEST_DELAY_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """An association that was accepted: its number in the ledger."""

    association_id: int


class Admission:
    """Judges requests and counts the associations that came of them; shared by all connections of a receiver."""

    def __init__(self, settings: Settings, store: InstanceStore, ledger: ReceptionLedger) -> None:
        self._settings = settings
        self._store = store
        self._ledger = ledger
        self._lock = threading.Lock()
        self._associations = 0
        self._stopping = threading.Event()
        self._names = host_names(settings.sources)
        self._addresses: dict[str, frozenset[str]] = {}
        self._addresses_until = 0.0

    @property
    def associations(self) -> int:
        """The number of associations that are open."""
        with self._lock:
            return self._associations

    def stop(self) -> None:
        """Admit nobody from now on."""
        self._stopping.set()

    def admit(self, request: AssociationRequest) -> Admitted | Rejection:
        """Judge a request; if it is accepted it counts, and must come to `end`."""
        addresses = self._resolve() if self._names else {}
        settings = self._settings
        with self._lock:
            load = ReceiverLoad(
                associations=self._associations,
                max_associations=settings.receiver.max_associations,
                free_bytes=self._store.free_bytes(),
                min_free_bytes=settings.receiver.min_free_mb << 20,
                is_stopping=self._stopping.is_set(),
            )
            rejection = judge_association(
                request, ae_title=settings.node.ae_title, sources=settings.sources, addresses=addresses, load=load
            )
            if rejection is None:
                self._associations += 1
        if rejection is None:
            try:
                return self._open(request)
            except BaseException as error:
                with self._lock:
                    self._associations -= 1
                if not isinstance(error, LedgerUnavailable):
                    raise
                rejection = LEDGER_UNAVAILABLE.reject(str(error))
        self._note(request, rejection)
        return rejection

    def end(self, admitted: Admitted, outcome: str, acknowledged: int) -> None:
        """Close the association's row, for which its series wait, and give the place back.

        Whatever goes wrong, this waits and tries again until the receiver stops; what is open then is closed at the
        next start. An association that stayed open in the ledger would hold up its series until somebody restarts the
        receiver.
        """
        delay_s = _FIRST_DELAY_S
        try:
            while True:
                try:
                    fault_point("association.ended")
                    self._ledger.close_association(admitted.association_id, outcome=outcome, acknowledged=acknowledged)
                    return
                except LedgerUnavailable as error:
                    log.error("The end of an association could not be recorded", extra={"error": str(error)})
                except Exception:
                    log.exception("The end of an association could not be recorded by an unforeseen error")
                if self._stopping.wait(delay_s):
                    return
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
        finally:
            with self._lock:
                self._associations -= 1

    def _open(self, request: AssociationRequest) -> Admitted:
        association_id = self._ledger.open_association(
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            host=request.host,
            port=request.port,
        )
        return Admitted(association_id=association_id)

    def _note(self, request: AssociationRequest, rejection: Rejection) -> None:
        who = {
            "calling_ae_title": request.calling_ae_title,
            "called_ae_title": request.called_ae_title,
            "host": request.host,
        }
        log.warning("Association rejected", extra={**who, "reason": rejection.explanation})
        fault_point("association.rejected")
        try:
            self._ledger.record_rejection(**who, reason=rejection.explanation)
        except LedgerUnavailable as error:
            log.error("A rejection could not be recorded", extra={"error": str(error)})

    def _resolve(self) -> dict[str, frozenset[str]]:
        """Resolve the host names of the sources, anew after `HOST_NAMES_FOR_S`: addresses of modalities change."""
        now = time.monotonic()
        if now >= self._addresses_until:
            self._addresses = resolve_hosts(self._names)
            self._addresses_until = now + HOST_NAMES_FOR_S
        return self._addresses


def resolve_hosts(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the addresses of each host name as of now; none where it can't be resolved."""
    return {name: _addresses_of(name) for name in names}


def _addresses_of(name: str) -> frozenset[str]:
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for *_, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
            found.add(str(ipaddress.ip_address(str(address[0]).split("%")[0])))
    return frozenset(found)
