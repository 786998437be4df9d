"""Which associations are open: each request judged, counted, and in the ledger from its acceptance to its end."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from config.settings import Settings, SourceSettings
from dicom_node.association_policy import ReceiverLoad, find_source, host_names, judge_association
from dicom_node.audit import record
from dicom_node.audit.events import rejected_node
from dicom_node.commitment_peers import Rights, report_sources, rights_of
from dicom_node.disk_space import DiskSpace
from dicom_node.errors import LedgerUnavailable
from dicom_node.fault_points import fault_point
from dicom_node.ledger.reception import ReceptionLedger
from dicom_node.observation.definitions import ASSOCIATION_SECONDS, ASSOCIATIONS, ASSOCIATIONS_OPEN, REJECTIONS
from dicom_node.observation.metering import adjust, count, observe
from dicom_node.pace import Pace
from dicom_node.rejections import LEDGER_UNAVAILABLE, Rejection
from dicom_node.upper_layer import AssociationRequest

log = logging.getLogger(__name__)

HOST_NAMES_FOR_S: Final = 60.0
_FIRST_DELAY_S: Final = 0.25
_LONGEST_DELAY_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """An association that was accepted: its number in the ledger, its source, and what its peer may do.

    `source` stands for a destination that brings reports, too. `pace` is that of the source's objects, shared by all
    of its associations; None where they have no limit. `since` is when it was accepted, in monotonic seconds.
    """

    association_id: int
    source: SourceSettings
    rights: Rights
    pace: Pace | None
    since: float = field(default_factory=time.monotonic)


class Admission:
    """Judges requests and counts the associations that came of them; shared by all connections of a receiver."""

    def __init__(self, settings: Settings, disks: DiskSpace, ledger: ReceptionLedger) -> None:
        self._disks = disks
        self._ledger = ledger
        self._lock = threading.Lock()
        self._associations = 0
        self._by_source: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._paces: dict[str, Pace] = {}
        self._addresses: dict[str, frozenset[str]] = {}
        self._settings = settings
        self.change_settings(settings)

    def change_settings(self, settings: Settings) -> None:
        """Judge by other settings from now on; associations that are open keep what they were admitted with."""
        with self._lock:
            before = {source.name: source.max_objects_per_minute for source in self._settings.sources}
            self._paces = {
                source.name: self._paces[source.name]
                # One that is half used up stays so: a reload is no way round it.
                if source.name in self._paces and before[source.name] == source.max_objects_per_minute
                else Pace(source.max_objects_per_minute)
                for source in settings.sources
                if source.max_objects_per_minute
            }
            self._settings = settings
            self._reporters = report_sources(settings.dicom_destinations)
            self._names = host_names((*settings.sources, *self._reporters))
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
        with self._lock:
            settings, reporters = self._settings, self._reporters
        addresses = self._resolve() if self._names else {}
        with self._lock:
            load = ReceiverLoad(
                associations=self._associations,
                max_associations=settings.receiver.max_associations,
                no_room=self._disks.refusal(),
                is_stopping=self._stopping.is_set(),
                by_source=self._by_source,
            )
            rejection = judge_association(
                request,
                ae_title=settings.node.ae_title,
                sources=settings.sources,
                reporters=reporters,
                addresses=addresses,
                load=load,
            )
            known = (*settings.sources, *reporters)
            source = find_source(request.calling_ae_title, request.host, known, addresses)
            if rejection is None and source is not None:
                self._associations += 1
                self._by_source[source.name] += 1
        if rejection is None:
            assert source is not None
            adjust(ASSOCIATIONS_OPEN, 1, source.name)
            try:
                return self._open(request, source, rights_of(request, settings, addresses))
            except BaseException as error:
                self._give_back(source)
                if not isinstance(error, LedgerUnavailable):
                    raise
                # Writing that down would wait for the same database once more, and the peer for its answer.
                rejection = LEDGER_UNAVAILABLE.reject(str(error))
                self._log(request, rejection)
                return rejection
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
            self._give_back(admitted.source)
            source = admitted.source.name
            count(ASSOCIATIONS, source, outcome)
            observe(ASSOCIATION_SECONDS, time.monotonic() - admitted.since, source)

    def note_failure(self, host: str, reason: str) -> None:
        """Record a peer that came to no request, such as one whose TLS handshake failed, for `status` to show."""
        record(rejected_node(calling_ae_title="", host=host, reason=reason, ae_title=self._settings.node.ae_title))
        try:
            self._ledger.record_rejection(calling_ae_title="", called_ae_title="", host=host, reason=reason)
        except LedgerUnavailable as error:
            log.error("A rejection could not be recorded", extra={"error": str(error)})

    def _give_back(self, source: SourceSettings) -> None:
        with self._lock:
            self._associations -= 1
            self._by_source[source.name] -= 1
        adjust(ASSOCIATIONS_OPEN, -1, source.name)

    def _open(self, request: AssociationRequest, source: SourceSettings, rights: Rights) -> Admitted:
        association_id = self._ledger.open_association(
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            host=request.host,
            port=request.port,
        )
        return Admitted(association_id=association_id, source=source, rights=rights, pace=self._paces.get(source.name))

    def _log(self, request: AssociationRequest, rejection: Rejection) -> dict[str, str]:
        who = {
            "calling_ae_title": request.calling_ae_title,
            "called_ae_title": request.called_ae_title,
            "host": request.host,
        }
        log.warning("Association rejected", extra={**who, "reason": rejection.explanation})
        # Here, where every rejection passes, and not behind the ledger, which may be the reason.
        count(REJECTIONS, rejection.cause)
        record(
            rejected_node(
                calling_ae_title=request.calling_ae_title,
                host=request.host,
                reason=rejection.explanation,
                ae_title=self._settings.node.ae_title,
            )
        )
        return who

    def _note(self, request: AssociationRequest, rejection: Rejection) -> None:
        who = self._log(request, rejection)
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
