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
