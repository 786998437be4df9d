"""The console without a browser: an application over a ledger of its own, and a client that fills in forms."""

from __future__ import annotations

import contextlib
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from config.loading import parse_settings
from config.settings import RoleName, Settings
from dicom_node.console.application import create_app, guard_app
from dicom_node.console.passwords import hash_password
from dicom_node.console.server import listen
from dicom_node.ledger.console_users import UserLedger
from dicom_node.state import State, open_state
from tests.support.peers import LOOPBACK

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

BASE = f"http://{LOOPBACK}:8411"
PASSWORD = "seven quiet horses"
_CSRF = re.compile(r'name="csrf" value="([0-9a-f]+)"')


@dataclass
class Console:
    """An application, and clients of it that share nothing."""

    state: State
    app: Any
    guarded: Any

    def client(self, *, base_url: str = BASE, address: str = LOOPBACK) -> Client:
        """Return a browser that nobody is signed in with."""
        return Client(
            TestClient(
                self.guarded,
                base_url=base_url,
                follow_redirects=False,
                client=(address, 50000),
                raise_server_exceptions=False,
            )
        )

    def add_user(self, name: str, role: RoleName, *, sees_patients: bool = False, password: str = PASSWORD) -> None:
        """Add a user."""
        UserLedger(self.state.database).add(
            name, hash_password(password), role, sees_patients=sees_patients, must_change=False
        )

    def signed_in(self, role: RoleName = RoleName.ADMIN, *, sees_patients: bool = False) -> Client:
        """Return a browser that a user of this role is signed in with; the user is added where it is new."""
        name = f"{role.value}{'-p' if sees_patients else ''}"
        if UserLedger(self.state.database).find(name) is None:
            self.add_user(name, role, sees_patients=sees_patients)
        client = self.client()
        answer = client.sign_in(name)
        assert answer.status_code == 303, answer.text
        return client


class Client:
    """A browser of sorts: keeps cookies, and sends the token of the form that it saw."""

    def __init__(self, http: TestClient) -> None:
        self.http = http

    def get(self, path: str, **options: Any) -> Any:
        """Fetch a page."""
        return self.http.get(path, **options)

    def token(self, path: str = "/account") -> str:
        """Return the token of the forms on a page."""
        found = _CSRF.search(self.get(path).text)
        assert found is not None, f"no form on {path}"
        return found[1]

    def post(self, path: str, data: Mapping[str, Any] | None = None, *, form: str = "/account", **options: Any) -> Any:
        """Send a form as a page of the console does."""
        return self.http.post(path, data={"csrf": self.token(form), **(data or {})}, **options)

    def sign_in(self, name: str, password: str = PASSWORD, **more: Any) -> Any:
        """Fill in the form of the sign-in."""
        return self.post("/login", {"name": name, "password": password, **more}, form="/login")


def console_settings(folder: Path, **tables: Any) -> Settings:
    """Return settings of a node in `folder`."""
    node = {"data_dir": str(folder / "data"), **tables.pop("node", {})}
    return parse_settings({"node": node, **tables})


@contextlib.contextmanager
def console_over(settings: Settings) -> Iterator[Console]:
    """Open a ledger and the application over it."""
    with open_state(settings) as state:
        app = create_app(state)
        yield Console(state=state, app=app, guarded=guard_app(app))


@contextlib.contextmanager
def served(console: Console) -> Iterator[str]:
    """Serve an application on a free port; gives its address."""
    listener = listen(LOOPBACK, 0)
    server = uvicorn.Server(uvicorn.Config(console.guarded, log_config=None, lifespan="off", proxy_headers=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
