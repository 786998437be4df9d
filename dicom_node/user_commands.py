"""The `user` commands: who may use the console."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from config.loading import load_settings
from config.settings import RoleName
from dicom_node.command_options import AsJson, ConfigFile
from dicom_node.console.passwords import hash_password, make_password, require_strong
from dicom_node.errors import OperationRefused
from dicom_node.ledger.console_audit import AuditLedger, AuditResult
from dicom_node.ledger.console_sessions import ThrottleLedger
from dicom_node.ledger.console_users import ConsoleUser, UserLedger, require_user_name
from dicom_node.state import EXIT_OK, State, open_state

user = typer.Typer(help="Who may use the console.", no_args_is_help=True)

UserName = Annotated[str, typer.Argument(help="Name of the user.", metavar="NAME")]
Patients = Annotated[
    bool, typer.Option("--patients/--no-patients", help="Whether the user may see patient data; no role has that.")
]
Ask = Annotated[bool, typer.Option("--ask", help="Ask for the password, instead of making one.")]


@contextmanager
def _audited(config: Path, action: str, subject: str) -> Iterator[State]:
    """Open the ledger; what is done or refused is in the console's audit."""
    with open_state(load_settings(config)) as state:
        audit = AuditLedger(state.database)
        who = f"{getpass.getuser()} (command)"
        try:
            yield state
        except OperationRefused as error:
            audit.record(
                user=who, address="-", action=action, subject=subject, result=AuditResult.REFUSED, reason=str(error)
            )
            raise
        audit.record(user=who, address="-", action=action, subject=subject)


def _forget_failures(state: State, name: str) -> None:
    ThrottleLedger(state.database, longest_s=0.0).forget(f"user:{name.casefold()}")


def _password(name: str, *, ask: bool) -> str:
    if not ask:
        return make_password()
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise OperationRefused("the password was typed in two ways; nothing was changed")
    require_strong(password, name)
    return password


def _say(name: str, password: str, *, made: bool, as_json: bool, done: str) -> int:
    if as_json:
        print(json.dumps({"user": name, "password": password if made else None}, indent=2))
        return EXIT_OK
    print(f"User {name} {done}." + (f" Password, shown this once: {password}" if made else ""))
    return EXIT_OK


@user.command("list")
def user_list(config: ConfigFile, as_json: AsJson = False) -> int:
    """Show the users of the console."""
    with open_state(load_settings(config)) as state:
        found = UserLedger(state.database).all()
    if as_json:
        print(json.dumps({"users": [_as_json(one) for one in found]}, indent=2))
        return EXIT_OK
    table = Table(box=None, header_style="bold")
    for column in ("user", "role", "patient data", "state", "signed in last", "signs in with"):
        table.add_column(column, overflow="fold")
    for one in found:
        state_of = "locked out" if one.disabled else "has to change the password" if one.must_change else "ok"
        patients = "yes" if one.sees_patients else "no"
        last = datetime.fromtimestamp(one.last_login_at).astimezone() if one.last_login_at else None
        said = last.strftime("%Y-%m-%d %H:%M:%S") if last else "never"
        table.add_row(one.name, one.role.value, patients, state_of, said, one.issuer or "password")
    Console().print(table if found else "There is no user yet: the first start of the console adds one.")
    return EXIT_OK


def _as_json(one: ConsoleUser) -> dict[str, object]:
    return {
        "user": one.name,
        "role": one.role.value,
        "sees_patients": one.sees_patients,
        "disabled": one.disabled,
        "must_change": one.must_change,
        "issuer": one.issuer or None,
        "last_login_at": one.last_login_at,
    }


@user.command("add")
def user_add(
    config: ConfigFile,
    name: UserName,
    role: Annotated[RoleName, typer.Option(help="What the user may do.")] = RoleName.VIEWER,
    patients: Patients = False,
    ask: Ask = False,
    as_json: AsJson = False,
) -> int:
    """Add a user; the password is made and shown once, and has to be changed at the first sign-in."""
    with _audited(config, "add user", f"{name} ({role.value}{', patients' if patients else ''})") as state:
        users = UserLedger(state.database)
        require_user_name(name)
        password = _password(name, ask=ask)
        users.add(name, hash_password(password), role, sees_patients=patients, must_change=not ask)
    return _say(name, password, made=not ask, as_json=as_json, done="is added")


@user.command("password")
def user_password(config: ConfigFile, name: UserName, ask: Ask = False, as_json: AsJson = False) -> int:
    """Give a user another password, and end every session of the user."""
    with _audited(config, "reset password", name) as state:
        users = UserLedger(state.database)
        found = users.get(name)
        if found.issuer:
            raise OperationRefused(f"{name} signs in at {found.issuer}, and has no password here")
        password = _password(name, ask=ask)
        users.set_password(found.user_id, hash_password(password), must_change=not ask)
        _forget_failures(state, name)
    return _say(name, password, made=not ask, as_json=as_json, done="has another password")


@user.command("role")
def user_role(
    config: ConfigFile,
    name: UserName,
    role: Annotated[RoleName, typer.Argument(help="viewer, operator or admin.", metavar="ROLE")],
    patients: Patients = False,
    as_json: AsJson = False,
) -> int:
    """Give a user other rights; the user signs in again."""
    with _audited(config, "change rights", f"{name} ({role.value}{', patients' if patients else ''})") as state:
        users = UserLedger(state.database)
        found = users.get(name)
        if found.issuer:
            raise OperationRefused(f"the rights of {name} come from {found.issuer}, at each sign-in; change them there")
        users.set_role(found.user_id, role, sees_patients=patients)
    return _say(name, "", made=False, as_json=as_json, done=f"is {role.value} now")


@user.command("disable")
def user_disable(config: ConfigFile, name: UserName, as_json: AsJson = False) -> int:
    """Lock a user out, everywhere and at once."""
    with _audited(config, "lock user", name) as state:
        users = UserLedger(state.database)
        users.set_disabled(users.get(name).user_id, disabled=True)
    return _say(name, "", made=False, as_json=as_json, done="is locked out")


@user.command("enable")
def user_enable(config: ConfigFile, name: UserName, as_json: AsJson = False) -> int:
    """Let a user in again, also one who waits after too many wrong passwords."""
    with _audited(config, "unlock user", name) as state:
        users = UserLedger(state.database)
        users.set_disabled(users.get(name).user_id, disabled=False)
        _forget_failures(state, name)
    return _say(name, "", made=False, as_json=as_json, done="may sign in")
