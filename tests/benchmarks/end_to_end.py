"""Time from the last C-STORE response to the enhanced object at the PACS, and peak memory of each process.

Usage: python -m tests.benchmarks.end_to_end [--repetitions N] [--megapixels M]

Sends DX objects of a phantom at a quarter of the dose, one study at a time, through a running node to a mock PACS, and
prints the medians as JSON. `inference_s` is noise estimation, network and guards; the quiet period is part of it all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from dicom_node.sending import parse_target, read_items, send_items
from model.noise import NoiseLaw
from tests.support.node import CALLING, RunningNode, default_routes, destination
from tests.support.objects import dx_dataset, save
from tests.support.peers import MockScp
from training.lowdose import Detector, low_dose_stored
from training.phantom import phantom

QUIET_PERIOD_S = 1.0


def peak_memory_mb(processes: dict[str, psutil.Process]) -> dict[str, int]:
    """Return the peak resident memory (VmHWM) of each process of the node, in megabytes."""
    found = {}
    for name, process in processes.items():
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak_kb = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        found[name] = int(peak_kb) // 1024
    return found


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--megapixels", type=float, default=5.0)
    options = parser.parse_args()
    rows = 2500
    columns = round(options.megapixels * 1e6 / rows)
    transmission = phantom(rows, columns, 7, anatomy="chest")
    totals = []
    with tempfile.TemporaryDirectory() as folder, MockScp(ae_title="PACS") as pacs:
        routes = default_routes("pacs", quiet_period_s=QUIET_PERIOD_S)
        with RunningNode(Path(folder), destinations=[destination("pacs", pacs.port)], routes=routes) as node:
            for number in range(options.repetitions):
                stored, _ = low_dose_stored(
                    transmission,
                    dose=0.25,
                    detector=Detector(law=NoiseLaw(structure=0.005, quantum=3.0, electronic=8.0)),
                    open_field=12_000.0,
                    rng=np.random.default_rng(number),
                )
                items, _ = read_items([save(dx_dataset(stored), Path(folder) / f"{number}.dcm")])
                target = parse_target(f"LOWDOSE@127.0.0.1:{node.port}")
                send_items(items, target, calling_ae_title=CALLING, on_outcome=lambda *_: None)
                answered = time.perf_counter()
                while len(pacs.objects) <= number:
                    time.sleep(0.005)
                totals.append(time.perf_counter() - answered)
            memory = peak_memory_mb(node.processes())
            seconds = node.rows("SELECT total_s, inference_s FROM enhancement WHERE decision = 'enhanced'")
    print(
        json.dumps(
            {
                "megapixels": rows * columns / 1e6,
                "repetitions": options.repetitions,
                "response_to_arrival_s": round(statistics.median(totals), 2),
                "response_to_arrival_all_s": [round(total, 2) for total in totals],
                "quiet_period_s": QUIET_PERIOD_S,
                "inference_s": round(statistics.median(row.inference_s for row in seconds), 2),
                "image_in_worker_s": round(statistics.median(row.total_s for row in seconds), 2),
                "peak_memory_mb": memory,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
