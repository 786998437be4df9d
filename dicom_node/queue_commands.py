"""The `queue` commands: what waits for a destination, and what an operator does about it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from config.loading import load_settings
from config.settings import Settings
from dicom_node import reports
from dicom_node.command_options import AsJson, ConfigFile, print_json
from dicom_node.errors import OperationRefused
from dicom_node.ledger.deliveries import DeliveryLine
from dicom_node.ledger.destinations import HoldScope
from dicom_node.queue_acts import ACTS, Act, carry_out
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_OK, State, open_state
from dicom_node.states import DeliveryState

queue = typer.Typer(help="What waits for a destination, and what it refused.", no_args_is_help=True)

Numbers = Annotated[list[int] | None, typer.Argument(help="Deliveries by number.", metavar="[NUMBER]...")]
StudyUid = Annotated[str | None, typer.Option("--study", help="Of the study with this UID.", metavar="UID")]
SeriesUid = Annotated[str | None, typer.Option("--series", help="Of the received series with this UID.", metavar="UID")]
DestinationName = Annotated[str | None, typer.Option("--destination", help="To this destination.", metavar="NAME")]
Yes = Annotated[bool, typer.Option("--yes", help="Don't ask.")]
Reason = Annotated[str, typer.Option("--reason", help="Kept in the audit.", metavar="TEXT")]

_DONE = (DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.CANCELLED, DeliveryState.REROUTED)
OPEN_STATES = [state for state in DeliveryState if state not in _DONE]
"""What `queue list` shows unless asked for more: everything that is not done."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which deliveries a command is about."""

    numbers: Sequence[int]
    study: str | None
    series: str | None
    destination: str | None

    @property
    def is_bulk(self) -> bool:
        """True if the command names more than single deliveries."""
        return not self.numbers

    def find(self, state: State, among: Collection[DeliveryState]) -> list[int]:
        """Return the numbers: those given, or the deliveries in one of the states `among` that fit."""
        if self.numbers:
            return list(dict.fromkeys(self.numbers))
        lines = state.deliveries.lines(
            states=sorted(among), destination=self.destination, study=self.study, series=self.series
        )
        return [line.delivery_id for line in lines]


def _selection(
    settings: Settings,
    state: State,
    numbers: Sequence[int] | None,
    study: str | None,
    series: str | None,
    destination: str | None,
) -> Selection:
    require_destination(settings, state, destination)
    named = [n for n, given in (("NUMBER", numbers), ("--study", study), ("--series", series)) if given]
    if numbers and (len(named) > 1 or destination is not None):
        raise OperationRefused("name deliveries either by number, or by --study, --series and --destination")
    if not named and destination is None:
        raise OperationRefused(
            "name deliveries by number (`dicom-node queue list -c FILE`), or by --study UID, --series UID, "
            "--destination NAME"
        )
    for option, uid in (("--study", study), ("--series", series)):
        if uid is not None and not state.deliveries.knows(study=study, series=series):
            raise OperationRefused(f"nothing was received with {option} {uid}")
    return Selection(numbers=tuple(numbers or ()), study=study, series=series, destination=destination)


def require_destination(settings: Settings, state: State, name: str | None) -> None:
    """Refuse a name that neither the settings nor the ledger know: its queue would look empty."""
    known = {destination.name for destination in settings.destinations}
    if name is None or name in known or state.deliveries.lines(destination=name):
        return
    raise OperationRefused(f"no destination {name!r}; known are {', '.join(sorted(known)) or 'none'}")


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise OperationRefused(f"{question} Say --yes where nobody can be asked")
    if not typer.confirm(question, err=True):
        raise OperationRefused("nothing was changed")


def _work(
    numbers: Sequence[int], change: Callable[[int], Any], *, key: str, done: str, as_json: bool, **more: Any
) -> int:
    """Change deliveries one by one and say how many, and which could not be changed and why."""
    changed: list[int] = []
    refused: list[dict[str, Any]] = []
    for number in numbers:
        try:
            change(number)
        except OperationRefused as error:
            if len(numbers) == 1:
                raise
            refused.append({"delivery": number, "reason": str(error)})
        else:
            changed.append(number)
    if as_json:
        print_json({key: changed, "refused": refused, **more})
    else:
        print(f"{len(changed)} {'delivery is' if len(changed) == 1 else 'deliveries are'} {done}.")
        for one in refused:
            print(one["reason"], file=sys.stderr)
    return EXIT_FOUND_FAULTS if refused else EXIT_OK


@queue.command("list")
def queue_list(
    config: ConfigFile,
    show_all: Annotated[bool, typer.Option("--all", help="Also what is done, cancelled or rerouted.")] = False,
    destination: DestinationName = None,
    study: StudyUid = None,
    series: SeriesUid = None,
    as_json: AsJson = False,
) -> int:
    """Show the deliveries that wait, are refused or were given up, and what is on hold."""
    settings = load_settings(config)
    with open_state(settings) as state:
        require_destination(settings, state, destination)
        lines: list[DeliveryLine] = state.deliveries.lines(
            states=None if show_all else OPEN_STATES, destination=destination, study=study, series=series
        )
        holds, standings = state.standings.holds(), state.standings.lines()
    if as_json:
        found = {
            "deliveries": [reports.line_as_json(line) for line in lines],
            "holds": [reports.hold_as_json(hold) for hold in holds],
        }
        print_json(found)
    else:
        reports.show_queue(Console(), lines, time.time(), holds=holds, standings=standings)
    return EXIT_OK


@queue.command("hold")
def queue_hold(
    config: ConfigFile,
    numbers: Numbers = None,
    study: StudyUid = None,
    destination: DestinationName = None,
    reason: Reason = "asked for by queue hold",
    as_json: AsJson = False,
) -> int:
    """Send nothing more of deliveries, of a study, or to a destination, until released.

    A study or a destination is held with everything that is still to come. The object on its way still arrives.
    """
    return _hold_or_release(config, numbers, study, destination, reason, as_json=as_json, release=False)


@queue.command("release")
def queue_release(
    config: ConfigFile,
    numbers: Numbers = None,
    study: StudyUid = None,
    destination: DestinationName = None,
    reason: Reason = "asked for by queue release",
    as_json: AsJson = False,
) -> int:
    """Go on with what is on hold."""
    return _hold_or_release(config, numbers, study, destination, reason, as_json=as_json, release=True)


def _hold_or_release(
    config: Any,
    numbers: list[int] | None,
    study: str | None,
    destination: str | None,
    reason: str,
    *,
    as_json: bool,
    release: bool,
) -> int:
    settings = load_settings(config)
    with open_state(settings) as state:
        chosen = _selection(settings, state, numbers, study, None, destination)
        if study is not None and destination is not None:
            raise OperationRefused("hold and release take either --study or --destination")
        key, done = ("released", "released") if release else ("held", "on hold")
        if numbers:
            act = Act.RELEASE if release else Act.HOLD
            return _work(
                chosen.numbers, lambda n: carry_out(state, act, n, reason), key=key, done=done, as_json=as_json
            )
        scope = HoldScope.STUDY if study is not None else HoldScope.DESTINATION
        subject = study or destination or ""
        (state.standings.release if release else state.standings.hold)(scope, subject, reason)
    if as_json:
        print_json({key: [], "refused": [], scope.value: subject})
    else:
        print(f"{scope.value.capitalize()} {subject} is {done}.")
    return EXIT_OK


@queue.command("retry")
def queue_retry(
    config: ConfigFile,
    numbers: Numbers = None,
    study: StudyUid = None,
    series: SeriesUid = None,
    destination: DestinationName = None,
    as_json: AsJson = False,
) -> int:
    """Try deliveries again now: refused, given up, held, cancelled (by number), or waiting for their next attempt.

    A destination that was found to be down is tried at once.
    """
    settings = load_settings(config)
    with open_state(settings) as state:
        chosen = _selection(settings, state, numbers, study, series, destination)
        wanted = chosen.find(state, ACTS[Act.RETRY].among)

        def change(number: int) -> None:
            carry_out(state, Act.RETRY, number, "asked for by queue retry")

        return _work(wanted, change, key="requeued", done="tried again now", as_json=as_json)


@queue.command("cancel")
def queue_cancel(
    config: ConfigFile,
    numbers: Numbers = None,
    study: StudyUid = None,
    series: SeriesUid = None,
    destination: DestinationName = None,
    reason: Reason = "asked for by queue cancel",
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Send nothing more of deliveries. Their objects stay on this node; `queue retry NUMBER` takes them up again."""
    settings = load_settings(config)
    with open_state(settings) as state:
        chosen = _selection(settings, state, numbers, study, series, destination)
        wanted = chosen.find(state, ACTS[Act.CANCEL].among)
        _confirm(f"Cancel {len(wanted)} deliveries? What they have not sent will not arrive.", yes=yes or not wanted)
        return _work(
            wanted,
            lambda n: carry_out(state, Act.CANCEL, n, reason),
            key="cancelled",
            done="cancelled",
            as_json=as_json,
        )


@queue.command("reroute")
def queue_reroute(
    config: ConfigFile,
    to: Annotated[str, typer.Option(help="Destination that gets what was not sent yet.", metavar="NAME")],
    numbers: Numbers = None,
    study: StudyUid = None,
    series: SeriesUid = None,
    destination: DestinationName = None,
    reason: Reason = "asked for by queue reroute",
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Leave to another destination what deliveries have not sent. What was sent stays where it is."""
    settings = load_settings(config)
    if to not in {d.name for d in settings.destinations}:
        raise OperationRefused(
            f"no destination {to!r} in the settings; known are {', '.join(d.name for d in settings.destinations)}"
        )
    with open_state(settings) as state:
        chosen = _selection(settings, state, numbers, study, series, destination)
        wanted = chosen.find(state, ACTS[Act.REROUTE].among)
        _confirm(f"Send {len(wanted)} deliveries to {to} instead?", yes=yes or not chosen.is_bulk or not wanted)
        targets: dict[int, int] = {}

        def change(number: int) -> None:
            targets[number] = carry_out(state, Act.REROUTE, number, reason, to=to) or 0

        return _work(wanted, change, key="rerouted", done=f"rerouted to {to}", as_json=as_json, now=targets)


@queue.command("resend-original")
def queue_resend_original(
    config: ConfigFile,
    numbers: Numbers = None,
    study: StudyUid = None,
    series: SeriesUid = None,
    destination: DestinationName = None,
    reason: Reason = "asked for by queue resend-original",
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Send the originals: instead of what was not sent, and beside what was; again where they were sent."""
    settings = load_settings(config)
    with open_state(settings) as state:
        chosen = _selection(settings, state, numbers, study, series, destination)
        wanted = chosen.find(state, ACTS[Act.RESEND_ORIGINAL].among)
        _confirm(f"Send the originals of {len(wanted)} deliveries?", yes=yes or not chosen.is_bulk or not wanted)
        originals: dict[int, int] = {}

        def change(number: int) -> None:
            originals[number] = carry_out(state, Act.RESEND_ORIGINAL, number, reason) or 0

        return _work(
            wanted, change, key="resent", done="sent again with their originals", as_json=as_json, originals=originals
        )
