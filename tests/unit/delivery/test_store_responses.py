"""What is read from the body of a Store transaction's response."""

from __future__ import annotations

import json

import pytest

from dicom_node.destinations.store_responses import UnreadableResponse, read_store_response
from tests.support.web_peers import as_json

XML = b"""<?xml version="1.0" encoding="utf-8"?>
<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">
 <DicomAttribute tag="00081199" vr="SQ" keyword="ReferencedSOPSequence">
  <Item number="1"><DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2.3</Value></DicomAttribute></Item>
  <Item number="2">
   <DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2.4</Value></DicomAttribute>
   <DicomAttribute tag="00081196" vr="US"><Value number="1">45056</Value></DicomAttribute>
  </Item>
 </DicomAttribute>
 <DicomAttribute tag="00081198" vr="SQ">
  <Item number="1">
   <DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2.5</Value></DicomAttribute>
   <DicomAttribute tag="00081197" vr="US"><Value number="1">42752</Value></DicomAttribute>
  </Item>
 </DicomAttribute>
 <DicomAttribute tag="0008119A" vr="SQ">
  <Item number="1"><DicomAttribute tag="00081197" vr="US"><Value number="1">272</Value></DicomAttribute></Item>
 </DicomAttribute>
</NativeDicomModel>"""
JSON = as_json({"1.2.3": 0, "1.2.4": 0xB000}, {"1.2.5": 0xA700}, (0x0110,))


@pytest.mark.parametrize("content_type", ["application/dicom+json", "application/dicom+xml", "", "text/plain"])
@pytest.mark.parametrize("body", [JSON, XML, b"[" + JSON + b"]", b"\xef\xbb\xbf " + JSON], ids=range(4))
def test_json_and_xml_say_the_same_whatever_the_header_claims(body: bytes, content_type: str) -> None:
    found = read_store_response(body, content_type)
    assert found.stored == {"1.2.3": 0, "1.2.4": 0xB000}
    assert found.failed == {"1.2.5": 0xA700}
    assert found.others == (0x0110,)


# A response that would be whole, if entities were taken.
ENTITIES = b'<!DOCTYPE NativeDicomModel [<!ENTITY u "1.2.3">]>' + XML.partition(b"?>")[2].replace(b">1.2.3<", b">&u;<")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"null",
        b"[]",
        b"{}",
        b"[1]",
        b"7",
        JSON[:-3],
        b"[" * 100_000,
        b'{"00081199": 3}',
        b'{"00081199": {"Value": "1.2.3"}}',
        b'{"00081199": {"Value": [null, 3, {"00081155": {"Value": [17]}}]}}',
        b'{"00081199": {"Value": [{"00081155": {"Value": [" "]}}]}}',
        b"<html><body>login</body></html>",
        XML[:-10],
        ENTITIES,
        b"<NativeDicomModel/>",
        b"<NativeDicomModel>" + b'<DicomAttribute tag="1"><Item>' * 5000,
        b"\xff\xfe\x00",
    ],
    ids=range(19),
)
def test_what_names_no_instance_is_told_apart_from_an_answer(body: bytes) -> None:
    with pytest.raises(UnreadableResponse):
        read_store_response(body, "application/dicom+json")


@pytest.mark.parametrize(
    ("written", "reason"),
    [(0xA700, 0xA700), ("42752", 0xA700), ("A700", None), (None, None), (True, None), (-1, None), (1.5, None)],
)
def test_a_failure_reason_that_is_no_status_is_none(written: object, reason: int | None) -> None:
    item = {"00081155": {"vr": "UI", "Value": ["1.2.3\0"]}, "00081197": {"vr": "US", "Value": [written]}}
    body = json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()
    assert read_store_response(body, "application/dicom+json").failed == {"1.2.3": reason}
