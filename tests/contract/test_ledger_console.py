"""Users, sessions, failed attempts and the audit of the console, on both databases."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest

from config.settings import RoleName
from dicom_node.errors import OperationRefused
from dicom_node.ledger.console_audit import AuditLedger
from dicom_node.ledger.console_sessions import FORGET_S, SessionLedger, ThrottleLedger, wait_s
from dicom_node.ledger.console_users import ConsoleUser, UserLedger
from tests.contract.conftest import Ledger

ISSUER = "https://login.example"


def add(ledger: Ledger, name: str = "anna", role: RoleName = RoleName.ADMIN) -> ConsoleUser:
    return UserLedger(ledger.database).add(name, "hash", role, sees_patients=False, must_change=False)


def test_only_one_process_adds_the_first_user(ledger: Ledger) -> None:
    users = UserLedger(ledger.database)
    added: list[bool] = []
    start = threading.Barrier(4)

    def race() -> None:
        start.wait()
        added.append(users.add_first("admin", "hash"))

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added) == [False, False, False, True]
    assert [user.name for user in users.all()] == ["admin"]
    assert users.all()[0].must_change


def test_users_of_an_issuer_are_told_apart_by_its_word_and_never_take_a_name(ledger: Ledger) -> None:
    users = UserLedger(ledger.database)
    add(ledger, "anna (login.example)")
    facts = {"issuer": ISSUER, "name": "anna (login.example)", "sees_patients": False}
    first = users.take_in(subject="1", role=RoleName.VIEWER, **facts)
    assert first.name != "anna (login.example)"
    again = users.take_in(subject="1", role=RoleName.OPERATOR, **{**facts, "sees_patients": True})
    assert (again.user_id, again.role, again.sees_patients) == (first.user_id, RoleName.OPERATOR, True)
    other = users.take_in(subject="2", role=RoleName.VIEWER, **facts)
    assert other.user_id != first.user_id
    users.set_disabled(other.user_id, disabled=True)
    assert users.take_in(subject="2", role=RoleName.VIEWER, **facts).disabled
    assert users.password_hash(first.name) is None


def test_somebody_can_always_manage_users(ledger: Ledger) -> None:
    users = UserLedger(ledger.database)
    anna, bert = add(ledger), add(ledger, "bert")
    users.set_role(bert.user_id, RoleName.VIEWER, sees_patients=False)
    with pytest.raises(OperationRefused, match="last admin"):
        users.set_disabled(anna.user_id, disabled=True)
    with pytest.raises(OperationRefused, match="last admin"):
        users.set_role(anna.user_id, RoleName.OPERATOR, sees_patients=True)
    assert users.get("anna").role is RoleName.ADMIN
    assert not users.get("anna").disabled


def test_a_session_lives_as_long_as_it_is_used_and_no_longer_than_its_time(ledger: Ledger) -> None:
    sessions = SessionLedger(ledger.database, idle_s=600, longest_s=3600)
    token = sessions.open(add(ledger).user_id, "10.0.0.1")
    for _ in range(7):
        ledger.clock.advance(500)
        found = sessions.find(token)
        assert found is not None
        assert found.user.name == "anna"
    assert sessions.counts() == {found.user.user_id: 1}
    ledger.clock.advance(101)
    assert sessions.find(token) is None
    assert sessions.counts() == {}
    idle = sessions.open(found.user.user_id, "10.0.0.1")
    ledger.clock.advance(300)
    assert sessions.find(idle, touch=False) is not None
    ledger.clock.advance(301)
    assert sessions.find(idle) is None
    assert sessions.find("another token") is None


def test_ended_sessions_leave_the_ledger(ledger: Ledger) -> None:
    sessions = SessionLedger(ledger.database, idle_s=600, longest_s=3600)
    user = add(ledger)
    for _ in range(3):
        sessions.open(user.user_id, "10.0.0.1")
        ledger.clock.advance(601)
    assert len(ledger.rows("SELECT * FROM console_session")) == 1
    assert sessions.end_all(user.user_id) == 1


def test_waits_double_up_to_the_longest() -> None:
    waits = [wait_s(failures, 5, 900.0) for failures in range(5, 40)]
    assert wait_s(4, 5, 900.0) == 0
    assert waits[:4] == [1, 2, 4, 8]
    assert all(after >= before for before, after in pairwise(waits))
    assert waits[-1] == 900


def test_attempts_are_counted_before_they_are_made_and_forgotten_after_a_day(ledger: Ledger) -> None:
    throttle = ThrottleLedger(ledger.database, longest_s=900)
    free = {"user:anna": 2, "address:10.0.0.1": 50}
    assert [throttle.attempt(free) for _ in range(2)] == [0, 0]
    assert throttle.attempt(free) == 1
    # What was not tried does not count.
    assert throttle.attempt(free) == 1
    ledger.clock.advance(1)
    assert throttle.attempt(free) == 0
    assert throttle.attempt(free) == 2
    assert throttle.attempt({"user:bert": 2, "address:10.0.0.1": 50}) == 0
    throttle.succeed("user:bert", "address:10.0.0.1")
    rows = dict(ledger.rows("SELECT key, failures FROM console_throttle"))
    assert rows == {"user:anna": 3, "address:10.0.0.1": 3}
    ledger.clock.advance(FORGET_S + 1)
    assert [throttle.attempt(free) for _ in range(2)] == [0, 0]


def test_attempts_at_one_moment_don_t_share_a_count(ledger: Ledger) -> None:
    throttle = ThrottleLedger(ledger.database, longest_s=900)
    waits: list[float] = []
    start = threading.Barrier(6)

    def race() -> None:
        start.wait()
        waits.append(throttle.attempt({"user:anna": 3, "address:10.0.0.1": 100}))

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == [0, 0, 0, 1, 1, 1]


def test_the_audit_is_appended_to_and_read_in_pages(ledger: Ledger) -> None:
    audit = AuditLedger(ledger.database)
    for n in range(5):
        audit.record(user="anna", address="10.0.0.1", action="echo" if n % 2 else "hold", subject=f"pacs{n}")
        ledger.clock.advance(10)
    audit.record(user="bert", address="10.0.0.1", action="echo", subject="x\0y" * 200, reason="z" * 3000)
    assert [line.subject for line in audit.lines(user="anna")] == ["pacs4", "pacs3", "pacs2", "pacs1", "pacs0"]
    page = audit.lines(limit=2)
    assert [line.subject for line in audit.lines(before=page[-1].number, limit=2)] == ["pacs3", "pacs2"]
    assert [line.subject for line in audit.lines(action="hold")] == ["pacs4", "pacs2", "pacs0"]
    assert audit.actions() == ["echo", "hold"]
    assert audit.expire(25) == 3
    assert [line.subject for line in audit.lines(user="anna")] == ["pacs4", "pacs3"]
