"""What `check` warns of: settings that are valid and hardly meant."""

from __future__ import annotations

import pytest

from config.doubts import doubts
from config.loading import parse_settings

PACS = {"name": "pacs", "ae_title": "PACS", "host": "pacs.example", "port": 104}
ROOM = {"name": "room", "ae_titles": ["XRAY1"]}


def found(match: dict[str, object]) -> list[str]:
    route = {"name": "r", "match": match, "destinations": ["pacs"]}
    fallback = {"destinations": ["pacs"]}
    return doubts(parse_settings({"sources": [ROOM], "destinations": [PACS], "routes": [route], "fallback": fallback}))


@pytest.mark.parametrize(
    ("key", "condition", "written"),
    [
        ("PatientAge", {"min": 18}, 'an age such as "18Y"'),
        ("PatientAge", {"max": "2026-01-31"}, 'an age such as "18Y"'),
        ("(0010,1010)", {"not": {"max": 17.5}}, 'an age such as "18Y"'),
        ("StudyDate", {"min": "18Y"}, 'a date such as "2026-01-31"'),
        ("StudyTime", {"min": "2026-01-31"}, 'a time such as "08:30"'),
        ("KVP", {"min": "18Y"}, "a number such as 18"),
        ("ExposureSequence.KVP", {"max": "08:30"}, "a number such as 18"),
    ],
)
def test_a_range_of_the_wrong_kind_is_told_with_how_it_is_written(key: str, condition: object, written: str) -> None:
    assert found({key: condition}) == [f"route r: no value of {key} lies in this range; write {written}"]


@pytest.mark.parametrize(
    "match",
    [
        {"PatientAge": {"min": "18Y"}},
        {"StudyDate": {"min": "2026-01-31"}, "StudyTime": {"max": "08:30"}},
        {"StudyDate": {"min": 20260131}},
        {"KVP": {"not": {"min": 80}}, "Rows": {"max": 100}},
        {"PatientAge": "018Y", "KVP": {"present": True}},
        {"(0019,xx10,ACME)": {"min": "18Y"}, "(0019,1010)": {"min": 3}},
        {"source": {"min": "18Y"}},
    ],
)
def test_what_can_match_raises_no_doubt(match: dict[str, object]) -> None:
    assert found(match) == []


@pytest.mark.parametrize(
    ("source", "destination", "send", "words"),
    [
        (True, True, ["original", "enhanced"], []),
        (True, False, ["original"], ["pacs have no commitment"]),
        ({"counts": "sent"}, False, ["original"], []),
        (True, True, ["enhanced"], ["its original is not sent"]),
        ({"originals": "replaced"}, True, ["enhanced"], []),
        (False, False, ["enhanced"], []),
    ],
)
def test_a_source_whose_requests_for_commitment_all_fail_is_named(
    source: object, destination: bool, send: list[str], words: list[str]
) -> None:
    warnings = doubts(
        parse_settings(
            {
                "sources": [{**ROOM, "commitment": source}],
                "destinations": [{**PACS, "commitment": destination}],
                "routes": [{"name": "r", "send": send, "destinations": ["pacs"]}],
            }
        )
    )
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


def test_what_tls_leaves_open_is_told() -> None:
    tls = {"certificate": "a", "key": "b", "ca": "ca.pem", "crl": "crl.pem"}

    def told(of_tls: dict[str, object], of_peer: object, commitment: object) -> list[str]:
        destination = {**PACS, "tls": of_peer, "commitment": commitment}
        tables = {"tls": {**tls, **of_tls}, "sources": [ROOM], "destinations": [destination]}
        tables["routes"] = [{"name": "r", "destinations": ["pacs"]}]
        return doubts(parse_settings(tables))

    (reports,) = told({}, {"ca": "other.pem"}, True)
    assert 'set report_tls = "required" in its commitment' in reports
    assert told({}, {"ca": "other.pem"}, {"report_tls": "required"}) == []
    assert told({}, {"ca": "other.pem"}, {"report_certificates": ["x"]}) == []
    assert told({"only": True}, {"ca": "other.pem"}, True) == []
    assert told({}, False, True) == []
    (unlisted,) = told({}, {"ca": "ca.pem"}, False)
    assert "add crl to its tls" in unlisted
    assert told({}, {"ca": "ca.pem", "crl": "crl.pem"}, False) == []
