"""Every real sample object that a storage SCP can be sent, broken ones too, to DCMTK's storescp."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from dicom_node.destinations.base import DeliveryItem, Outcome
from dicom_node.destinations.storage_scu import StorageScu
from dicom_node.sending import read_items
from tests.support.items import Outcomes, destination
from tests.support.peers import DcmtkStorescp, requires_dcmtk
from tests.support.samples import DICOM_SAMPLES, requires_dicom_samples

pytestmark = [requires_dcmtk, requires_dicom_samples, pytest.mark.filterwarnings("ignore::UserWarning")]

SENT, REFUSED, RETRY = Outcome.SENT, Outcome.REFUSED, Outcome.RETRY


@pytest.fixture(scope="module")
def items() -> list[DeliveryItem]:
    found, _ = read_items([DICOM_SAMPLES])
    assert len(found) > 150
    return found


def deliver(items: list[DeliveryItem], folder: Path, *options: str) -> tuple[Outcomes, DcmtkStorescp]:
    outcomes = Outcomes()
    with DcmtkStorescp(folder, *options) as peer:
        settings = destination(peer.port, ae_title="STORESCP", dimse_timeout_s=5)
        StorageScu(settings, node_ae_title="LOWDOSE").deliver(items, on_outcome=outcomes.append)
    return outcomes, peer


def test_each_sample_arrives_as_it_is_or_is_refused_with_a_reason(items: list[DeliveryItem], tmp_path: Path) -> None:
    outcomes, peer = deliver(items, tmp_path)
    states = outcomes.states()
    assert sorted(states) == list(range(len(items)))
    assert not [item.path for item in items if states[item.instance_id] is RETRY and has_valid_uid(item)]
    assert all(outcome.reason for outcome in outcomes if outcome.outcome is REFUSED)
    # Refused are classes and syntaxes that storescp does not know, and a UID of 67 characters.
    assert Counter(states.values())[REFUSED] < len(items) // 20
    received = Counter((entry.sop_instance_uid, entry.transfer_syntax_uid, entry.data) for entry in peer.objects())
    changed = []
    for item in items:
        data = item.path.read_bytes()[item.dataset_offset :]
        kind = (item.sop_instance_uid, item.transfer_syntax_uid, data + b"\0" * (len(data) % 2))
        if states[item.instance_id] is SENT and not received[kind]:
            changed.append(item.transfer_syntax_uid)
    # What storescp does not know is transcoded: HTJ2K, and JPEG Lossless with any selection value. Everything else is
    # byte for byte what was stored.
    assert set(changed) <= {"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.57"}
    assert received.total() == Counter(states.values())[SENT]


def test_samples_that_have_to_be_transcoded_keep_every_pixel(items: list[DeliveryItem], tmp_path: Path) -> None:
    outcomes, peer = deliver(items, tmp_path, "--implicit")
    states = outcomes.states()
    assert not [item.path for item in items if states[item.instance_id] is RETRY and has_valid_uid(item)]
    received: dict[str, list[Dataset]] = {}
    for path in peer.received_folder.iterdir():
        ds = dcmread(path, force=True)
        assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
        received.setdefault(str(ds.file_meta.MediaStorageSOPInstanceUID), []).append(ds)
    compared = 0
    for item in items:
        if states[item.instance_id] is not SENT:
            continue
        for values in decoded(item):
            compared += 1
            # Some samples hold one instance in several syntaxes.
            candidates = [ds.pixel_array for ds in received[item.sop_instance_uid]]
            assert any(values.shape == got.shape and (values == got).all() for got in candidates), item.path
    assert compared > 100


def has_valid_uid(item: DeliveryItem) -> bool:
    """Tell whether the SOP Instance UID has at most 64 characters: DCMTK aborts or resets, as it happens, if not."""
    return len(item.sop_instance_uid) <= 64


def decoded(item: DeliveryItem) -> Iterator[NDArray[Any]]:
    """Yield the pixels of a stored object, if it has any that can be decoded."""
    ds = dcmread(item.path, force=True)
    ds.file_meta.TransferSyntaxUID = UID(item.transfer_syntax_uid)
    try:
        yield ds.pixel_array
    except (AttributeError, ValueError, NotImplementedError, RuntimeError):
        return
