"""Receive rate of the node against DCMTK storescp and Orthanc, all in one run on one machine.

Every receiver has TCP_NODELAY, and ours and Orthanc sync each object; ours also commits its row in the ledger before
it answers. The senders are processes of our own that only push ready bytes, so that the receiver is what is measured.

    python tests/benchmarks/receive.py --repetitions 5
    python tests/benchmarks/receive.py --peers node,orthanc --kinds ct --associations 1
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from config.settings import NodeSettings, Settings, SourceSettings  # noqa: E402
from dicom_node.instance_store import InstanceStore  # noqa: E402
from dicom_node.ledger.database import Database, ledger_url  # noqa: E402
from dicom_node.ledger.reception import ReceptionLedger  # noqa: E402
from dicom_node.receiver import Receiver  # noqa: E402
from dicom_node.upper_layer import ProposedContext, open_association  # noqa: E402

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
AE_TITLE = "BENCH"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of object: its SOP class, the bytes of its Pixel Data, and how many are sent in one measurement."""

    sop_class_uid: str
    pixel_bytes: int
    count: int


KINDS = {
    "dx": Kind(sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1", pixel_bytes=10_240_000, count=40),
    "ct": Kind(sop_class_uid="1.2.840.10008.5.1.4.1.1.2", pixel_bytes=524_288, count=400),
}


def main() -> None:
    """Measure every combination `--repetitions` times, interleaved, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="node,orthanc,storescp")
    parser.add_argument("--kinds", default="dx,ct")
    parser.add_argument("--associations", default="1,2,4")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where receivers write; its file system is part of the measurement")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs=3, metavar=("PORT", "KIND", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    elif arguments.send:
        port, kind, count = arguments.send
        send(int(port), KINDS[kind], int(count))
    else:
        # Ends the receiver of the moment too, when the run is stopped from outside.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Run all combinations and print one line each, then the medians."""
    rates: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    peers = [peer for peer in arguments.peers.split(",") if peer == "node" or shutil.which(PROGRAMS[peer])]
    for _ in range(arguments.repetitions):
        for kind in arguments.kinds.split(","):
            for associations in map(int, arguments.associations.split(",")):
                for peer in peers:
                    seconds, cpu_s = measure(peer, kind, associations, arguments.folder)
                    rates.setdefault((kind, associations, peer), []).append((seconds, cpu_s))
                    print(kind, associations, peer, f"{seconds:.3f} s", f"{cpu_s:.2f} CPU s", file=sys.stderr)
    print(f"{'kind':5}{'assoc':>6}  {'receiver':10}{'MB/s':>8}{'objects/s':>11}{'CPU s/GB':>10}  (medians)")
    for (kind, associations, peer), values in sorted(rates.items()):
        seconds = statistics.median(s for s, _ in values)
        cpu_s = statistics.median(c for _, c in values)
        size = KINDS[kind].count * KINDS[kind].pixel_bytes
        print(
            f"{kind:5}{associations:6}  {peer:10}{size / seconds / 1e6:8.0f}"
            f"{KINDS[kind].count / seconds:11.0f}{cpu_s / size * 1e9:10.2f}"
        )


def measure(peer: str, kind: str, associations: int, folder: Path | None) -> tuple[float, float]:
    """Return the seconds from the first byte to the last response, and the receiver's CPU seconds."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        target = Path(name)
        with receiver(peer, target) as (process, port):
            count = KINDS[kind].count // associations
            senders = [
                subprocess.Popen(
                    [sys.executable, __file__, "--send", str(port), kind, str(count)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for _ in range(associations)
            ]
            for sender in senders:
                assert sender.stdout is not None
                assert sender.stdout.readline() == "ready\n"
            cpu_before, begin = _cpu_s(process.pid), time.perf_counter()
            for sender in senders:
                assert sender.stdin is not None
                sender.stdin.write("\n")
                sender.stdin.flush()
            for sender in senders:
                assert sender.stdout is not None
                assert sender.stdout.readline() == "done\n"
            seconds = time.perf_counter() - begin
            for sender in senders:
                sender.communicate()
            time.sleep(0.2)
            return seconds, _cpu_s(process.pid) - cpu_before


def send(port: int, kind: Kind, count: int) -> None:
    """Sender process: make the objects, open an association, wait for a line, send."""
    objects = [(uid := generate_uid(), _encode(kind, uid, number)) for number in range(count)]
    context = ProposedContext(abstract_syntax=kind.sop_class_uid, transfer_syntaxes=(EXPLICIT_VR_LITTLE_ENDIAN,))
    with open_association(
        host="127.0.0.1", port=port, called_ae_title=AE_TITLE, calling_ae_title="SENDER", contexts=[context]
    ) as association:
        print("ready", flush=True)
        sys.stdin.readline()
        for uid, encoded in objects:
            response = association.store(
                context_id=1, sop_class_uid=kind.sop_class_uid, sop_instance_uid=uid, source=encoded
            )
            assert response.status == 0, response
        print("done", flush=True)


def _encode(kind: Kind, uid: str, number: int) -> bytes:
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = kind.sop_class_uid, uid, "OT"
    ds.PatientName, ds.PatientID, ds.StudyDate, ds.AccessionNumber = "BENCH", "BENCH", "20260101", "1"
    ds.StudyInstanceUID = ds.SeriesInstanceUID = f"2.25.{os.getpid()}"
    ds.InstanceNumber, ds.Rows, ds.Columns = number, 512, kind.pixel_bytes // 1024
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.add_new("PixelData", "OW", os.urandom(kind.pixel_bytes))
    encoded = pydicom.filebase.DicomBytesIO()
    encoded.is_little_endian, encoded.is_implicit_VR = True, False
    pydicom.filewriter.write_dataset(encoded, ds)
    return encoded.getvalue()


def serve(folder: Path) -> None:
    """Receiver process of the node: real store, real ledger on SQLite."""
    node = NodeSettings(ae_title=AE_TITLE, bind="127.0.0.1", data_dir=folder).model_copy(update={"port": 0})
    settings = Settings(node=node, sources=(SourceSettings(name="sender", ae_titles=("SENDER",)),))
    database = Database(ledger_url("", folder))
    database.create()
    running = Receiver(settings, InstanceStore(folder), ReceptionLedger(database, receiver="bench"))
    running.start()
    print(running.port, flush=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.sigwait({signal.SIGTERM})
    running.stop(5)


PROGRAMS = {"orthanc": "Orthanc", "storescp": "storescp"}


@contextmanager
def receiver(peer: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a receiver that writes into `folder`."""
    port = 0
    if peer == "node":
        command = [sys.executable, __file__, "--serve", str(folder)]
    else:
        port = _free_port()
        command = _storescp(folder, port) if peer == "storescp" else _orthanc(folder, port)
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            if peer == "node":
                assert process.stdout is not None
                port = int(process.stdout.readline())
            else:
                _wait_for(port)
            yield process, port
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _storescp(folder: Path, port: int) -> list[str]:
    return ["storescp", "--fork", "--max-pdu", "131072", "--output-directory", str(folder), str(port)]


def _orthanc(folder: Path, port: int) -> list[str]:
    configuration = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "DicomPort": port,
        "DicomAet": AE_TITLE,
        "DicomAlwaysAllowStore": True,
        "HttpServerEnabled": False,
        "SyncStorageArea": True,
        "MaximumPduLength": 131072,
        "Plugins": [],
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    return ["Orthanc", str(path)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            time.sleep(0.3)
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"no receiver at port {port}")


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process, its children that still run, and those that it has waited for."""
    total = 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        total += _cpu_s(int(child))
    return total


if __name__ == "__main__":
    main()
