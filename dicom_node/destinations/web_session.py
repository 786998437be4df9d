"""One attempt's HTTP connections to a DICOMweb service: TLS, credentials and requests whose bodies are streamed."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from config.settings import DicomwebDestinationSettings
from dicom_node.destinations.store_responses import MAX_RESPONSE_BYTES
from dicom_node.errors import NodeError
from dicom_node.tls import TlsUnusable, load_revocation_lists

_MAX_SECRET_BYTES: Final = 65_536
_TOKEN_MARGIN_S: Final = 60.0
_TOKEN_LIFE_S: Final = 300.0
"""Assumed where the token endpoint names none (RFC 6749 5.1 recommends expires_in)."""


class NotSendable(NodeError):
    """Nothing can be sent: a file of ours, a secret or the token endpoint is at fault; the message says which."""


class ResponseTooLong(NodeError):
    """The server sends more than any response to us needs, or takes longer over it than is allowed."""


@dataclass(frozen=True, kw_only=True)
class HttpResponse:
    """A response with its whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """Content-Type, empty where there is none."""
        return self.headers.get("content-type", "")


@dataclass
class Token:
    """A bearer token of OAuth 2.0, kept between attempts until it is about to end."""

    value: str = ""
    ends_at: float = 0.0


class WebSession:
    """HTTP connections to one service; a context manager.

    Parameters
    ----------
    settings
        Where it is, and who we are there.
    token
        Kept over sessions; it is renewed in place.
    clock
        Seconds that only grow.
    transport
        Carries the requests instead of the network, in tests.

    Raises
    ------
    NotSendable
        On entering, if a certificate, a secret or the token endpoint is at fault.
    """

    def __init__(
        self,
        settings: DicomwebDestinationSettings,
        *,
        token: Token | None = None,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._token = token if token is not None else Token()
        self._clock = clock
        timeout = httpx.Timeout(
            connect=settings.connect_timeout_s,
            write=settings.send_timeout_s,
            read=settings.response_timeout_s,
            pool=settings.connect_timeout_s,
        )
        # Neither proxies nor secrets come from the surroundings: what is sent where is in the settings alone.
        self._client = httpx.Client(
            verify=tls_context(settings),
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
            transport=transport,
            headers={"Accept-Encoding": "identity", "User-Agent": "dicom-node"},
        )

    def __enter__(self) -> Self:
        try:
            self._authorization = self._credentials()
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def renew(self) -> bool:
        """Ask for another token after a 401; False where there is no token endpoint."""
        if not self._settings.oauth_url:
            return False
        self._token.ends_at = 0.0
        self._authorization = self._credentials()
        return True

    def post(self, content: Iterator[bytes], *, length: int, content_type: str) -> HttpResponse:
        """Send a Store transaction whose body has `length` bytes; errors of httpx and of `content` come through."""
        headers = {
            "Content-Type": content_type,
            "Content-Length": str(length),
            "Accept": "application/dicom+json, application/dicom+xml;q=0.5",
        }
        return self._request("POST", "/studies", content=content, headers=headers)

    def get(self, path: str, parameters: Mapping[str, str]) -> HttpResponse:
        """Send a query."""
        return self._request("GET", path, params=dict(parameters), headers={"Accept": "application/dicom+json"})

    def _request(self, method: str, path: str, *, headers: Mapping[str, str], **how: Any) -> HttpResponse:
        # The further headers are for the service, and may be secrets; the token endpoint does not get them.
        own = {**self._settings.headers, **headers, **self._authorization}
        with self._client.stream(method, self._settings.url + path, headers=own, **how) as response:
            return self._read(response)

    def _read(self, response: httpx.Response) -> HttpResponse:
        body, end = bytearray(), self._clock() + self._settings.response_timeout_s
        for piece in response.iter_raw():
            body += piece
            if len(body) > MAX_RESPONSE_BYTES:
                raise ResponseTooLong(f"more than {MAX_RESPONSE_BYTES} bytes")
            if self._clock() > end:
                raise ResponseTooLong("its body did not end in time")
        return HttpResponse(status=response.status_code, headers=response.headers, body=bytes(body))

    def _credentials(self) -> dict[str, str]:
        settings = self._settings
        if settings.token_file is not None or settings.token_variable:
            return {"Authorization": f"Bearer {read_secret('token', settings.token_file, settings.token_variable)}"}
        if settings.username:
            password = read_secret("password", settings.password_file, settings.password_variable)
            return {"Authorization": _basic(settings.username, password)}
        if settings.oauth_url:
            if self._clock() >= self._token.ends_at:
                self._fetch_token()
            return {"Authorization": f"Bearer {self._token.value}"}
        return {}

    def _fetch_token(self) -> None:
        """Get a token by the client credentials grant (RFC 6749 4.4)."""
        settings = self._settings
        secret = read_secret("oauth_secret", settings.oauth_secret_file, settings.oauth_secret_variable)
        form = {"grant_type": "client_credentials"} | ({"scope": settings.oauth_scope} if settings.oauth_scope else {})
        begin = self._clock()
        headers = {"Authorization": _basic(settings.oauth_client_id, secret), "Accept": "application/json"}
        try:
            with self._client.stream("POST", settings.oauth_url, data=form, headers=headers) as response:
                answer = self._read(response)
        except (httpx.TransportError, ResponseTooLong) as error:
            raise NotSendable(f"token endpoint {settings.oauth_url}: no answer ({type(error).__name__})") from error
        if answer.status != httpx.codes.OK:
            raise NotSendable(
                f"token endpoint {settings.oauth_url} answered HTTP {answer.status}; correct oauth_client_id, its "
                "secret or oauth_scope"
            )
        try:
            found = httpx.Response(200, content=answer.body).json()
            value, life = str(found["access_token"]), float(found.get("expires_in", _TOKEN_LIFE_S))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotSendable(f"token endpoint {settings.oauth_url} gave no access_token") from error
        self._token.value = _one_line("access_token", value)
        self._token.ends_at = begin + max(0.0, life - _TOKEN_MARGIN_S)


def tls_context(settings: DicomwebDestinationSettings) -> ssl.SSLContext:
    """Return how TLS is spoken with the service; `NotSendable` if a certificate or a key of ours can't be used."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with _usable("ca_file", settings.ca_file):
        if settings.ca_file is not None:
            # These alone: an authority of the internet has no say about a server of the house.
            context = ssl.create_default_context(cafile=settings.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.crl_file is not None:
        try:
            load_revocation_lists(context, settings.crl_file, "chain")
        except TlsUnusable as error:
            raise NotSendable(f"crl_file ({settings.crl_file}) can't be used: {error}") from error
    with _usable("client_certificate or client_key", settings.client_certificate):
        if settings.client_certificate is not None:
            context.load_cert_chain(settings.client_certificate, settings.client_key, password=_no_passphrase)
    if not settings.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _no_passphrase() -> str:
    # Without this OpenSSL would ask at the terminal, and a worker would wait for ever.
    raise ValueError("the key has a passphrase; store it without one, readable by the node alone")


@contextmanager
def _usable(setting: str, path: Path | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise NotSendable(f"{setting} ({path}) can't be used: {said}") from error


def read_secret(name: str, path: Path | None, variable: str) -> str:
    """Return a secret from a file or an environment variable, anew each time, so that it can be exchanged.

    Raises
    ------
    NotSendable
        If it is not there, empty, or can't stand in a header. Its text is in no message.
    """
    if variable:
        value = os.environ.get(variable, "")
        return _one_line(f"environment variable {variable} ({name}_variable)", value)
    assert path is not None
    with _usable(f"{name}_file", path), path.open("rb") as file:
        raw = file.read(_MAX_SECRET_BYTES + 1)
    if len(raw) > _MAX_SECRET_BYTES:
        raise NotSendable(f"{name}_file ({path}) is no secret: it is longer than {_MAX_SECRET_BYTES} bytes")
    return _one_line(f"{name}_file ({path})", raw.decode("utf-8", "replace"))


def _one_line(what: str, value: str) -> str:
    value = value.strip()
    if not value:
        raise NotSendable(f"{what} is empty or not there")
    if not value.isprintable() or "\ufffd" in value:
        raise NotSendable(f"{what} holds something else than one line of text")
    return value


def _basic(user: str, password: str) -> str:
    header = httpx.BasicAuth(user, password).auth_flow(httpx.Request("GET", "http://unused"))
    return next(header).headers["Authorization"]
