"""What is an alarm and what is not, at the borders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from config.observation import ALARM_MEANINGS, AlarmKind
from config.settings import Settings
from dicom_node.certificates import Expiry
from dicom_node.ledger.figures import Down, Figures
from dicom_node.observation.alarms import Facts, alarms_of

NOW = 1_800_000_000.0
QUIET = Figures(
    at=NOW,
    deliveries={},
    oldest={},
    objects={},
    down={},
    holds={},
    series={},
    unrouted=0,
    quarantined=0,
    damaged=0,
    given_up={},
    seen={},
    heartbeats={},
    judged=0,
    guarded=0,
    concluded=0,
    late=0,
)
DISK = {"path": "/data", "state": "ok", "full_in_h": None, "reason": None}
SOURCES = {"sources": [{"name": "room-1", "ae_titles": ["XRAY1", "XRAY2"], "silent_after_h": 2}]}


def kinds(settings: dict[str, Any] | None = None, figures: Figures | None = QUIET, **facts: Any) -> list[str]:
    """Return kind and subject of what is on."""
    found = alarms_of(Facts(figures=figures, **facts), Settings.model_validate(settings or {}))
    return [f"{one.kind}:{one.subject}" for one in found]


def test_a_quiet_node_has_no_alarm_and_every_kind_has_a_sentence() -> None:
    assert kinds(disks=[DISK], processes={"receiver": ""}) == []
    assert set(ALARM_MEANINGS) == set(AlarmKind)


@pytest.mark.parametrize(("down_s", "expected"), [(299, []), (300, ["destination_down:pacs"])])
def test_a_destination_is_down_after_its_time(down_s: float, expected: list[str]) -> None:
    assert kinds(figures=replace(QUIET, down={"pacs": Down(since=NOW - down_s, reason="no answer")})) == expected


def test_dead_letters_of_both_kinds_are_one_alarm_of_their_destination() -> None:
    deliveries = {("pacs", "refused"): 2, ("pacs", "abandoned"): 1, ("other", "pending"): 5}
    (alarm,) = alarms_of(Facts(figures=replace(QUIET, deliveries=deliveries)), Settings())
    assert (alarm.kind, alarm.subject) == (AlarmKind.DEAD_LETTER, "pacs")
    assert alarm.sentence.startswith("3 deliveries to pacs")
    assert alarm.as_json()["destination"] == "pacs"


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({}, []),  # it was never heard of: it is being set up
        ({"XRAY1": NOW - 7200}, ["source_silent:room-1"]),
        ({"XRAY1": NOW - 7199}, []),
        ({"XRAY1": NOW - 90_000, "XRAY2": NOW}, []),
        ({"OTHER": NOW - 90_000}, []),
    ],
)
def test_a_source_is_silent_when_none_of_its_titles_called(seen: dict[str, float], expected: list[str]) -> None:
    assert kinds(SOURCES, replace(QUIET, seen=seen)) == expected
    assert kinds({}, replace(QUIET, seen=seen)) == []


@pytest.mark.parametrize(
    ("judged", "guarded", "expected"),
    [(50, 25, ["guard_rate:"]), (50, 24, []), (24, 24, []), (25, 25, ["guard_rate:"]), (0, 0, [])],
)
def test_a_share_counts_only_over_enough_images(judged: int, guarded: int, expected: list[str]) -> None:
    assert kinds(figures=replace(QUIET, judged=judged, guarded=guarded)) == expected


@pytest.mark.parametrize(("concluded", "late", "expected"), [(20, 4, ["deadline_rate:"]), (20, 3, []), (9, 9, [])])
def test_missed_deadlines_are_a_share_too(concluded: int, late: int, expected: list[str]) -> None:
    assert kinds(figures=replace(QUIET, concluded=concluded, late=late)) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"state": "above high watermark", "reason": "3 MB free"}, ["disk:/data"]),
        ({"state": "between watermarks", "reason": "3 MB free"}, []),
        ({"full_in_h": 12.0}, ["disk:/data"]),
        ({"full_in_h": 12.1}, []),
    ],
)
def test_a_disk_is_an_alarm_above_its_mark_and_soon_before(change: dict[str, Any], expected: list[str]) -> None:
    assert kinds(disks=[{**DISK, **change}]) == expected


def test_certificates_processes_models_and_objects() -> None:
    certificates = [
        Expiry(setting="tls.certificate", path="a.pem", days_left=29, sentence="ends soon"),
        Expiry(setting="tls.ca", path="b.pem", days_left=30, sentence="fine"),
        Expiry(setting="destinations[0].tls.ca", path="c.pem", problem="there is no such file"),
    ]
    figures = replace(QUIET, damaged=1, unrouted=2, given_up={"pacs": 1})
    found = kinds(
        figures=figures,
        certificates=certificates,
        processes={"receiver": "", "worker-0": "it does not run"},
        models={"worker-1": "no weights"},
    )
    assert sorted(found) == sorted(
        [
            "no_commitment:pacs",
            "no_route:",
            "object_damaged:",
            "certificate:tls.certificate",
            "certificate:destinations[0].tls.ca",
            "no_model:worker-1",
            "process_down:worker-0",
        ]
    )


@pytest.mark.parametrize(("silent_s", "expected"), [(59, []), (61, ["process_down:far:worker-0"]), (90_000, [])])
def test_a_process_of_another_machine_is_missed_for_a_day(silent_s: float, expected: list[str]) -> None:
    figures = replace(QUIET, heartbeats={"far:worker-0": NOW - silent_s, "node:receiver": NOW - silent_s})
    assert kinds(figures=figures, processes={"receiver": ""}) == expected


def test_a_ledger_that_is_away_comes_first_and_hides_nothing_of_the_machine() -> None:
    found = kinds(figures=None, trouble="locked", disks=[{**DISK, "full_in_h": 1.0}])
    assert found == ["ledger_unavailable:", "disk:/data"]
