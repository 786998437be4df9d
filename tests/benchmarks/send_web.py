"""Rate of STOW-RS against C-STORE, to the same Orthanc, all in one run on one machine.

Each repetition sends the same objects under new SOP Instance UIDs, first by one way and then by the other, so that
Orthanc stores them all. Memory is the peak above what was resident before, of the sender alone.

    python tests/benchmarks/send_web.py --repetitions 5
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from dicom_node.destinations.base import Destination, Outcome  # noqa: E402
from dicom_node.destinations.storage_scu import StorageScu  # noqa: E402
from dicom_node.destinations.stow_rs import StowRs  # noqa: E402
from tests.support.items import CT, DX, Outcomes, destination, items_of, write_image  # noqa: E402
from tests.support.memory import peak_growth  # noqa: E402
from tests.support.web_peers import orthanc_with_dicomweb, web_destination  # noqa: E402


def main() -> None:
    """Measure each way with each kind of object `--repetitions` times, interleaved, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--dx", type=int, default=20, help="objects of 10 MB")
    parser.add_argument("--ct", type=int, default=200, help="objects of 0.5 MB")
    options = parser.parse_args()
    kinds = {"dx": (DX, 2263, options.dx), "ct": (CT, 512, options.ct)}
    found: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, orthanc_with_dicomweb(Path(folder) / "orthanc") as orthanc:
        ways: dict[str, Destination] = {
            "C-STORE": StorageScu(destination(orthanc.port, ae_title="ORTHANC"), node_ae_title="BENCH"),
            "STOW 1": StowRs(web_destination(orthanc.http_port, max_objects=1), node_ae_title="BENCH"),
            "STOW 50": StowRs(web_destination(orthanc.http_port), node_ae_title="BENCH"),
        }
        number = 0
        for _ in range(options.repetitions):
            for kind, (sop_class, size, count) in kinds.items():
                for way, one in ways.items():
                    work = Path(folder) / f"objects-{number}"
                    paths = [write_image(work, number + n, sop_class=sop_class, size=size) for n in range(count)]
                    number += count
                    found.setdefault((kind, way), []).append(measure(one, paths))
                    for path in paths:
                        path.unlink()
    print(f"{'kind':6}{'way':10}{'MB/s':>8}{'images/s':>10}{'CPU s/GB':>10}{'peak MB':>9}  (MB/s of each repetition)")
    for (kind, way), measured in found.items():
        rate, images, cpu, peak = (statistics.median(column) for column in zip(*measured, strict=True))
        each = " ".join(f"{entry[0]:.0f}" for entry in measured)
        print(f"{kind:6}{way:10}{rate:8.0f}{images:10.0f}{cpu:10.2f}{peak:9.0f}  ({each})")


def measure(one: Destination, paths: list[Path]) -> tuple[float, float, float, float]:
    """Return MB/s, images/s, CPU seconds of the sender for each GB, and its peak of memory in MB."""
    items, outcomes = items_of(paths), Outcomes()
    size = sum(path.stat().st_size for path in paths)
    with peak_growth() as growth:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        one.deliver(items, on_outcome=outcomes.append)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu_begin
    if set(outcomes.states().values()) != {Outcome.SENT}:
        raise RuntimeError(next(outcome.reason for outcome in outcomes if outcome.reason))
    return size / seconds / 1e6, len(items) / seconds, cpu / size * 1e9, growth.bytes / 1e6


if __name__ == "__main__":
    main()
