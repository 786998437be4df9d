"""A small OpenID Connect issuer on the loopback interface, which can also say what is wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey

from tests.support.peers import LOOPBACK

CLIENT = "lowdose-console"
SECRET = "the client's secret"


@dataclass
class Issuer:
    """An issuer at which one user is signed in already.

    Attributes
    ----------
    claims
        What it says of the user, beside what the protocol asks for; entries of None leave out what it would say.
    userinfo
        What its userinfo endpoint says; None: it has no such endpoint.
    forge
        "key": signed by a key that is not its own; "symmetric": signed with the client secret; "none": not signed.
    """

    claims: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] | None = None
    forge: str = ""
    called: list[str] = field(default_factory=list)
    calls_itself: str = ""

    def __enter__(self) -> Self:
        self._key = ECKey.generate_key("P-256", parameters={"kid": "one"})
        self._codes: dict[str, dict[str, str]] = {}
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer._answer(self, "")

            def do_POST(self) -> None:
                issuer._answer(self, self.rfile.read(int(self.headers["Content-Length"])).decode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}/realm"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, body: str) -> None:
        parts = urlsplit(request.path)
        name = parts.path.removeprefix("/realm/")
        self.called.append(name)
        if name == "authorize":
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            code = secrets.token_hex(8)
            self._codes[code] = query
            back = query["redirect_uri"] + "?" + urlencode({"code": code, "state": query["state"]})
            request.send_response(302)
            request.send_header("Location", back)
            request.end_headers()
            return
        status, found = self._find(name, request, body)
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.end_headers()
        request.wfile.write(json.dumps(found).encode())

    def _find(self, name: str, request: BaseHTTPRequestHandler, body: str) -> tuple[int, Mapping[str, Any]]:
        if name == ".well-known/openid-configuration":
            places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
            if self.userinfo is not None:
                places["userinfo_endpoint"] = "userinfo"
            return 200, {"issuer": self.calls_itself or self.url, **{k: f"{self.url}/{v}" for k, v in places.items()}}
        if name == "keys":
            return 200, KeySet([self._key]).as_dict(private=False)
        if name == "userinfo" and self.userinfo is not None:
            return 200, self.userinfo
        if name == "token":
            return self._tokens(request, {key: values[0] for key, values in parse_qs(body).items()})
        return 404, {}

    def _tokens(self, request: BaseHTTPRequestHandler, form: Mapping[str, str]) -> tuple[int, Mapping[str, Any]]:
        begun = self._codes.pop(form["code"], None)
        if begun is None:
            return 400, {"error": "invalid_grant"}
        encoded = request.headers.get("Authorization", "Basic ").removeprefix("Basic ")
        client, _, secret = base64.b64decode(encoded).decode().partition(":")
        # Both are form-encoded first (RFC 6749 2.3.1); clients that leave that out are let in too.
        if CLIENT not in (client, unquote_plus(client)) or SECRET not in (secret, unquote_plus(secret)):
            return 401, {"error": "invalid_client"}
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if begun.get("code_challenge_method") != "S256" or begun.get("code_challenge") != challenge:
            return 400, {"error": "invalid_grant"}
        if form.get("redirect_uri") != begun["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": "subject-1",
            "iat": now,
            "exp": now + 300,
            "nonce": begun.get("nonce"),
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return 200, {"access_token": "access", "token_type": "Bearer", "id_token": self._sign(claims)}

    def _sign(self, claims: dict[str, Any]) -> str:
        if self.forge == "symmetric":
            return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET), algorithms=["HS256"])
        if self.forge == "none":
            parts = ({"alg": "none"}, claims)
            encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
            return ".".join([*encoded, ""])
        key = ECKey.generate_key("P-256", parameters={"kid": "one"}) if self.forge == "key" else self._key
        return jwt.encode({"alg": "ES256", "kid": "one"}, claims, key)
