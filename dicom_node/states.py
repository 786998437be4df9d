"""The states of instances, arrivals and deliveries, and the only changes between them, as data."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar

from dicom_node.errors import IllegalTransition


class InstanceState(enum.StrEnum):
    """Where the object of a SOP instance is."""

    STORED = "stored"
    PURGED = "purged"
    QUARANTINED = "quarantined"


class ArrivalState(enum.StrEnum):
    """How far one generation of a series is."""

    OPEN = "open"
    COMPLETE = "complete"
    ENHANCING = "enhancing"
    FOLLOWING = "following"
    ENHANCED = "enhanced"
    PASSED_THROUGH = "passed_through"


class DeliveryState(enum.StrEnum):
    """How far the delivery of an arrival to one destination is."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    COMMITTING = "committing"
    COMMITTED = "committed"
    REFUSED = "refused"
    HELD = "held"
    ABANDONED = "abandoned"
    CANCELLED = "cancelled"
    REROUTED = "rerouted"


class BreakerState(enum.StrEnum):
    """Whether a destination is tried."""

    CLOSED = "closed"
    """It is: an answer came at the last attempt, or too few attempts in a row had none."""
    OPEN = "open"
    """It is not, until it answers a probe."""


class ItemState(enum.StrEnum):
    """What became of one instance of a delivery."""

    PENDING = "pending"
    SENT = "sent"
    REFUSED = "refused"


State = TypeVar("State", InstanceState, ArrivalState, DeliveryState, BreakerState)
Transitions = Mapping[tuple[State, str], State]

INSTANCE: Transitions[InstanceState] = {
    (InstanceState.STORED, "purge"): InstanceState.PURGED,
    (InstanceState.STORED, "quarantine"): InstanceState.QUARANTINED,
}
ARRIVAL: Transitions[ArrivalState] = {
    (ArrivalState.OPEN, "complete"): ArrivalState.COMPLETE,
    (ArrivalState.COMPLETE, "begin"): ArrivalState.ENHANCING,
    # A worker died on the way and the workflow runs again from its last finished step.
    (ArrivalState.ENHANCING, "begin"): ArrivalState.ENHANCING,
    (ArrivalState.ENHANCING, "finish"): ArrivalState.ENHANCED,
    (ArrivalState.ENHANCING, "pass_through"): ArrivalState.PASSED_THROUGH,
    # The route's deadline passed before a worker came to it.
    (ArrivalState.COMPLETE, "pass_through"): ArrivalState.PASSED_THROUGH,
    # The originals go on, and enhancement behind them.
    (ArrivalState.COMPLETE, "release"): ArrivalState.FOLLOWING,
    (ArrivalState.ENHANCING, "release"): ArrivalState.FOLLOWING,
    (ArrivalState.FOLLOWING, "begin"): ArrivalState.FOLLOWING,
    # Something was enhanced, in time or later; or nothing, or only in shadow mode.
    (ArrivalState.FOLLOWING, "end_following"): ArrivalState.ENHANCED,
    (ArrivalState.FOLLOWING, "give_up_following"): ArrivalState.PASSED_THROUGH,
}
DELIVERY: Transitions[DeliveryState] = {
    (DeliveryState.PENDING, "begin"): DeliveryState.SENDING,
    (DeliveryState.SENDING, "begin"): DeliveryState.SENDING,
    (DeliveryState.SENDING, "succeed"): DeliveryState.SENT,
    (DeliveryState.SENDING, "retry"): DeliveryState.PENDING,
    # The last object arrived while an operator put it on hold, or cancelled it.
    (DeliveryState.HELD, "succeed"): DeliveryState.SENT,
    (DeliveryState.CANCELLED, "succeed"): DeliveryState.SENT,
    (DeliveryState.SENDING, "refuse"): DeliveryState.REFUSED,
    (DeliveryState.SENDING, "hold"): DeliveryState.HELD,
    (DeliveryState.PENDING, "hold"): DeliveryState.HELD,
    (DeliveryState.PENDING, "abandon"): DeliveryState.ABANDONED,
    (DeliveryState.SENT, "request_commitment"): DeliveryState.COMMITTING,
    # For what it had sent before the rest went elsewhere.
    (DeliveryState.REROUTED, "request_commitment"): DeliveryState.COMMITTING,
    (DeliveryState.COMMITTING, "commit"): DeliveryState.COMMITTED,
    # The settings ask its destination for no commitment any more.
    (DeliveryState.COMMITTING, "drop_commitment"): DeliveryState.SENT,
    # The operator's `queue cancel`, `queue release` and `queue reroute`.
    (DeliveryState.PENDING, "cancel"): DeliveryState.CANCELLED,
    (DeliveryState.SENDING, "cancel"): DeliveryState.CANCELLED,
    (DeliveryState.HELD, "cancel"): DeliveryState.CANCELLED,
    (DeliveryState.REFUSED, "cancel"): DeliveryState.CANCELLED,
    (DeliveryState.ABANDONED, "cancel"): DeliveryState.CANCELLED,
    (DeliveryState.HELD, "release"): DeliveryState.PENDING,
    (DeliveryState.PENDING, "reroute"): DeliveryState.REROUTED,
    (DeliveryState.HELD, "reroute"): DeliveryState.REROUTED,
    (DeliveryState.REFUSED, "reroute"): DeliveryState.REROUTED,
    (DeliveryState.ABANDONED, "reroute"): DeliveryState.REROUTED,
    (DeliveryState.CANCELLED, "reroute"): DeliveryState.REROUTED,
    # Objects were added: originals to be sent again, or what was rerouted from another destination.
    (DeliveryState.PENDING, "extend"): DeliveryState.PENDING,
    (DeliveryState.HELD, "extend"): DeliveryState.HELD,
    (DeliveryState.SENT, "extend"): DeliveryState.PENDING,
    (DeliveryState.COMMITTED, "extend"): DeliveryState.PENDING,
    (DeliveryState.REFUSED, "extend"): DeliveryState.PENDING,
    (DeliveryState.ABANDONED, "extend"): DeliveryState.PENDING,
    (DeliveryState.CANCELLED, "extend"): DeliveryState.PENDING,
    (DeliveryState.REROUTED, "extend"): DeliveryState.PENDING,
    # The destination does not have all of it: sent again, or a dead letter.
    (DeliveryState.COMMITTING, "resend"): DeliveryState.PENDING,
    (DeliveryState.COMMITTING, "refuse"): DeliveryState.REFUSED,
    # A report that comes after we gave up still counts.
    (DeliveryState.REFUSED, "commit"): DeliveryState.COMMITTED,
    # The operator's `queue retry`.
    (DeliveryState.REFUSED, "requeue"): DeliveryState.PENDING,
    (DeliveryState.ABANDONED, "requeue"): DeliveryState.PENDING,
    (DeliveryState.HELD, "requeue"): DeliveryState.PENDING,
    (DeliveryState.PENDING, "requeue"): DeliveryState.PENDING,
    (DeliveryState.CANCELLED, "requeue"): DeliveryState.PENDING,
}
BREAKER: Transitions[BreakerState] = {
    (BreakerState.CLOSED, "open"): BreakerState.OPEN,
    (BreakerState.OPEN, "close"): BreakerState.CLOSED,
}

DELIVERED = frozenset({DeliveryState.SENT, DeliveryState.COMMITTING, DeliveryState.COMMITTED})
DEAD_LETTERS = frozenset({DeliveryState.REFUSED, DeliveryState.ABANDONED})


def advance(transitions: Transitions[State], state: State, event: str) -> State:
    """Return the state that `event` leads to from `state`; IllegalTransition if there is none."""
    try:
        return transitions[state, event]
    except KeyError:
        raise IllegalTransition(f"{type(state).__name__} {state.value} has no event {event!r}") from None
