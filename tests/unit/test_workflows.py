"""What a workflow leaves behind where the ledger is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import pytest

from config.settings import RouteSettings
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
