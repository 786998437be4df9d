"""Turns: images side by side, a suspect alone."""

from __future__ import annotations

import contextlib
import threading
import time

from dicom_node.turns import Turns


def test_images_go_side_by_side() -> None:
    turns, both = Turns(), threading.Barrier(2)

    def work() -> None:
        with turns.take(alone=False):
            both.wait(5)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert not both.broken


def test_a_suspect_goes_alone_and_nobody_begins_meanwhile() -> None:
    turns, inside, worst = Turns(), [], []
    lock = threading.Lock()

    def work(name: str, alone: bool) -> None:
        with turns.take(alone=alone):
            with lock:
                inside.append(name)
                worst.append(tuple(inside))
            time.sleep(0.02)
            with lock:
                inside.remove(name)

    names = [(f"{'suspect' if n % 3 == 0 else 'image'}-{n}", n % 3 == 0) for n in range(12)]
    threads = [threading.Thread(target=work, args=each) for each in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(worst) == 12
    for together in worst:
        assert len(together) == 1 or not any(name.startswith("suspect") for name in together)
    assert any(len(together) > 1 for together in worst)


def test_a_turn_ends_with_an_error_too() -> None:
    turns = Turns()
    for alone in (True, False, True):
        with contextlib.suppress(ValueError), turns.take(alone=alone):
            raise ValueError
    with turns.take(alone=True):
        pass


def test_after_closing_nobody_gets_a_turn_and_those_that_are_held_are_waited_for() -> None:
    turns = Turns()
    began, may_end = threading.Event(), threading.Event()

    def work() -> None:
        with turns.take(alone=False):
            began.set()
            may_end.wait(20)

    held = threading.Thread(target=work, daemon=True)
    held.start()
    assert began.wait(20)
    assert turns.close(0.05) is False
    late = threading.Thread(target=work, daemon=True)
    late.start()
    may_end.set()
    assert turns.close(20) is True
    held.join(20)
    late.join(0.2)
    assert late.is_alive(), "a turn was given after closing"
