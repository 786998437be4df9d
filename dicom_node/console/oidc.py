"""Sign-in by OpenID Connect: authorization code with PKCE (OpenID Connect Core 1.0 3.1, RFC 7636)."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from itsdangerous import BadSignature, URLSafeTimedSerializer
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from config.settings import OidcSettings, RoleName
from dicom_node.errors import NodeError

STATE_S: Final = 600
"""Time that a sign-in at the issuer may take, in seconds."""
_TIMEOUT_S: Final = 10.0
_LEEWAY_S: Final = 60
# No symmetric ones: with them the client secret would sign, and a public client has none. Never "none".
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_RANK: Final = {role: rank for rank, role in enumerate(RoleName)}


class SignInFailed(NodeError):
    """The issuer, or what it says, does not let the user in; the message is for the user."""


@dataclass(frozen=True, kw_only=True)
class Vouched:
    """Whom an issuer vouches for, and what that one may do here."""

    issuer: str
    subject: str
    name: str
    role: RoleName
    sees_patients: bool


@dataclass(frozen=True, kw_only=True)
class Begun:
    """Where to send the browser, and what it keeps until it comes back."""

    address: str
    kept: str


class OidcSignIn:
    """Signs users in at one issuer.

    Parameters
    ----------
    key
        Secret of the node, by which what the browser keeps is signed.
    """

    def __init__(self, settings: OidcSettings, key: bytes) -> None:
        self._settings = settings
        self._serializer = URLSafeTimedSerializer(key, salt="oidc")

    def begin(self, redirect_uri: str, wanted: str) -> Begun:
        """Begin a sign-in that comes back to `redirect_uri`, and then goes on to the page `wanted`.

        Raises
        ------
        SignInFailed
        """
        with self._http() as http:
            metadata = self._metadata(http)
        kept = {
            "state": secrets.token_urlsafe(24),
            "nonce": secrets.token_urlsafe(24),
            "verifier": secrets.token_urlsafe(48),
            "redirect_uri": redirect_uri,
            "wanted": wanted,
        }
        with self._client(redirect_uri) as client:
            address, _ = client.create_authorization_url(
                metadata["authorization_endpoint"],
                state=kept["state"],
                nonce=kept["nonce"],
                code_verifier=kept["verifier"],
            )
        return Begun(address=str(address), kept=str(self._serializer.dumps(kept)))

    def finish(self, kept: str, *, state: str, code: str) -> tuple[Vouched, str]:
        """Return whom the issuer vouches for, and the page that was wanted.

        Parameters
        ----------
        kept
            From the browser, of `begin`.
        state, code
            What the issuer sent along.

        Raises
        ------
        SignInFailed
        """
        try:
            begun: dict[str, str] = self._serializer.loads(kept, max_age=STATE_S)
        except BadSignature as error:
            raise SignInFailed("the sign-in took too long, or began in another browser; try once more") from error
        if not secrets.compare_digest(begun["state"].encode(), state.encode()):
            raise SignInFailed("the answer is not to this sign-in; try once more")
        with self._http() as http:
            metadata = self._metadata(http)
            tokens = self._tokens(metadata, begun, code)
            claims = self._claims(http, metadata, str(tokens.get("id_token", "")), begun["nonce"])
            if _claim(claims, self._settings.role_claim) is None and metadata.get("userinfo_endpoint"):
                more = self._json(
                    http,
                    metadata["userinfo_endpoint"],
                    {"Authorization": f"Bearer {tokens.get('access_token', '')}"},
                )
                if more.get("sub") != claims["sub"]:
                    raise SignInFailed("the issuer's facts about the user are of another user")
                claims = {**more, **claims}
        return self._vouched(claims), begun["wanted"]

    def _vouched(self, claims: Mapping[str, Any]) -> Vouched:
        settings = self._settings
        groups = _texts(_claim(claims, settings.role_claim))
        roles = [settings.roles[group] for group in groups if group in settings.roles]
        if not roles:
            raise SignInFailed("you are in no group that may use this console; [console.oidc] roles names them")
        name = _claim(claims, settings.name_claim) or claims["sub"]
        shown = "".join(c for c in str(name) if c.isprintable())[:80]
        host = httpx.URL(settings.issuer).host
        return Vouched(
            issuer=settings.issuer[:255],
            subject=str(claims["sub"])[:255],
            # Never the name of a user with a password: those have no brackets.
            name=f"{shown} ({host})"[:128],
            role=max(roles, key=_RANK.__getitem__),
            sees_patients=bool(set(groups) & set(settings.patient_groups)),
        )

    def _tokens(self, metadata: Mapping[str, Any], begun: Mapping[str, str], code: str) -> Mapping[str, Any]:
        with self._client(begun["redirect_uri"]) as client:
            try:
                found: Mapping[str, Any] = client.fetch_token(
                    metadata["token_endpoint"],
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=begun["verifier"],
                )
            except OAuthError as error:
                raise SignInFailed(f"the issuer does not take the sign-in ({error.error})") from error
            except (httpx.HTTPError, ValueError) as error:
                raise SignInFailed(f"the issuer does not answer ({type(error).__name__}); try again later") from error
            return found

    def _claims(self, http: httpx.Client, metadata: Mapping[str, Any], id_token: str, nonce: str) -> dict[str, Any]:
        keys = self._json(http, metadata["jwks_uri"])
        registry = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": self._settings.issuer},
            aud={"essential": True, "value": self._settings.client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            claims = dict(jwt.decode(id_token, KeySet.import_key_set(keys), algorithms=list(_ALGORITHMS)).claims)  # type: ignore[arg-type]
            registry.validate(claims)
        except (JoseError, ValueError, KeyError) as error:
            raise SignInFailed(f"what the issuer says can't be trusted ({type(error).__name__})") from error
        if claims.get("azp", self._settings.client_id) != self._settings.client_id:
            raise SignInFailed("what the issuer says is for another client")
        return claims

    def _metadata(self, http: httpx.Client) -> dict[str, Any]:
        found = self._json(http, self._settings.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found.get("issuer") != self._settings.issuer:
            raise SignInFailed("the issuer calls itself otherwise than [console.oidc] issuer; make them the same")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(found.get(name), str):
                raise SignInFailed(f"the issuer's configuration has no {name}")
        return found

    def _json(self, http: httpx.Client, address: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = http.get(address, headers=headers)
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SignInFailed(f"the issuer does not answer ({type(error).__name__}); try again later") from error
        if not isinstance(found, dict):
            raise SignInFailed("the issuer's answer can't be read")
        return found

    def _http(self) -> httpx.Client:
        return httpx.Client(timeout=_TIMEOUT_S, verify=self._trust(), follow_redirects=False)

    def _client(self, redirect_uri: str) -> OAuth2Client:
        secret_file = self._settings.secret_file
        try:
            secret = secret_file.read_text(encoding="utf-8").strip() if secret_file else None
        except OSError as error:
            raise SignInFailed("the client secret can't be read; see [console.oidc] secret_file") from error
        return OAuth2Client(
            client_id=self._settings.client_id,
            client_secret=secret,
            token_endpoint_auth_method="client_secret_basic" if secret else "none",
            scope=self._settings.scope,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT_S,
            verify=self._trust(),
        )

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._settings.ca)
        except OSError as error:
            raise SignInFailed("the authorities of the issuer can't be read; see [console.oidc] ca") from error


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim by its name, or by the way to it inside of others; names may have dots themselves."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value, *value.split()]
    return [str(one) for one in value] if isinstance(value, list) else []
