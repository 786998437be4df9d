"""The receiver: listens, and serves every association in a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Final

from config.settings import Settings
from dicom_node.admission import Admission, Admitted
from dicom_node.audit import is_on, record
from dicom_node.audit.events import Study, instances_transferred, recipient, sender
from dicom_node.audit.transfers import patient_of
from dicom_node.commitment_peers import Rights
from dicom_node.commitment_scp import CommitmentScp
from dicom_node.disk_space import DiskSpace, Watermarks, file_systems
from dicom_node.group_commit import GroupCommit
from dicom_node.identifiers import Identifiers
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.database import Database
from dicom_node.ledger.reception import ReceptionLedger
from dicom_node.observation.definitions import REJECTIONS
from dicom_node.observation.metering import count
from dicom_node.proxy_protocol import NoProxyHeader, Peer, is_balancer, receive_proxy_header
from dicom_node.rejections import Rejection
from dicom_node.storage_scp import AssociationOutcome, StorageScp
from dicom_node.tls import RenewedContext, server_files
from dicom_node.upper_layer import AssociationRequest, NegotiationFailed, NoTls, RequestRejected, accept_association

log = logging.getLogger(__name__)

_CONNECTIONS_BEYOND_ASSOCIATIONS: Final = 32
"""Threads for connections that are still negotiating, or are told that there are too many associations."""

_JOIN_S: Final = 10.0


class PortTaken(OSError):
    """A port can't be listened on; `errno` says why."""

    def __init__(self, error: OSError, port: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.port = port


class Receiver:
    """Storage SCP, Verification SCP and Storage Commitment of the node.

    Parameters
    ----------
    settings
        `node`, `receiver`, `tls` and `sources` are used; port 0 takes any free port.
    store, ledger
        Where objects become durable; shared by all associations.
    database
        For Storage Commitment; without it none is answered.
    identifiers
        Hashes what studies are searched by.
    """

    def __init__(
        self,
        settings: Settings,
        store: InstanceStore,
        ledger: ReceptionLedger,
        database: Database | None = None,
        identifiers: Identifiers | None = None,
    ) -> None:
        self._identifiers = identifiers
        self._settings = settings
        self._store = store
        self._ledger = ledger
        self._database = database
        self._recorder = GroupCommit(ledger)
        self._disks = DiskSpace(file_systems(settings), Watermarks.of(settings), free_bytes=lambda: store.free_bytes())
        self._admission = Admission(settings, self._disks, ledger)
        self._lock = threading.Lock()
        self._connections: set[threading.Thread] = set()
        self._serving: set[StorageScp] = set()
        self._is_closed = False
        self._listeners: dict[bool, socket.socket] = {}
        self._accepting: list[threading.Thread] = []
        self._tls = server_files(settings.tls) if settings.tls.enabled else None

    @property
    def port(self) -> int:
        """The TCP port that the receiver listens on without TLS."""
        return self._port(False)

    @property
    def tls_port(self) -> int:
        """The TCP port that the receiver listens on for TLS."""
        return self._port(True)

    def _port(self, is_tls: bool) -> int:
        if is_tls not in self._listeners:
            raise RuntimeError("the receiver does not listen there")
        port: int = self._listeners[is_tls].getsockname()[1]
        return port

    @property
    def associations(self) -> int:
        """The number of associations that are open."""
        return self._admission.associations

    def trouble(self) -> str | None:
        """Say why nobody can associate any more; None while the receiver listens."""
        dead = [thread for thread in self._accepting if not thread.is_alive()]
        if not self._accepting:
            return "it does not listen yet"
        return "it does not listen any more" if dead or self._is_closed else None

    def no_room(self) -> str | None:
        """Say why nothing can be taken for want of disk space; None while there is room."""
        return self._disks.refusal()

    def start(self) -> None:
        """Listen at `node.bind`, at `node.port` and, with TLS, at `tls.port`.

        Raises
        ------
        PortTaken
            If a port is taken or the address is not ours.
        TlsUnusable
            If the certificate files can't be used.
        """
        node, tls = self._settings.node, self._settings.tls
        family = socket.AF_INET6 if ":" in node.bind else socket.AF_INET
        ports = {} if tls.only else {False: node.port}
        if self._tls is not None:
            self._tls.get()
            ports[True] = tls.port
        try:
            for is_tls, port in ports.items():
                self._listeners[is_tls] = socket.create_server((node.bind, port), family=family, backlog=128)
        except OSError as error:
            for listener in self._listeners.values():
                listener.close()
            raise PortTaken(error, port) from error
        for is_tls, listener in self._listeners.items():
            thread = threading.Thread(
                target=self._accept,
                args=(listener, self._tls if is_tls else None),
                name="receiver",
                daemon=True,
            )
            thread.start()
            self._accepting.append(thread)
            port = listener.getsockname()[1]
            log.info(
                "Receiver listens", extra={"ae_title": node.ae_title, "bind": node.bind, "port": port, "tls": is_tls}
            )

    def change_settings(self, settings: Settings) -> None:
        """Serve associations that come from now on by other settings; those that are open keep theirs.

        Addresses, ports and TLS stay what they were.
        """
        self._settings = settings
        self._disks.change_marks(Watermarks.of(settings))
        self._admission.change_settings(settings)

    def stop(self, drain_s: float) -> None:
        """Reject new associations, give those in progress `drain_s` seconds to end, abort the rest, and return."""
        self._admission.stop()
        deadline = time.monotonic() + drain_s
        while self.associations and time.monotonic() < deadline:
            time.sleep(0.02)
        self._is_closed = True
        for listener in self._listeners.values():
            with contextlib.suppress(OSError):
                # Wakes the accepting thread, which a close alone would leave in accept().
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            serving, connections = set(self._serving), set(self._connections)
        for service in serving:
            service.interrupt()
        deadline = time.monotonic() + _JOIN_S
        for thread in (*connections, *self._accepting):
            thread.join(timeout=max(deadline - time.monotonic(), 0.1))
        log.info("Receiver stopped", extra={"aborted_associations": len(serving)})

    def _accept(self, listener: socket.socket, tls: RenewedContext | None) -> None:
        while True:
            try:
                sock, address = listener.accept()
            except OSError as error:
                if self._is_closed:
                    return
                # Out of file descriptors, or a connection that was gone before we took it: go on a little later.
                log.warning("A connection could not be accepted", extra={"error": str(error)})
                time.sleep(0.1)
                continue
            with self._lock:
                limit = self._settings.receiver.max_associations + _CONNECTIONS_BEYOND_ASSOCIATIONS
                self._connections = {thread for thread in self._connections if thread.is_alive()}
                is_full = len(self._connections) >= limit
                if not is_full:
                    thread = threading.Thread(
                        target=self._serve, args=(sock, address[0], tls), name="association", daemon=True
                    )
                    thread.start()
                    self._connections.add(thread)
            if is_full:
                # An A-ASSOCIATE-RJ takes a thread until the request has come; so many get none.
                log.warning("Connection closed, too many are open", extra={"host": address[0], "limit": limit})
                sock.close()

    def _serve(self, sock: socket.socket, host: str, tls: RenewedContext | None) -> None:
        admitted: Admitted | None = None
        rights = Rights(source=None, destinations=frozenset())
        service: StorageScp | None = None
        outcome, acknowledged = AssociationOutcome.LOST, 0

        def judge(request: AssociationRequest) -> Rejection | None:
            nonlocal admitted, rights
            answer = self._admission.admit(request)
            if isinstance(answer, Rejection):
                return answer
            admitted, rights = answer, answer.rights
            return None

        limits = self._settings.receiver
        try:
            peer = self._peer_behind(sock, host)
            association = accept_association(
                sock,
                judge=judge,
                choose_transfer_syntax=lambda context: rights.choose_transfer_syntax(context),
                ae_title=self._settings.node.ae_title,
                max_pdu_bytes=limits.max_pdu_bytes,
                acse_timeout_s=limits.acse_timeout_s,
                network_timeout_s=limits.network_timeout_s,
                tls=tls,
                peer=peer,
            )
            assert admitted is not None
            service = StorageScp(
                association,
                association_id=admitted.association_id,
                store=self._store,
                ledger=self._ledger,
                recorder=self._recorder,
                max_object_bytes=limits.max_object_mb * 1_000_000,
                pace=admitted.pace,
                disks=self._disks,
                commitment=self._commitment(association.request, rights),
                identifiers=self._identifiers,
                source=admitted.source.name,
            )
            with self._registered(service):
                outcome = service.run()
                acknowledged = service.acknowledged - service.duplicates
        except RequestRejected:
            # Logged where it was judged.
            pass
        except NoTls as error:
            count(REJECTIONS, "no_tls")
            log.warning("No TLS with a peer", extra={"host": host, "reason": str(error)})
            self._admission.note_failure(host, str(error))
        except NoProxyHeader as error:
            log.warning("No association through a balancer", extra={"host": host, "reason": str(error)})
            self._admission.note_failure(host, str(error))
        except NegotiationFailed as error:
            count(REJECTIONS, "no_request")
            log.info("No association", extra={"host": host, "reason": str(error)})
        except Exception:
            # The top of this thread: whatever one peer brings about must not reach the others.
            log.exception("An association ended by an unforeseen error")
        finally:
            # The series of the association wait for its end, so that comes before the connection's.
            if admitted is not None:
                self._admission.end(admitted, outcome.value, acknowledged)
            if service is not None:
                service.close()
            sock.close()
            if service is not None and is_on():
                self._audit(service, outcome)

    def _audit(self, service: StorageScp, outcome: AssociationOutcome) -> None:
        """Write what an association brought to the audit, a message for each study; the peer is gone by now."""
        request, tally = service.request, service.tally
        for uid, classes in tally.classes.items():
            patient_id = patient_of(lambda uid=uid: self._store.path(tally.keys[uid]))  # type: ignore[misc]
            study = Study(study_instance_uid=uid, patient_id=patient_id, classes=classes)
            record(
                instances_transferred(
                    source=sender(request.calling_ae_title, request.host, is_requestor=True),
                    destination=recipient(request.called_ae_title, socket.gethostname()),
                    study=study,
                    failure="" if outcome is AssociationOutcome.RELEASED else f"the association was {outcome.value}",
                    received=True,
                )
            )

    def _peer_behind(self, sock: socket.socket, host: str) -> Peer | None:
        """Return for whom a balancer connects; None where the other end of the connection is the peer itself."""
        limits = self._settings.receiver
        if not limits.proxy_protocol_from or not is_balancer(host, limits.proxy_protocol_from):
            return None
        return receive_proxy_header(sock, limits.acse_timeout_s)

    def _commitment(self, request: AssociationRequest, rights: Rights) -> CommitmentScp | None:
        if self._database is None:
            return None
        return CommitmentScp(
            self._settings, self._database, rights, calling_ae_title=request.calling_ae_title, host=request.host
        )

    @contextlib.contextmanager
    def _registered(self, service: StorageScp) -> Iterator[None]:
        with self._lock:
            self._serving.add(service)
            is_late = self._is_closed
        if is_late:
            service.interrupt()
        try:
            yield
        finally:
            with self._lock:
                self._serving.discard(service)
