"""What every request passes before a page sees it: who may connect, which name was called, headers of the answer."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from config.settings import ConsoleSettings, is_loopback

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing but what the console itself serves, and no script or style in a page. A page may ask for more by a header."""

UPLOADS: Final = ("/routes/test",)
"""Paths that take files."""

LARGEST_BODY: Final = 1 << 20
"""Bytes of a form; the largest acts on a thousand deliveries."""

HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With "no-referrer" browsers would send "Origin: null" from our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # Pages name studies; nothing of them stays in a shared browser. Static files say otherwise.
    "Cache-Control": "no-store",
}


class SecurityHeaders:
    """Adds `HEADERS` to every answer that does not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class KnownHosts:
    """Refuses requests under a name that is not the console's: of a page elsewhere that points its name at us."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        self._names = {name.casefold() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
            if _name_of(host).casefold() not in self._names:
                answer = PlainTextResponse(
                    "This console does not go by the name that your browser called. Use a name of this machine, or "
                    "add the name to hosts in [console] of the settings.\n",
                    status_code=421,
                )
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


class SmallBodies:
    """Refuses large requests before anything reads them: forms are kept on disk before it is known who sends them.

    Parameters
    ----------
    elsewhere
        Paths whose handlers limit what they take, and look who sends it first.
    """

    def __init__(self, app: ASGIApp, elsewhere: Sequence[str]) -> None:
        self._app = app
        self._elsewhere = frozenset(elsewhere)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["path"] not in self._elsewhere:
            headers = dict(scope["headers"])
            if b"transfer-encoding" in headers:
                await _too_large(scope, receive, send, 411, "Requests without a length are not taken here.\n")
                return
            length = headers.get(b"content-length", b"0")
            if not length.isdigit() or int(length) > LARGEST_BODY:
                await _too_large(scope, receive, send, 413, "This request is too large for the console.\n")
                return
        await self._app(scope, receive, send)


async def _too_large(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    # The rest of the body is not read: the connection ends.
    answer = PlainTextResponse(sentence, status_code=status, headers={"Connection": "close"})
    await answer(scope, receive, send)


class ProxyOnly:
    """Refuses what did not come through a trusted proxy, and believes those: address of the user, and scheme."""

    def __init__(self, app: ASGIApp, proxies: Sequence[str]) -> None:
        self._proxies = [ipaddress.ip_network(entry, strict=False) for entry in proxies]
        self._direct = app
        self._through_proxy = ProxyHeadersMiddleware(app, trusted_hosts=list(proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._direct(scope, receive, send)
            return
        peer = (scope.get("client") or ("", 0))[0]
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            address = None
        if address is not None and any(address in network for network in self._proxies):
            await self._through_proxy(scope, receive, send)  # type: ignore[arg-type]
        elif is_loopback(peer):
            await self._direct(scope, receive, send)
        else:
            answer = PlainTextResponse("This console is reached through its proxy alone.\n", status_code=403)
            await answer(scope, receive, send)


def own_names(settings: ConsoleSettings) -> list[str]:
    """Return the names by which browsers may call the console."""
    return ["localhost", "127.0.0.1", "::1", settings.bind, socket.gethostname(), socket.getfqdn(), *settings.hosts]


def _name_of(host: str) -> str:
    if host.startswith("["):
        return host[1:].split("]")[0]
    return host.rsplit(":", 1)[0] if host.count(":") == 1 else host


def guarded(app: ASGIApp, settings: ConsoleSettings) -> ASGIApp:
    """Return the application behind everything that a request passes first."""
    guarded_app: ASGIApp = KnownHosts(SmallBodies(app, UPLOADS), own_names(settings))
    if settings.trusted_proxies:
        guarded_app = ProxyOnly(guarded_app, settings.trusted_proxies)
    return SecurityHeaders(guarded_app)
