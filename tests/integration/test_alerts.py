"""Alerts reach a real webhook and a real mail server, whatever state those are in."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from config.observation import AlarmKind, AlertSettings
from dicom_node.cli import commands
from dicom_node.ledger.alarms import RESOLVED_AFTER_S, AlarmLedger
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.observation.alarms import Alarm
from dicom_node.observation.alert_watch import OUTAGE_S, AlertWatch
from dicom_node.observation.alerts import NotBrought, bring, trial_notice
from tests.support.certificates import Authority
from tests.support.peers import LOOPBACK, find_free_port, wait_until
from tests.support.sinks import HttpSink, MailSink

DOWN = Alarm(kind=AlarmKind.DESTINATION_DOWN, subject="pacs", sentence="pacs is down: no answer\r\nBcc: x@example.org")
TRIAL = trial_notice("test", 1_800_000_000.0)
PASSWORD = "s3cret-of-the-test"


def webhook(url: str, **changes: Any) -> AlertSettings:
    return AlertSettings(name="pager", kind="webhook", url=url, **{"timeout_s": 10, **changes})


def mail(port: int, **changes: Any) -> AlertSettings:
    settings = {
        "name": "mail",
        "kind": "email",
        "host": LOOPBACK,
        "port": port,
        "security": "none",
        "sender": "node@hospital.example",
        "recipients": ["pacs-admin@hospital.example", "night@hospital.example"],
        "timeout_s": 10,
        **changes,
    }
    return AlertSettings.model_validate(settings)


class Clock:
    """A clock of both kinds, moved by the tests."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """An `AlertWatch` on a ledger of its own, and what it finds."""

    def __init__(self, folder: Path, *alerts: AlertSettings) -> None:
        self.clock = Clock()
        self.database = Database(ledger_url("", folder), self.clock)
        self.database.create()
        self.ledger = AlarmLedger(self.database, "machine")
        self.found: list[Alarm] = []
        self.alerts = alerts
        self.restart()

    def restart(self) -> None:
        """Forget everything but the ledger."""
        self.watch = AlertWatch(
            self.ledger, lambda: self.found, self.alerts, node="test", now=self.clock, monotonic=self.clock
        )

    def run(self, *found: Alarm, after_s: float = 0.0) -> None:
        """Look once, and tell what is to be told."""
        self.clock.now += after_s
        self.found = list(found)
        self.watch.look()
        for alert in self.alerts:
            self.watch.tell(alert)


@pytest.fixture
def sink() -> Iterator[HttpSink]:
    with HttpSink() as found:
        yield found


# -- the way of an alarm ----------------------------------------------------------------------------


def test_an_alarm_and_its_end_come_to_a_webhook_as_json(tmp_path: Path, sink: HttpSink) -> None:
    node = Watched(tmp_path, webhook(sink.url))
    node.run(DOWN)
    node.run(DOWN, after_s=10)
    node.run(after_s=RESOLVED_AFTER_S)
    raised, resolved = sink.objects
    assert raised == {
        "event": "raised",
        "alarm": "destination_down",
        "subject": "pacs",
        "sentence": DOWN.sentence,
        "node": "test",
        "machine": raised["machine"],
        "since": "2027-01-15T08:00:00+00:00",
        "at": "2027-01-15T08:00:00+00:00",
        "key": raised["key"],
    }
    assert (resolved["event"], resolved["since"]) == ("resolved", raised["since"])
    assert resolved["key"] != raised["key"]
    assert sink.headers[0]["Idempotency-Key"] == raised["key"]


def test_a_webhook_that_is_down_gets_it_when_it_is_back_also_after_a_restart(tmp_path: Path) -> None:
    port = find_free_port()
    node = Watched(tmp_path, webhook(f"http://{LOOPBACK}:{port}/"))
    for _ in range(3):
        node.run(DOWN, after_s=30)
    assert "does not answer" in str(node.ledger.messages()[0].reason)
    node.restart()
    with HttpSink(port) as sink:
        node.run(DOWN, after_s=900)
        assert [one["event"] for one in sink.objects] == ["raised"]
        node.run(DOWN, after_s=900)
        assert len(sink.objects) == 1
    assert node.ledger.messages()[0].sent_at is not None


def test_what_a_webhook_answers_with_an_error_is_tried_again_under_the_same_key(tmp_path: Path, sink: HttpSink) -> None:
    node = Watched(tmp_path, webhook(sink.url))
    for status in (500, 404, 302, 200):
        sink.status = status
        node.run(DOWN, after_s=900)
    assert len({one["key"] for one in sink.objects}) == 1
    assert len(sink.objects) == 4
    assert node.ledger.messages()[0].sent_at is not None


def test_a_server_that_is_slow_holds_up_no_other(tmp_path: Path, sink: HttpSink) -> None:
    with HttpSink() as slow:
        slow.release.clear()
        node = Watched(tmp_path, webhook(slow.url, timeout_s=60).model_copy(update={"name": "slow"}), webhook(sink.url))
        node.found = [DOWN]
        node.watch.look()
        stuck = threading.Thread(target=node.watch.tell, args=(node.alerts[0],))
        stuck.start()
        node.watch.tell(node.alerts[1])
        assert len(sink.objects) == 1
        assert slow.objects == []
        slow.release.set()
        stuck.join(60)
        assert len(slow.objects) == 1


def test_a_server_that_never_answers_is_given_up_after_its_time(tmp_path: Path, sink: HttpSink) -> None:
    sink.release.clear()
    with pytest.raises(NotBrought, match="does not answer"):
        bring(webhook(sink.url, timeout_s=0.2), TRIAL)


def test_the_threads_look_and_tell_by_themselves(tmp_path: Path, sink: HttpSink, monkeypatch: Any) -> None:
    monkeypatch.setattr("dicom_node.observation.alert_watch.LOOK_S", 0.05)
    monkeypatch.setattr("dicom_node.observation.alert_watch.TELL_S", 0.05)
    node = Watched(tmp_path, webhook(sink.url))
    node.found = [DOWN]
    with node.watch.running():
        wait_until(lambda: bool(sink.objects))


def test_a_ledger_that_is_away_is_told_of_once_and_its_return(tmp_path: Path, sink: HttpSink) -> None:
    away = Alarm(kind=AlarmKind.LEDGER_UNAVAILABLE, subject="", sentence="The ledger can't be read")
    node = Watched(tmp_path, webhook(sink.url))
    node.run(away)
    assert sink.objects == []
    sink.status = 503
    node.run(away, after_s=OUTAGE_S)
    sink.status = 200
    for _ in range(3):
        node.run(away, after_s=10)
    node.run()
    assert [(one["alarm"], one["event"]) for one in sink.objects] == [
        ("ledger_unavailable", "raised"),
        ("ledger_unavailable", "raised"),
        ("ledger_unavailable", "resolved"),
    ]


# -- webhooks ---------------------------------------------------------------------------------------


def test_a_webhook_is_shown_the_token_and_over_tls_only_a_known_authority_is_trusted(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "Other CA")
    token = tmp_path / "token"
    token.write_text(f"{PASSWORD}\n")
    with HttpSink(certificate=authority.sign("hook")) as sink:
        bring(webhook(sink.url, ca_file=authority.file, token_file=token), TRIAL)
        assert sink.headers[0]["Authorization"] == f"Bearer {PASSWORD}"
        with pytest.raises(NotBrought) as caught:
            bring(webhook(sink.url, ca_file=stranger.file, token_file=token), TRIAL)
        assert PASSWORD not in str(caught.value)
        assert len(sink.objects) == 1
    with pytest.raises(NotBrought, match="can't be read"):
        bring(webhook("http://127.0.0.1:1/", token_file=tmp_path / "absent"), TRIAL)


# -- mail -------------------------------------------------------------------------------------------


def test_a_letter_comes_to_every_recipient_and_nothing_of_it_becomes_a_header(tmp_path: Path) -> None:
    with MailSink() as server:
        node = Watched(tmp_path, mail(server.port))
        node.run(DOWN)
        (letter,) = server.letters
        assert letter["Subject"] == "[test] ALARM: pacs is down: no answer Bcc: x@example.org"
        assert letter["Bcc"] is None
        assert letter["Auto-Submitted"] == "auto-generated"
        assert server.recipients == [["pacs-admin@hospital.example", "night@hospital.example"]]
        assert "Since:   2027-01-15T08:00:00+00:00" in letter.get_content()  # type: ignore[attr-defined]
        node.run(after_s=RESOLVED_AFTER_S)
        assert server.letters[1]["Subject"].startswith("[test] OVER: pacs is down")


def test_a_mail_server_is_logged_in_to_over_starttls_and_from_the_first_byte(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.sign("mail")
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    for security in ("starttls", "tls"):
        login = {"username": "node", "password_file": secret, "ca_file": authority.file, "security": security}
        with MailSink(
            certificate=pair, from_the_first_byte=security == "tls", user="node", password=PASSWORD
        ) as server:
            bring(mail(server.port, **login), TRIAL)
            assert server.letters[0]["Subject"].startswith("[test] TEST: ")
            secret.write_text("wrong")
            with pytest.raises(NotBrought, match="does not take the user name or password"):
                bring(mail(server.port, **login), TRIAL)
            secret.write_text(PASSWORD)


def test_what_a_mail_server_does_not_offer_or_refuses_is_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    with MailSink() as plain:
        with pytest.raises(NotBrought, match="does not offer"):
            bring(mail(plain.port, security="starttls", ca_file=authority.file), TRIAL)
        plain.refused = {"night@hospital.example"}
        with pytest.raises(NotBrought, match="refuses 1 of 2"):
            bring(mail(plain.port), TRIAL)
        plain.refused.add("pacs-admin@hospital.example")
        with pytest.raises(NotBrought, match="every recipient"):
            bring(mail(plain.port), TRIAL)
    with MailSink(certificate=authority.sign("mail")) as server:
        with pytest.raises(NotBrought, match="certificate"):
            bring(mail(server.port, security="starttls"), TRIAL)
        assert server.letters == []
    with pytest.raises(NotBrought, match="does not answer"):
        bring(mail(find_free_port()), TRIAL)


# -- commands ---------------------------------------------------------------------------------------


def test_the_commands_try_each_alert_and_show_what_was_told(tmp_path: Path, sink: HttpSink) -> None:
    file = tmp_path / "node.toml"
    dead = f"http://{LOOPBACK}:{find_free_port()}/"
    file.write_text(
        f'[[alerts]]\nname = "pager"\nkind = "webhook"\nurl = "{sink.url}"\n'
        f'[[alerts]]\nname = "dead"\nkind = "webhook"\nurl = "{dead}"\nalarms = ["disk"]\n'
    )
    runner = CliRunner()

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        ended = runner.invoke(commands, ["alert", *arguments, "-c", str(file), "--json"])
        return ended.exit_code, json.loads(ended.stdout)

    assert run("list")[1]["messages"] == []
    assert run("test", "pager") == (0, {"tried": [{"alert": "pager", "ok": True, "reason": None}]})
    assert sink.objects[0]["event"] == "test"
    code, found = run("test")
    assert (code, [entry["ok"] for entry in found["tried"]]) == (1, [True, False])
    database = Database(ledger_url("", tmp_path / "node-data"))
    AlarmLedger(database, "machine").note(
        [Alarm(kind=AlarmKind.DISK, subject="/", sentence="full")],
        [webhook(sink.url)],
    )
    database.close()
    code, found = run("list")
    assert code == 0
    assert [entry["alert"] for entry in found["alerts"]] == ["pager", "dead"]
    assert [(one["kind"], one["sentence"]) for one in found["alarms"]] == [("disk", "full")]
    assert [(one["alert"], one["event"], one["sent_at"]) for one in found["messages"]] == [("pager", "raised", None)]
    assert time.time() - found["alarms"][0]["since"] < 600
