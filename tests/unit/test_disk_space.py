"""Watermarks with hysteresis, the forecast, and the ledger's reserve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from config.settings import Settings
from dicom_node import disk_space
from dicom_node.disk_care import hours_until_full
from dicom_node.disk_space import (
    DiskSpace,
    FileSystem,
    Reserve,
    Usage,
    Watermarks,
    bytes_to_free,
    file_systems,
    shortage,
)

MB = 1 << 20
ROOMY = Usage(free_bytes=500 * MB, total_bytes=1000 * MB, free_inodes=1000, total_inodes=2000)
MARKS = Watermarks(
    min_free_bytes=100 * MB,
    resume_free_bytes=150 * MB,
    max_used_percent=80,
    resume_used_percent=70,
    min_free_inodes=40,
    resume_free_inodes=60,
)


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        ({}, False, False),
        ({"free_bytes": 99 * MB}, True, True),
        ({"free_bytes": 301 * MB}, False, False),
        ({"free_bytes": 199 * MB}, True, True),
        ({"free_bytes": 290 * MB}, False, True),  # 71 % used: below the high mark, above the low one
        ({"free_inodes": 39}, True, True),
        ({"free_inodes": 50}, False, True),
        ({"free_inodes": 61}, False, False),
        ({"free_inodes": 0, "total_inodes": 0}, False, False),  # btrfs counts none
        ({"free_inodes": 30, "total_inodes": 100}, False, False),  # fewer in all than the mark
    ],
)
def test_what_is_short_stays_short_up_to_the_low_mark(change: dict[str, int], before: bool, after: bool) -> None:
    usage = replace(ROOMY, **change)
    assert (shortage(usage, MARKS, was_short=False) is not None) is before
    assert (shortage(usage, MARKS, was_short=True) is not None) is after


def test_the_low_mark_says_how_much_has_to_go() -> None:
    assert bytes_to_free(ROOMY, MARKS) == 0
    assert bytes_to_free(replace(ROOMY, free_bytes=100 * MB), MARKS) == pytest.approx(200 * MB, abs=1000)
    assert bytes_to_free(replace(ROOMY, free_bytes=100 * MB), replace(MARKS, max_used_percent=100)) == 50 * MB


def test_low_marks_that_are_not_set_lie_below_the_high_ones() -> None:
    marks = Watermarks.of(
        Settings.model_validate({"receiver": {"min_free_mb": 1000}, "storage": {"max_used_percent": 90}})
    )
    assert (marks.min_free_bytes, marks.resume_free_bytes) == (1000 * MB, 1250 * MB)
    assert marks.resume_used_percent == 88
    # One that contradicts the high mark counts as the high mark.
    marks = Watermarks.of(
        Settings.model_validate({"receiver": {"min_free_mb": 1000}, "storage": {"resume_free_mb": 10}})
    )
    assert marks.resume_free_bytes == 1000 * MB


def test_refusal_begins_at_the_high_mark_and_ends_at_the_low_one(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"/a": 500 * MB, "/b": 500 * MB}
    monkeypatch.setattr(disk_space, "measure", lambda path: replace(ROOMY, free_bytes=free[str(path)]))
    systems = [FileSystem(path=Path("/a"), holds=("objects",)), FileSystem(path=Path("/b"), holds=("ledger",))]
    disks = DiskSpace(systems, replace(MARKS, max_used_percent=100))
    said = []
    for amount in (101, 99, 149, 151, 101, 99):
        free["/b"] = amount * MB
        said.append(disks.refusal() is not None)
    assert said == [False, True, True, False, False, True]
    # It is the ledger's disk that is full: deleting objects would not help.
    assert not disks.is_objects_short()
    assert (disks.refusal() or "").startswith("/b: 99 MB free")


def test_derived_objects_leave_room_for_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 26
    monkeypatch.setattr(disk_space, "measure", lambda path: replace(ROOMY, free_bytes=free * MB))
    disks = DiskSpace([FileSystem(path=Path("/a"), holds=("objects",))], MARKS)
    assert disks.refusal_of_derived() is None
    free = 24
    assert "24 MB free at /a" in (disks.refusal_of_derived() or "")


def test_a_file_system_that_does_not_answer_counts_as_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> Usage:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk_space, "measure", fail)
    assert DiskSpace([FileSystem(path=Path("/a"), holds=("objects",))], MARKS).refusal() is not None


def test_folders_on_one_file_system_are_measured_once(tmp_path: Path) -> None:
    (only,) = file_systems(Settings.model_validate({"node": {"data_dir": str(tmp_path / "not" / "there")}}))
    assert only.holds == ("objects", "incoming", "ledger", "workflows")
    shared = Settings.model_validate(
        {"node": {"data_dir": str(tmp_path), "database_url": "sqlite:////dev/shm/ledger.sqlite"}}
    )
    assert [system.holds for system in file_systems(shared)][1:] == [("ledger",)]


def test_the_reserve_takes_real_space_and_is_given_back_once(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", 4 * MB)
    reserve.hold(15 * MB)
    assert not (tmp_path / "reserve").exists()
    reserve.hold(100 * MB)
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 4 * MB
    assert reserve.release()
    assert not reserve.release()
    Reserve(tmp_path / "none", 0).hold(100 * MB)
    assert not (tmp_path / "none").exists()


def test_two_workers_may_take_the_reserve_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Reserve(tmp_path / "reserve", MB), Reserve(tmp_path / "reserve", MB)
    first.hold(100 * MB)
    # It looked before the first one had made the file.
    monkeypatch.setattr(Path, "exists", lambda _self: False)
    second.hold(100 * MB)
    assert (tmp_path / "reserve").stat().st_size == MB


def test_a_reserve_that_can_not_be_made_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Reserve(tmp_path / "absent" / "reserve", MB).hold(100 * MB)
    assert "can't be made" in caplog.text


HOUR = 3600.0


@pytest.mark.parametrize(
    ("samples", "hours"),
    [
        ([(n * HOUR / 4, 1000 - 100 * n) for n in range(5)], 1.0),  # 400 an hour, 600 left of which 200 are the least
        ([(n * HOUR / 4, 1000) for n in range(5)], None),
        ([(n * HOUR / 4, 1000 + n) for n in range(5)], None),
        ([(n * 60.0, 1000 - n) for n in range(10)], None),  # ten minutes say nothing
        ([], None),
    ],
)
def test_the_forecast_follows_the_trend_of_the_last_hours(
    samples: list[tuple[float, int]], hours: float | None
) -> None:
    assert hours_until_full(samples, 200) == (None if hours is None else pytest.approx(hours))
