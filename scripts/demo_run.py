"""The demonstration: a phantom at a quarter of the dose goes through a running node to a mock PACS.

Run it as ``scripts/demo``. It starts the node as a user would (``dicom-node init``, ``run``, ``send``), waits for the
enhanced object, compares it with the known truth, checks its attributes, and writes a before / after / difference
picture under ``outputs/demo``.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from rich.console import Console
from rich.table import Table

from config.example import toml_value
from dicom_node.ledger.balance import BalanceLedger
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.sending import parse_target, read_items, send_items
from model.noise import NoiseLaw
from tests.support.objects import dx_dataset
from tests.support.peers import MockScp, find_free_port
from training.lowdose import Detector, low_dose_stored
from training.metrics import data_range, mse, psnr, ssim
from training.phantom import phantom

DOSE = 0.25
OPEN_FIELD = 12_000.0
# About 300 quanta in an open pixel at full dose per 1000 stored values, and electronic noise of 8 stored values.
LAW = NoiseLaw(structure=0.005, quantum=3.0, electronic=8.0)
OUTPUT = Path("outputs/demo")

console = Console()


@dataclass(kw_only=True)
class Timings:
    """Seconds of each step, in the order in which they were measured."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step, and show that it runs."""
        begin = time.perf_counter()
        with console.status(name):
            yield
        self.seconds[name] = time.perf_counter() - begin
        console.print(f"  [green]done[/green]  {name}  [dim]{self.seconds[name]:.1f} s[/dim]")


class DemoFailed(Exception):
    """The demonstration did not show what it should; the message says what."""


def main() -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2500, help="rows of the phantom (default 2500, 5 megapixels)")
    parser.add_argument("--columns", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    timings = Timings()
    try:
        with tempfile.TemporaryDirectory(prefix="lowdose-demo-") as folder:
            _demonstrate(Path(folder), options.rows, options.columns, options.seed, timings)
    except DemoFailed as error:
        console.print(f"[bold red]The demonstration failed:[/bold red] {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _demonstrate(folder: Path, rows: int, columns: int, seed: int, timings: Timings) -> None:
    with timings.step(f"Phantom of {rows} x {columns} pixels at {DOSE:g} of the dose"):
        transmission = phantom(rows, columns, seed, anatomy="chest")
        stored, truth = low_dose_stored(
            transmission,
            dose=DOSE,
            detector=Detector(law=LAW),
            open_field=OPEN_FIELD,
            rng=np.random.default_rng(seed),
        )
        source = dx_dataset(stored, bits_stored=14)
        file = folder / "phantom.dcm"
        source.save_as(file, enforce_file_format=True)
    port = find_free_port()
    with MockScp(ae_title="PACS") as pacs:
        settings = _write_settings(folder, port, pacs.port)
        with timings.step("Start of the node (receiver and worker)"), _running_node(settings, port) as node:
            pass
        try:
            _send_and_check(folder, file, port, pacs, node, timings, source, stored, truth)
        finally:
            _stop(node)


def _send_and_check(
    folder: Path,
    file: Path,
    port: int,
    pacs: MockScp,
    node: subprocess.Popen[bytes],
    timings: Timings,
    source: Dataset,
    stored: NDArray[np.uint16],
    truth: NDArray[np.float32],
) -> None:
    with timings.step("C-STORE from the mock modality"):
        items, _ = read_items([file])
        summary = send_items(
            items, parse_target(f"LOWDOSE@127.0.0.1:{port}"), calling_ae_title="XRAY1", on_outcome=lambda *_: None
        )
        if summary.sent != 1:
            raise DemoFailed(f"the node did not take the object: {summary.failed}")
    answered = time.perf_counter()
    with timings.step("From the C-STORE response to the enhanced object at the mock PACS"):
        _wait(lambda: bool(pacs.objects), node, "the object did not arrive at the mock PACS")
    timings.seconds["From the C-STORE response to the enhanced object at the mock PACS"] = (
        time.perf_counter() - answered
    )
    derived = pacs.objects[0].dataset()
    before, after = stored.astype(np.float32), derived.pixel_array.astype(np.float32)
    _wait(lambda: _balance(folder)["delivered"] == 1, node, "the ledger does not say delivered")
    balance = _balance(folder)
    _show(timings, balance, before, after, truth)
    _check_attributes(source, derived)
    _draw(before, after, truth)


def _write_settings(folder: Path, port: int, pacs_port: int) -> Path:
    file = folder / "node.toml"
    lines = [
        "[node]",
        f"port = {port}",
        'bind = "127.0.0.1"',
        "[console]",
        "enabled = false",
        "[[sources]]",
        'name = "mock-modality"',
        f"ae_titles = {toml_value(['XRAY1'])}",
        "[[destinations]]",
        'name = "mock-pacs"',
        'ae_title = "PACS"',
        'host = "127.0.0.1"',
        f"port = {pacs_port}",
        "[[routes]]",
        'name = "radiographs"',
        'match = { Modality = "CR|DX" }',
        'destinations = ["mock-pacs"]',
        "quiet_period_s = 1.0",
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


@contextmanager
def _running_node(settings: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    log = (settings.parent / "node.log").open("wb")
    node = subprocess.Popen([sys.executable, "-m", "dicom_node", "run", "-c", str(settings)], stderr=log)
    log.close()
    _wait(lambda: _accepts(port) and b"Worker runs" in _log(settings.parent), node, "the node did not start")
    yield node


def _log(folder: Path) -> bytes:
    return (folder / "node.log").read_bytes()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _wait(condition: Callable[[], bool], node: subprocess.Popen[bytes], failure: str, timeout_s: float = 150.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if node.poll() is not None:
            raise DemoFailed(f"the node ended with code {node.returncode}")
        if time.monotonic() > deadline:
            raise DemoFailed(f"{failure} within {timeout_s:.0f} s")
        time.sleep(0.05)


def _stop(node: subprocess.Popen[bytes]) -> None:
    node.send_signal(signal.SIGTERM)
    try:
        node.wait(60)
    except subprocess.TimeoutExpired:
        node.kill()


def _balance(folder: Path) -> dict[str, float]:
    """Return the node's own balance, and the seconds that it noted for the image."""
    answer = subprocess.run(
        [sys.executable, "-m", "dicom_node", "verify", "-c", str(folder / "node.toml"), "--json"],
        check=False,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(answer.stdout)
    database = Database(ledger_url("", folder / "node-data"))
    try:
        return {**found, **BalanceLedger(database).enhancement_totals()}
    finally:
        database.close()


def _show(
    timings: Timings,
    balance: dict[str, float],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    truth: NDArray[np.float32],
) -> None:
    table = Table(title="What became of it", box=None, title_justify="left")
    for column in ("", "received", "enhanced", "forwarded", "in work", "quarantined"):
        table.add_column(column)
    counts = [balance[key] for key in ("received", "enhanced", "delivered", "in_work", "quarantined")]
    table.add_row("objects", *(str(int(count)) for count in counts))
    console.print(table)

    exposed = truth > 0.1 * truth.max()
    peak = data_range(truth, exposed)
    quality = Table(title="Against the known truth (stored values, exposed field)", box=None, title_justify="left")
    for column in ("", "PSNR [dB]", "SSIM", "MSE"):
        quality.add_column(column, justify="right")
    gains = []
    for name, image in (("low dose, as sent", before), ("enhanced, at the PACS", after)):
        figures = (
            psnr(image, truth, mask=exposed, reference=peak),
            ssim(image, truth, mask=exposed, reference=peak),
            mse(image, truth, exposed),
        )
        gains.append(figures[0])
        quality.add_row(name, f"{figures[0]:.2f}", f"{figures[1]:.4f}", f"{figures[2]:.1f}")
    console.print(quality)

    steps = Table(title="Seconds", box=None, title_justify="left")
    steps.add_column("step")
    steps.add_column("s", justify="right")
    for name, seconds in timings.seconds.items():
        steps.add_row(name, f"{seconds:.2f}")
    steps.add_row("  of this: quiet period", "1.00")
    steps.add_row("  of this: the image in the worker", f"{balance['total_s']:.2f}")
    steps.add_row("  of this: noise estimation, network, guards", f"{balance['inference_s']:.2f}")
    console.print(steps)
    if gains[1] <= gains[0]:
        raise DemoFailed(f"PSNR went from {gains[0]:.2f} to {gains[1]:.2f} dB")


def _check_attributes(source: Dataset, derived: Dataset) -> None:
    """Hold the derived object to what it must keep and what it must say."""
    kept = (
        "PatientName",
        "PatientID",
        "StudyInstanceUID",
        "AccessionNumber",
        "SOPClassUID",
        "Modality",
        "InstanceNumber",
        "AcquisitionDate",
        "BitsStored",
        "PhotometricInterpretation",
        "Rows",
        "Columns",
    )
    faults = [keyword for keyword in kept if source.get(keyword) != derived.get(keyword)]
    if derived.SOPInstanceUID == source.SOPInstanceUID or derived.SeriesInstanceUID == source.SeriesInstanceUID:
        faults.append("new UIDs")
    if derived.ImageType[0] != "DERIVED":
        faults.append("ImageType")
    if derived.SourceImageSequence[0].ReferencedSOPInstanceUID != source.SOPInstanceUID:
        faults.append("SourceImageSequence")
    if faults:
        raise DemoFailed(f"attributes of the derived object are wrong: {', '.join(faults)}")
    console.print(f"Attributes: {len(kept)} kept as sent; new UIDs, Image Type DERIVED, source image referenced.")
    console.print(f"  Derivation Description: {derived.DerivationDescription}", soft_wrap=True)


def _draw(before: NDArray[np.float32], after: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
    """Write the pictures: the whole image above, a detail at full resolution below."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    rows, columns = truth.shape
    detail = (slice(rows * 2 // 5, rows * 2 // 5 + 300), slice(columns // 4, columns // 4 + 300))
    # As a radiologist sees it: the logarithm of exposure, bone bright.
    seen = [-np.log(np.maximum(image, 1.0)) for image in (before, after)]
    noise = float(np.std((before - truth)[detail]))
    figure, axes = plt.subplots(2, 3, figsize=(15, 11), layout="constrained")
    for row, (region, name) in enumerate(((np.s_[::4, ::4], "whole"), (detail, "detail, pixel by pixel"))):
        low, high = np.percentile(-np.log(np.maximum(truth[region], 1.0)), (1, 99))
        for column, (image, title) in enumerate(zip(seen, ("before", "after"), strict=True)):
            axes[row, column].imshow(image[region], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axes[row, column].set_title(f"{title} ({name})")
        removed = (before - after)[region]
        axes[row, 2].imshow(removed, cmap="gray", vmin=-3 * noise, vmax=3 * noise, interpolation="nearest")
        axes[row, 2].set_title(f"removed, +-3 sigma ({name})")
    for axis in axes.flat:
        axis.set_axis_off()
    file = OUTPUT / "before_after_difference.png"
    figure.savefig(file, dpi=80)
    plt.close(figure)
    console.print(f"Picture: {file}")


if __name__ == "__main__":
    sys.exit(main())
