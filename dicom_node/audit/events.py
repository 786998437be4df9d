"""What is audited, as the tables of PS3.15 A.5.3 have it: event, participants, objects."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Code:
    """A coded value (PS3.16 D, or a table of RFC 3881)."""

    value: str
    scheme: str
    meaning: str


def _dcm(value: str, meaning: str) -> Code:
    return Code(value=value, scheme="DCM", meaning=meaning)


class Action(enum.StrEnum):
    """EventActionCode."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class Outcome(enum.StrEnum):
    """EventOutcomeIndicator."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"
    MAJOR_FAILURE = "12"


SOURCE: Final = _dcm("110153", "Source Role ID")
DESTINATION: Final = _dcm("110152", "Destination Role ID")
APPLICATION: Final = _dcm("110150", "Application")
STUDY_INSTANCE_UID: Final = _dcm("110180", "Study Instance UID")
NODE_ID: Final = _dcm("110182", "Node ID")
PATIENT_NUMBER: Final = Code(value="2", scheme="RFC-3881", meaning="Patient Number")
URI: Final = Code(value="12", scheme="RFC-3881", meaning="URI")

APPLICATION_ACTIVITY: Final = _dcm("110100", "Application Activity")
AUDIT_LOG_USED: Final = _dcm("110101", "Audit Log Used")
BEGIN_TRANSFERRING: Final = _dcm("110102", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED: Final = _dcm("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED: Final = _dcm("110104", "DICOM Instances Transferred")
SECURITY_ALERT: Final = _dcm("110113", "Security Alert")
USER_AUTHENTICATION: Final = _dcm("110114", "User Authentication")

APPLICATION_START: Final = _dcm("110120", "Application Start")
APPLICATION_STOP: Final = _dcm("110121", "Application Stop")
LOGIN: Final = _dcm("110122", "Login")
LOGOUT: Final = _dcm("110123", "Logout")
NODE_AUTHENTICATION: Final = _dcm("110126", "Node Authentication")
SOFTWARE_CONFIGURATION: Final = _dcm("110131", "Software Configuration")


@dataclass(frozen=True, kw_only=True)
class Participant:
    """Somebody, or a program, that took part.

    Attributes
    ----------
    user_id
        Name of the user; of a program its process ID or AE title.
    alternative_id
        Of a program, ``AETITLES=`` and its AE titles.
    host
        Host name or address; empty where it is not known.
    """

    user_id: str
    is_requestor: bool
    role: Code | None = None
    alternative_id: str = ""
    name: str = ""
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study with what of it is meant.

    Attributes
    ----------
    patient_id
        Patient ID; written only where the settings want it.
    classes
        Number of SOP instances by SOP Class UID.
    """

    study_instance_uid: str
    patient_id: str = ""
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Another object than a study.

    Attributes
    ----------
    type_code, role
        ParticipantObjectTypeCode and ParticipantObjectTypeCodeRole; empty where the table has none.
    details
        Type and value of each ParticipantObjectDetail.
    """

    identifier: str
    id_type: Code
    name: str
    type_code: str = "2"
    role: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One audit message before it is written; time and source are added then."""

    event_id: Code
    action: Action
    outcome: Outcome = Outcome.SUCCESS
    types: tuple[Code, ...] = ()
    description: str = ""
    participants: tuple[Participant, ...]
    studies: tuple[Study, ...] = ()
    subjects: tuple[Subject, ...] = ()


def application_activity(*, started: bool, process_id: int, ae_title: str, name: str, host: str) -> Event:
    """A process of the node started, or stopped in order (A.5.3.1)."""
    application = Participant(
        user_id=str(process_id),
        alternative_id=f"AETITLES={ae_title}",
        name=name,
        is_requestor=False,
        role=APPLICATION,
        host=host,
    )
    kind = APPLICATION_START if started else APPLICATION_STOP
    return Event(event_id=APPLICATION_ACTIVITY, action=Action.EXECUTE, types=(kind,), participants=(application,))


def begin_transferring(*, source: Participant, destination: Participant, study: Study) -> Event:
    """Objects of a study begin to go to a destination (A.5.3.3)."""
    return Event(
        event_id=BEGIN_TRANSFERRING, action=Action.EXECUTE, participants=(source, destination), studies=(study,)
    )


def instances_transferred(
    *, source: Participant, destination: Participant, study: Study, failure: str = "", received: bool
) -> Event:
    """Objects of a study came from a source, or went to a destination (A.5.3.5)."""
    return Event(
        event_id=INSTANCES_TRANSFERRED,
        action=Action.CREATE if received else Action.READ,
        outcome=Outcome.MINOR_FAILURE if failure else Outcome.SUCCESS,
        description=failure,
        participants=(source, destination),
        studies=(study,),
    )


def sender(ae_title: str, host: str, *, is_requestor: bool) -> Participant:
    """The application that sends objects."""
    return Participant(
        user_id=ae_title, alternative_id=f"AETITLES={ae_title}", is_requestor=is_requestor, role=SOURCE, host=host
    )


def recipient(ae_title: str, host: str, *, is_requestor: bool = False) -> Participant:
    """The application that gets objects."""
    return Participant(
        user_id=ae_title, alternative_id=f"AETITLES={ae_title}", is_requestor=is_requestor, role=DESTINATION, host=host
    )


def instances_accessed(*, user: str, host: str, study: Study, action: Action = Action.READ) -> Event:
    """A user looked at images of a study, or changed what becomes of them (A.5.3.4)."""
    person = Participant(user_id=user, is_requestor=True, host=host)
    return Event(event_id=INSTANCES_ACCESSED, action=action, participants=(person,), studies=(study,))


def rejected_node(*, calling_ae_title: str, host: str, reason: str, ae_title: str) -> Event:
    """A peer was refused an association (A.5.3.11, Node Authentication)."""
    us = Participant(user_id=ae_title, alternative_id=f"AETITLES={ae_title}", is_requestor=False, role=APPLICATION)
    peer = Participant(user_id=calling_ae_title or "unknown", is_requestor=True, host=host)
    subject = Subject(
        identifier=calling_ae_title or host or "unknown",
        id_type=NODE_ID,
        name=calling_ae_title or host or "unknown",
        details={"Alert Description": reason},
    )
    return Event(
        event_id=SECURITY_ALERT,
        action=Action.EXECUTE,
        outcome=Outcome.MINOR_FAILURE,
        types=(NODE_AUTHENTICATION,),
        description="association rejected",
        participants=(us, peer),
        subjects=(subject,),
    )


def configuration_changed(*, user: str, host: str, what: str) -> Event:
    """Somebody changed the settings of the running node (A.5.3.11, Software Configuration)."""
    person = Participant(user_id=user, is_requestor=True, host=host)
    subject = Subject(identifier="settings", id_type=NODE_ID, name="settings", details={"Alert Description": what})
    return Event(
        event_id=SECURITY_ALERT,
        action=Action.EXECUTE,
        types=(SOFTWARE_CONFIGURATION,),
        participants=(person,),
        subjects=(subject,),
    )


def user_authentication(*, user: str, host: str, succeeded: bool, logout: bool = False) -> Event:
    """A user logged in, tried to, or logged out (A.5.3.12)."""
    person = Participant(user_id=user or "unknown", is_requestor=True, host=host)
    return Event(
        event_id=USER_AUTHENTICATION,
        action=Action.EXECUTE,
        outcome=Outcome.SUCCESS if succeeded else Outcome.MINOR_FAILURE,
        types=(LOGOUT if logout else LOGIN,),
        participants=(person,),
    )


def audit_log_used(*, user: str, host: str, location: str) -> Event:
    """Somebody read the audit (A.5.3.2)."""
    person = Participant(user_id=user, is_requestor=True, host=host)
    log = Subject(identifier=location, id_type=URI, name="Security Audit Log", role="13")
    return Event(event_id=AUDIT_LOG_USED, action=Action.READ, participants=(person,), subjects=(log,))
