"""Routes: the first whose conditions all hold takes the series, and the trials say why."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.settings import RouteSettings, SourceSettings
from dicom_node.part10 import open_part10
from dicom_node.routing import MAX_TEXT, SenderFacts, condition_in_words, match_route, source_name
from tests.support.objects import dx_dataset, save, set_transfer_syntax


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


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.1.0.7", "room-1"),
        ("10.2.0.7", "room-2"),
        ("10.3.0.7", "room-3"),
        # Not given, or of settings that were changed since: the first one with the title.
        ("", "room-1"),
        ("192.0.2.1", "room-1"),
    ],
)
def test_of_sources_that_share_an_ae_title_the_one_with_the_host_is_named(host: str, expected: str) -> None:
    hosts = {"room-1": "10.1.0.0/16", "room-2": "10.2.0.0/16", "room-3": "modality"}
    sources = [SourceSettings(name=name, ae_titles=("A",), hosts=(rule,)) for name, rule in hosts.items()]
    assert source_name(sources, "A", host, {"modality": frozenset(["10.3.0.7"])}) == expected


def holds(ds: Dataset | None, key: str, condition: object) -> bool:
    return match_route([route("r", **{key: condition})], ds, SenderFacts())[0] is not None


def shown(ds: Dataset | None, key: str, condition: object = ".*") -> str:
    return match_route([route("r", **{key: condition})], ds, SenderFacts())[1][0].conditions[0].value


def requested(*descriptions: str | None) -> Dataset:
    items = [header(ScheduledProcedureStepDescription=text) if text is not None else Dataset() for text in descriptions]
    return header(RequestAttributesSequence=Sequence(items))


STEP = "RequestAttributesSequence.ScheduledProcedureStepDescription"


@pytest.mark.parametrize(
    ("ds", "condition", "expected"),
    [
        (requested("Hand", "Chest PA"), "Chest.*", True),
        (requested("Hand", None), "Chest.*", False),
        (requested(), "Chest.*", False),
        (header(), "Chest.*", False),
        (requested("Hand", "Chest PA"), {"not": "Chest.*"}, False),
        (requested("Hand"), {"not": "Chest.*"}, True),
        (header(), {"not": "Chest.*"}, True),
        (header(), {"not": "Chest.*", "present": True}, False),
        (requested(None), {"present": False}, True),
        (requested("Hand"), {"present": True}, True),
    ],
)
def test_a_path_looks_into_every_item(ds: Dataset, condition: object, expected: bool) -> None:
    assert holds(ds, STEP, condition) is expected


def test_a_path_goes_through_several_sequences_and_tags() -> None:
    code = header(CodeValue="A1")
    ds = header(RequestAttributesSequence=Sequence([Dataset(), header(ScheduledProtocolCodeSequence=Sequence([code]))]))
    assert holds(ds, "RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeValue", "A1")
    assert holds(ds, "(0040,0275).(0040,0008).(0008,0100)", "A1")
    assert not holds(ds, "RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeValue", "A2")
    assert shown(ds, "RequestAttributesSequence", {"present": True}) == "(2 items)"
    assert holds(ds, "RequestAttributesSequence", {"present": True})
    assert holds(header(RequestAttributesSequence=Sequence([])), "RequestAttributesSequence", {"present": False})


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_private_attribute_is_found_by_its_creator_whatever_block_it_reserved(tmp_path: Path, syntax: str) -> None:
    ds = dx_dataset(np.zeros((4, 4), np.uint16))
    ds.private_block(0x0019, "OTHER", create=True).add_new(0x10, "LO", "theirs")
    ds.private_block(0x0019, "ACME (R) 1.0", create=True).add_new(0x10, "LO", ["ours", "second"])
    with open_part10(save(set_transfer_syntax(ds, syntax), tmp_path / "a.dcm")) as part10:
        for creator, value in (("ACME (R) 1.0", "ours"), ("ACME (R) 1.0", "second"), ("OTHER", "theirs")):
            assert holds(part10.header, f"(0019,xx10,{creator})", value), creator
        assert not holds(part10.header, "(0019,xx10,ACME (R) 1.0)", "theirs")
        assert not holds(part10.header, "(0019,xx10,NOBODY)", ".*")
        assert holds(part10.header, "(0019,xx10,NOBODY)", {"present": False})
        assert holds(part10.header, "(0019,1110)", "ours")


@pytest.mark.parametrize(
    ("keyword", "value", "condition", "expected"),
    [
        ("StudyDate", "20260314", {"min": "2026-03-14", "max": "2026-03-14"}, True),
        ("StudyDate", "20260314", {"min": "2026-03-15"}, False),
        ("AcquisitionDateTime", "20260314092653.5+0100", {"max": "2026-03-14"}, True),
        ("StudyDate", "", {"max": "2026-03-14"}, False),
        ("StudyTime", "0926", {"min": "08:00", "max": "09:26"}, True),
        ("StudyTime", "092601.5", {"max": "09:26:01"}, False),
        ("StudyTime", "09", {"min": "08:59:59.9"}, True),
        ("PatientAge", "018Y", {"min": "18Y"}, True),
        ("PatientAge", "011M", {"max": "1Y"}, True),
        ("PatientAge", "017Y", {"min": "18Y"}, False),
        ("PatientAge", "900D", {"min": "2Y", "max": "3Y"}, True),
        ("KVP", "80.5", {"min": 80, "max": 81}, True),
        ("KVP", "nan", {"max": 81}, False),
        ("PatientAge", "018Y", {"min": 0}, False),
        ("KVP", "80.5", {"not": {"max": 81}}, False),
        ("KVP", "90", {"not": {"max": 81}}, True),
    ],
)
def test_ranges_of_numbers_dates_times_and_ages(keyword: str, value: str, condition: object, expected: bool) -> None:
    ds = Dataset()
    tag = Tag(keyword)
    # As it comes from a file: a value that pydicom would not let a program set is still read.
    vr = {"StudyDate": "DA", "AcquisitionDateTime": "DT", "StudyTime": "TM", "PatientAge": "AS", "KVP": "DS"}[keyword]
    encoded = value.encode()
    ds[tag] = RawDataElement(tag, vr, len(encoded), encoded, 0, False, True)
    assert holds(ds, keyword, condition) is expected


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"min": "2026-01-31"}, "from 2026-01-31"),
        ({"max": "17Y"}, "up to 17Y"),
        ({"min": 80, "max": 90.5}, "from 80 to 90.5"),
        ({"not": {"max": 10}, "present": True}, "present and not up to 10"),
        (["A", "B"], "A or B"),
    ],
)
def test_conditions_are_told_in_words(condition: object, words: str) -> None:
    assert condition_in_words(route("r", Modality=condition).match["Modality"]) == words


def test_presence_asks_for_a_value_not_for_an_element() -> None:
    ds = header(StationName="ROOM", PatientComments="")
    assert holds(ds, "StationName", {"present": True})
    assert not holds(ds, "StationName", {"present": False})
    for key in ("PatientComments", "BodyPartExamined"):
        assert holds(ds, key, {"present": False}), key
        assert not holds(ds, key, {"present": True}), key
    assert holds(ds, "source", {"present": False})


def test_of_a_header_that_can_t_be_read_nothing_holds_but_what_asks_for_the_sender() -> None:
    for condition in (".*", {"not": "DX"}, {"present": False}, {"min": 0}):
        assert not holds(None, "Modality", condition)
    assert shown(None, "Modality") == "(unreadable)"
    assert holds(None, "calling_ae_title", {"present": False})
    assert match_route([route("rest")], None, SenderFacts())[0] is not None


def raw_header(*elements: tuple[int, str | None, bytes]) -> Dataset:
    ds = Dataset({Tag(t): RawDataElement(Tag(t), vr, len(v), v, 0, vr is None, True) for t, vr, v in elements})
    ds.set_original_encoding(False, True, ["iso8859"])
    return ds


@pytest.mark.parametrize(
    ("ds", "key"),
    [
        (raw_header((0x00280010, "US", b"\1\2\3")), "Rows"),
        (raw_header((0x00181063, "FD", b"\1")), "FrameTime"),
        (raw_header((0x00080060, "ZZ", b"DX")), "Modality"),
        (raw_header((0x00400275, "SQ", b"\xfe\xff\x00\xe0\xff\xff")), STEP),
        (raw_header((0x00400275, "SQ", b"\x08\x00\x60\x00CS\x02\x00DX")), STEP),
        (raw_header((0x00190010, "LO", b"ACME"), (0x00191010, "UN", b"\xff\xfe\x80\x81")), "(0019,xx10,ACME)"),
        (raw_header((0x00190010, "FD", b"\1"), (0x00191010, "LO", b"A ")), "(0019,xx10,ACME)"),
        (raw_header((0x00080005, "CS", b"NO SUCH SET"), (0x00081030, "LO", b"\xff\xfe\xfd")), "StudyDescription"),
        (raw_header((0x00081030, "LO", b"x" * (MAX_TEXT + 1))), "StudyDescription"),
        (raw_header((0x00204000, "UN", b"x" * (MAX_TEXT + 1))), "ImageComments"),
    ],
)
def test_hostile_values_raise_nothing_and_are_left_as_they_are(ds: Dataset, key: str) -> None:
    before = {tag: ds.get_item(tag) for tag in ds.keys()}  # noqa: SIM118
    for condition in ("Chest", {"min": 0}, {"not": "Chest"}, {"present": True}, {"max": "2026-01-31"}):
        holds(ds, key, condition)
    assert not holds(ds, key, "Chest")
    assert {tag: ds.get_item(tag) for tag in ds.keys()} == before  # noqa: SIM118


@pytest.mark.parametrize("vr", ["LO", "UN"])
def test_a_value_that_is_too_long_is_there_but_matches_nothing(vr: str) -> None:
    for length, said in ((MAX_TEXT, "x" * MAX_TEXT), (MAX_TEXT + 1, "(too long)")):
        ds = raw_header((0x00190010, "LO", b"ACME"), (0x00191010, vr, b"x" * length))
        assert holds(ds, "(0019,xx10,ACME)", "x+") is (length == MAX_TEXT)
        assert holds(ds, "(0019,xx10,ACME)", {"present": True})
        assert shown(ds, "(0019,xx10,ACME)") == said


@given(
    element=st.sampled_from([0x00280010, 0x00080060, 0x00081030, 0x00400275, 0x00080022, 0x00101010, 0x00189306]),
    vr=st.sampled_from(["US", "CS", "LO", "SQ", "DA", "AS", "FD", "DS", "IS", "UN", "PN", "AT", "OB", None]),
    value=st.binary(max_size=40),
)
def test_no_bytes_at_all_make_a_route_raise(element: int, vr: str | None, value: bytes) -> None:
    keys = ["Rows", "Modality", "StudyDescription", STEP, "AcquisitionDate", "PatientAge", "(0018,9306)"]
    ds = raw_header((element, vr, value))
    for key in keys:
        for condition in ("[A-Z]+", {"min": 0}, {"not": ["A", "B"]}, {"present": True}, {"max": "18Y"}):
            holds(ds, key, condition)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(.*)*b", "(a*)*c|(a|aa)+d"])
def test_no_pattern_hangs_over_a_long_text(pattern: str) -> None:
    # With a backtracking engine each of these takes longer than the universe is old.
    begin = time.perf_counter()
    assert not holds(header(StudyDescription="a" * MAX_TEXT), "StudyDescription", pattern)
    assert time.perf_counter() - begin < 2


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
    assert [trial.conditions[0].value for trial in trials] == ["(unreadable)", "(unreadable)", "DX"]
