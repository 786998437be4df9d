"""Studies: found by UID, sender, date, state, patient or order; and what became of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from pydicom.uid import UID
from starlette.responses import RedirectResponse, Response

from dicom_node.console.access import SignedIn, record, require
from dicom_node.console.pages.queue import hold_or_release
from dicom_node.console.patients import PatientFacts, read_patient
from dicom_node.console.permissions import Permission
from dicom_node.console.rendering import render
from dicom_node.console.stories import tell
from dicom_node.identifiers import ACCESSION, KINDS, PATIENT, Identifiers
from dicom_node.ledger.destinations import HoldScope
from dicom_node.ledger.studies import Place, StudyFilter, StudyLedger, StudyLine, StudyState
from dicom_node.ledger.study_story import MOST_IMAGES, StoryLedger
from dicom_node.queue_acts import ACTS
from dicom_node.state import State

router = APIRouter()

_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
_HASH: Final = re.compile(r"[0-9a-f]{32}")
_WHAT: Final[Mapping[str, tuple[str, ...]]] = {"any": KINDS, "patient": (PATIENT,), "accession": (ACCESSION,)}


@dataclass(frozen=True, kw_only=True)
class StudyQuery:
    """The filter as it stands in the address; of patients and orders there are hashes alone."""

    uid: str = ""
    ref: str = ""
    sender: str = ""
    since: str = ""
    until: str = ""
    state: str = ""

    def filter(self) -> StudyFilter:
        """Return it as the ledger takes it; what can't be understood does not count."""
        until = _day(self.until)
        return StudyFilter(
            uid=self.uid.strip(),
            terms=tuple(term for term in self.ref.split(",") if _HASH.fullmatch(term)),
            sender=self.sender.strip(),
            since=_midnight(_day(self.since)),
            until=_midnight(until + timedelta(days=1) if until else None),
            state=StudyState(self.state) if self.state in set(StudyState) else None,
        )

    def address(self, **more: object) -> str:
        """Return the address of the page that it shows."""
        pairs = {**self.__dict__, **more}
        return "/studies?" + urlencode({key: value for key, value in pairs.items() if value not in ("", None)})


def study_query(
    uid: str = "", ref: str = "", sender: str = "", since: str = "", until: str = "", state: str = ""
) -> StudyQuery:
    """Return the filter of a request."""
    return StudyQuery(uid=uid, ref=ref, sender=sender, since=since, until=until, state=state)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _midnight(day: date | None) -> float | None:
    # In the time zone of this machine, as every time on the pages.
    return None if day is None else datetime(day.year, day.month, day.day).astimezone().timestamp()


@router.get("/studies", dependencies=[Depends(require(Permission.VIEW))])
def show_studies(
    request: Request,
    query: Annotated[StudyQuery, Depends(study_query)],
    at: float | None = None,
    below: int | None = None,
) -> Response:
    """Show the studies that fit, the latest first."""
    node: State = request.app.state.node
    ledger = StudyLedger(node.database)
    after = Place(at=at, study_id=below) if at is not None and below is not None else None
    page = ledger.page(query.filter(), after=after)
    return render(
        request,
        "studies.html",
        query=query,
        page=page,
        is_first=after is None,
        is_filtered=query != StudyQuery(),
        senders=ledger.senders(),
        states=[state.value for state in StudyState],
        next=query.address(at=repr(page.next.at), below=page.next.study_id) if page.next else "",
    )


@router.post("/studies/find")
def find(
    request: Request,
    signed_in: Annotated[SignedIn, Depends(require(Permission.VIEW))],
    text: Annotated[str, Form(max_length=128)] = "",
    what: Annotated[str, Form()] = "any",
    sender: Annotated[str, Form(max_length=16)] = "",
    since: Annotated[str, Form(max_length=10)] = "",
    until: Annotated[str, Form(max_length=10)] = "",
    state: Annotated[str, Form(max_length=16)] = "",
) -> Response:
    """Turn what was typed into an address without it: a patient ID must not stay in histories and logs."""
    text = text.strip()
    uid = text if _UID.fullmatch(text) else ""
    if _HASH.fullmatch(text):
        refs = [text]
    elif text and signed_in.may(Permission.VIEW_PATIENT):
        identifiers: Identifiers | None = request.app.state.identifiers
        kinds = _WHAT.get(what, KINDS)
        refs = [one for kind in kinds for one in identifiers.of_text(kind, text)] if identifiers else []
        if not uid:
            record(request, "search by patient or order")
    else:
        # Whether a known patient was here is patient data too: without that right a text is looked for as a UID.
        refs, uid = [], text
    query = StudyQuery(uid=uid, ref=",".join(refs), sender=sender, since=since, until=until, state=state)
    return RedirectResponse(query.address(), 303)


@router.get("/studies/of/{uid}", dependencies=[Depends(require(Permission.VIEW))])
def show_study_of(
    request: Request,
    uid: str,
) -> Response:
    """Go to the study with this UID."""
    node: State = request.app.state.node
    number = StudyLedger(node.database).find(uid)
    if number is None:
        raise HTTPException(404, "Nothing was received of a study with this UID.")
    return RedirectResponse(f"/studies/{number}", 303)


def _line(request: Request, study_id: int) -> StudyLine:
    node: State = request.app.state.node
    line = StudyLedger(node.database).line(study_id)
    if line is None:
        raise HTTPException(404, "There is no such study. The page Studies finds those that there are.")
    return line


@router.get("/studies/{study_id}")
def show_study(
    request: Request,
    study_id: int,
    signed_in: Annotated[SignedIn, Depends(require(Permission.VIEW))],
    everything: bool = False,
) -> Response:
    """Show the whole story of a study."""
    node: State = request.app.state.node
    line = _line(request, study_id)
    ledger = StoryLedger(node.database)
    story = ledger.story(line.study_instance_uid, images=None if everything else MOST_IMAGES)
    patient: PatientFacts | None = None
    if signed_in.may(Permission.VIEW_PATIENT):
        patient = read_patient(node.store, ledger.stored_key(line.study_instance_uid))
        record(request, "view patient data", line.study_instance_uid)
    return render(
        request,
        "study.html",
        line=line,
        story=story,
        told=tell(story),
        patient=patient,
        class_names={image.sop_class_uid: UID(image.sop_class_uid).name for image in story.images},
        viewer=_viewer_paths(request, [image.instance_id for image in story.images if image.derived_id is not None]),
        acts=ACTS,
    )


def _viewer_paths(request: Request, instances: list[int]) -> dict[int, str]:
    """Return the address of the viewer for each enhanced image; nothing where there is no viewer."""
    if not any(getattr(route, "name", "") == "show_viewer" for route in request.app.routes):
        return {}
    return {number: request.app.url_path_for("show_viewer", instance_id=number) for number in instances}


@router.post("/studies/{study_id}/hold")
def hold(
    request: Request,
    study_id: int,
    signed_in: Annotated[SignedIn, Depends(require(Permission.OPERATE))],
    reason: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Send nothing more of the study until it is released, whatever is still to come of it."""
    uid = _line(request, study_id).study_instance_uid
    hold_or_release(request, HoldScope.STUDY, uid, reason, release=False, user=signed_in.user.name)
    return RedirectResponse(f"/studies/{study_id}", 303)


@router.post("/studies/{study_id}/release")
def release(
    request: Request, study_id: int, signed_in: Annotated[SignedIn, Depends(require(Permission.OPERATE))]
) -> Response:
    """End the hold of the study."""
    uid = _line(request, study_id).study_instance_uid
    hold_or_release(request, HoldScope.STUDY, uid, "", release=True, user=signed_in.user.name)
    return RedirectResponse(f"/studies/{study_id}", 303)
