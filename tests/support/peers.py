"""Real peers for tests: storage SCPs of pynetdicom, DCMTK and Orthanc, and peers that misbehave, as context managers.

All of them listen on the loopback interface, on a port that was free a moment before, and are gone when the block ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

LOOPBACK = "127.0.0.1"

TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
)
UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")


def find_program(name: str) -> str | None:
    """Return the path of an installed program.

    Debian keeps servers in a folder that is not on every user's path. An active virtual environment is passed over:
    pynetdicom installs programs of the same names as DCMTK's.
    """
    ours = Path(sys.executable).parent.resolve()
    folders = [folder for folder in os.get_exec_path() if Path(folder).resolve() != ours]
    return shutil.which(name, path=os.pathsep.join([*folders, "/usr/sbin", "/usr/local/sbin"]))


requires_dcmtk = pytest.mark.skipif(
    find_program("storescp") is None, reason="DCMTK is not installed (Debian package dcmtk)"
)
requires_orthanc = pytest.mark.skipif(
    find_program("Orthanc") is None, reason="Orthanc is not installed (Debian package orthanc)"
)


def find_free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 20.0, what: str = "the condition") -> None:
    """Return as soon as `condition()` is true; TimeoutError, naming `what`, if it does not become so."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come true within {timeout_s:g} s")
        time.sleep(0.02)


def is_listening(port: int) -> bool:
    """Tell whether somebody accepts TCP connections on a loopback port."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


@dataclass(frozen=True, kw_only=True)
class ReceivedObject:
    """An object as a peer got it; `data` holds the bytes of the data set as they came."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: bytes
    calling_ae_title: str = ""
    called_ae_title: str = ""
    association: int = 0

    def dataset(self) -> Dataset:
        """Return the object parsed, with the file meta information that decoding its pixels needs."""
        syntax = UID(self.transfer_syntax_uid)
        ds = read_dataset(BytesIO(self.data), syntax.is_implicit_VR, syntax.is_little_endian)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        return ds


def read_part10(path: Path) -> ReceivedObject:
    """Return what a Part 10 file holds, with the data set's bytes untouched."""
    meta, offset = split_dataset(path)
    return ReceivedObject(
        sop_class_uid=str(meta.MediaStorageSOPClassUID),
        sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
        transfer_syntax_uid=str(meta.TransferSyntaxUID),
        data=path.read_bytes()[offset:],
    )


@dataclass(kw_only=True)
class MockScp:
    """A storage SCP of stock pynetdicom in this process, which collects what it gets and can be made to misbehave.

    Stores are counted from 0 over all associations, in the order in which they arrive.

    Parameters
    ----------
    contexts
        SOP class -> transfer syntaxes that are accepted; None accepts every standard storage class in every syntax.
    statuses
        Store number -> status that is answered instead of Success; a refused object is not collected.
    comments
        Store number -> Error Comment of its answer, where that is a failure.
    delay_s
        Time before each answer, or store number -> time.
    abort_at, cut_at
        Store numbers that are answered by A-ABORT, or by closing the TCP connection.
    abort_instances
        SOP Instance UIDs that always make it abort, as a crashing parser would.
    on_store
        Called before each answer.
    patience_s
        Silence after which it aborts.
    called_ae_title, calling_ae_titles
        Where given, other titles are rejected (1,1,7 and 1,1,3).
    """

    port: int = 0
    ae_title: str = "MOCKPACS"
    contexts: Mapping[str, Sequence[str]] | None = None
    statuses: Mapping[int, int] = field(default_factory=dict)
    comments: Mapping[int, str] = field(default_factory=dict)
    delay_s: float | Mapping[int, float] = 0.0
    abort_at: frozenset[int] = frozenset()
    cut_at: frozenset[int] = frozenset()
    abort_instances: frozenset[str] = frozenset()
    called_ae_title: str | None = None
    calling_ae_titles: tuple[str, ...] = ()
    on_store: Callable[[], object] = lambda: None
    max_pdu_bytes: int = 131072
    patience_s: float = 60.0
    host: str = LOOPBACK
    objects: list[ReceivedObject] = field(default_factory=list)
    associations: int = 0
    proposed: list[list[tuple[str, tuple[str, ...]]]] = field(default_factory=list)
    stores: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._ae: AE | None = None

    def __enter__(self) -> Self:
        ae = AE(ae_title=self.ae_title)
        ae.maximum_pdu_size = self.max_pdu_bytes
        ae.network_timeout = self.patience_s
        ae.maximum_associations = 50
        ae.add_supported_context(Verification)
        if self.contexts is None:
            for context in AllStoragePresentationContexts:
                ae.add_supported_context(str(context.abstract_syntax), list(TRANSFER_SYNTAXES))
        else:
            for sop_class, syntaxes in self.contexts.items():
                ae.add_supported_context(sop_class, list(syntaxes))
        if self.called_ae_title is not None:
            ae.ae_title = self.called_ae_title
            ae.require_called_aet = True
        if self.calling_ae_titles:
            ae.require_calling_aet = list(self.calling_ae_titles)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_CONN_OPEN, self._on_connected),
            (evt.EVT_C_STORE, self._on_store),
        ]
        server: Any = ae.start_server((self.host, self.port), block=False, evt_handlers=handlers)
        self.port = int(server.socket.getsockname()[1])
        self._ae = ae
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening and abort open associations."""
        if self._ae is not None:
            self._ae.shutdown()
            self._ae = None

    def received(self, sop_instance_uid: str) -> ReceivedObject:
        """Return the one object with this UID; AssertionError if there are none or several."""
        found = [entry for entry in self.objects if entry.sop_instance_uid == sop_instance_uid]
        assert len(found) == 1, f"{len(found)} objects with {sop_instance_uid}"
        return found[0]

    def _on_connected(self, event: Any) -> None:
        # Nagle and delayed acknowledgements would add 40 ms to each response.
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_requested(self, event: Any) -> None:
        with self._lock:
            self.associations += 1
            event.assoc.number = self.associations
            contexts = event.assoc.requestor.primitive.presentation_context_definition_list
            self.proposed.append([(str(c.abstract_syntax), tuple(map(str, c.transfer_syntax))) for c in contexts])

    def _on_store(self, event: Any) -> int | Dataset:
        with self._lock:
            number = self.stores
            self.stores += 1
        request = event.request
        uid = str(request.AffectedSOPInstanceUID)
        self.on_store()
        time.sleep(self.delay_s.get(number, 0.0) if isinstance(self.delay_s, Mapping) else self.delay_s)
        if number in self.cut_at:
            connection = event.assoc.dul.socket.socket
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.shutdown(socket.SHUT_RDWR)
            return 0x0110
        if number in self.abort_at or uid in self.abort_instances:
            event.assoc.abort()
            return 0x0110
        status = self.statuses.get(number, 0x0000)
        # Success and warnings (PS3.7 Annex C, PS3.4 B.2.3).
        if status in (0x0000, 0x0001, 0x0107, 0x0116) or status & 0xF000 == 0xB000:
            received = ReceivedObject(
                sop_class_uid=str(request.AffectedSOPClassUID),
                sop_instance_uid=uid,
                transfer_syntax_uid=str(event.context.transfer_syntax),
                data=request.DataSet.getvalue(),
                calling_ae_title=event.assoc.requestor.ae_title,
                called_ae_title=event.assoc.requestor.primitive.called_ae_title,
                association=event.assoc.number,
            )
            with self._lock:
                self.objects.append(received)
        elif number in self.comments:
            answer = Dataset()
            answer.Status, answer.ErrorComment = status, self.comments[number]
            return answer
        return status


class _RawPeer:
    """Accepts TCP connections and gives each to `_serve` on a thread of its own."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.connections = 0
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server((LOOPBACK, self.port))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing alone does not wake a thread that sits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._guarded, args=(connection,), daemon=True).start()

    def _guarded(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        raise NotImplementedError


class RejectingPeer(_RawPeer):
    """Answers every association request by A-ASSOCIATE-RJ with the given result, source and reason (PS3.8 9.3.4)."""

    def __init__(self, result: int, source: int, reason: int, *, port: int = 0) -> None:
        super().__init__(port)
        self.answer = bytes((3, 0, 0, 0, 0, 4, 0, result, source, reason))

    def _serve(self, connection: socket.socket) -> None:
        header = connection.recv(6, socket.MSG_WAITALL)
        connection.recv(int.from_bytes(header[2:], "big"), socket.MSG_WAITALL)
        connection.sendall(self.answer)
        connection.recv(1)
        connection.close()


class SilentPeer(_RawPeer):
    """Accepts the TCP connection and never says a word."""

    def _serve(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            pass


class HangingUpPeer(_RawPeer):
    """Closes every TCP connection at once, as a dead service behind a load balancer does."""

    def _serve(self, connection: socket.socket) -> None:
        connection.close()


class _Program:
    """A server program, started with its output in a file, and ended with the block."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port or find_free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def _arguments(self) -> list[str]:
        raise NotImplementedError

    def _is_ready(self) -> bool:
        return is_listening(self.port)

    def start(self) -> None:
        """Start the program and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "output.txt", "ab") as output:
            self.process = subprocess.Popen(
                self._arguments(), stdout=output, stderr=output, cwd=self.folder, env={**os.environ, "TCP_NODELAY": "1"}
            )
        wait_until(self._is_up, timeout_s=30, what=f"the start of {type(self).__name__}")

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            text = (self.folder / "output.txt").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{type(self).__name__} ended with {self.process.returncode}: {text}")
        return self._is_ready()

    def stop(self, with_signal: int = signal.SIGTERM) -> None:
        """End the program; SIGKILL makes it a crash."""
        if self.process is None:
            return
        self.process.send_signal(with_signal)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None

    def kill(self) -> None:
        """Kill the program in the middle of what it does."""
        self.stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class DcmtkStorescp(_Program):
    """DCMTK `storescp`, which writes data sets exactly as they came unless told otherwise.

    Parameters
    ----------
    folder
        Work folder; received objects lie in its `received`.
    options
        Further options of the program, such as ``--refuse``, ``--implicit``, ``--abort-after``. Without one that says
        which transfer syntaxes are preferred, all that it knows are accepted.
    """

    PREFERENCES = ("+x", "-x", "--prefer", "--implicit", "--accept-all")

    def __init__(self, folder: Path, *options: str, port: int = 0, ae_title: str = "STORESCP") -> None:
        super().__init__(folder, port)
        self.options = options
        self.ae_title = ae_title
        self.received_folder = folder / "received"

    def _arguments(self) -> list[str]:
        self.received_folder.mkdir(parents=True, exist_ok=True)
        program = find_program("storescp")
        assert program is not None
        syntaxes = [] if any(option.startswith(self.PREFERENCES) for option in self.options) else ["--accept-all"]
        storing = ["--bit-preserving", "--output-directory", str(self.received_folder), "--unique-filenames"]
        common = ["--aetitle", self.ae_title, "--max-pdu", "131072", "--promiscuous", "--disable-host-lookup"]
        return [program, *common, *storing, *syntaxes, *self.options, str(self.port)]

    def objects(self) -> list[ReceivedObject]:
        """Return everything received so far, in no particular order."""
        return [read_part10(path) for path in sorted(self.received_folder.iterdir())]


class Orthanc(_Program):
    """An Orthanc server of its own, with an empty database, no plug-ins and no authentication.

    Parameters
    ----------
    folder
        Work folder with configuration, database and storage.
    configuration
        Entries that differ from ours, by Orthanc's names.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        ae_title: str = "ORTHANC",
        configuration: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(folder, port)
        self.ae_title = ae_title
        self.http_port = find_free_port()
        self.configuration = dict(configuration or {})

    def _arguments(self) -> list[str]:
        program = find_program("Orthanc")
        assert program is not None
        settings: dict[str, object] = {
            "Name": "test",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "index"),
            "Plugins": [],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            "OverwriteInstances": False,
            "StableAge": 600,
            "SslEnabled": False,
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps({**settings, **self.configuration}, indent=1))
        return [program, str(path)]

    def _is_ready(self) -> bool:
        try:
            self._get("/system")
        except OSError:
            return False
        return is_listening(self.port)

    def _get(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.http_port}{path}", data=body, timeout=30) as answer:
            return bytes(answer.read())

    def instances(self) -> list[str]:
        """Return Orthanc's own identifiers of all instances."""
        return list(json.loads(self._get("/instances")))

    def find(self, sop_instance_uid: str) -> str | None:
        """Return Orthanc's identifier of a SOP instance; None if it does not have it."""
        hits = json.loads(self._get("/tools/lookup", sop_instance_uid.encode()))
        return next((hit["ID"] for hit in hits if hit["Type"] == "Instance"), None)

    def file(self, sop_instance_uid: str) -> bytes:
        """Return the Part 10 file of a SOP instance; KeyError if Orthanc does not have it."""
        identifier = self.find(sop_instance_uid)
        if identifier is None:
            raise KeyError(sop_instance_uid)
        return self._get(f"/instances/{identifier}/file")

    def upload(self, path: Path) -> str:
        """Store a Part 10 file over HTTP; returns Orthanc's identifier of the SOP instance."""
        return str(json.loads(self._get("/instances", path.read_bytes()))["ID"])

    def picture(self, identifier: str, frame: int, kind: str) -> NDArray[Any]:
        """Return a frame, counted from 0, as Orthanc decodes it.

        Parameters
        ----------
        identifier
            Orthanc's own, of the SOP instance.
        kind
            ``preview`` (8 bits, stretched from darkest to brightest), ``image-uint8``, ``image-uint16`` or
            ``image-int16`` (stored values, clipped).

        Raises
        ------
        urllib.error.HTTPError
            If Orthanc can't decode the transfer syntax (415).
        """
        png = self._get(f"/instances/{identifier}/frames/{frame}/{kind}")
        image = np.asarray(Image.open(BytesIO(png)))
        return image.astype(np.uint16).view(np.int16) if kind == "image-int16" else image

    def tags(self, sop_instance_uid: str) -> dict[str, Any]:
        """Return the attributes of a SOP instance by keyword, as Orthanc reads them."""
        identifier = self.find(sop_instance_uid)
        if identifier is None:
            raise KeyError(sop_instance_uid)
        return dict(json.loads(self._get(f"/instances/{identifier}/simplified-tags")))


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Give a port on which connections are refused, held so that nobody else listens there meanwhile."""
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        yield int(holder.getsockname()[1])
