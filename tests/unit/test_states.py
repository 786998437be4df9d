"""States: only the changes in the tables exist."""

from __future__ import annotations

import itertools

import pytest

from dicom_node.errors import IllegalTransition
from dicom_node.states import (
    ARRIVAL,
    BREAKER,
    DEAD_LETTERS,
    DELIVERED,
    DELIVERY,
    INSTANCE,
    ArrivalState,
    BreakerState,
    DeliveryState,
    InstanceState,
    advance,
)

TABLES = [(INSTANCE, InstanceState), (ARRIVAL, ArrivalState), (DELIVERY, DeliveryState), (BREAKER, BreakerState)]


@pytest.mark.parametrize(("table", "states"), TABLES, ids=["instance", "arrival", "delivery", "breaker"])
def test_every_pair_that_is_not_in_the_table_raises(table, states) -> None:  # type: ignore[no-untyped-def]
    events = {event for _, event in table} | {"unheard-of"}
    for state, event in itertools.product(states, events):
        if (state, event) in table:
            assert advance(table, state, event) is table[state, event]
        else:
            with pytest.raises(IllegalTransition, match=event):
                advance(table, state, event)


def test_nothing_that_is_delivered_is_sent_again() -> None:
    for state in DELIVERED:
        assert (state, "begin") not in DELIVERY
        assert (state, "requeue") not in DELIVERY


def test_every_dead_letter_can_be_tried_again() -> None:
    for state in DEAD_LETTERS:
        assert DELIVERY[state, "requeue"] is DeliveryState.PENDING


def test_what_is_purged_or_quarantined_stays_so() -> None:
    assert {state for state, _ in INSTANCE} == {InstanceState.STORED}
