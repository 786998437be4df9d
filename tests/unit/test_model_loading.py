"""A model that ends the worker while it is loaded does not keep the originals."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.enhancement import ModelAtHand, NoModel
from dicom_node.model_loading import MAX_LOADS, load_guarded


class Killed(BaseException):
    """The process ends here."""


def kill() -> ModelAtHand:
    raise Killed


def test_a_load_that_ends_the_worker_is_left_out_after_a_few_times_and_then_tried_again(tmp_path: Path) -> None:
    mark = tmp_path / "worker-0.loading"
    for _ in range(MAX_LOADS):
        with pytest.raises(Killed):
            load_guarded(mark, kill)
    found = load_guarded(mark, kill)
    assert isinstance(found, NoModel)
    assert f"ended the worker {MAX_LOADS} times" in found.reason
    with pytest.raises(Killed):
        load_guarded(mark, kill)


def test_a_load_that_succeeds_forgets_those_before(tmp_path: Path) -> None:
    mark = tmp_path / "worker-0.loading"
    model = NoModel(reason="stands for one")
    for _ in range(MAX_LOADS - 1):
        with pytest.raises(Killed):
            load_guarded(mark, kill)
    assert load_guarded(mark, lambda: model) is model
    assert not mark.exists()


def test_a_mark_that_can_t_be_read_or_written_is_no_obstacle(tmp_path: Path) -> None:
    model = NoModel(reason="stands for one")
    assert load_guarded(tmp_path / "no folder" / "mark", lambda: model) is model
    (tmp_path / "mark").write_text("nonsense")
    assert load_guarded(tmp_path / "mark", lambda: model) is model
