"""Health: what fails is told, what hangs is found, and only what a restart can help counts as dead."""

from __future__ import annotations

import threading

from dicom_node.errors import LedgerUnavailable
from dicom_node.housekeeping import STALLED_S, Pulse
from dicom_node.observation.health import STALE_S, Check, Health
from tests.support.peers import wait_until


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def no_ledger() -> str | None:
    raise LedgerUnavailable("ledger database: locked")


def test_a_ledger_that_is_away_makes_a_process_unready_but_not_dead() -> None:
    health = Health(
        checks=[Check(name="ledger", look=no_ledger), Check(name="listens", look=lambda: None, is_vital=True)]
    )
    health.look()
    found = health.finding()
    assert (found.is_live, found.is_ready) == (True, False)
    assert "locked" in found.problems["ledger"]
    assert found.as_json()["checks"]["listens"] == "ok"


def test_a_vital_check_that_fails_says_that_the_process_is_dead() -> None:
    health = Health(checks=[Check(name="listens", look=lambda: "it does not", is_vital=True)])
    health.look()
    assert not health.finding().is_live


def test_before_the_first_look_a_process_is_live_and_not_ready() -> None:
    found = Health(checks=[Check(name="ledger", look=lambda: None)]).finding()
    assert (found.is_live, found.is_ready) == (True, False)


def test_everything_well_is_ready() -> None:
    health = Health(checks=[Check(name="ledger", look=lambda: None)])
    health.look()
    assert health.finding().is_ready


def test_a_check_that_hangs_is_found_and_named() -> None:
    clock, release, is_in = Clock(), threading.Event(), threading.Event()
    calls = []

    def hangs() -> str | None:
        calls.append(1)
        if len(calls) > 1:
            is_in.set()
            release.wait(30)
        return None

    for is_vital in (False, True):
        calls.clear()
        is_in.clear()
        release.clear()
        health = Health(checks=[Check(name="stuck", look=hangs, is_vital=is_vital)], monotonic=clock)
        health.look()
        thread = threading.Thread(target=health.look)
        thread.start()
        assert is_in.wait(30)
        clock.now += STALE_S + 1
        found = health.finding()
        assert "hangs in stuck" in found.problems["watch"]
        assert (found.is_live, found.is_ready) == (not is_vital, False)
        release.set()
        thread.join(30)
        assert health.finding().is_ready


def test_the_watch_looks_by_itself() -> None:
    looked = threading.Event()

    def look() -> str | None:
        looked.set()
        return None

    health = Health(checks=[Check(name="one", look=look)])
    with health.watched():
        assert looked.wait(30)
        wait_until(lambda: health.finding().is_ready)


def test_jobs_that_stopped_are_noticed() -> None:
    clock = Clock()
    pulse = Pulse(monotonic=clock)
    assert pulse.trouble() is None
    pulse.beat()
    clock.now += STALLED_S - 1
    assert pulse.trouble() is None
    clock.now += 2
    assert "have not run" in str(pulse.trouble())
