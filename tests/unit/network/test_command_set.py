"""Command sets: what is read, what is built, and what is refused."""

from __future__ import annotations

import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from dicom_node.command_set import (
    CommandField,
    InvalidCommandSet,
    build_echo_request,
    build_response,
    build_store_request,
    parse_command_set,
)
from tests.support.network import CT, command, echo_rq, store_rq, ui, us


def decode(encoded: bytes) -> Dataset:
    ds = read_dataset(io.BytesIO(encoded), is_implicit_VR=True, is_little_endian=True)
    assert ds.CommandGroupLength == len(encoded) - 12
    del ds.CommandGroupLength
    return ds


def test_store_request_is_what_the_standard_lists() -> None:
    ds = decode(build_store_request(65_535, CT, "1.2.3"))
    assert {e.keyword: e.value for e in ds} == {
        "AffectedSOPClassUID": CT,
        "CommandField": 1,
        "MessageID": 65_535,
        "Priority": 0,
        "CommandDataSetType": 1,
        "AffectedSOPInstanceUID": "1.2.3",
    }


def test_echo_request_is_what_the_standard_lists() -> None:
    ds = decode(build_echo_request(7))
    assert {e.keyword: e.value for e in ds} == {
        "AffectedSOPClassUID": "1.2.840.10008.1.1",
        "CommandField": 0x30,
        "MessageID": 7,
        "CommandDataSetType": 0x0101,
    }


@pytest.mark.parametrize(
    ("request_bytes", "response_field", "uid"), [(store_rq("1.2.33"), 0x8001, "1.2.33"), (echo_rq(1), 0x8030, None)]
)
def test_response_repeats_identifiers_and_adds_status(
    request_bytes: bytes, response_field: int, uid: str | None
) -> None:
    ds = decode(build_response(parse_command_set(request_bytes), 0xA700, "disk full"))
    assert (ds.CommandField, ds.MessageIDBeingRespondedTo, ds.CommandDataSetType) == (response_field, 1, 0x0101)
    assert (ds.Status, ds.ErrorComment) == (0xA700, "disk full")
    assert ds.get("AffectedSOPInstanceUID") == uid
    assert [e.tag for e in ds] == sorted(e.tag for e in ds)


def test_error_comment_fits_the_value_representation() -> None:
    ds = decode(build_response(parse_command_set(store_rq()), 0xA700, "Größe\\" + "x" * 100))
    assert ds.ErrorComment == ("Gr??e?" + "x" * 100)[:64]


def test_elements_that_the_services_do_not_use_are_skipped() -> None:
    encoded = command((0x0100, us(1)), (0x0110, us(9)), (0x0800, us(0)), (0x1030, b"ORIGINATOR"), (0x1031, us(3)))
    parsed = parse_command_set(encoded)
    assert (parsed.command_field, parsed.message_id, parsed.has_data_set) == (CommandField.C_STORE_RQ, 9, True)
    assert (parsed.sop_class_uid, parsed.sop_instance_uid) == ("", "")


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\0" * 7,
        command((0x0110, us(1))),
        struct.pack("<HHI", 0, 0x0100, 200) + us(1),
        struct.pack("<HHI", 8, 0x0016, 2) + b"1\0",
        command((0x0100, us(1))) + b"\0\0",
    ],
    ids=["empty", "short", "no command field", "overrun", "other group", "trailing bytes"],
)
def test_what_is_no_command_set_is_refused(encoded: bytes) -> None:
    with pytest.raises(InvalidCommandSet):
        parse_command_set(encoded)


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(encoded: bytes) -> None:
    with contextlib.suppress(InvalidCommandSet):
        parse_command_set(encoded)


@given(st.binary(max_size=70), st.integers(0, 0xFFFF))
def test_whatever_uid_a_peer_sent_comes_back_in_the_response(uid: bytes, status: int) -> None:
    request = parse_command_set(command((0x0002, ui(CT)), (0x0100, us(1)), (0x0110, us(5)), (0x1000, uid)))
    again = parse_command_set(build_response(request, status))
    assert (again.sop_instance_uid, again.status) == (request.sop_instance_uid, status)
