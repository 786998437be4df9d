"""Images in a ledger as the viewer finds them: received, enhanced by a denoiser, passed through or purged."""

from __future__ import annotations

from typing import cast

from pydicom.dataset import Dataset

from config.settings import DerivationSettings, RouteSettings
from dicom_node.enhancement import ImageEnhancer, LoadedModel, Times
from dicom_node.ledger.arrivals import ArrivalLedger, DerivedInstance
from dicom_node.ledger.reception import ReceivedInstance, ReceptionLedger
from dicom_node.state import State
from model.denoiser import Denoiser
from tests.support.enhancing import StandInDenoiser


def receive(state: State, *datasets: Dataset) -> list[int]:
    """Store objects and record them, in one association; returns their numbers in the ledger."""
    reception = ReceptionLedger(state.database, "test:receiver")
    association = reception.open_association(
        calling_ae_title="XRAY1", called_ae_title="LOWDOSE", host="127.0.0.1", port=4711
    )
    numbers = []
    for ds in datasets:
        stored = state.store.save(ds)
        recorded = reception.record_received(
            ReceivedInstance(
                association_id=association,
                sop_class_uid=ds.SOPClassUID,
                sop_instance_uid=ds.SOPInstanceUID,
                study_instance_uid=ds.StudyInstanceUID,
                series_instance_uid=ds.SeriesInstanceUID,
                transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
                key=stored.key,
                size=stored.size,
                dataset_offset=stored.dataset_offset,
                digest=stored.digest,
            )
        )
        assert recorded.instance_id is not None
        numbers.append(recorded.instance_id)
    reception.close_association(association, outcome="released", acknowledged=len(numbers))
    arrivals = ArrivalLedger(state.database)
    for idle in arrivals.idle():
        arrivals.complete(idle.arrival_id, last_activity_at=idle.last_activity_at)
    return numbers


def enhance(
    state: State, number: int, denoiser: Denoiser | StandInDenoiser, *, strength: float = 0.7
) -> DerivedInstance | None:
    """Enhance an image of the ledger, as a worker does, and record what came of it."""
    arrivals = ArrivalLedger(state.database)
    received = arrivals.instance(number)
    route = RouteSettings(name="all", destinations=("pacs",), sop_classes=(received.sop_class_uid,), strength=strength)
    enhancer = ImageEnhancer(
        store=state.store,
        model=LoadedModel(denoiser=cast(Denoiser, denoiser)),
        derivation=DerivationSettings(),
        node_name="test",
    )
    record, derived = enhancer.enhance(received, route, Times(series_at=0.0))
    assert arrivals.decide(number, record, derived)
    return derived
