"""Rate of our storage SCU against DCMTK's dcmsend, to the same sinks, all in one run on one machine.

The sinks are DCMTK's storescp, which drops what it gets, and one made of our own upper layer, which costs less and so
shows more of the sender. TCP_NODELAY is set for all. "node" is a delivery, whose objects are known from the ledger;
"node send" is the command, which looks into the files first, as dcmsend does. dcmsend is timed as a process, whose
start takes some 20 ms of it.

    python tests/benchmarks/send.py --repetitions 5
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from dicom_node.command_set import build_response  # noqa: E402
from dicom_node.data_phase import DataPhaseError, ReleaseRequested  # noqa: E402
from dicom_node.destinations.base import DeliveryItem, Outcome  # noqa: E402
from dicom_node.destinations.storage_scu import StorageScu  # noqa: E402
from dicom_node.sending import read_items  # noqa: E402
from dicom_node.upper_layer import accept_association  # noqa: E402
from tests.support.items import CT, DX, Outcomes, destination, write_image  # noqa: E402
from tests.support.peers import LOOPBACK, DcmtkStorescp, find_program  # noqa: E402

PDU_BYTES = 131_072

Sender = Callable[[Path, int], tuple[float, float]]


def main() -> None:
    """Measure each sender with each sink and kind of object `--repetitions` times, interleaved, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--dx", type=int, default=30, help="objects of 10 MB")
    parser.add_argument("--ct", type=int, default=300, help="objects of 0.5 MB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        kinds = {"dx": (DX, 2263, options.dx), "ct": (CT, 512, options.ct)}
        for kind, (sop_class, size, count) in kinds.items():
            for number in range(count):
                write_image(work / kind, number, sop_class=sop_class, size=size)
        rates: dict[tuple[str, str, str], list[tuple[float, float, float]]] = {}
        for _ in range(options.repetitions):
            for kind in kinds:
                for sink_name, sink in SINKS.items():
                    for sender_name, send in SENDERS.items():
                        with sink(work / "sink") as port:
                            measured = measure(work / kind, port, send)
                        rates.setdefault((kind, sink_name, sender_name), []).append(measured)
    print(f"{'kind':5}{'sink':12}{'sender':10}{'MB/s':>8}{'images/s':>10}{'CPU s/GB':>10}  (MB/s of each repetition)")
    for (kind, sink_name, sender_name), measured_all in rates.items():
        megabytes, images, cpu = (statistics.median(column) for column in zip(*measured_all, strict=True))
        each = " ".join(f"{m[0]:.0f}" for m in measured_all)
        print(f"{kind:5}{sink_name:12}{sender_name:10}{megabytes:8.0f}{images:10.0f}{cpu:10.2f}  ({each})")


def measure(folder: Path, port: int, send: Sender) -> tuple[float, float, float]:
    """Return MB/s, images/s and CPU seconds of the sender for each GB."""
    sizes = [path.stat().st_size for path in folder.iterdir()]
    seconds, cpu_seconds = send(folder, port)
    return sum(sizes) / seconds / 1e6, len(sizes) / seconds, cpu_seconds / sum(sizes) * 1e9


def send_as_node(folder: Path, port: int) -> tuple[float, float]:
    """Return the seconds, and the CPU seconds, of a delivery whose objects the ledger knows already."""
    items, _ = read_items([folder])
    return deliver(port, lambda: items)


def send_as_modality(folder: Path, port: int) -> tuple[float, float]:
    """Return the seconds, and the CPU seconds, of what `dicom-node send` does: it looks into the files first."""
    return deliver(port, lambda: read_items([folder])[0])


def deliver(port: int, find_items: Callable[[], list[DeliveryItem]]) -> tuple[float, float]:
    """Deliver what `find_items` returns; RuntimeError unless all of it was stored."""
    outcomes = Outcomes()
    begin, cpu_begin = time.perf_counter(), time.process_time()
    scu = StorageScu(destination(port, ae_title="SINK"), node_ae_title="BENCH")
    scu.deliver(find_items(), on_outcome=outcomes.append)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    if set(outcomes.states().values()) != {Outcome.SENT}:
        raise RuntimeError(next(outcome.reason for outcome in outcomes if outcome.reason))
    return seconds, cpu_seconds


def send_by_dcmsend(folder: Path, port: int) -> tuple[float, float]:
    """Return the seconds that dcmsend takes, and its CPU seconds."""
    program = find_program("dcmsend")
    if program is None:
        raise RuntimeError("DCMTK is not installed (Debian package dcmtk)")
    command = [program, "--call", "SINK", "--scan-directories", LOOPBACK, str(port)]
    begin = time.perf_counter()
    process = subprocess.Popen([*command, str(folder)], env={**os.environ, "TCP_NODELAY": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"dcmsend ended with {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime


@contextmanager
def storescp_sink(folder: Path) -> Iterator[int]:
    """Give the port of a storescp that drops what it gets."""
    with DcmtkStorescp(folder, "--ignore", ae_title="SINK") as peer:
        yield peer.port


@contextmanager
def own_sink(folder: Path) -> Iterator[int]:
    """Give the port of a process that answers every C-STORE with success and keeps nothing."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        process = multiprocessing.get_context("fork").Process(target=serve, args=(listener,), daemon=True)
        process.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            process.terminate()
            process.join()


def serve(listener: socket.socket) -> None:
    """Accept associations for ever, each on a thread."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=drop_everything, args=(connection,), daemon=True).start()


def drop_everything(connection: socket.socket) -> None:
    """Serve one association."""
    association = accept_association(
        connection,
        judge=lambda request: None,
        choose_transfer_syntax=lambda context: context.transfer_syntaxes[0],
        ae_title="SINK",
        max_pdu_bytes=PDU_BYTES,
        acse_timeout_s=10,
        network_timeout_s=60,
    )
    phase = association.phase
    try:
        while True:
            context_id, command = phase.receive_command()
            phase.receive_data_set(context_id, len)
            phase.send_message(context_id, build_response(command, 0x0000))
    except ReleaseRequested:
        phase.confirm_release()
    except DataPhaseError:
        phase.close()


SINKS = {"own": own_sink, "storescp": storescp_sink}
SENDERS = {"node": send_as_node, "node send": send_as_modality, "dcmsend": send_by_dcmsend}

if __name__ == "__main__":
    main()
