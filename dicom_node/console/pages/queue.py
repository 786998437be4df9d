"""The queue: what waits for a destination, what it refused, and what an operator does about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import Response

from dicom_node.console.access import SignedIn, audited, record, require
from dicom_node.console.permissions import Permission
from dicom_node.console.rendering import render
from dicom_node.errors import IllegalTransition, OperationRefused
from dicom_node.ledger.console_audit import AuditResult
from dicom_node.ledger.destinations import HoldScope
from dicom_node.ledger.queue_pages import QueueFilter, QueueLedger
from dicom_node.queue_acts import ACTS, Act, carry_out
from dicom_node.state import State
from dicom_node.states import DEAD_LETTERS, BreakerState, DeliveryState

router = APIRouter()

_DONE: Final = (DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.CANCELLED, DeliveryState.REROUTED)
SHOWN: Final[dict[str, tuple[DeliveryState, ...]]] = {
    "open": tuple(state for state in DeliveryState if state not in _DONE),
    "dead": tuple(sorted(DEAD_LETTERS)),
    "all": (),
    **{state.value: (state,) for state in DeliveryState},
}
"""What the filter `show` stands for; empty is everything."""
LABELS: Final = {"open": "not done", "dead": "dead letters", "all": "everything"}
_MOST_AT_ONCE: Final = 5000
_NAMED: Final = 20


@dataclass(frozen=True, kw_only=True)
class QueueQuery:
    """The filter as it stands in the address."""

    show: str = "open"
    destination: str = ""
    study: str = ""
    series: str = ""
    reason: str = ""

    def filter(self) -> QueueFilter:
        """Return it as the ledger takes it."""
        return QueueFilter(
            states=SHOWN.get(self.show, SHOWN["open"]),
            destination=self.destination,
            study=self.study.strip(),
            series=self.series.strip(),
            reason=self.reason.strip(),
        )

    def address(self, **more: object) -> str:
        """Return the address of the page that it shows."""
        pairs = {**self.__dict__, **more}
        return "/queue?" + urlencode({key: value for key, value in pairs.items() if value not in ("", None)})


def queue_query(
    show: str = "open", destination: str = "", study: str = "", series: str = "", reason: str = ""
) -> QueueQuery:
    """Return the filter of a request."""
    return QueueQuery(show=show, destination=destination, study=study, series=series, reason=reason)


@router.get("/queue", dependencies=[Depends(require(Permission.VIEW))])
def show_queue(
    request: Request,
    query: Annotated[QueueQuery, Depends(queue_query)],
    before: int | None = None,
) -> Response:
    """Show the deliveries that fit."""
    node: State = request.app.state.node
    page = QueueLedger(node.database).page(query.filter(), before=before)
    lines = sorted(node.deliveries.lines(numbers=page.numbers), key=lambda line: -line.delivery_id)
    holds = node.standings.holds()
    return render(
        request,
        "queue.html",
        query=query,
        page=page,
        before=before,
        lines=lines,
        shown=[(name, LABELS.get(name, name)) for name in SHOWN],
        destinations=[destination.name for destination in node.settings.destinations],
        acts=ACTS,
        down={line.name for line in node.standings.lines() if line.state is BreakerState.OPEN},
        held_destinations={hold.subject for hold in holds if hold.scope is HoldScope.DESTINATION},
        held_studies={hold.subject for hold in holds if hold.scope is HoldScope.STUDY},
        is_filtered=query != QueueQuery(),
    )


@dataclass(frozen=True, kw_only=True)
class WantedAct:
    """What a form asks for.

    Attributes
    ----------
    numbers
        Of deliveries that were named one by one.
    everything
        Whether all that fit the filter are meant, and not those.
    """

    act: Act
    numbers: tuple[int, ...]
    everything: bool
    query: QueueQuery
    to: str
    reason: str


def wanted_act(
    act: Annotated[Act, Form()],
    number: Annotated[list[int] | None, Form()] = None,
    numbers: Annotated[str, Form()] = "",
    everything: Annotated[bool, Form()] = False,
    show: Annotated[str, Form()] = "open",
    destination: Annotated[str, Form()] = "",
    study: Annotated[str, Form()] = "",
    series: Annotated[str, Form()] = "",
    text: Annotated[str, Form()] = "",
    to: Annotated[str, Form()] = "",
    reason: Annotated[str, Form(max_length=200)] = "",
) -> WantedAct:
    """Return what the form of a request asks for."""
    listed = [int(one) for one in numbers.split(",") if one.strip().isdigit()]
    return WantedAct(
        act=act,
        numbers=tuple(dict.fromkeys([*(number or []), *listed])),
        everything=everything,
        query=QueueQuery(show=show, destination=destination, study=study, series=series, reason=text),
        to=to,
        reason=reason.strip(),
    )


@router.post("/queue/ask")
def ask(
    request: Request,
    signed_in: Annotated[SignedIn, Depends(require(Permission.OPERATE))],
    wanted: Annotated[WantedAct, Depends(wanted_act)],
) -> Response:
    """Do an act to one delivery at once, where nothing is lost by it; else show what would be done, and ask."""
    node: State = request.app.state.node
    numbers = wanted.numbers
    if wanted.everything:
        numbers = _fitting(node, wanted)
    if not numbers:
        raise OperationRefused("no delivery was chosen that this could be done to; tick some in the list")
    rule = ACTS[wanted.act]
    if len(numbers) == 1 and not rule.always_asks:
        return _carry_out(request, signed_in, wanted, numbers)
    lines = node.deliveries.lines(numbers=numbers)
    return render(
        request,
        "queue_ask.html",
        wanted=wanted,
        rule=rule,
        numbers=numbers,
        lines=lines[:_NAMED],
        more=len(lines) - _NAMED,
        by_destination=Counter(line.destination for line in lines),
        unfit=sum(line.state not in rule.among for line in lines),
        destinations=[destination.name for destination in node.settings.destinations],
        capped=wanted.everything and len(numbers) == _MOST_AT_ONCE,
    )


@router.post("/queue/do")
def do(
    request: Request,
    signed_in: Annotated[SignedIn, Depends(require(Permission.OPERATE))],
    wanted: Annotated[WantedAct, Depends(wanted_act)],
) -> Response:
    """Do an act to the deliveries that were shown when it was asked."""
    if not wanted.numbers:
        raise OperationRefused("no delivery was chosen; tick some in the list")
    if wanted.act is Act.REROUTE and not wanted.to:
        raise OperationRefused("choose the destination that gets them instead")
    return _carry_out(request, signed_in, wanted, wanted.numbers[:_MOST_AT_ONCE])


def _fitting(node: State, wanted: WantedAct) -> tuple[int, ...]:
    chosen = wanted.query.filter()
    among = ACTS[wanted.act].among
    states = tuple(state for state in among if not chosen.states or state in chosen.states)
    if not states:
        return ()
    narrowed = QueueFilter(**{**chosen.__dict__, "states": states})
    return tuple(QueueLedger(node.database).numbers(narrowed, limit=_MOST_AT_ONCE))


def _carry_out(request: Request, signed_in: SignedIn, wanted: WantedAct, numbers: Sequence[int]) -> Response:
    node: State = request.app.state.node
    reason = f"{wanted.reason or 'asked for'} ({signed_in.user.name} in the console)"
    done: list[int] = []
    refused: list[tuple[int, str]] = []
    for number in numbers:
        try:
            carry_out(node, wanted.act, number, reason, to=wanted.to or None)
        except (OperationRefused, IllegalTransition) as error:
            refused.append((number, str(error)))
        else:
            done.append(number)
    subject = _subject(numbers)
    action = f"queue {wanted.act.value}"
    if done:
        record(
            request, action, _subject(done), reason=f"{wanted.reason} {f'to {wanted.to}' if wanted.to else ''}".strip()
        )
    if refused:
        record(request, action, subject, AuditResult.REFUSED, f"{len(refused)}: {refused[0][1]}")
    return render(
        request,
        "queue_done.html",
        status_code=200 if done else 409,
        wanted=wanted,
        rule=ACTS[wanted.act],
        done=done,
        refused=refused[:_NAMED],
        more=len(refused) - _NAMED,
    )


def _subject(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:20]))
    return f"deliveries {named}" + (f" and {len(numbers) - 20} more" if len(numbers) > 20 else "")


def hold_or_release(request: Request, scope: HoldScope, subject: str, reason: str, *, release: bool, user: str) -> None:
    """Put a study or a destination on hold as a whole, or end that; for the pages of both."""
    node: State = request.app.state.node
    said = f"{reason.strip() or 'asked for'} ({user} in the console)"
    with audited(request, f"{'release' if release else 'hold'} {scope.value}", subject):
        (node.standings.release if release else node.standings.hold)(scope, subject, said)
