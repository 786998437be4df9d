"""An image in time has the denoiser before one in the background, also in the middle of a cine."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dicom_node.precedence import GaveUp, Precedence
from tests.support.peers import wait_until


def never() -> bool:
    return False


def start(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_who_is_in_time_goes_before_who_waits_in_the_background() -> None:
    turns = Precedence()
    order: list[str] = []

    def work(name: str, in_background: bool) -> None:
        with turns.hold(in_background=in_background):
            order.append(name)

    with turns.hold():
        threads = [start(lambda: work("background", True))]
        threads += [start(lambda: work("in time", False)) for _ in range(2)]
        wait_until(lambda: turns._in_time == 2, what="two that wait")
    for thread in threads:
        thread.join(10)
    assert order == ["in time", "in time", "background"]


def test_the_background_gives_way_between_frames_and_goes_on() -> None:
    turns = Precedence()
    order: list[str] = []

    def in_time() -> None:
        with turns.hold():
            order.append("in time")

    with turns.hold(in_background=True):
        turns.give_way(is_over=never)
        order.append("frame 1")
        thread = start(in_time)
        wait_until(lambda: turns._in_time == 1, what="one that waits")
        turns.give_way(is_over=never)
        order.append("frame 2")
    thread.join(10)
    assert order == ["frame 1", "in time", "frame 2"]


def test_waiting_ends_with_its_time_and_the_lock_is_whole() -> None:
    turns = Precedence()
    went, over, ended = threading.Event(), threading.Event(), threading.Event()

    def in_time() -> None:
        with turns.hold():
            went.set()
            over.wait(10)
            # Long enough to be seen by one that does not wait for it.
            ended.wait(0.2)
            ended.set()

    def is_over() -> bool:
        assert went.wait(10)
        over.set()
        return True

    with turns.hold(), pytest.raises(GaveUp), turns.hold(in_background=True, is_over=lambda: True):
        pass
    with turns.hold(in_background=True):
        thread = start(in_time)
        wait_until(lambda: turns._in_time == 1, what="one that waits")
        with pytest.raises(GaveUp):
            turns.give_way(is_over=is_over)
        assert ended.is_set()
    thread.join(10)
    with turns.hold(in_background=True):
        pass
