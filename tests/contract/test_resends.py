"""Whatever a modality sends again, and whenever: one series, one delivery of each content, a balance that closes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dicom_node.ledger.arrivals import EnhancementDecision, EnhancementRecord, StoredInstance
from dicom_node.ledger.database import ledger_url
from dicom_node.ledger.reception import ReceivedInstance, RecordOutcome
from dicom_node.states import ArrivalState, ItemState
from tests.contract.conftest import CR, EXPLICIT, Clock, Ledger, derived

IMPLICIT = "1.2.840.10008.1.2"
NUMBERS = st.integers(1, 3)
CONTENTS = st.sampled_from("ab")
SYNTAXES = st.sampled_from([EXPLICIT, IMPLICIT])


@dataclass(frozen=True)
class Sent:
    """One version of an image, in one transfer syntax."""

    number: int
    content: str
    syntax: str

    def received(self, association: int, key: str) -> ReceivedInstance:
        return ReceivedInstance(
            association_id=association,
            sop_class_uid=CR,
            sop_instance_uid=f"1.2.1.{self.number}",
            study_instance_uid="1.2",
            series_instance_uid="1.2.1",
            transfer_syntax_uid=self.syntax,
            key=key,
            size=1000,
            dataset_offset=300,
            # Another transfer syntax has other bytes.
            digest=(self.content + ("e" if self.syntax == EXPLICIT else "f")) * 32,
        )


class Resends(RuleBasedStateMachine):
    """A modality that sends images of one series in any order, and a node that goes on at any time.

    `Workflows` does the same with real objects; here the first letter of a digest is the content.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory()
        self.clock = Clock()
        self.ledger = Ledger(ledger_url("", Path(self._folder.name)), self.clock)
        self.known: set[Sent] = set()
        # While the node still has an object of it, it is told from a revision.
        self.delivered: Counter[tuple[str, str, str]] = Counter()
        self.association: int | None = None
        self.acknowledged = 0
        self.keys = 0
        self.purged = False

    def teardown(self) -> None:
        self.ledger.database.close()
        self._folder.cleanup()

    @initialize()
    def first(self) -> None:
        self.send(1, "a", EXPLICIT)

    # -- the modality ---------------------------------------------------------------------------

    @rule(number=NUMBERS, content=CONTENTS, syntax=SYNTAXES)
    def send(self, number: int, content: str, syntax: str) -> None:
        sent = Sent(number, content, syntax)
        if self.association is None:
            self.association, self.acknowledged = self.ledger.associate(), 0
        self.keys += 1
        recorded = self.ledger.reception.record_received(sent.received(self.association, f"key-{self.keys}"))
        assert (recorded.outcome is RecordOutcome.DUPLICATE) == (sent in self.known)
        self.acknowledged += recorded.outcome is not RecordOutcome.DUPLICATE
        self.known.add(sent)

    @rule(outcome=st.sampled_from(["released", "lost"]))
    def end_association(self, outcome: str) -> None:
        if self.association is not None:
            self.ledger.reception.close_association(self.association, outcome=outcome, acknowledged=self.acknowledged)
            self.association = None

    @rule()
    def send_everything_in_another_transfer_syntax(self) -> None:
        for sent in sorted(self.known, key=lambda one: (one.number, one.content, one.syntax)):
            self.send(sent.number, sent.content, IMPLICIT if sent.syntax == EXPLICIT else EXPLICIT)

    @rule()
    def time_out_and_send_everything_again(self) -> None:
        self.end_association("lost")
        for sent in sorted(self.known, key=lambda one: (one.syntax, -one.number, one.content)):
            self.send(sent.number, sent.content, sent.syntax)
        self.end_association("released")

    # -- the node -------------------------------------------------------------------------------

    @rule()
    def complete(self) -> None:
        for idle in self.ledger.arrivals.idle():
            assert self.ledger.arrivals.complete(idle.arrival_id, last_activity_at=idle.last_activity_at)

    @rule(images=st.integers(0, 3), newest=st.booleans())
    def enhance(self, images: int, newest: bool = False) -> None:
        arrivals = self.ledger.arrivals
        states = (ArrivalState.COMPLETE, ArrivalState.ENHANCING, ArrivalState.FOLLOWING)
        for arrival in arrivals.in_state(*states)[slice(-1, None) if newest else slice(1)]:
            for instance_id in arrivals.begin(arrival.arrival_id, arrival.attempts):
                stored = arrivals.instance(instance_id)
                if not self.recognise(stored) and images:
                    images -= 1
                    made = derived(instance_id)
                    assert arrivals.decide(instance_id, EnhancementRecord(decision=EnhancementDecision.ENHANCED), made)

    def recognise(self, stored: StoredInstance) -> bool:
        for earlier in self.ledger.arrivals.revisions_before(stored):
            if earlier.digest[0] == stored.digest[0] and earlier.transfer_syntax_uid != stored.transfer_syntax_uid:
                return self.ledger.arrivals.recognise(stored.instance_id, earlier.instance_id)
        return False

    @rule(follow=st.booleans())
    def conclude(self, follow: bool) -> None:
        arrivals = self.ledger.arrivals
        for arrival in arrivals.in_state(ArrivalState.ENHANCING):
            if follow:
                arrivals.release(
                    arrival.arrival_id, destinations=("pacs",), send_original=False, send_enhanced=True, reason="late"
                )
            else:
                arrivals.conclude(
                    arrival.arrival_id, destinations=("pacs",), send_original=False, send_enhanced=True, late="late"
                )

    @rule(steps=st.integers(2, 6), images=st.integers(0, 3), newest=st.booleans(), follow=st.booleans())
    def go_on(self, steps: int, images: int, newest: bool, follow: bool) -> None:
        self.end_association("released")
        way = (
            self.complete,
            lambda: self.enhance(images, newest),
            lambda: self.conclude(follow),
            self.end_following,
            self.deliver,
        )
        for step in way[:steps]:
            step()

    @rule()
    def end_following(self) -> None:
        for arrival in self.ledger.arrivals.in_state(ArrivalState.FOLLOWING):
            self.ledger.arrivals.end_following(arrival.arrival_id, destinations=("pacs",), given_up="too long")

    @rule()
    def deliver(self) -> None:
        deliveries = self.ledger.deliveries
        for due in deliveries.due():
            deliveries.begin(due.delivery_id, due.attempts)
            for obj in deliveries.take_objects(due.delivery_id):
                ((uid, digest, origin),) = self.ledger.rows(
                    "SELECT coalesce(source.sop_instance_uid, sent.sop_instance_uid), "
                    "coalesce(source.digest, sent.digest), sent.origin FROM instance AS sent "
                    f"LEFT JOIN instance AS source ON source.id = sent.source_id WHERE sent.id = {obj.instance_id}"
                )
                self.delivered[uid, digest[0], origin] += 1
                assert not self.ledger.arrivals.is_recognised(obj.instance_id)
                deliveries.record_item(due.delivery_id, obj.instance_id, ItemState.SENT, status=0, reason=None)
            deliveries.settle(due.delivery_id, failure=None, retry_in_s=None)

    @rule()
    def purge(self) -> None:
        self.clock.advance(10)
        self.purged |= bool(self.ledger.retention.purge_delivered(5))

    # -- what must hold -------------------------------------------------------------------------

    @invariant()
    def the_balance_closes(self) -> None:
        balance = self.ledger.balance.balance()
        assert balance.findings == []
        assert balance.total.received == len(self.known)

    @invariant()
    def nothing_is_delivered_twice(self) -> None:
        # What was purged can't be compared any more: in another transfer syntax it counts as a revision.
        if not self.purged:
            assert not self.delivered or max(self.delivered.values()) == 1, self.delivered

    @invariant()
    def there_is_one_derived_series(self) -> None:
        query = "SELECT count(DISTINCT series_instance_uid) FROM instance WHERE origin = 'derived'"
        ((number,),) = self.ledger.rows(query)
        assert number <= 1

    @rule()
    def everything_arrives_in_the_end(self) -> None:
        self.end_association("released")
        self.complete()
        while self.ledger.arrivals.in_state(ArrivalState.COMPLETE, ArrivalState.ENHANCING):
            self.enhance(3)
            self.conclude(follow=False)
        self.end_following()
        self.deliver()
        total = self.ledger.balance.balance().total
        assert (total.delivered, total.in_work) == (len(self.known), 0)
        wanted = {(f"1.2.1.{sent.number}", sent.content) for sent in self.known}
        assert {(uid, content) for uid, content, _ in self.delivered} == wanted


TestResends = Resends.TestCase
TestResends.settings = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
