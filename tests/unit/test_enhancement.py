"""One image is enhanced frame by frame, as long as somebody waits for it."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest

from config.settings import DerivationSettings, RouteSettings
from dicom_node.enhancement import LATE, ImageEnhancer, LoadedModel, Times
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.arrivals import EnhancementDecision
from tests.support.enhancing import StandInDenoiser, stored_instance
from tests.support.objects import xa_dataset


@pytest.mark.parametrize(
    ("give_up_at", "decision", "reason", "frames"),
    [
        (99.0, EnhancementDecision.PASSED_THROUGH, LATE, 0),
        (102.0, EnhancementDecision.PASSED_THROUGH, LATE, 2),
        (104.0, EnhancementDecision.PASSED_THROUGH, LATE, 4),
        (105.0, EnhancementDecision.ENHANCED, None, 5),
    ],
)
def test_no_further_frame_is_denoised_when_the_deadline_passed(
    tmp_path: Path, give_up_at: float, decision: EnhancementDecision, reason: str | None, frames: int
) -> None:
    ds = xa_dataset(np.full((5, 8, 8), 500, np.uint16))
    store, denoiser, seconds = InstanceStore(tmp_path), StandInDenoiser(), count(100)
    stored = stored_instance(ds, store.save(ds))
    enhancer = ImageEnhancer(
        store=store,
        model=LoadedModel(denoiser=denoiser),
        derivation=DerivationSettings(),
        node_name="node1",
        clock=lambda: float(next(seconds)),
    )
    route = RouteSettings(name="all", destinations=("pacs",), sop_classes=(ds.SOPClassUID,))
    record, derived = enhancer.enhance(stored, route, Times(series_at=0.0, give_up_at=give_up_at))
    assert (record.decision, record.reason, len(denoiser.frames)) == (decision, reason, frames)
    assert (derived is None) == (reason is not None)
    assert len(list(store.keys())) == (2 if derived else 1)
    assert not list(store.scratch.iterdir())
