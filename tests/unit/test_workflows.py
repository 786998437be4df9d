"""What a workflow leaves behind where the ledger is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import pytest

from config.settings import Late, RouteSettings
from dicom_node.errors import LedgerUnavailable
from dicom_node.instance_store import InstanceStore
from dicom_node.states import ArrivalState
from dicom_node.workflows import WorkflowParts, Workflows
from tests.support.enhancing import StandInDenoiser, enhancer_with, stored_instance
from tests.support.objects import xa_dataset


@pytest.mark.parametrize(("may_be_committed", "kept"), [(False, 1), (True, 2)])
def test_a_derived_object_that_the_ledger_surely_does_not_know_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_be_committed: bool, kept: int
) -> None:
    ds = xa_dataset(np.full((1, 8, 8), 500, np.uint16))
    store = InstanceStore(tmp_path)
    arrivals = Mock()
    arrivals.instance.return_value = stored_instance(ds, store.save(ds))
    arrivals.get.return_value = Mock(state=ArrivalState.ENHANCING, completed_at=None)
    arrivals.attempts_at.return_value = 0
    arrivals.count_attempt.return_value = 1
    arrivals.first_completed_at.return_value = 0.0
    arrivals.decide.side_effect = LedgerUnavailable("it is away", may_be_committed=may_be_committed)
    route = RouteSettings(name="all", destinations=("pacs",), sop_classes=(ds.SOPClassUID,))
    parts = Mock(arrivals=arrivals, enhancer=enhancer_with(store, StandInDenoiser()), find_route=lambda _: route)
    monkeypatch.setattr("dicom_node.workflows.DBOSConfiguredInstance.__init__", lambda *_: None)
    with pytest.raises(LedgerUnavailable):
        cast(Any, Workflows._enhance).__wrapped__(Workflows(cast(WorkflowParts, parts)), 1)
    assert arrivals.decide.call_args.args[2] is not None
    assert len(list(store.keys())) == kept


def test_a_series_without_a_route_is_not_begun_and_none_of_its_images_is_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrivals = Mock()
    arrivals.get.return_value = Mock(state=ArrivalState.ENHANCING, study_instance_uid="1.2")
    arrivals.instance.return_value = Mock(study_instance_uid="1.2")
    deliveries = Mock(due=list, in_state=lambda *_: [])
    monkeypatch.setattr("dicom_node.workflows.DBOSConfiguredInstance.__init__", lambda *_: None)
    workflows = cast(
        Any, Workflows(cast(WorkflowParts, Mock(arrivals=arrivals, deliveries=deliveries, find_route=lambda _: None)))
    )
    assert Workflows._begin.__wrapped__(workflows, 1, 0) is None  # type: ignore[attr-defined]
    Workflows._enhance.__wrapped__(workflows, 1)  # type: ignore[attr-defined]
    Workflows._follow.__wrapped__(workflows, 1)  # type: ignore[attr-defined]
    assert Workflows._conclude.__wrapped__(workflows, 1) == "waits for a route"  # type: ignore[attr-defined]
    arrivals.in_state.side_effect = lambda *states: [Mock()] if ArrivalState.ENHANCING in states else []
    workflows.restart_ended()
    for changed in (arrivals.begin, arrivals.decide, arrivals.conclude, arrivals.count_restart):
        changed.assert_not_called()


def test_an_image_given_up_at_the_deadline_is_left_undecided_where_it_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = xa_dataset(np.full((1, 8, 8), 500, np.uint16))
    store = InstanceStore(tmp_path)
    arrivals = Mock()
    arrivals.instance.return_value = stored_instance(ds, store.save(ds))
    # Its deadline was in 1970.
    arrivals.get.return_value = Mock(state=ArrivalState.ENHANCING, completed_at=0.0)
    arrivals.attempts_at.return_value = 0
    arrivals.count_attempt.return_value = 1
    arrivals.first_completed_at.return_value = 0.0
    route = RouteSettings(name="all", destinations=("pacs",), sop_classes=(ds.SOPClassUID,), late=Late.FOLLOW)
    parts = Mock(arrivals=arrivals, enhancer=enhancer_with(store, StandInDenoiser()), find_route=lambda _: route)
    monkeypatch.setattr("dicom_node.workflows.DBOSConfiguredInstance.__init__", lambda *_: None)
    Workflows._enhance.__wrapped__(Workflows(cast(WorkflowParts, parts)), 1)  # type: ignore[attr-defined]
    arrivals.postpone.assert_called_once_with(1)
    arrivals.decide.assert_not_called()
