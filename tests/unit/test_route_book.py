"""A series in work keeps its route as it was; destinations that stay the same are kept."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from config.settings import Content, DicomDestinationSettings, RouteSettings
from dicom_node.destination_book import DestinationBook
from dicom_node.ledger.arrivals import Arrival
from dicom_node.route_book import RouteBook
from dicom_node.states import ArrivalState


def arrival(route: str | None, written: RouteSettings | None = None) -> Arrival:
    """Return an arrival that `route` has taken."""
    return Arrival(
        arrival_id=1,
        series_instance_uid="1",
        study_instance_uid="1",
        generation=1,
        state=ArrivalState.ENHANCING,
        route=route,
        attempts=0,
        completed_at=1.0,
        route_settings=None if written is None else written.model_dump_json(exclude={"match"}),
    )


MILD = RouteSettings(name="chest", match={"Modality": "DX"}, strength="mild", destinations=("pacs",))
STRONG = MILD.model_copy(update={"strength": "strong", "destinations": ("other",)})


def test_a_series_keeps_its_route_as_it_was_when_that_took_it() -> None:
    book = RouteBook([STRONG], lambda _: STRONG, Mock())
    found = book.route_of(arrival("chest", MILD))
    assert found is not None
    assert (found.strength, found.destinations) == ("mild", ("pacs",))


def test_a_series_from_before_it_was_written_down_goes_by_the_settings() -> None:
    assert RouteBook([STRONG], lambda _: None, Mock()).route_of(arrival("chest")) is STRONG
    # Likewise one whose route has settings that this version of the program does not know.
    unknown = arrival("chest", MILD).__class__(**{**vars(arrival("chest", MILD)), "route_settings": '{"power": 11}'})
    assert RouteBook([STRONG], lambda _: None, Mock()).route_of(unknown) is STRONG


@pytest.mark.parametrize("change", [{"enhance": False}, {"shadow": True}, {"send": (Content.ORIGINAL,)}])
def test_a_route_that_sends_no_enhanced_images_any_more_counts_at_once(change: dict[str, object]) -> None:
    stopped = MILD.model_copy(update=change)
    assert RouteBook([stopped], lambda _: None, Mock()).route_of(arrival("chest", MILD)) is stopped


def test_a_series_whose_route_was_removed_goes_by_the_one_that_takes_it_now() -> None:
    other = RouteSettings(name="rest", destinations=("pacs",))
    finds = Mock(return_value=None)
    book = RouteBook([other], finds, Mock())
    assert book.route_of(arrival("chest", MILD)) is None
    assert book.route_of(arrival("chest", MILD)) is None
    assert finds.call_count == 1
    book.replace([other], lambda _: other)
    assert book.route_of(arrival("chest", MILD)) is other


def test_a_destination_that_did_not_change_is_not_made_anew() -> None:
    pacs = DicomDestinationSettings(name="pacs", ae_title="PACS", host="pacs", port=104)
    archive = pacs.model_copy(update={"name": "archive"})
    book = DestinationBook(lambda _: Mock(), [pacs])
    settings, destinations = book.settings, book.destinations
    first = destinations["pacs"]
    assert book.replace([pacs, archive]) == ["archive"]
    assert destinations["pacs"] is first
    assert set(destinations) == set(settings) == {"pacs", "archive"}
    assert book.replace([pacs.model_copy(update={"port": 105})]) == []
    assert destinations["pacs"] is not first
    assert settings["pacs"].port == 105
    assert "archive" not in destinations
    assert destinations.get("archive") is None
