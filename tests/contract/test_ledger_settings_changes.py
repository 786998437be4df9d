"""The history of a node's settings, and which process works with which."""

from __future__ import annotations

from dicom_node.ledger.processes import ProcessLedger
from dicom_node.ledger.settings_changes import ChangeOutcome, SettingsChangeLedger
from tests.contract.conftest import Ledger

APPLIED, REFUSED, REQUESTED = ChangeOutcome.APPLIED, ChangeOutcome.REFUSED, ChangeOutcome.REQUESTED


def test_of_all_processes_of_a_node_the_first_one_writes_what_became_of_a_request(ledger: Ledger) -> None:
    history = SettingsChangeLedger(ledger.database, "a")
    number = history.request("anna (uid 1000) on ward", "f1")
    assert history.get(number).outcome is REQUESTED
    change = {"path": "logging.level", "old": "info", "new": "debug"}
    for _process in range(3):
        history.note(APPLIED, "f1", [change])
    (line,) = history.history(10)
    assert (line.number, line.who, line.outcome) == (number, "anna (uid 1000) on ward", APPLIED)
    assert (line.digest, line.changes, line.at) == ("f1", [change], ledger.clock.now)


def test_a_signal_that_nobody_announced_is_one_line_too(ledger: Ledger) -> None:
    history = SettingsChangeLedger(ledger.database, "a")
    for digest in ("f1", "f1", "f2", "f2", "f1"):
        history.note(APPLIED, digest, [])
    assert [line.digest for line in history.history(10)] == ["f1", "f2", "f1"]
    assert {line.who for line in history.history(10)} == {"SIGHUP"}
    history.note(REFUSED, "f1", [{"path": "node.port", "value": "0", "allowed": "1 to 65535"}])
    assert history.history(1)[0].outcome is REFUSED


def test_a_node_has_a_history_of_its_own(ledger: Ledger) -> None:
    SettingsChangeLedger(ledger.database, "a").request("anna", "f1")
    other = SettingsChangeLedger(ledger.database, "b")
    other.note(APPLIED, "f2", [])
    assert [line.digest for line in other.history(10)] == ["f2"]
    assert [line.outcome for line in SettingsChangeLedger(ledger.database, "a").history(10)] == [REQUESTED]


def test_the_heartbeat_says_which_settings_a_process_works_with(ledger: Ledger) -> None:
    processes = {
        name: ProcessLedger(ledger.database, name=name, role="worker", machine=machine)
        for name, machine in (("a:worker-0", "here"), ("a:receiver", "here"), ("ab:worker-0", "here"), ("a:w", "there"))
    }
    for process in processes.values():
        process.settings_digest = "f1"
        process.join(pause=lambda _: None)
    history = SettingsChangeLedger(ledger.database, "a")
    assert [p.name for p in history.processes("here", 60.0)] == ["a:receiver", "a:worker-0"]
    processes["a:receiver"].settings_digest = "f2"
    processes["a:receiver"].beat()
    assert [p.settings_digest for p in history.processes("here", 60.0)] == ["f2", "f1"]
    ledger.clock.advance(61)
    processes["a:receiver"].beat()
    assert [p.name for p in history.processes("here", 60.0)] == ["a:receiver"]
