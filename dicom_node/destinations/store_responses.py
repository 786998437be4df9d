"""Reads the body of a STOW-RS response (PS3.18 10.5.3): what became of each SOP instance; pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from xml.etree import ElementTree as ET

_FAILED_SOPS: Final = "00081198"
_REFERENCED_SOPS: Final = "00081199"
_OTHER_FAILURES: Final = "0008119A"
_SOP_INSTANCE_UID: Final = "00081155"
_WARNING_REASON: Final = "00081196"
_FAILURE_REASON: Final = "00081197"

MAX_RESPONSE_BYTES: Final = 32 * 1024 * 1024
"""More is not read: 10 000 instances of two UIDs each stay below 8 MB in the widest of the encodings."""

_MAX_DEPTH: Final = 24


class UnreadableResponse(Exception):
    """The body is no Store Instances Response, so it says nothing of any instance."""


@dataclass(frozen=True, kw_only=True)
class StoreInstancesResponse:
    """Store Instances Response Module (PS3.18 Annex I).

    Attributes
    ----------
    stored
        SOP Instance UID -> Warning Reason, 0 where there is none.
    failed
        SOP Instance UID -> Failure Reason, None where the server gives none.
    others
        Failure Reasons of parts that the server could not name.
    """

    stored: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int | None] = field(default_factory=dict)
    others: tuple[int | None, ...] = ()

    @property
    def names_nobody(self) -> bool:
        """Whether it speaks of no part of the request at all."""
        return not (self.stored or self.failed or self.others)


def read_store_response(body: bytes, content_type: str) -> StoreInstancesResponse:
    """Read a body in the DICOM JSON Model or the Native DICOM Model.

    Parameters
    ----------
    content_type
        Header of the response; where it says neither JSON nor XML, the first character decides.

    Raises
    ------
    UnreadableResponse
        If it is neither, or something else in one of them.
    """
    start = body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    is_xml = start == b"<" if start in (b"<", b"{", b"[") else "xml" in content_type.lower()
    try:
        found = _from_xml(body) if is_xml else json.loads(body)
    except (ValueError, RecursionError, ET.ParseError, UnicodeError) as error:
        raise UnreadableResponse("its body is neither DICOM JSON nor DICOM XML") from error
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        raise UnreadableResponse("its body is not one data set")
    response = StoreInstancesResponse(
        stored={uid: reason or 0 for uid, reason in _named(found, _REFERENCED_SOPS, _WARNING_REASON)},
        failed=dict(_named(found, _FAILED_SOPS, _FAILURE_REASON)),
        others=tuple(_number(item, _FAILURE_REASON) for item in _items(found, _OTHER_FAILURES)),
    )
    if response.names_nobody:
        raise UnreadableResponse("its body names no instance")
    return response


def _named(dataset: Mapping[str, Any], sequence: str, reason: str) -> Iterator[tuple[str, int | None]]:
    for item in _items(dataset, sequence):
        uid = _first(item, _SOP_INSTANCE_UID)
        if isinstance(uid, str) and uid.strip(" \0"):
            yield uid.strip(" \0"), _number(item, reason)


def _items(dataset: Mapping[str, Any], sequence: str) -> Iterator[Mapping[str, Any]]:
    for item in _values(dataset, sequence):
        if isinstance(item, dict):
            yield item


def _values(dataset: Mapping[str, Any], tag: str) -> list[Any]:
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _first(dataset: Mapping[str, Any], tag: str) -> Any:
    return next(iter(_values(dataset, tag)), None)


def _number(dataset: Mapping[str, Any], tag: str) -> int | None:
    """Return a US value; some servers write it as a text."""
    value = _first(dataset, tag)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    is_status = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0xFFFF
    return value if is_status else None


def _from_xml(body: bytes) -> dict[str, Any]:
    # No document of the Native DICOM Model has a DTD, and entities are what makes XML dangerous.
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise ValueError("a document type declaration")
    root = ET.fromstring(body)  # noqa: S314 (without a document type there are no entities to expand)
    if _local(root.tag) != "NativeDicomModel":
        raise ValueError(f"the root is not NativeDicomModel but {_local(root.tag)}")
    return _dataset(root, 0)


def _dataset(element: ET.Element, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise ValueError("too deep")
    return {
        child.get("tag", "").upper(): {
            "Value": [
                _dataset(value, depth + 1) if _local(value.tag) == "Item" else (value.text or "").strip()
                for value in child
                if _local(value.tag) in ("Item", "Value")
            ]
        }
        for child in element
        if _local(child.tag) == "DicomAttribute"
    }


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
