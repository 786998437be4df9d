"""Objects that finish together are committed together, and each gets its own answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import cast

import pytest

from dicom_node.errors import LedgerUnavailable
from dicom_node.group_commit import GroupCommit
from dicom_node.ledger.reception import ReceivedInstance, ReceptionLedger, Recorded, RecordOutcome


def received(number: int) -> ReceivedInstance:
    return ReceivedInstance(
        association_id=1,
        sop_class_uid="1",
        sop_instance_uid=f"1.2.{number}",
        study_instance_uid="1",
        series_instance_uid="1",
        transfer_syntax_uid="1",
        key="",
        size=number,
        dataset_offset=0,
        digest="",
    )


class SlowLedger:
    """Takes 20 ms a commit, refuses what it is told to."""

    def __init__(self, refused: int | None = None, error: type[Exception] = ValueError) -> None:
        self.commits: list[list[int]] = []
        self._refused = refused
        self._error = error

    def record_all(self, group: Sequence[ReceivedInstance]) -> list[Recorded]:
        time.sleep(0.02)
        self.commits.append([one.size for one in group])
        if any(one.size == self._refused for one in group):
            raise self._error("refused")
        return [Recorded(instance_id=one.size, outcome=RecordOutcome.NEW) for one in group]


def run(ledger: SlowLedger, count: int) -> dict[int, int | Exception]:
    group = GroupCommit(cast(ReceptionLedger, ledger))
    answers: dict[int, int | Exception] = {}

    def record(number: int) -> None:
        try:
            answers[number] = group.record(received(number)).instance_id
        except (ValueError, LedgerUnavailable) as error:
            answers[number] = error

    threads = [threading.Thread(target=record, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_each_object_is_committed_once_and_answered_with_its_own_row() -> None:
    ledger = SlowLedger()
    assert run(ledger, 40) == {number: number for number in range(40)}
    assert sorted(size for commit in ledger.commits for size in commit) == list(range(40))
    assert len(ledger.commits) < 20


def test_a_lone_object_is_committed_at_once() -> None:
    ledger = SlowLedger()
    assert GroupCommit(cast(ReceptionLedger, ledger)).record(received(5)).instance_id == 5
    assert ledger.commits == [[5]]


def test_one_object_that_the_ledger_refuses_does_not_fail_the_others() -> None:
    answers = run(SlowLedger(refused=7), 20)
    assert isinstance(answers.pop(7), ValueError)
    assert answers == {number: number for number in range(20) if number != 7}


def test_a_ledger_out_of_reach_fails_the_group_without_asking_for_each() -> None:
    ledger = SlowLedger(refused=0, error=LedgerUnavailable)
    answers = run(ledger, 10)
    assert all(isinstance(answer, LedgerUnavailable) for answer in answers.values())
    asked = [number for commit in ledger.commits for number in commit]
    # Those who came while the first waited are told the same; each wait of its own would add up to minutes.
    assert len(asked) == len(set(asked))
    assert len(ledger.commits) <= 2


@pytest.mark.parametrize("count", [1, 3])
def test_after_a_failure_the_next_object_is_taken(count: int) -> None:
    ledger = SlowLedger(refused=0)
    group = GroupCommit(cast(ReceptionLedger, ledger))
    with pytest.raises(ValueError, match="refused"):
        group.record(received(0))
    assert [group.record(received(n)).instance_id for n in range(1, count + 1)] == list(range(1, count + 1))
