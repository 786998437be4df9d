"""What every kind of destination owes to the courier; each implementation of `Destination` runs through all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicom_node.destinations.base import Destination, Outcome, StepState
from dicom_node.destinations.storage_scu import StorageScu
from dicom_node.destinations.stow_rs import StowRs
from tests.support.items import Outcomes, destination, items_of, write_series
from tests.support.peers import MockScp, closed_port
from tests.support.web_peers import MockStow, web_destination

MakeDestination = Callable[[int], Destination]


@dataclass(frozen=True)
class Kind:
    """A kind of destination and a peer for it that can misbehave."""

    make: MakeDestination
    peer: Callable[..., MockScp | MockStow]


def storage_scu(port: int) -> Destination:
    return StorageScu(destination(port), node_ae_title="LOWDOSE")


def stow_rs(port: int) -> Destination:
    # One object in each request, so that they are answered in turn; requests of several have tests of their own.
    return StowRs(web_destination(port, max_objects=1), node_ae_title="LOWDOSE")


KINDS = (Kind(storage_scu, MockScp), Kind(stow_rs, MockStow))


@pytest.fixture(params=KINDS, ids=lambda kind: kind.make.__name__)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def make(kind: Kind) -> MakeDestination:
    return kind.make


def test_it_has_the_name_of_the_settings(make: MakeDestination) -> None:
    assert make(104).name == "pacs"


def test_every_object_gets_exactly_one_outcome(kind: Kind, tmp_path: Path) -> None:
    outcomes = Outcomes()
    with kind.peer(statuses={1: 0xC000, 2: 0xA700}, abort_at=frozenset({4})) as peer:
        kind.make(peer.port).deliver(items_of(write_series(tmp_path, 7)), on_outcome=outcomes.append)
    assert sorted(outcomes.states()) == list(range(7))
    assert set(outcomes.states().values()) == {Outcome.SENT, Outcome.REFUSED, Outcome.RETRY}


def test_sent_means_that_the_peer_has_it_and_nothing_else_does(kind: Kind, tmp_path: Path) -> None:
    items = items_of(write_series(tmp_path, 6))
    outcomes = Outcomes()
    with kind.peer(statuses={0: 0xB000, 2: 0xC000}, cut_at=frozenset({3})) as peer:
        kind.make(peer.port).deliver(items, on_outcome=outcomes.append)
    sent = {item.sop_instance_uid for item in items if outcomes.states()[item.instance_id] is Outcome.SENT}
    assert sent == {entry.sop_instance_uid for entry in peer.objects}


def test_whatever_is_not_sent_has_a_reason(kind: Kind, tmp_path: Path) -> None:
    items = items_of(write_series(tmp_path, 3))
    outcomes = Outcomes()
    with kind.peer(statuses={0: 0xC000}, abort_at=frozenset({1})) as peer:
        kind.make(peer.port).deliver(items, on_outcome=outcomes.append)
    with closed_port() as port:
        kind.make(port).deliver(items[2:], on_outcome=outcomes.append)
    assert all(outcome.reason for outcome in outcomes if outcome.outcome is not Outcome.SENT)


def test_an_unreachable_peer_is_no_exception_and_no_refusal(make: MakeDestination, tmp_path: Path) -> None:
    outcomes = Outcomes()
    with closed_port() as port:
        make(port).deliver(items_of(write_series(tmp_path, 2)), on_outcome=outcomes.append)
    assert outcomes.states() == {0: Outcome.RETRY, 1: Outcome.RETRY}
    assert not any(outcome.in_doubt for outcome in outcomes)


def test_what_the_receiver_of_outcomes_raises_ends_the_attempt(kind: Kind, tmp_path: Path) -> None:
    class NotNoted(Exception):
        pass

    def refuse_to_note(outcome: object) -> None:
        raise NotNoted

    with kind.peer() as peer:
        with pytest.raises(NotNoted):
            kind.make(peer.port).deliver(items_of(write_series(tmp_path, 3)), on_outcome=refuse_to_note)
        assert peer.stores == 1


def test_nothing_to_deliver_is_no_reason_to_call(kind: Kind) -> None:
    with kind.peer() as peer:
        kind.make(peer.port).deliver([], on_outcome=Outcomes().append)
        assert peer.associations == 0


def test_a_probe_stores_nothing_and_tells_every_step(kind: Kind) -> None:
    with kind.peer() as peer:
        steps = kind.make(peer.port).probe()
        assert peer.stores == 0
    assert steps
    assert all(step.state is StepState.OK and step.sentence for step in steps)


def test_a_probe_of_nobody_fails_without_an_exception(make: MakeDestination) -> None:
    with closed_port() as port:
        steps = make(port).probe()
    assert StepState.FAILED in {step.state for step in steps}
