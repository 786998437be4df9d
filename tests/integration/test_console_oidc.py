"""Sign-in by OpenID Connect, with an issuer that also says what is wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.settings import RoleName
from dicom_node.ledger.console_users import UserLedger
from tests.support.console import BASE, Client, Console, console_over, console_settings
from tests.support.oidc_issuer import CLIENT, SECRET, Issuer


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer(claims={"preferred_username": "anna", "groups": ["radiology", "pacs-admins"]}) as found:
        yield found


@pytest.fixture
def console(tmp_path: Path, issuer: Issuer) -> Iterator[Console]:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    oidc = {
        "issuer": issuer.url,
        "client_id": CLIENT,
        "secret_file": str(secret),
        "roles": {"radiology": "viewer", "pacs-admins": "operator"},
        "patient_groups": ["pacs-patients"],
    }
    with console_over(console_settings(tmp_path, console={"oidc": oidc})) as found:
        yield found


def to_issuer(client: Client, wanted: str = "/") -> str:
    """Press the button; return where the page sends the browser."""
    page = client.post("/login/oidc", {"next": wanted}, form="/login").text
    found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', page)
    assert found is not None, page
    return unescape(found[1])


def come_back(client: Client, address: str) -> Any:
    """Sign in at the issuer, and follow it back to the console."""
    there = httpx.get(address, follow_redirects=False).headers["location"]
    assert there.startswith(f"{BASE}/login/oidc/callback?")
    return client.get(there.removeprefix(BASE))


def sign_in(client: Client, wanted: str = "/") -> Any:
    return come_back(client, to_issuer(client, wanted))


def test_whom_the_issuer_vouches_for_gets_the_highest_role_of_its_groups(console: Console) -> None:
    client = console.client()
    page = sign_in(client, "/queue?show=dead")
    # A page and no redirect: with SameSite=Strict the cookie would not go along with one.
    assert page.status_code == 200
    assert 'url=/queue?show=dead"' in unescape(page.text)
    (user,) = UserLedger(console.state.database).all()
    assert (user.name, user.role, user.sees_patients) == ("anna (127.0.0.1)", RoleName.OPERATOR, False)
    assert client.get("/queue").status_code == 200
    assert "signs in" not in client.get("/queue").text
    assert console.app.state.access.audit.lines()[0].user == user.name


def test_rights_follow_the_groups_at_each_sign_in(console: Console, issuer: Issuer) -> None:
    sign_in(console.client())
    issuer.claims["groups"] = ["radiology", "pacs-patients"]
    sign_in(console.client())
    (user,) = UserLedger(console.state.database).all()
    assert (user.role, user.sees_patients) == (RoleName.VIEWER, True)


def test_groups_may_come_from_the_userinfo_endpoint(console: Console, issuer: Issuer) -> None:
    issuer.claims["groups"] = None
    issuer.userinfo = {"sub": "subject-1", "groups": "radiology"}
    assert sign_in(console.client()).status_code == 200
    issuer.userinfo = {"sub": "subject-2", "groups": "radiology"}
    assert sign_in(console.client()).status_code == 403


@pytest.mark.parametrize(
    ("claims", "forge"),
    [
        ({"groups": ["visitors"]}, ""),
        ({"groups": None}, ""),
        ({"aud": "another-client"}, ""),
        ({"aud": [CLIENT, "other"], "azp": "other"}, ""),
        ({"iss": "https://evil.example"}, ""),
        ({"nonce": "replayed"}, ""),
        ({"nonce": None}, ""),
        ({"exp": int(time.time()) - 3600}, ""),
        ({"exp": None}, ""),
        ({"sub": None}, ""),
        ({}, "key"),
        ({}, "symmetric"),
        ({}, "none"),
    ],
)
def test_what_the_issuer_may_not_say_lets_nobody_in(
    console: Console, issuer: Issuer, claims: dict[str, Any], forge: str
) -> None:
    issuer.claims.update(claims)
    issuer.forge = forge
    client = console.client()
    answer = sign_in(client)
    assert answer.status_code == 403
    assert 'role="alert"' in answer.text
    assert client.get("/").status_code == 303
    assert UserLedger(console.state.database).all() == []
    assert console.app.state.access.audit.lines()[0].result == "refused"


def test_the_answer_counts_in_the_browser_that_asked_alone(console: Console, issuer: Issuer) -> None:
    mine, theirs = console.client(), console.client()
    address = to_issuer(theirs)
    to_issuer(mine)
    answer = come_back(mine, address)
    assert (answer.status_code, "not to this sign-in" in answer.text) == (403, True)
    # The code of somebody else is not even tried.
    assert "token" not in issuer.called
    nobody = console.client()
    assert come_back(nobody, to_issuer(theirs)).status_code == 403


def test_an_answer_counts_once(console: Console) -> None:
    client = console.client()
    there = httpx.get(to_issuer(client), follow_redirects=False).headers["location"].removeprefix(BASE)
    assert client.get(there).status_code == 200
    assert client.get(there).status_code == 403


def test_somebody_locked_out_here_stays_out(console: Console) -> None:
    sign_in(console.client())
    users = UserLedger(console.state.database)
    console.add_user("boss", RoleName.ADMIN)
    (user,) = [one for one in users.all() if one.issuer]
    users.set_disabled(user.user_id, disabled=True)
    client = console.client()
    assert "locked out" in sign_in(client).text
    assert client.get("/").status_code == 303


def test_an_issuer_by_another_name_and_one_that_is_away_are_said_plainly(console: Console, issuer: Issuer) -> None:
    issuer.calls_itself = "https://other.example"
    answer = console.client().post("/login/oidc", form="/login")
    assert (answer.status_code, "calls itself otherwise" in answer.text) == (403, True)
    issuer.calls_itself = issuer.url
    client = console.client()
    token = client.token("/login")
    issuer.__exit__(None, None, None)
    try:
        answer = client.http.post("/login/oidc", data={"csrf": token})
        assert (answer.status_code, "does not answer" in answer.text) == (403, True)
    finally:
        issuer.__enter__()
