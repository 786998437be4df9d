"""Routes: the first whose conditions all hold takes the series, and the trials say why."""

from __future__ import annotations

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from config.settings import RouteSettings, SourceSettings
from dicom_node.routing import SenderFacts, match_route, source_name


def route(name: str, **match: object) -> RouteSettings:
    return RouteSettings.model_validate({"name": name, "match": match, "destinations": ["pacs"]})


def header(**attributes: object) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def test_the_first_route_that_matches_wins_and_the_trials_before_it_are_told() -> None:
    routes = [route("ct", Modality="CT"), route("xray", Modality="CR|DX"), route("rest")]
    chosen, trials = match_route(routes, header(Modality="DX"), SenderFacts())
    assert chosen is not None
    assert chosen.name == "xray"
    assert [(trial.route, trial.matches) for trial in trials] == [("ct", False), ("xray", True)]
    assert trials[0].conditions[0].value == "DX"
    assert trials[0].conditions[0].condition == "CT"


def test_all_conditions_must_hold_and_the_text_must_match_as_a_whole() -> None:
    both = route("r", Modality="DX", StationName="ROOM")
    assert match_route([both], header(Modality="DX", StationName="ROOM"), SenderFacts())[0] is both
    assert match_route([both], header(Modality="DX", StationName="ROOM1"), SenderFacts())[0] is None
    assert match_route([both], header(Modality="DX"), SenderFacts())[0] is None


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ({"min": 1000}, 2048, True),
        ({"min": 1000}, 999, False),
        ({"max": 10}, 10, True),
        ({"min": 1, "max": 2}, 3, False),
    ],
)
def test_ranges_include_their_bounds(condition: dict[str, float], value: int, holds: bool) -> None:
    assert (match_route([route("r", Rows=condition)], header(Rows=value), SenderFacts())[0] is not None) is holds


def test_any_of_several_values_may_match_and_tags_work_like_keywords() -> None:
    ds = header(ImageType=["ORIGINAL", "PRIMARY", ""])
    assert match_route([route("r", ImageType="PRIMARY")], ds, SenderFacts())[0] is not None
    assert match_route([route("r", **{"(0008,0008)": ["X", "ORIGINAL"]})], ds, SenderFacts())[0] is not None


def test_absent_empty_and_sequence_attributes_match_nothing() -> None:
    ds = header(StationName=None, ReferencedStudySequence=[Dataset()])
    for key in ("StationName", "ReferencedStudySequence", "BodyPartExamined"):
        assert match_route([route("r", **{key: ".*"})], ds, SenderFacts())[0] is None, key


def test_numbers_are_not_found_in_text() -> None:
    assert match_route([route("r", Modality={"min": 0})], header(Modality="DX"), SenderFacts())[0] is None


def test_the_sender_can_decide() -> None:
    sender = SenderFacts(calling_ae_title="XRAY1", called_ae_title="LOWDOSE", source="room-1")
    wanted = route("r", calling_ae_title="XRAY[0-9]", called_ae_title="LOWDOSE", source="room-1")
    assert match_route([wanted], header(), sender)[0] is wanted
    assert match_route([wanted], header(), SenderFacts(calling_ae_title="CT1"))[0] is None


def test_a_source_is_named_by_its_ae_title() -> None:
    sources = [SourceSettings(name="room-1", ae_titles=("A", "B")), SourceSettings(name="room-2", ae_titles=("C",))]
    assert source_name(sources, "C") == "room-2"
    assert source_name(sources, "D") == ""


def test_a_value_that_cannot_be_read_matches_nothing_and_holds_up_nobody() -> None:
    broken = {
        0x00280008: RawDataElement(Tag(0x00280008), "IS", 6, b"1e400 ", 0, False, True),
        0x00280010: RawDataElement(Tag(0x00280010), "US", 1, b"\1", 0, False, True),
        0x00080060: RawDataElement(Tag(0x00080060), "CS", 2, b"DX", 0, False, True),
    }
    ds = Dataset(broken)  # type: ignore[arg-type]
    routes = [route("frames", NumberOfFrames={"min": 0}), route("rows", Rows={"min": 0}), route("dx", Modality="DX")]
    chosen, trials = match_route(routes, ds, SenderFacts())
    assert chosen is routes[2]
    assert [trial.conditions[0].value for trial in trials] == ["(absent)", "(absent)", "DX"]
