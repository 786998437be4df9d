"""An event as the XML of PS3.15 A.5.1."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement, tostring

from dicom_node.audit.events import PATIENT_NUMBER, STUDY_INSTANCE_UID, Code, Event, Participant, Study, Subject

# What XML 1.0 can't hold, escaped or not; peers' titles may have it.
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_message(event: Event, *, at: float, source_id: str, site: str = "", patients: bool) -> str:
    """Return the audit message of an event.

    Parameters
    ----------
    at
        When it happened, in seconds since the epoch.
    source_id
        AuditSourceID: what tells this node from others.
    site
        AuditEnterpriseSiteID; empty for none.
    patients
        Whether patients are named by their ID; the tables of PS3.15 A.5.3 ask for it.
    """
    message = Element("AuditMessage")
    identification = SubElement(
        message,
        "EventIdentification",
        EventActionCode=event.action.value,
        EventDateTime=datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=event.outcome.value,
    )
    _code(identification, "EventID", event.event_id)
    for kind in event.types:
        _code(identification, "EventTypeCode", kind)
    if event.description:
        SubElement(identification, "EventOutcomeDescription").text = _text(event.description)
    for participant in event.participants:
        _participant(message, participant)
    source = {"AuditSourceID": _text(source_id)}
    if site:
        source["AuditEnterpriseSiteID"] = _text(site)
    SubElement(SubElement(message, "AuditSourceIdentification", source), "AuditSourceTypeCode", {"csd-code": "4"})
    for study in event.studies:
        _study(message, study)
    if patients:
        for patient_id in dict.fromkeys(study.patient_id for study in event.studies if study.patient_id):
            found = _object(message, patient_id, PATIENT_NUMBER, type_code="1", role="1")
            SubElement(found, "ParticipantObjectName").text = _text(patient_id)
    for subject in event.subjects:
        _subject(message, subject)
    return tostring(message, encoding="unicode")


def _participant(message: Element, one: Participant) -> None:
    attributes = {"UserID": _text(one.user_id), "UserIsRequestor": "true" if one.is_requestor else "false"}
    if one.alternative_id:
        attributes["AlternativeUserID"] = _text(one.alternative_id)
    if one.name:
        attributes["UserName"] = _text(one.name)
    if one.host:
        attributes["NetworkAccessPointID"] = _text(one.host)
        attributes["NetworkAccessPointTypeCode"] = "2" if _is_address(one.host) else "1"
    element = SubElement(message, "ActiveParticipant", attributes)
    if one.role is not None:
        _code(element, "RoleIDCode", one.role)


def _study(message: Element, study: Study) -> None:
    found = _object(message, study.study_instance_uid, STUDY_INSTANCE_UID, type_code="2", role="3")
    SubElement(found, "ParticipantObjectName").text = _text(study.study_instance_uid)
    if study.classes:
        described = SubElement(found, "ParticipantObjectDescription")
        for uid, number in sorted(study.classes.items()):
            SubElement(described, "SOPClass", UID=_text(uid), NumberOfInstances=str(number))


def _subject(message: Element, subject: Subject) -> None:
    found = _object(message, subject.identifier, subject.id_type, type_code=subject.type_code, role=subject.role)
    SubElement(found, "ParticipantObjectName").text = _text(subject.name)
    for kind, value in subject.details.items():
        encoded = base64.b64encode(value.encode(errors="replace")).decode()
        SubElement(found, "ParticipantObjectDetail", type=kind, value=encoded)


def _object(message: Element, identifier: str, id_type: Code, *, type_code: str, role: str) -> Element:
    attributes = {"ParticipantObjectID": _text(identifier), "ParticipantObjectTypeCode": type_code}
    if role:
        attributes["ParticipantObjectTypeCodeRole"] = role
    found = SubElement(message, "ParticipantObjectIdentification", attributes)
    _code(found, "ParticipantObjectIDTypeCode", id_type)
    return found


def _code(parent: Element, name: str, code: Code) -> None:
    attributes = {
        "csd-code": code.value,
        "codeSystemName": code.scheme,
        "displayName": code.meaning,
        "originalText": code.meaning,
    }
    SubElement(parent, name, attributes)


def _text(value: str) -> str:
    return _NO_XML.sub("?", value)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def codes_of(event: Event) -> Iterator[Code]:
    """Yield every code that a message of an event holds."""
    yield event.event_id
    yield from event.types
    yield from (one.role for one in event.participants if one.role is not None)
    yield from (one.id_type for one in event.subjects)
