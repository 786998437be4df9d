"""Audit messages: each event is valid by the schema of PS3.15 A.5.1, and patients stand there only where wanted."""

from __future__ import annotations

import base64

import pytest

from dicom_node.audit import events
from dicom_node.audit.events import Event, Study
from dicom_node.audit.messages import codes_of, render_message
from tests.support.audit import valid

STUDY = Study(study_instance_uid="1.2.3", patient_id="P1", classes={"1.2.840.10008.5.1.4.1.1.1": 2, "1.2.9": 1})
US, PACS = (
    events.sender("LOWDOSE", "node-1", is_requestor=True),
    events.recipient("PACS", "10.0.0.7"),
)
EVENTS: dict[str, Event] = {
    "start": events.application_activity(started=True, process_id=7, ae_title="LOWDOSE", name="receiver", host="h"),
    "stop": events.application_activity(started=False, process_id=7, ae_title="LOWDOSE", name="receiver", host="h"),
    "begin": events.begin_transferring(source=US, destination=PACS, study=STUDY),
    "sent": events.instances_transferred(source=US, destination=PACS, study=STUDY, received=False),
    "received": events.instances_transferred(source=US, destination=PACS, study=STUDY, received=True),
    "failed": events.instances_transferred(source=US, destination=PACS, study=STUDY, received=False, failure="away"),
    "viewed": events.instances_accessed(user="anna", host="10.0.0.9", study=STUDY),
    "rejected": events.rejected_node(calling_ae_title="EVIL", host="10.0.0.8", reason="not known", ae_title="LOWDOSE"),
    "unnamed": events.rejected_node(calling_ae_title="", host="10.0.0.8", reason="no TLS", ae_title="LOWDOSE"),
    "changed": events.configuration_changed(user="anna", host="h", what="routes"),
    "login": events.user_authentication(user="anna", host="10.0.0.9", succeeded=True),
    "refused": events.user_authentication(user="", host="10.0.0.9", succeeded=False),
    "logout": events.user_authentication(user="anna", host="10.0.0.9", succeeded=True, logout=True),
    "read": events.audit_log_used(user="anna", host="h", location="file:///data/audit"),
}  # fmt: skip


def render(event: Event, *, patients: bool = False) -> str:
    return render_message(event, at=1_800_000_000.25, source_id="node@host", site="hospital", patients=patients)


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_is_a_valid_message(name: str) -> None:
    for patients in (False, True):
        root = valid(render(EVENTS[name], patients=patients))
        identification = root.find("EventIdentification")
        assert identification.get("EventDateTime") == "2027-01-15T08:00:00.250+00:00"
        assert identification.find("EventID").get("codeSystemName") == "DCM"
        said = {element.get("csd-code") for element in root.iter() if element.get("csd-code")}
        assert {code.value for code in codes_of(EVENTS[name])} <= said


def test_the_schema_of_the_tests_refuses_what_the_standard_does() -> None:
    good = render(EVENTS["sent"], patients=True)
    for before, after in (
        ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"'),
        ("<ParticipantObjectName>1.2.3</ParticipantObjectName>", ""),
        ('UserIsRequestor="true"', ""),
        ('AuditSourceID="node@host"', ""),
        ('NumberOfInstances="2"', 'NumberOfInstances="two"'),
        ('originalText="Source Role ID"', ""),
    ):
        assert before in good
        with pytest.raises(AssertionError):
            valid(good.replace(before, after, 1))


def test_a_patient_is_named_only_where_the_settings_want_it() -> None:
    assert "P1" not in render(EVENTS["sent"])
    objects = valid(render(EVENTS["sent"], patients=True)).findall("ParticipantObjectIdentification")
    assert [(o.get("ParticipantObjectID"), o.get("ParticipantObjectTypeCode")) for o in objects] == [
        ("1.2.3", "2"),
        ("P1", "1"),
    ]


def test_what_was_transferred_is_counted_by_class() -> None:
    classes = valid(render(EVENTS["received"])).findall(".//SOPClass")
    assert [(c.get("UID"), c.get("NumberOfInstances")) for c in classes] == [
        ("1.2.840.10008.5.1.4.1.1.1", "2"),
        ("1.2.9", "1"),
    ]


def test_whatever_a_peer_calls_itself_the_message_stays_xml() -> None:
    title = 'A"<&>\x00\x1b\ud800\ufffe'
    event = events.rejected_node(calling_ae_title=title, host="h", reason="\x07 <why> \ud800", ae_title="LOWDOSE")
    root = valid(render(event))
    assert root.findall("ActiveParticipant")[1].get("UserID") == 'A"<&>????'
    detail = root.find(".//ParticipantObjectDetail").get("value")
    assert base64.b64decode(detail).decode() == "\x07 <why> ?"


def test_an_address_and_a_name_are_told_apart() -> None:
    us, pacs = valid(render(EVENTS["sent"])).findall("ActiveParticipant")
    assert (us.get("NetworkAccessPointTypeCode"), pacs.get("NetworkAccessPointTypeCode")) == ("1", "2")
