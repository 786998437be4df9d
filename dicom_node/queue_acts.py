"""What an operator does to deliveries, one definition of each act: for the commands and for the console."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dicom_node.errors import OperationRefused
from dicom_node.state import State
from dicom_node.states import DEAD_LETTERS, DeliveryState


class Act(enum.StrEnum):
    """By the name of its command."""

    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"
    CANCEL = "cancel"
    REROUTE = "reroute"
    RESEND_ORIGINAL = "resend-original"


WAITING: Final = (DeliveryState.PENDING, DeliveryState.HELD, *sorted(DEAD_LETTERS))
"""What is not on its way, and not done."""


@dataclass(frozen=True, kw_only=True)
class ActRule:
    """What there is to say of an act.

    Attributes
    ----------
    among
        The states in which deliveries are taken where they are not named one by one.
    label, done
        On a button; and of deliveries it was done to, behind "is" or "are".
    warning
        What follows from it, as a sentence.
    always_asks
        Whether it is confirmed for a single delivery too.
    """

    among: tuple[DeliveryState, ...]
    label: str
    done: str
    warning: str
    always_asks: bool


ACTS: Final[Mapping[Act, ActRule]] = {
    Act.RETRY: ActRule(
        among=WAITING,
        label="Try again now",
        done="tried again now",
        warning="What was not sent is tried now, also to a destination that is down, and its maximum age counts anew.",
        always_asks=False,
    ),
    Act.HOLD: ActRule(
        among=(DeliveryState.PENDING, DeliveryState.SENDING),
        label="Hold",
        done="on hold",
        warning="Nothing more of it is sent until it is released; the object on its way still arrives.",
        always_asks=False,
    ),
    Act.RELEASE: ActRule(
        among=(DeliveryState.HELD,),
        label="Release",
        done="released",
        warning="What is on hold goes on.",
        always_asks=False,
    ),
    Act.REROUTE: ActRule(
        among=WAITING,
        label="Send to another destination",
        done="rerouted",
        warning="What was not sent goes to the other destination instead. What was sent stays where it is.",
        always_asks=True,
    ),
    Act.RESEND_ORIGINAL: ActRule(
        among=(*WAITING, DeliveryState.SENT, DeliveryState.COMMITTED),
        label="Send the originals",
        done="sent again with their originals",
        warning="The originals are sent: instead of enhanced images that were not sent, and beside those that were; "
        "again where they were sent.",
        always_asks=True,
    ),
    Act.CANCEL: ActRule(
        among=(*WAITING, DeliveryState.SENDING),
        label="Cancel",
        done="cancelled",
        warning="What was not sent will not arrive there. The objects stay on this node; a retry takes it up again.",
        always_asks=True,
    ),
}


def carry_out(state: State, act: Act, delivery_id: int, reason: str, *, to: str | None = None) -> int | None:
    """Do one act to one delivery.

    Parameters
    ----------
    reason
        Kept in the audit.
    to
        Name of the other destination; for `Act.REROUTE` alone.

    Returns
    -------
    For `Act.REROUTE` the number of the delivery there; for `Act.RESEND_ORIGINAL` how many originals there are.

    Raises
    ------
    OperationRefused
        If it can't be done, with what to do.
    """
    operations = state.operations
    if act is Act.HOLD:
        operations.hold(delivery_id, reason)
    elif act is Act.RELEASE:
        operations.release(delivery_id, reason)
    elif act is Act.CANCEL:
        operations.cancel(delivery_id, reason)
    elif act is Act.RESEND_ORIGINAL:
        return operations.resend_originals(delivery_id, reason)
    elif act is Act.REROUTE:
        known = [destination.name for destination in state.settings.destinations]
        if to not in known:
            raise OperationRefused(f"no destination {to!r} in the settings; known are {', '.join(known)}")
        return operations.reroute(delivery_id, to, reason)
    elif act is Act.RETRY:
        operations.retry(delivery_id, reason)
        # A destination that was found to be down is tried at once.
        state.standings.close(state.deliveries.get(delivery_id).destination, reason)
    return None
