"""The scenarios of the published reliability page, in small: whatever is done to the node, nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.fault_points import FAULT_POINTS
from tests.resilience.report import SCENARIOS, render, run
from tests.support.dcmtk_peers import run_dcmtk
from tests.support.department import DEPARTMENT, plan_day
from tests.support.kill_matrix import Kill, all_kills, run_kills
from tests.support.many_associations import run_many
from tests.support.pdu_faults import run_pdu_faults
from tests.support.pdu_proxy import Action, all_faults
from tests.support.peers import requires_dcmtk
from tests.support.random_kills import run_random_kills
from tests.support.scenarios import Result, Scenario
from tests.support.status_answers import run_statuses
from tests.support.unforeseen_errors import run_errors

# Each scenario waits for what it did, as long as a slow machine takes.
pytestmark = pytest.mark.timeout(600)

# A worker takes seconds to start again, so the suite kills it where two effects are furthest apart; the page's script
# kills at every point.
_WORKER_POINTS = ("image.derived", "conclude.concluded", "deliver.taken", "deliver.answered", "deliver.settled")


def test_killed_between_two_effects_the_node_loses_nothing(tmp_path: Path) -> None:
    kills = [kill for kill in all_kills((1,)) if kill.role == "receiver" or kill.point in _WORKER_POINTS]
    result = run_kills(tmp_path, kills)
    assert result.ok, result
    assert result.tried == len(kills) > 15


def test_every_point_of_the_table_is_killed_at_by_the_page_or_has_its_own_test() -> None:
    apart = {"retention.marked", "retention.deleted", "recover.resumed"}
    of_commands = {point for point in FAULT_POINTS if point.startswith(("upgrade.", "backup.", "restore."))}
    assert {kill.point for kill in all_kills()} | apart | of_commands == set(FAULT_POINTS)


def test_killed_at_random_moments_the_node_loses_nothing(tmp_path: Path) -> None:
    result = run_random_kills(tmp_path, 4)
    assert result.ok, result
    assert result.tried == 4


def test_no_unforeseen_error_ends_a_process_or_holds_up_an_object(tmp_path: Path) -> None:
    result = run_errors(tmp_path)
    assert result.ok, result


def test_whatever_happens_to_a_pdu_every_object_arrives_once(tmp_path: Path) -> None:
    # Every fifth and every fourth: all spots and all actions are among them.
    inbound, outbound = all_faults()[::5], all_faults()[1::4]
    assert {fault.action for fault in (*inbound, *outbound)} == set(Action)
    result = run_pdu_faults(tmp_path, inbound, outbound)
    assert result.ok, result


def test_each_status_of_the_standard_is_stored_tried_again_or_a_dead_letter(tmp_path: Path) -> None:
    result = run_statuses(tmp_path)
    assert result.ok, result


@requires_dcmtk
def test_dcmtk_that_refuses_aborts_and_sleeps_gets_everything_in_the_end(tmp_path: Path) -> None:
    result = run_dcmtk(tmp_path)
    assert result.ok, result


def test_a_hundred_associations_store_at_once_and_one_more_is_rejected(tmp_path: Path) -> None:
    result = run_many(tmp_path, 2)
    assert result.ok, result
    assert result.delivered == 200


def test_a_day_of_a_department_loses_nothing_and_nothing_grows(tmp_path: Path) -> None:
    result = DEPARTMENT.run(tmp_path, 0.0)
    assert result.ok, result


def test_the_planned_day_is_the_same_for_a_seed_and_has_all_that_it_promises() -> None:
    day = plan_day(300, 1)
    assert day == plan_day(300, 1) != plan_day(300, 2)
    assert 250 < len(day) < 380
    assert any(e.again_of is not None for e in day)
    assert {e.modality for e in day} == set(range(20))
    assert sum(2 <= e.hour < 5 for e in day) < sum(9 <= e.hour < 12 for e in day) / 4


def test_the_page_says_what_was_broken(tmp_path: Path) -> None:
    def fails(folder: Path, share: float) -> Result:
        raise TimeoutError("the delivery of 3 objects did not come true")

    broken = Scenario(name=SCENARIOS[0].name, tries="Nothing.", unit="kills", run=fails)
    entry = run(broken, share=1.0, folder=tmp_path)
    assert entry["ok"] is False
    page = render({broken.name: entry})
    assert "**no**" in page
    assert "TimeoutError: the delivery of 3 objects" in page
    assert page.count("not run") == len(SCENARIOS) - 1


@pytest.mark.parametrize("field", ["lost", "changed", "doubled", "renamed"])
def test_one_lost_or_falsified_object_is_enough_for_a_no(field: str) -> None:
    assert Result().ok
    assert not Result(**{field: 1}).ok


def test_a_kill_is_named_by_place_role_and_pass() -> None:
    assert str(Kill(point="image.derived", role="worker", nth=2)) == "image.derived of worker, pass 2"
