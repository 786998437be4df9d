"""The table from errors to C-STORE statuses is complete, and what is unforeseen says nothing of itself."""

from __future__ import annotations

import pytest

from dicom_node.errors import LedgerUnavailable, OutOfResources, ReceiveError
from dicom_node.receive_statuses import STATUS_BY_ERROR, status_for


def subclasses(kind: type[Exception]) -> set[type[Exception]]:
    children = set(kind.__subclasses__())
    return children.union(*map(subclasses, children))


def test_every_error_of_receiving_has_a_status() -> None:
    errors = subclasses(ReceiveError)
    assert len(errors) >= 3
    assert {kind: status_for(kind("why"))[0] for kind in errors} == {kind: kind.status for kind in errors}  # type: ignore[attr-defined]
    assert set(STATUS_BY_ERROR) <= errors | {LedgerUnavailable}
    assert all(any(issubclass(kind, known) for known in STATUS_BY_ERROR) for kind in errors)


def test_statuses_are_those_of_the_storage_service_class() -> None:
    assert sorted(set(STATUS_BY_ERROR.values())) == [0xA700, 0xA900, 0xC000]


@pytest.mark.parametrize("error", [LedgerUnavailable("database is locked"), OutOfResources("disk full")])
def test_what_passes_is_out_of_resources_with_its_reason(error: Exception) -> None:
    assert status_for(error) == (0xA700, str(error))


@pytest.mark.parametrize(
    "error", [ValueError("/secret/path"), KeyError("PatientName"), RuntimeError(), AssertionError()]
)
def test_the_unforeseen_is_a_processing_failure_without_details(error: Exception) -> None:
    assert status_for(error) == (0x0110, "processing failure")
