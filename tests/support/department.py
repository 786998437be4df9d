"""A day of a department in fast motion: twenty modalities, bursts, resends, a silent night and a PACS that is down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.support.modality import PersistentModality
from tests.support.node import RunningNode, running_node
from tests.support.peers import MockScp
from tests.support.radiographs import CR, CT, DX, write_radiographs
from tests.support.scenarios import Result, Scenario

MODALITIES = 20
HOURS = 24.0
# Examinations of each hour as shares of the busiest: little at night, most before noon.
BY_HOUR = (1, 1, 1, 1, 1, 2, 5, 12, 18, 20, 20, 18, 14, 15, 18, 16, 12, 8, 5, 4, 3, 2, 2, 1)
PACS_DOWN_H = ((2.0, 3.5), (12.0, 12.25))
"""Maintenance at night, and an outage at noon."""
SAMPLE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Examination:
    """One series of a modality, at an hour of the day; `again_of` is the number of the one that it repeats."""

    hour: float
    modality: int
    sop_class: str
    images: int
    again_of: int | None = None


def plan_day(count: int, seed: int) -> list[Examination]:
    """Return about `count` examinations in the order of their hours: Poisson by hour, the same for the same seed.

    One in ten is a CT series, which passes through. A round with the portable at 7 gives twelve series in a few
    minutes. One in twenty is sent again as a whole some minutes later, as after a time-out.
    """
    rng = np.random.default_rng(seed)
    day: list[Examination] = []
    for hour, weight in enumerate(BY_HOUR):
        for _ in range(int(rng.poisson(count * weight / sum(BY_HOUR)))):
            is_ct = rng.random() < 0.1
            day.append(
                Examination(
                    hour=hour + float(rng.random()),
                    modality=int(rng.integers(MODALITIES)),
                    sop_class=CT if is_ct else (DX, CR)[int(rng.integers(2))],
                    images=10 if is_ct else int(rng.integers(1, 4)),
                )
            )
    day += [Examination(hour=7 + 0.01 * n, modality=0, sop_class=DX, images=1) for n in range(12)]
    day.sort(key=lambda examination: examination.hour)
    again = [
        Examination(
            hour=first.hour + 0.2, modality=first.modality, sop_class=first.sop_class, images=first.images, again_of=n
        )
        for n, first in enumerate(day)
        if rng.random() < 0.05
    ]
    return day + again


def run_day(folder: Path, *, examinations: int, duration_s: float, seed: int = 1) -> Result:
    """Let a day pass in `duration_s` seconds at a real node with the real network; images are 96 by 96 pixels."""
    result = Result()
    day = plan_day(examinations, seed)
    files = [
        write_radiographs(folder / "in", e.images, series=n + 1, sop_class=e.sop_class, size=96)
        if e.again_of is None
        else []
        for n, e in enumerate(day)
    ]
    queues: list[list[tuple[float, Sequence[Path]]]] = [[] for _ in range(MODALITIES)]
    for n, e in sorted(enumerate(day), key=lambda each: each[1].hour):
        queues[e.modality].append((e.hour, files[n] if e.again_of is None else files[e.again_of]))
    sent = [path for paths in files for path in paths]
    with MockScp() as pacs, running_node(folder / "node", pacs.port) as node:
        begin = time.monotonic()

        def wait_for_hour(hour: float) -> None:
            time.sleep(max(0.0, begin + hour * duration_s / HOURS - time.monotonic()))

        with _Sampler(node) as sampler:
            threads = [
                threading.Thread(target=_work, args=(node.port, queue, wait_for_hour), daemon=True) for queue in queues
            ]
            threads.append(threading.Thread(target=_maintain, args=(pacs, wait_for_hour), daemon=True))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(duration_s + 300)
            result.broken += ["a modality did not come to its end" for thread in threads if thread.is_alive()]
            node.wait_balanced(len(sent), timeout_s=300)
        result.tried = len(day)
        result.check(node, pacs.objects, sent)
        series = node.rows("SELECT count(*) FROM (SELECT DISTINCT series_instance_uid FROM arrival)")[0][0]
        generations = node.rows("SELECT max(generation) FROM arrival")[0][0]
        expected = sum(e.again_of is None for e in day)
        if series != expected:
            result.broken.append(f"{series} series of {expected}")
        result.broken += sampler.judge()
        result.figures |= {
            "images": len(sent),
            "seconds for 24 hours": duration_s,
            "resent series": sum(e.again_of is not None for e in day),
            "largest generation of a series": generations,
            **_times_to_pacs(node),
            **sampler.figures(),
        }
    return result


def _work(port: int, queue: Sequence[tuple[float, Sequence[Path]]], wait_for_hour: Callable[[float], None]) -> None:
    for hour, paths in queue:
        wait_for_hour(hour)
        with PersistentModality(port, paths, per_association=20) as modality:
            modality.wait()


def _maintain(pacs: MockScp, wait_for_hour: Callable[[float], None]) -> None:
    for begin, end in PACS_DOWN_H:
        wait_for_hour(begin)
        pacs.stop()
        wait_for_hour(end)
        pacs.__enter__()


def _times_to_pacs(node: RunningNode) -> dict[str, Any]:
    """Return percentiles of the time from the acknowledgement of an image to its delivery, outages included."""
    rows = node.rows(
        "SELECT delivery.finished_at - instance.at FROM instance JOIN delivery USING (arrival_id) "
        "WHERE instance.origin = 'received' AND delivery.state = 'sent'"
    )
    times = [float(row[0]) for row in rows]
    return {
        "seconds from acknowledgement to PACS, median": round(float(np.percentile(times, 50)), 2),
        "seconds from acknowledgement to PACS, 95 %": round(float(np.percentile(times, 95)), 2),
    }


class _Sampler:
    """Resident memory, threads and file handles of each process, every second."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._samples: dict[str, list[tuple[float, float, int, int]]] = {}

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        begin = time.monotonic()
        while not self._stop.wait(SAMPLE_S):
            for name, process in self._node.processes().items():
                try:
                    sample = (process.memory_info().rss / 1e6, process.num_threads(), process.num_fds())
                except psutil.NoSuchProcess:
                    continue
                self._samples.setdefault(name, []).append((time.monotonic() - begin, *sample))

    def figures(self) -> dict[str, Any]:
        """Return what each process had in the second quarter of the time and in the last."""
        found = {}
        for name, samples in self._samples.items():
            early, late = _quarters(samples)
            found[f"{name}: MB, threads, file handles in the second and in the last quarter"] = [
                [round(float(v), 1) for v in early],
                [round(float(v), 1) for v in late],
            ]
        return found

    def judge(self) -> list[str]:
        """Return what grows. The first quarter is left out: memory grows to what the work takes."""
        found = []
        for name, samples in self._samples.items():
            early, late = _quarters(samples)
            for what, before, after, allowed in zip(
                ("MB", "threads", "file handles"), early, late, (0.1 * early[0] + 20, 8, 16), strict=True
            ):
                if after > before + allowed:
                    found.append(f"{name} grows: {what} {before:.0f} to {after:.0f}")
        return found


def _quarters(samples: Sequence[tuple[float, float, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return medians over the second and the last quarter of the samples."""
    values = np.array(samples)[:, 1:]
    quarter = max(1, len(values) // 4)
    return np.median(values[quarter : 2 * quarter], axis=0), np.median(values[-quarter:], axis=0)


DEPARTMENT = Scenario(
    name="department",
    tries="24 hours of a department in fast motion: 20 modalities, a burst of portables, resends, a night with the "
    "PACS down, and an outage at noon.",
    unit="series",
    run=lambda folder, share: run_day(
        folder, examinations=max(40, round(400 * share)), duration_s=max(24.0, 720.0 * share)
    ),
)
