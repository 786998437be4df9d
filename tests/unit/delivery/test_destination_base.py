from __future__ import annotations

import random

import pytest

from config.settings import RetrySettings
from dicom_node.destinations.base import (
    STORE_STATUSES,
    UNNAMED_STATUS,
    Outcome,
    classify_status,
    find_status,
    give_up,
    retry_after,
)

SENT, REFUSED, RETRY = Outcome.SENT, Outcome.REFUSED, Outcome.RETRY

# PS3.4 Table B.2-1 and PS3.7 9.1.1.1.9 and Annex C, written out by hand, independently of the table under test.
EXPECTED = {
    0x0000: SENT,
    0x0001: SENT,
    0x0107: SENT,
    0x0116: SENT,
    0xB000: SENT,
    0xB006: SENT,
    0xB007: SENT,
    0xB123: SENT,
    0xBFFF: SENT,
    0xA700: RETRY,
    0xA701: RETRY,
    0xA7FF: RETRY,
    0x0110: RETRY,
    0x0210: RETRY,
    0x0213: RETRY,
    0xFE00: RETRY,
    0xFF00: RETRY,
    0xFF01: RETRY,
    0xA800: REFUSED,
    0xA900: REFUSED,
    0xA9FF: REFUSED,
    0xC000: REFUSED,
    0xC123: REFUSED,
    0xCFFF: REFUSED,
    0x0105: REFUSED,
    0x0106: REFUSED,
    0x0111: REFUSED,
    0x0112: REFUSED,
    0x0113: REFUSED,
    0x0114: REFUSED,
    0x0115: REFUSED,
    0x0117: REFUSED,
    0x0118: REFUSED,
    0x0119: REFUSED,
    0x0120: REFUSED,
    0x0121: REFUSED,
    0x0122: REFUSED,
    0x0123: REFUSED,
    0x0124: REFUSED,
    0x0211: REFUSED,
    0x0212: REFUSED,
}


@pytest.mark.parametrize(("status", "outcome"), EXPECTED.items(), ids=lambda v: f"{v:04X}" if isinstance(v, int) else v)
def test_each_status_of_the_standard_is_decided(status: int, outcome: Outcome) -> None:
    assert classify_status(status) is outcome
    assert find_status(status) is not UNNAMED_STATUS


def test_every_entry_of_the_table_is_met_by_a_status_of_the_standard() -> None:
    assert {find_status(status) for status in EXPECTED} == set(STORE_STATUSES)


@pytest.mark.parametrize("status", [0x0002, 0x0125, 0x0300, 0xA600, 0xAA00, 0xD000, 0xFFFF])
def test_a_status_that_nobody_names_is_tried_again_and_never_taken_for_success(status: int) -> None:
    assert find_status(status) is UNNAMED_STATUS
    assert classify_status(status) is RETRY


def test_nothing_but_success_and_warnings_counts_as_sent() -> None:
    sent = {status for status in range(0x10000) if classify_status(status) is SENT}
    assert sent == {0x0000, 0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)}


def test_a_duplicate_is_our_own_only_if_an_earlier_attempt_may_have_stored_it() -> None:
    assert classify_status(0x0111, in_doubt=True) is SENT
    assert classify_status(0x0111, in_doubt=False) is REFUSED


def test_doubt_changes_no_other_status() -> None:
    for status in range(0x10000):
        if status != 0x0111:
            assert classify_status(status, in_doubt=True) is classify_status(status)


def test_delays_grow_by_the_factor_up_to_the_maximum() -> None:
    retry = RetrySettings(initial_delay_s=5, factor=2, max_delay_s=600, jitter=0)
    delays = [retry_after(attempt, retry, random.Random(0)) for attempt in range(1, 11)]
    assert delays == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]


def test_jitter_takes_off_at_most_its_share_and_spreads() -> None:
    retry = RetrySettings(initial_delay_s=100, factor=1, max_delay_s=100, jitter=0.2)
    rng = random.Random(7)
    delays = [retry_after(1, retry, rng) for _ in range(2000)]
    assert 80 <= min(delays) < 81
    assert 99 < max(delays) <= 100
    assert sum(delays) / len(delays) == pytest.approx(90, abs=1)


def test_an_attempt_count_without_bound_does_not_overflow() -> None:
    retry = RetrySettings(initial_delay_s=5, factor=10, max_delay_s=600, jitter=0)
    assert retry_after(100_000, retry, random.Random(0)) == 600


def test_attempts_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        retry_after(0, RetrySettings(), random.Random(0))


def test_a_delivery_is_given_up_at_its_greatest_age() -> None:
    retry = RetrySettings(max_age_h=72)
    assert not give_up(72 * 3600 - 0.1, retry)
    assert give_up(72 * 3600, retry)
