"""The `user` commands, and that what they do is in the console's audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from config.settings import RoleName
from dicom_node.cli import commands
from dicom_node.console.passwords import is_right
from dicom_node.errors import OperationRefused
from dicom_node.ledger.console_audit import AuditLedger
from dicom_node.ledger.console_sessions import SessionLedger, ThrottleLedger
from dicom_node.ledger.console_users import UserLedger
from dicom_node.ledger.database import Database, ledger_url


class Node:
    """A settings file, and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "node.toml"
        self.file.write_text('[node]\ndata_dir = "data"\n')
        self.database = Database(ledger_url("", folder / "data"))

    def run(self, *arguments: str, stdin: str = "") -> dict[str, Any]:
        """Run a command with --json; raises what it refuses."""
        done = CliRunner().invoke(commands, ["user", *arguments, "-c", str(self.file), "--json"], input=stdin)
        if isinstance(done.exception, OperationRefused):
            raise done.exception
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout))

    def is_right(self, name: str, password: str) -> bool:
        """Tell whether this is the user's password."""
        return is_right(UserLedger(self.database).password_hash(name), password)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_users_are_added_listed_and_changed(node: Node) -> None:
    assert node.run("list") == {"users": []}
    made = node.run("add", "anna", "--role", "admin", "--patients")
    assert node.is_right("anna", made["password"])
    asked = node.run("add", "bert", "--ask", stdin="a quiet evening\n")
    assert asked["password"] is None
    assert node.is_right("bert", "a quiet evening")
    listed = {one["user"]: one for one in node.run("list")["users"]}
    assert (listed["anna"]["role"], listed["anna"]["sees_patients"], listed["anna"]["must_change"]) == (
        "admin",
        True,
        True,
    )
    assert (listed["bert"]["role"], listed["bert"]["sees_patients"], listed["bert"]["must_change"]) == (
        "viewer",
        False,
        False,
    )
    node.run("role", "bert", "operator", "--patients")
    bert = UserLedger(node.database).get("bert")
    assert (bert.role, bert.sees_patients) == (RoleName.OPERATOR, True)
    node.run("disable", "bert")
    assert UserLedger(node.database).get("bert").disabled
    node.run("enable", "bert")
    assert not UserLedger(node.database).get("bert").disabled


def test_another_password_ends_sessions_and_waits(node: Node) -> None:
    node.run("add", "anna", "--role", "admin")
    user = UserLedger(node.database).get("anna")
    sessions = SessionLedger(node.database, idle_s=600, longest_s=600)
    token = sessions.open(user.user_id, "10.0.0.1")
    throttle = ThrottleLedger(node.database, longest_s=900)
    for _ in range(2):
        throttle.attempt({"user:anna": 1})
    assert throttle.attempt({"user:anna": 1}) > 0
    made = node.run("password", "anna")
    assert node.is_right("anna", made["password"])
    assert sessions.find(token) is None
    assert throttle.attempt({"user:anna": 1}) == 0


@pytest.mark.parametrize(
    ("arguments", "stdin", "why"),
    [
        (("add", "anna"), "", "already"),
        (("add", "a b"), "", "letters"),
        (("add", "bert", "--ask"), "short\n", "at least 12"),
        (("password", "nobody"), "", "no user 'nobody'"),
        (("disable", "anna"), "", "last admin"),
        (("role", "anna", "viewer"), "", "last admin"),
    ],
)
def test_what_can_t_be_done_is_refused_in_words_and_audited(
    node: Node, arguments: tuple[str, ...], stdin: str, why: str
) -> None:
    node.run("add", "anna", "--role", "admin")
    with pytest.raises(OperationRefused, match=why):
        node.run(*arguments, stdin=stdin)
    last, first = AuditLedger(node.database).lines()
    assert (first.action, first.result) == ("add user", "done")
    assert last.result == "refused"
    assert "(command)" in last.user
    assert "short" not in str(last)
