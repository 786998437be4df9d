"""A DICOMweb destination: sends a series by the Store transaction (STOW-RS, PS3.18 10.5), straight from its files."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx

from config.settings import DicomwebDestinationSettings
from dicom_node.destinations.base import (
    DeliveryItem,
    ItemOutcome,
    Outcome,
    ProbeStep,
    Silence,
    StopSending,
    classify_status,
)
from dicom_node.destinations.explanations import name_uid
from dicom_node.destinations.multipart import FileTrouble, MultipartBody, Part, make_part
from dicom_node.destinations.preparing import in_syntax
from dicom_node.destinations.store_responses import StoreInstancesResponse, UnreadableResponse, read_store_response
from dicom_node.destinations.syntaxes import offered_syntaxes
from dicom_node.destinations.web_explanations import (
    SYNTAX_REFUSED,
    WebPeer,
    explain_http,
    explain_reason,
    explain_transport,
    is_before_the_request,
    retry_after_s,
    web_peer,
)
from dicom_node.destinations.web_probing import probe_service
from dicom_node.destinations.web_session import HttpResponse, NotSendable, ResponseTooLong, Token, WebSession
from dicom_node.errors import DerivationError, UnsupportedPixels

log = logging.getLogger(__name__)

IN_VAIN: Final = 2
"""Requests one after the other without any answer about an object, after which the server is left alone for now."""

_MAY_BE_ONE_OBJECT: Final = frozenset((400, 409, 413, 415, 422, 500))
"""Statuses of a whole request for which one of its objects may be to blame."""
_OBJECT_REFUSED: Final = frozenset((400, 413, 415, 422))
"""Of these, what the server says again to the same object; the others may pass."""
_ON_ITS_WAY: Final = frozenset((500, 502, 504))
"""Statuses after which the server may have stored the objects all the same."""


@dataclass(frozen=True, kw_only=True)
class _Parcel:
    """An object that has no outcome yet.

    Attributes
    ----------
    syntaxes
        Transfer syntaxes in which it may go, the next one first.
    in_doubt
        The server may have it already.
    """

    item: DeliveryItem
    syntaxes: tuple[str, ...]
    in_doubt: bool

    def without_first_syntax(self) -> _Parcel:
        return replace(self, syntaxes=self.syntaxes[1:])

    def doubted(self) -> _Parcel:
        return replace(self, in_doubt=True)


class StowRs:
    """A `Destination` that is an origin server of DICOMweb.

    "Sent" rests on the Store Instances Response: the server lists the instance as stored. Where a success has no
    readable response, the server is asked by QIDO-RS whether it has the instance, and without that the instance is
    in doubt and sent again.

    Parameters
    ----------
    settings
        Where it is, who we are there and how much goes into one request.
    node_ae_title
        Source Application Entity Title of the file meta information.
    scratch_folder
        For transcoded objects while they are sent; the system's folder for temporary files unless given.
    clock
        Seconds that only grow.
    """

    def __init__(
        self,
        settings: DicomwebDestinationSettings,
        *,
        node_ae_title: str,
        scratch_folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.node_ae_title = node_ae_title
        self.scratch_folder = scratch_folder
        self._clock = clock
        self._token = Token()
        self._not_before = clock()
        self.peer: WebPeer = web_peer(settings.name, settings.url)

    @property
    def name(self) -> str:
        """Name of the destination in the settings."""
        return self.settings.name

    def deliver(self, items: Sequence[DeliveryItem], *, on_outcome: Callable[[ItemOutcome], None]) -> None:
        """Send `items` and report exactly one outcome for each, as soon as it is known; see `Destination.deliver`.

        What is not in doubt goes in requests of several objects, then what is in doubt, one by one. Where a request
        fails as a whole its objects go again in two halves, so that one of them does not stop the others.
        """
        if not items:
            return
        sure = [self._parcel(item) for item in items if not item.in_doubt]
        groups = ([sure] if sure else []) + [[self._parcel(item)] for item in items if item.in_doubt]
        attempt = _Attempt(self, groups, on_outcome)
        wait_s = self._not_before - self._clock()
        if wait_s > 0:
            attempt.give_up(f"{self.peer} asked to be left alone, for another {wait_s:.0f} s")
            return
        try:
            with WebSession(self.settings, token=self._token, clock=self._clock) as session:
                attempt.run(session)
        except NotSendable as error:
            attempt.give_up(f"{self.peer}: {error}")

    def probe(self) -> list[ProbeStep]:
        """Try out name, TCP, TLS, login and the service; nothing is stored."""
        return probe_service(self.peer, self.settings)

    def leave_alone(self, seconds: float) -> None:
        """Call the server no more for some seconds."""
        self._not_before = max(self._not_before, self._clock() + seconds)

    def _parcel(self, item: DeliveryItem) -> _Parcel:
        syntaxes = offered_syntaxes(item.transfer_syntax_uid, is_derived=item.is_derived, settings=self.settings)
        return _Parcel(item=item, syntaxes=syntaxes, in_doubt=item.in_doubt)


class _Attempt:
    """One delivery: groups of objects that have no outcome yet, each at most one request, and the outcomes told."""

    def __init__(
        self, stow_rs: StowRs, groups: Iterable[list[_Parcel]], on_outcome: Callable[[ItemOutcome], None]
    ) -> None:
        self._stow_rs, self._settings, self._peer = stow_rs, stow_rs.settings, stow_rs.peer
        self._groups = deque(groups)
        self._on_outcome = on_outcome
        self._in_vain = 0
        self._renewed = False
        self._stop: StopSending | None = None

    def run(self, session: WebSession) -> None:
        """Send until every object has its outcome; `NotSendable` leaves the rest for `give_up`."""
        while self._groups:
            if self._stop is not None:
                raise self._stop
            with ExitStack() as stack:
                batch = self._load(stack)
                if not batch:
                    continue
                body = MultipartBody([part for _, part in batch])
                parcels = [parcel for parcel, _ in batch]
                try:
                    response = session.post(iter(body), length=body.length, content_type=body.content_type)
                except FileTrouble as error:
                    self._file_failed(batch, error)
                    continue
                except (httpx.TransportError, ResponseTooLong) as error:
                    self._lost(parcels, error)
                    continue
            self._answered(session, parcels, response)
        if self._stop is not None:
            raise self._stop

    def give_up(self, reason: str, silence: Silence | None = None) -> None:
        """Tell of all that is left that it is to be tried again."""
        while self._groups:
            for parcel in self._groups.popleft():
                self._tell(parcel, Outcome.RETRY, reason, in_doubt=parcel.in_doubt, silence=silence)

    def _load(self, stack: ExitStack) -> list[tuple[_Parcel, Part]]:
        """Take as much of the first group as one request may hold; what can't be read gets its outcome here."""
        group = self._groups[0]
        batch: list[tuple[_Parcel, Part]] = []
        uids: set[str] = set()
        room = self._settings.max_request_mb * 1_000_000
        while group and len(batch) < self._settings.max_objects:
            parcel = group[0]
            # Two objects of one UID would share an answer.
            if batch and (parcel.item.sop_instance_uid in uids or _size(parcel) > room):
                break
            group.pop(0)
            room -= _size(parcel)
            part = self._prepare(stack, parcel)
            if part is not None:
                batch.append((parcel, part))
                uids.add(parcel.item.sop_instance_uid)
        if not group:
            self._groups.popleft()
        return batch

    def _prepare(self, stack: ExitStack, parcel: _Parcel) -> Part | None:
        """Give the object in the first of its syntaxes that it can have; None if its outcome is told instead."""
        item = parcel.item
        try:
            for syntax in parcel.syntaxes:
                path, offset = stack.enter_context(
                    in_syntax(item, syntax, self._settings, folder=self._stow_rs.scratch_folder)
                )
                if path is not None:
                    return make_part(item, path, offset, syntax, ae_title=self._stow_rs.node_ae_title)
        except (UnsupportedPixels, DerivationError) as error:
            own = f"{self._peer} does not take it in {name_uid(item.transfer_syntax_uid)}"
            self._tell(parcel, Outcome.REFUSED, f"{own}; it can't be transcoded here: {error}", in_doubt=False)
        except OSError as error:
            self._unreadable(parcel, error)
        return None

    def _unreadable(self, parcel: _Parcel, error: OSError | EOFError) -> None:
        path = parcel.item.path
        # The folder for temporary files may be missing instead.
        if isinstance(error, FileNotFoundError) and not path.exists():
            self._tell(parcel, Outcome.REFUSED, f"stored object {path} is missing on this node", in_doubt=False)
            return
        said = getattr(error, "strerror", None) or error
        reason = f"stored object {path} can't be read or transcoded: {said}"
        self._tell(parcel, Outcome.RETRY, reason, in_doubt=parcel.in_doubt)

    def _file_failed(self, batch: list[tuple[_Parcel, Part]], error: FileTrouble) -> None:
        """One file broke off in the middle of a body: the others go again, each alone."""
        broken = next(parcel for parcel, part in batch if part is error.part)
        self._groups.extendleft([parcel.doubted()] for parcel, part in reversed(batch) if part is not error.part)
        self._unreadable(broken.doubted(), error.fault)

    def _lost(self, parcels: list[_Parcel], error: Exception) -> None:
        """No whole response came: the objects are in doubt unless not even the request went out."""
        if isinstance(error, ResponseTooLong):
            reason = f"{self._peer}: its response is of no use: {error}"
        else:
            reason = explain_transport(self._peer, error)
        log.warning("Request lost", extra={"destination": self._stow_rs.name, "reason": reason})
        if is_before_the_request(error):
            self._groups.appendleft(parcels)
            self.give_up(reason, Silence.UNREACHED)
            return
        doubted = [parcel.doubted() for parcel in parcels]
        if len(doubted) == 1:
            self._tell(doubted[0], Outcome.RETRY, reason, in_doubt=True, silence=Silence.LOST)
        else:
            # One of them may be what makes the server break off, so from now on they go alone, and last.
            self._groups.extend([parcel] for parcel in doubted)
        self._note_vain(reason, Silence.LOST)

    def _answered(self, session: WebSession, parcels: list[_Parcel], response: HttpResponse) -> None:
        status = response.status
        try:
            found = read_store_response(response.body, response.content_type)
        except UnreadableResponse:
            found = None
        if found is not None and (200 <= status < 300 or status in _MAY_BE_ONE_OBJECT):
            self._in_vain = 0
            self._settle(parcels, found)
        elif 200 <= status < 300:
            self._confirm(session, parcels, response)
        elif status in _MAY_BE_ONE_OBJECT:
            self._divide(parcels, response)
        elif status == httpx.codes.UNAUTHORIZED and not self._renewed:
            self._groups.appendleft(parcels)
            self._renewed = True
            if not session.renew():
                self.give_up(explain_http(self._peer, status, response.headers))
        else:
            doubt = status in _ON_ITS_WAY
            self._groups.appendleft([parcel.doubted() if doubt else parcel for parcel in parcels])
            self._stow_rs.leave_alone(retry_after_s(response.headers, datetime.now(UTC)))
            self.give_up(explain_http(self._peer, status, response.headers))

    def _settle(self, parcels: list[_Parcel], found: StoreInstancesResponse) -> None:
        """Tell what the response says of each object; one that it does not name is not stored."""
        otherwise, alone = [], []
        for parcel in parcels:
            uid = parcel.item.sop_instance_uid
            failed, stored = uid in found.failed, uid in found.stored
            reason = found.failed.get(uid)
            if not failed and not stored and found.others:
                if len(parcels) > 1:
                    # Which of the unnamed failed for that reason shows when each goes alone.
                    alone.append(parcel)
                    continue
                failed, reason = True, found.others[0]
            if failed and stored:
                said = f"{self._peer} names it as stored and as failed"
                self._tell(parcel, Outcome.RETRY, said, in_doubt=True)
            elif stored:
                warning = found.stored[uid]
                self._tell(parcel, Outcome.SENT, explain_reason(self._peer, warning), status=warning, in_doubt=False)
            elif not failed:
                said = f"{self._peer} names it neither as stored nor as failed"
                self._tell(parcel, Outcome.RETRY, said, in_doubt=parcel.in_doubt)
            elif _may_be_the_syntax(reason) and len(parcel.syntaxes) > 1:
                otherwise.append(parcel.without_first_syntax())
            else:
                outcome = Outcome.RETRY if reason is None else classify_status(reason, in_doubt=parcel.in_doubt)
                # The doubt of an earlier attempt outlives an answer such as "out of resources".
                in_doubt = parcel.in_doubt and outcome is Outcome.RETRY
                self._tell(parcel, outcome, explain_reason(self._peer, reason), status=reason, in_doubt=in_doubt)
        self._groups.extendleft([parcel] for parcel in reversed(alone))
        if otherwise:
            self._groups.appendleft(otherwise)

    def _confirm(self, session: WebSession, parcels: list[_Parcel], response: HttpResponse) -> None:
        """A success that names no object, such as 202 of a server that stores later: ask for each (QIDO-RS)."""
        reason = explain_http(self._peer, response.status, response.headers)
        for parcel in parcels:
            if self._has(session, parcel.item.sop_instance_uid):
                self._in_vain = 0
                said = f"{reason}; asked by QIDO-RS, it has the object"
                self._tell(parcel, Outcome.SENT, said, in_doubt=False)
            else:
                said = f"{reason}; asked by QIDO-RS, it does not show the object yet"
                self._tell(parcel, Outcome.RETRY, said, in_doubt=True)

    def _has(self, session: WebSession, sop_instance_uid: str) -> bool:
        try:
            response = session.get("/instances", {"SOPInstanceUID": sop_instance_uid, "limit": "1"})
            found = json.loads(response.body) if response.status == httpx.codes.OK else []
            return any(entry["00080018"]["Value"] == [sop_instance_uid] for entry in found)
        except (httpx.TransportError, ResponseTooLong, ValueError, LookupError, TypeError, RecursionError):
            return False

    def _divide(self, parcels: list[_Parcel], response: HttpResponse) -> None:
        """The whole request failed: its objects go again in two halves, until it is one that fails."""
        status = response.status
        reason = explain_http(self._peer, status, response.headers)
        if status in _ON_ITS_WAY:
            parcels = [parcel.doubted() for parcel in parcels]
        if len(parcels) > 1:
            half = (len(parcels) + 1) // 2
            self._groups.extendleft((parcels[half:], parcels[:half]))
            return
        (parcel,) = parcels
        if len(parcel.syntaxes) > 1 and status != httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            self._groups.appendleft([parcel.without_first_syntax()])
            return
        outcome = Outcome.REFUSED if status in _OBJECT_REFUSED else Outcome.RETRY
        self._tell(parcel, outcome, reason, in_doubt=parcel.in_doubt and outcome is Outcome.RETRY)
        if outcome is Outcome.RETRY:
            self._note_vain(reason)

    def _note_vain(self, reason: str, silence: Silence | None = None) -> None:
        self._in_vain += 1
        if self._in_vain >= IN_VAIN:
            self.give_up(reason, silence)

    def _tell(
        self,
        parcel: _Parcel,
        outcome: Outcome,
        reason: str,
        *,
        in_doubt: bool,
        status: int | None = None,
        silence: Silence | None = None,
    ) -> None:
        told = ItemOutcome(
            instance_id=parcel.item.instance_id,
            outcome=outcome,
            status=status,
            reason=reason,
            in_doubt=in_doubt,
            silence=silence,
        )
        try:
            self._on_outcome(told)
        except StopSending as stop:
            # The other objects of this request are answered too: to send them again would make duplicates of them.
            self._stop = stop


def _size(parcel: _Parcel) -> int:
    try:
        return parcel.item.path.stat().st_size
    except OSError:
        return 0


def _may_be_the_syntax(reason: int | None) -> bool:
    """Tell whether a Failure Reason can mean that another transfer syntax would be taken: C122, and Cxxx in general."""
    return reason is not None and (reason == SYNTAX_REFUSED or 0xC000 <= reason <= 0xCFFF)
