"""Who gets into the console, with what, and for how long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from fastapi.routing import APIRoute
from sqlalchemy import update

from config.loading import InvalidSettings
from config.settings import RoleName
from dicom_node.console.access import Public, Require
from dicom_node.console.guard import CONTENT_SECURITY_POLICY, LARGEST_BODY
from dicom_node.console.passwords import hash_password
from dicom_node.console.server import add_first_admin
from dicom_node.errors import LedgerUnavailable
from dicom_node.ledger.console_audit import AuditLine
from dicom_node.ledger.console_users import UserLedger
from dicom_node.ledger.overview import OverviewLedger
from dicom_node.ledger.schema import console_session, console_throttle
from tests.support.console import PASSWORD, Client, Console, console_over, console_settings

DESTINATION = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 1}
UNSAFE = (
    "/queue/ask",
    "/queue/do",
    "/destinations/pacs/echo",
    "/destinations/pacs/hold",
    "/destinations/pacs/release",
    "/destinations/pacs/try",
    "/studies/1/hold",
    "/studies/1/release",
)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with console_over(console_settings(tmp_path, destinations=[DESTINATION])) as found:
        yield found


def audit(console: Console) -> list[AuditLine]:
    return console.app.state.access.audit.lines()


def permission_of(route: APIRoute) -> set[object]:
    calls = [dependency.call for dependency in route.dependant.dependencies]
    return {call.permission for call in calls if isinstance(call, Require | Public)}


# -- every route ----------------------------------------------------------------------------------


def routes(console: Console) -> list[APIRoute]:
    found: list[APIRoute] = []

    def walk(several: list[object]) -> None:
        for one in several:
            if isinstance(one, APIRoute):
                found.append(one)
            elif getattr(one, "name", "") != "static":
                inner = getattr(one, "routes", None) or getattr(getattr(one, "original_router", None), "routes", None)
                assert inner is not None, f"{one} is neither a route with a permission nor the static files"
                walk(list(inner))

    walk(list(console.app.routes))
    return found


def test_every_route_names_one_permission_or_says_that_it_is_public(console: Console) -> None:
    found = routes(console)
    assert len(found) > 20
    without = [route.path for route in found if len(permission_of(route)) != 1]
    assert without == []


def test_what_is_public_is_the_sign_in_alone(console: Console) -> None:
    public = {route.path for route in routes(console) if permission_of(route) == {None}}
    assert public == {"/login", "/login/oidc", "/login/oidc/callback"}


def test_whoever_is_not_signed_in_sees_no_page(console: Console) -> None:
    client = console.client()
    for route in routes(console):
        if permission_of(route) == {None}:
            continue
        path = re.sub(r"{[^}]+}", "1", route.path)
        answer = client.http.request(next(iter(route.methods)), path)
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/login"), path
        assert not answer.text


# -- signing in -----------------------------------------------------------------------------------


def test_the_first_admin_is_printed_once_and_changes_the_password(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    add_first_admin(console.state)
    printed = capsys.readouterr().err
    password = re.search(r"password (\S+)", printed)
    assert password is not None
    add_first_admin(console.state)
    assert capsys.readouterr().err == ""
    client = console.client()
    assert client.sign_in("admin", password[1]).headers["location"] == "/account"
    assert client.get("/").headers["location"] == "/account"
    new = {"old": password[1], "new": PASSWORD, "again": PASSWORD}
    assert client.post("/account/password", new).headers["location"] == "/account?changed=true"
    assert client.get("/").status_code == 200
    assert password[1] not in str(
        console.state.database.engine.raw_connection().execute("SELECT * FROM console_user").fetchall()
    )


@pytest.mark.parametrize(
    ("new", "why"),
    [("short", "at least 12"), ("viewer viewer viewer", "name of the user"), ("abababababab", "repeats")],
)
def test_passwords_that_are_guessed_soon_are_refused(console: Console, new: str, why: str) -> None:
    client = console.signed_in(RoleName.VIEWER)
    answer = client.post("/account/password", {"old": PASSWORD, "new": new, "again": new})
    assert answer.status_code == 409
    assert why in answer.text


def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(console: Console) -> None:
    console.add_user("anna", RoleName.VIEWER)
    texts = []
    for name, password in (("anna", "wrong"), ("nobody", "wrong")):
        answer = console.client().sign_in(name, password)
        assert answer.status_code == 403
        texts.append(re.sub(r'value="[^"]*"|page of [0-9 :-]+', "", answer.text))
    assert texts[0] == texts[1]
    # The name of somebody who is no user may be a password, typed in the wrong field.
    assert {line.user for line in audit(console)} == {"anna", "(unknown)"}


def failures(console: Console) -> dict[str, int]:
    with console.state.database.read() as connection:
        return {row.key: row.failures for row in connection.execute(console_throttle.select())}


def fail_often(console: Console, key: str) -> None:
    """Let there be so many failures that a slow machine does not wait them out."""
    with console.state.database.write() as connection:
        done = connection.execute(update(console_throttle).where(console_throttle.c.key == key).values(failures=30))
        assert done.rowcount == 1


def test_guessing_is_counted_for_the_user_from_any_address_and_then_not_even_the_right_password_is_tried(
    console: Console,
) -> None:
    console.add_user("anna", RoleName.VIEWER)
    for n in range(3):
        assert console.client(address=f"10.0.0.{n}").sign_in("Anna" if n else "anna", "wrong").status_code == 403
    assert failures(console)["user:anna"] == 3
    fail_often(console, "user:anna")
    answer = console.client(address="10.0.0.99").sign_in("anna")
    assert (answer.status_code, "wait" in answer.text) == (403, True)
    assert failures(console)["user:anna"] == 30


def test_guessing_is_counted_for_the_address_over_all_names(console: Console) -> None:
    console.add_user("anna", RoleName.VIEWER)
    for n in range(3):
        assert console.client(address="10.0.0.9").sign_in(f"name{n}", "wrong").status_code == 403
    assert failures(console)["address:10.0.0.9"] == 3
    fail_often(console, "address:10.0.0.9")
    assert "wait" in console.client(address="10.0.0.9").sign_in("anna").text
    assert console.client(address="10.0.0.10").sign_in("anna").status_code == 303


def test_an_admin_ends_the_wait_of_a_user(console: Console) -> None:
    console.add_user("anna", RoleName.VIEWER)
    console.client().sign_in("anna", "wrong")
    fail_often(console, "user:anna")
    console.signed_in().post("/users/anna/lock", {"disabled": "false"})
    assert console.client().sign_in("anna").status_code == 303


def test_a_sign_in_that_succeeds_makes_the_failures_before_it_harmless(console: Console) -> None:
    console.add_user("anna", RoleName.VIEWER)
    for _ in range(3):
        for _ in range(4):
            assert console.client().sign_in("anna", "wrong").status_code == 403
        assert console.client().sign_in("anna").status_code == 303


def test_the_form_of_the_sign_in_belongs_to_one_browser(console: Console) -> None:
    console.add_user("anna", RoleName.VIEWER)
    theirs = console.client().token("/login")
    victim = console.client()
    victim.get("/login")
    answer = victim.http.post("/login", data={"csrf": theirs, "name": "anna", "password": PASSWORD})
    assert answer.status_code == 403
    assert not victim.http.cookies.get("lowdose-8411")


@pytest.mark.parametrize(
    "wanted", ["//evil.example/x", "https://evil.example", "/\\evil.example", "javascript:1", "/login"]
)
def test_signing_in_leads_to_no_other_site(console: Console, wanted: str) -> None:
    console.add_user("anna", RoleName.VIEWER)
    assert console.client().sign_in("anna", next=wanted).headers["location"] == "/"


def test_signing_in_leads_to_the_page_that_was_wanted(console: Console) -> None:
    client = console.client()
    there = client.get("/queue?show=dead").headers["location"]
    assert there == "/login?next=/queue%3Fshow%3Ddead"
    console.add_user("anna", RoleName.VIEWER)
    assert client.sign_in("anna", next="/queue?show=dead").headers["location"] == "/queue?show=dead"


# -- sessions -------------------------------------------------------------------------------------


def cookie_of(answer: object, name: str) -> str:
    return next(value for value in answer.headers.get_list("set-cookie") if value.startswith(f"{name}="))  # type: ignore[attr-defined]


def test_the_cookie_is_closed_to_scripts_and_other_sites_and_goes_over_tls(console: Console) -> None:
    console.add_user("anna", RoleName.VIEWER)
    plain = cookie_of(console.client().sign_in("anna"), "lowdose-8411")
    assert "HttpOnly" in plain
    assert "SameSite=strict" in plain
    assert "Secure" not in plain
    tls = cookie_of(console.client(base_url="https://localhost:8411").sign_in("anna"), "__Host-lowdose-8411")
    assert "Secure" in tls
    assert "Path=/" in tls
    assert "Domain" not in tls


def test_a_session_ends_without_use_and_refreshing_pages_are_no_use(console: Console) -> None:
    client = console.signed_in(RoleName.VIEWER)
    now = console.state.database.now()

    def seen(seconds_ago: float) -> None:
        with console.state.database.write() as connection:
            connection.execute(update(console_session).values(seen_at=now - seconds_ago))

    seen(29 * 60)
    assert client.get("/", headers={"x-poll": "1", "hx-request": "true"}).status_code == 200
    with console.state.database.read() as connection:
        assert connection.execute(console_session.select()).one().seen_at == now - 29 * 60
    assert client.get("/").status_code == 200
    with console.state.database.read() as connection:
        assert connection.execute(console_session.select()).one().seen_at > now - 60
    seen(31 * 60)
    answer = client.get("/", headers={"hx-request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login")
    assert client.get("/").status_code == 303


def test_a_session_ends_after_its_longest_time(console: Console) -> None:
    client = console.signed_in(RoleName.VIEWER)
    with console.state.database.write() as connection:
        connection.execute(update(console_session).values(expires_at=console.state.database.now() - 1))
    assert client.get("/").status_code == 303


def test_a_session_ends_with_its_browsers_sign_out_and_everywhere(console: Console) -> None:
    first, second = console.signed_in(RoleName.VIEWER), console.signed_in(RoleName.VIEWER)
    token = first.http.cookies["lowdose-8411"]
    assert first.post("/logout").status_code == 303
    thief = console.client()
    thief.http.cookies.set("lowdose-8411", token)
    assert thief.get("/").status_code == 303
    assert second.get("/").status_code == 200
    third = console.signed_in(RoleName.VIEWER)
    assert third.post("/logout/everywhere").status_code == 303
    assert second.get("/").status_code == 303


def test_the_ledger_has_no_token(console: Console) -> None:
    client = console.signed_in(RoleName.VIEWER)
    with console.state.database.read() as connection:
        kept = str(connection.execute(console_session.select()).all())
    assert client.http.cookies["lowdose-8411"] not in kept


@pytest.mark.parametrize("what", ["disable", "role", "password"])
def test_what_takes_rights_away_ends_the_sessions_at_once(console: Console, what: str) -> None:
    client, admin = console.signed_in(RoleName.OPERATOR), console.signed_in(RoleName.ADMIN)
    assert client.get("/queue").status_code == 200
    path, data = {
        "disable": ("/users/operator/lock", {"disabled": "true"}),
        "role": ("/users/operator/rights", {"role": "viewer"}),
        "password": ("/users/operator/password", {}),
    }[what]
    assert admin.post(path, data).status_code in (200, 303)
    assert client.get("/queue").status_code == 303
    if what != "role":
        assert console.client().sign_in("operator").status_code == 403


def test_signing_in_again_replaces_the_session_of_the_browser(console: Console) -> None:
    client = console.signed_in(RoleName.VIEWER)
    before = client.http.cookies["lowdose-8411"]
    client.http.cookies.delete("lowdose-8411")
    token = client.token("/login")
    client.http.cookies.set("lowdose-8411", before)
    form = {"csrf": token, "name": "viewer", "password": PASSWORD}
    assert client.http.post("/login", data=form).status_code == 303
    thief = console.client()
    thief.http.cookies.set("lowdose-8411", before)
    assert thief.get("/").status_code == 303


# -- forged requests ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*UNSAFE, "/logout", "/users/add", "/account/password", "/studies/find"])
def test_a_form_without_the_token_of_its_session_does_nothing(console: Console, path: str) -> None:
    client, other = console.signed_in(), console.signed_in()
    for data, headers in (({}, {}), ({"csrf": other.token()}, {}), ({}, {"x-csrf-token": "00"})):
        assert client.http.post(path, data=data, headers=headers).status_code == 403, (path, data)
    assert client.get("/account").status_code == 200
    assert {line.action for line in audit(console)} == {"sign in"}


def test_a_form_from_another_site_does_nothing_even_with_the_token(console: Console) -> None:
    client = console.signed_in()
    for site in ("cross-site", "same-site"):
        assert client.post("/destinations/pacs/hold", headers={"sec-fetch-site": site}).status_code == 403
    assert client.post("/destinations/pacs/hold", headers={"sec-fetch-site": "same-origin"}).status_code == 303


def test_scripts_send_the_token_in_a_header(console: Console) -> None:
    client = console.signed_in()
    answer = client.http.post("/destinations/pacs/hold", headers={"x-csrf-token": client.token()})
    assert answer.status_code == 303


# -- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", UNSAFE)
def test_a_viewer_changes_nothing_and_the_audit_has_the_attempt(console: Console, path: str) -> None:
    client = console.signed_in(RoleName.VIEWER)
    answer = client.post(path)
    assert answer.status_code == 403
    assert "operate" in answer.text
    (line, *_) = audit(console)
    assert (line.user, line.subject, line.result) == ("viewer", path, "refused")
    assert console.state.standings.holds() == []


@pytest.mark.parametrize("role", [RoleName.VIEWER, RoleName.OPERATOR])
@pytest.mark.parametrize("path", ["/users", "/audit"])
def test_users_and_audit_are_for_admins(console: Console, role: RoleName, path: str) -> None:
    client = console.signed_in(role)
    assert client.get(path).status_code == 403
    assert f'href="{path}"' not in client.get("/").text
    assert console.signed_in().get(path).status_code == 200


def test_the_last_admin_stays(console: Console) -> None:
    client = console.signed_in()
    assert "last admin" in client.post("/users/admin/rights", {"role": "viewer"}).text
    assert "yourself" in client.post("/users/admin/lock", {"disabled": "true"}).text
    assert UserLedger(console.state.database).get("admin").role is RoleName.ADMIN


def test_an_admin_adds_a_user_who_changes_the_password_first(console: Console) -> None:
    admin = console.signed_in()
    page = admin.post("/users/add", {"name": "carla", "role": "operator"}).text
    password = re.search(r"<code>([a-z0-9-]{23})</code>", page)
    assert password is not None
    assert password[1] not in admin.get("/users").text
    client = console.client()
    assert client.sign_in("carla", password[1]).headers["location"] == "/account"
    assert client.get("/studies").status_code == 303
    assert "already" in admin.post("/users/add", {"name": "carla", "role": "operator"}).text
    assert "letters" in admin.post("/users/add", {"name": "a b", "role": "operator"}).text


def test_the_audit_says_who_did_what_from_where(console: Console) -> None:
    client = console.signed_in(RoleName.OPERATOR)
    client.post("/destinations/pacs/hold", {"reason": "maintenance"})
    client.post("/destinations/pacs/hold")
    client.post("/destinations/pacs/release")
    lines = [(line.user, line.address, line.action, line.subject, line.result) for line in audit(console)]
    assert lines == [
        ("operator", "127.0.0.1", "release destination", "pacs", "done"),
        ("operator", "127.0.0.1", "hold destination", "pacs", "refused"),
        ("operator", "127.0.0.1", "hold destination", "pacs", "done"),
        ("operator", "127.0.0.1", "sign in", None, "done"),
    ]
    assert "hold destination" in console.signed_in().get("/audit").text


# -- guards ---------------------------------------------------------------------------------------


def test_every_answer_has_the_headers_and_no_page_a_script_or_style_of_its_own(console: Console) -> None:
    client = console.signed_in()
    pages = ("/", "/studies", "/queue", "/destinations/pacs", "/sources", "/routes", "/model", "/users", "/audit")
    for path in (*pages, "/account", "/nowhere", "/login"):
        answer = client.get(path)
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son[a-z]+=", answer.text), path
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    static = client.get(re.search(r"/static/console.css\?v=\w+", client.get("/").text)[0])  # type: ignore[index]
    assert "immutable" in static.headers["cache-control"]


def test_a_page_elsewhere_that_points_its_name_at_us_gets_nothing(console: Console) -> None:
    client = console.signed_in()
    answer = client.get("/", headers={"host": "rebound.example:8411"})
    assert answer.status_code == 421
    assert "Overview" not in answer.text
    for host in ("localhost:8411", "127.0.0.1", "[::1]:8411"):
        assert client.get("/login", headers={"host": host}).status_code in (200, 303), host


def test_behind_a_proxy_others_are_refused_and_its_word_counts(tmp_path: Path) -> None:
    settings = console_settings(
        tmp_path, console={"bind": "0.0.0.0", "trusted_proxies": ["10.1.0.0/24"], "hosts": ["c.example"]}
    )
    with console_over(settings) as console:
        console.add_user("anna", RoleName.VIEWER)
        assert console.client(address="10.2.0.9", base_url="http://c.example").get("/login").status_code == 403
        stranger = console.client(address="10.2.0.9", base_url="http://c.example")
        assert stranger.get("/login", headers={"x-forwarded-for": "10.1.0.5"}).status_code == 403
        client = console.client(address="10.1.0.5", base_url="https://c.example")
        client.http.headers.update({"x-forwarded-for": "10.77.1.2"})
        assert client.sign_in("anna").status_code == 303
        assert audit(console)[0].address == "10.77.1.2"
        form = console.client(address="10.1.0.5", base_url="http://c.example").get(
            "/login", headers={"x-forwarded-proto": "https"}
        )
        assert "Secure" in form.headers["set-cookie"]


@pytest.mark.parametrize(
    ("console_table", "is_valid"),
    [
        ({"bind": "0.0.0.0"}, False),
        ({"bind": "10.1.0.5"}, False),
        ({"bind": "0.0.0.0", "enabled": False}, True),
        ({"bind": "0.0.0.0", "certificate": "c.pem", "key": "k.pem"}, True),
        ({"bind": "0.0.0.0", "certificate": "c.pem"}, False),
        ({"bind": "0.0.0.0", "trusted_proxies": ["10.1.0.5"]}, True),
        ({"bind": "0.0.0.0", "trusted_proxies": ["proxy"]}, False),
        ({"bind": "::1"}, True),
        ({"port": 11112}, False),
        ({"port": 11112, "enabled": False}, True),
        ({"oidc": {"issuer": "http://idp.example", "client_id": "x", "roles": {"a": "admin"}}}, False),
        ({"oidc": {"issuer": "https://idp.example", "client_id": "x"}}, False),
        ({"oidc": {"issuer": "https://idp.example", "client_id": "x", "roles": {"a": "boss"}}}, False),
        ({"oidc": {"issuer": "https://idp.example", "client_id": "x", "roles": {"a": "admin"}}}, True),
    ],
)
def test_settings_that_would_let_passwords_cross_the_network_are_refused(
    tmp_path: Path, console_table: dict[str, object], is_valid: bool
) -> None:
    if is_valid:
        console_settings(tmp_path, console=console_table)
        return
    with pytest.raises(InvalidSettings) as refused:
        console_settings(tmp_path, console=console_table)
    assert all(fault.path.startswith("console") for fault in refused.value.faults)


# -- errors ---------------------------------------------------------------------------------------


def test_an_unforeseen_error_shows_a_number_and_no_inside(
    console: Console, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = console.signed_in()

    def fail(_self: object) -> None:
        raise RuntimeError("Secret^Patient")

    monkeypatch.setattr(OverviewLedger, "overview", fail)
    answer = client.get("/")
    assert answer.status_code == 500
    assert "Secret" not in answer.text
    assert "Traceback" not in answer.text
    assert "overview.py" not in answer.text
    number = re.search(r"number (\w{8})", answer.text)
    assert number is not None
    assert number[1] in [getattr(record, "error", "") for record in caplog.records]


def test_a_ledger_that_is_away_is_said_plainly(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    client = console.signed_in()

    def fail(*_: object, **__: object) -> None:
        raise LedgerUnavailable("ledger database: disk I/O error")

    monkeypatch.setattr(console.app.state.access.sessions, "find", fail)
    answer = client.get("/")
    assert answer.status_code == 503
    assert "disk I/O error" in answer.text
    assert "safe" in answer.text


def test_errors_say_what_to_do(console: Console) -> None:
    client: Client = console.signed_in()
    assert client.get("/nowhere").status_code == 404
    assert "menu" in client.get("/nowhere").text
    assert client.get("/studies/99999").status_code == 404
    assert client.get("/studies/abc").status_code == 400
    assert client.get("/destinations/nix").status_code == 404
    assert client.post("/queue/do", {"act": "cancel", "numbers": "4711"}).status_code == 409
    assert client.post("/queue/do", {"act": "burn", "numbers": "1"}).status_code == 400
    assert "there is no delivery 4711" in client.post("/queue/do", {"act": "cancel", "numbers": "4711"}).text
    fragment = client.post("/queue/do", {"act": "cancel"}, headers={"hx-request": "true"})
    assert fragment.status_code == 409
    assert "<html" not in fragment.text


def test_a_password_is_hashed_again_where_its_hash_is_weak(console: Console) -> None:
    users = UserLedger(console.state.database)
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    users.add("anna", weak, RoleName.VIEWER, sees_patients=False, must_change=False)
    assert console.client().sign_in("anna").status_code == 303
    assert users.password_hash("anna") != weak
    assert console.client().sign_in("anna").status_code == 303


def test_passwords_are_kept_as_argon2id_with_the_memory_that_rfc_9106_asks_for() -> None:
    _, kind, _, parameters, *_ = hash_password(PASSWORD).split("$")
    assert kind == "argon2id"
    assert int(re.search(r"m=(\d+)", parameters)[1]) >= 65536  # type: ignore[index]


@pytest.mark.parametrize("path", ["/login", "/queue/act"])
def test_a_request_that_is_too_large_is_refused_before_it_is_read(console: Console, path: str) -> None:
    client = console.client().http

    def endless() -> Iterator[bytes]:
        yield b"x" * 1024

    assert client.post(path, content=b"x" * (LARGEST_BODY + 1)).status_code == 413
    assert client.post(path, content=endless()).status_code == 411
    assert client.post("/login", data={"name": "x"}).status_code not in (411, 413)
