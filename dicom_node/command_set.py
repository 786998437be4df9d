"""DIMSE command sets as bytes: parsed from and built for the services of the node without a data set library.

A command set is always Implicit VR Little Endian with a group length in front (PS3.7 6.3.1), and those of these
services have a handful of elements, so plain `struct` does it in a few microseconds.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from dicom_node.errors import NodeError

MAX_COMMAND_SET_BYTES = 65_536
"""A command set larger than this is no C-ECHO or C-STORE; it ends the association."""

NO_DATA_SET = 0x0101
"""Command Data Set Type (0000,0800) of a message without a data set; any other value announces one."""

_AFFECTED_SOP_CLASS_UID = 0x0002
_REQUESTED_SOP_CLASS_UID = 0x0003
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
_PRIORITY = 0x0700
_COMMAND_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_ERROR_COMMENT = 0x0902
_AFFECTED_SOP_INSTANCE_UID = 0x1000
_REQUESTED_SOP_INSTANCE_UID = 0x1001
_EVENT_TYPE_ID = 0x1002
_ACTION_TYPE_ID = 0x1008

_element = struct.Struct("<HHI")
_us_element = struct.Struct("<HHIH")


class CommandField(enum.IntEnum):
    """Command Field (0000,0100) of the messages that the node knows by name (PS3.7 E.1)."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    C_CANCEL_RQ = 0x0FFF
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    N_ACTION_RQ = 0x0130
    N_ACTION_RSP = 0x8130


RESPONSE = 0x8000
"""Bit of Command Field that makes a request's code its response's code."""


class InvalidCommandSet(NodeError):
    """The bytes are no command set, or one without Command Field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandSet:
    """The elements of a command set that the node's services use; absent ones are ``None`` or empty."""

    command_field: int
    message_id: int | None
    message_id_being_responded_to: int | None
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str
    status: int | None
    error_comment: str
    event_type_id: int | None = None
    action_type_id: int | None = None

    @property
    def is_response(self) -> bool:
        """Whether this answers a request."""
        return bool(self.command_field & RESPONSE)


def parse_command_set(encoded: bytes | bytearray) -> CommandSet:
    """Read a command set; elements that the node's services do not use are skipped.

    Raises
    ------
    InvalidCommandSet
        If an element runs over the end, or Command Field is missing.

    References
    ----------
    PS3.7 6.3.1, 9.3.1, 9.3.5.
    """
    values: dict[int, bytes] = {}
    position, end = 0, len(encoded)
    while position < end:
        if position + 8 > end:
            raise InvalidCommandSet(f"{end - position} bytes after the last element")
        group, element, length = _element.unpack_from(encoded, position)
        position += 8
        if group != 0 or position + length > end:
            raise InvalidCommandSet(f"({group:04x},{element:04x}) of {length} bytes does not fit a command set")
        values[element] = bytes(encoded[position : position + length])
        position += length
    command_field = _us(values.get(_COMMAND_FIELD))
    if command_field is None:
        raise InvalidCommandSet("no Command Field (0000,0100)")
    data_set_type = _us(values.get(_COMMAND_DATA_SET_TYPE))
    return CommandSet(
        command_field=command_field,
        message_id=_us(values.get(_MESSAGE_ID)),
        message_id_being_responded_to=_us(values.get(_MESSAGE_ID_BEING_RESPONDED_TO)),
        has_data_set=data_set_type is not None and data_set_type != NO_DATA_SET,
        sop_class_uid=_text(values.get(_AFFECTED_SOP_CLASS_UID) or values.get(_REQUESTED_SOP_CLASS_UID)),
        sop_instance_uid=_text(values.get(_AFFECTED_SOP_INSTANCE_UID) or values.get(_REQUESTED_SOP_INSTANCE_UID)),
        status=_us(values.get(_STATUS)),
        error_comment=_text(values.get(_ERROR_COMMENT)),
        event_type_id=_us(values.get(_EVENT_TYPE_ID)),
        action_type_id=_us(values.get(_ACTION_TYPE_ID)),
    )


def build_echo_request(message_id: int) -> bytes:
    """C-ECHO-RQ (PS3.7 9.3.5.1)."""
    return _with_group_length(
        _ui(_AFFECTED_SOP_CLASS_UID, "1.2.840.10008.1.1")
        + _us_bytes(_COMMAND_FIELD, CommandField.C_ECHO_RQ)
        + _us_bytes(_MESSAGE_ID, message_id)
        + _us_bytes(_COMMAND_DATA_SET_TYPE, NO_DATA_SET)
    )


def build_store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """C-STORE-RQ of medium priority with a data set to follow (PS3.7 9.3.1.1)."""
    return _with_group_length(
        _ui(_AFFECTED_SOP_CLASS_UID, sop_class_uid)
        + _us_bytes(_COMMAND_FIELD, CommandField.C_STORE_RQ)
        + _us_bytes(_MESSAGE_ID, message_id)
        + _us_bytes(_PRIORITY, 0)
        + _us_bytes(_COMMAND_DATA_SET_TYPE, 0x0001)
        + _ui(_AFFECTED_SOP_INSTANCE_UID, sop_instance_uid)
    )


def build_event_report_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type_id: int) -> bytes:
    """N-EVENT-REPORT-RQ with a data set to follow (PS3.7 10.3.1.1)."""
    return _with_group_length(
        _ui(_AFFECTED_SOP_CLASS_UID, sop_class_uid)
        + _us_bytes(_COMMAND_FIELD, CommandField.N_EVENT_REPORT_RQ)
        + _us_bytes(_MESSAGE_ID, message_id)
        + _us_bytes(_COMMAND_DATA_SET_TYPE, 0x0001)
        + _ui(_AFFECTED_SOP_INSTANCE_UID, sop_instance_uid)
        + _us_bytes(_EVENT_TYPE_ID, event_type_id)
    )


def build_action_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, action_type_id: int) -> bytes:
    """N-ACTION-RQ with a data set to follow (PS3.7 10.3.4.1)."""
    return _with_group_length(
        _ui(_REQUESTED_SOP_CLASS_UID, sop_class_uid)
        + _us_bytes(_COMMAND_FIELD, CommandField.N_ACTION_RQ)
        + _us_bytes(_MESSAGE_ID, message_id)
        + _us_bytes(_COMMAND_DATA_SET_TYPE, 0x0001)
        + _ui(_REQUESTED_SOP_INSTANCE_UID, sop_instance_uid)
        + _us_bytes(_ACTION_TYPE_ID, action_type_id)
    )


def build_response(request: CommandSet, status: int, error_comment: str = "") -> bytes:
    """Build the response to any request: its own command field with the response bit, UIDs repeated, no data set.

    Parameters
    ----------
    request
        The request as it came; a missing Message ID is answered as 0.
    status
        Status (0000,0900).
    error_comment
        Error Comment (0000,0902), LO: cut to 64 characters, anything but printable ASCII replaced.

    References
    ----------
    PS3.7 9.3.1.2, 9.3.5.2, Annex C.
    """
    body = _ui(_AFFECTED_SOP_CLASS_UID, request.sop_class_uid) if request.sop_class_uid else b""
    body += _us_bytes(_COMMAND_FIELD, request.command_field | RESPONSE)
    body += _us_bytes(_MESSAGE_ID_BEING_RESPONDED_TO, request.message_id or 0)
    body += _us_bytes(_COMMAND_DATA_SET_TYPE, NO_DATA_SET) + _us_bytes(_STATUS, status)
    if error_comment:
        plain = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in error_comment)[:64]
        body += _padded(_ERROR_COMMENT, plain.encode("ascii"), b" ")
    if request.sop_instance_uid:
        body += _ui(_AFFECTED_SOP_INSTANCE_UID, request.sop_instance_uid)
    for element, value in ((_EVENT_TYPE_ID, request.event_type_id), (_ACTION_TYPE_ID, request.action_type_id)):
        if value is not None:
            body += _us_bytes(element, value)
    return _with_group_length(body)


def _with_group_length(body: bytes) -> bytes:
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _padded(element: int, value: bytes, padding: bytes) -> bytes:
    if len(value) % 2:
        value += padding
    return _element.pack(0, element, len(value)) + value


def _ui(element: int, uid: str) -> bytes:
    # latin-1 gives back whatever bytes `_text` read, so that a peer sees its own UID again, valid or not.
    return _padded(element, uid.encode("latin-1", "replace"), b"\0")


def _us_bytes(element: int, value: int) -> bytes:
    return _us_element.pack(0, element, 2, value)


def _us(value: bytes | None) -> int | None:
    return value[0] | value[1] << 8 if value is not None and len(value) >= 2 else None


def _text(value: bytes | None) -> str:
    return value.rstrip(b"\0 ").decode("latin-1") if value else ""
