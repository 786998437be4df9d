"""Walks up to a DICOMweb service step by step (name, TCP, TLS, login, service) and tells each step."""

from __future__ import annotations

import math
import socket
import ssl
import time
from collections.abc import Callable

import httpx

from config.settings import DicomwebDestinationSettings
from dicom_node.destinations.base import ProbeStep, StepState
from dicom_node.destinations.probing import StepFinding, StepWalk, connect_peer, resolve_peer
from dicom_node.destinations.web_explanations import (
    WebPeer,
    explain_http,
    explain_name_or_connection,
    explain_transport,
)
from dicom_node.destinations.web_session import HttpResponse, NotSendable, ResponseTooLong, WebSession, tls_context

STEPS = ("name", "tcp", "tls", "login", "service")

SOON_DAYS = 30
"""Days before the end of the server's certificate from which on there is a warning."""

_NOBODY = "2.25.0"
"""A Study Instance UID that no study has, so that the query brings no patient's attributes."""


def probe_service(
    peer: WebPeer, settings: DicomwebDestinationSettings, *, clock: Callable[[], float] = time.time
) -> list[ProbeStep]:
    """Return the steps up to a service; those after a failed one are there, as skipped.

    Parameters
    ----------
    clock
        Seconds since the epoch, for how long the server's certificate still holds.
    """
    walk = StepWalk()
    uses_tls = settings.url.startswith("https:")
    actions: list[tuple[str, Callable[[], StepFinding]]] = [
        ("name", lambda: resolve_peer(peer)),
        ("tcp", lambda: connect_peer(peer, settings.connect_timeout_s)),
        ("tls", lambda: _shake_hands(peer, settings, clock())),
        ("login", lambda: _log_in(settings)),
        ("service", lambda: _ask(peer, settings)),
    ]
    for name, action in actions:
        if (name != "tls" or uses_tls) and not walk.step(name, action):
            break
    done = {step.name for step in walk.steps}
    return walk.steps + [
        ProbeStep(name=name, state=StepState.SKIPPED, sentence="not tried, because an earlier step failed")
        for name in STEPS
        if name not in done and (name != "tls" or uses_tls)
    ]


def _found(state: StepState, sentence: str) -> StepFinding:
    return StepFinding(state=state, sentence=sentence)


def _shake_hands(peer: WebPeer, settings: DicomwebDestinationSettings, now: float) -> StepFinding:
    try:
        context = tls_context(settings)
        with (
            socket.create_connection((peer.host, peer.port), timeout=settings.connect_timeout_s) as sock,
            context.wrap_socket(sock, server_hostname=peer.host) as tls,
        ):
            version, cipher = tls.version(), (tls.cipher() or ("unknown",))[0]
            certificate = tls.getpeercert() or {}
    except NotSendable as error:
        return _found(StepState.FAILED, str(error))
    except OSError as error:
        return _found(StepState.FAILED, explain_name_or_connection(peer, error))
    said = f"{version} with {cipher}"
    if not settings.verify:
        return _found(StepState.WARNING, f"{said}; nobody checks who the server is, because verify = false")
    days = math.floor((ssl.cert_time_to_seconds(str(certificate["notAfter"])) - now) / 86_400)
    state = StepState.WARNING if days < SOON_DAYS else StepState.OK
    return _found(state, f"{said}; its certificate is valid for another {days} days")


def _log_in(settings: DicomwebDestinationSettings) -> StepFinding:
    """Get what the login needs: the secret, and where it is asked for a token, the token."""
    try:
        with WebSession(settings):
            pass
    except NotSendable as error:
        return _found(StepState.FAILED, str(error))
    if settings.oauth_url:
        return _found(StepState.OK, f"{settings.oauth_url} gives a token")
    if settings.username:
        way = f"as user {settings.username}"
    elif settings.token_file is not None or settings.token_variable:
        way = "with a bearer token"
    elif settings.client_certificate is not None:
        way = "with a client certificate"
    else:
        return _found(StepState.OK, "none is set")
    in_the_clear = settings.url.startswith("http:") and settings.client_certificate is None
    if in_the_clear:
        return _found(StepState.WARNING, f"{way}, readable by everybody on the way, because url is not https")
    return _found(StepState.OK, way)


def _ask(peer: WebPeer, settings: DicomwebDestinationSettings) -> StepFinding:
    try:
        with WebSession(settings) as session:
            response = session.get("/studies", {"StudyInstanceUID": _NOBODY, "limit": "1"})
    except NotSendable as error:
        return _found(StepState.FAILED, str(error))
    except ResponseTooLong as error:
        return _found(StepState.FAILED, f"{peer}: its response is of no use: {error}")
    except httpx.TransportError as error:
        return _found(StepState.FAILED, explain_transport(peer, error))
    return _judge(peer, response)


def _judge(peer: WebPeer, response: HttpResponse) -> StepFinding:
    status = response.status
    if status in (200, 204):
        if status == 200 and "json" not in response.content_type.lower():
            sentence = f"{peer} answers a query, but not in JSON: is this a DICOMweb service? correct url"
            return _found(StepState.WARNING, sentence)
        return _found(StepState.OK, "it answers a query (QIDO-RS); whether it lets us store shows a delivery")
    if status in (400, 405, 501):
        sentence = f"it answers, but no queries (HTTP {status}); whether it lets us store shows a delivery"
        return _found(StepState.WARNING, sentence)
    state = StepState.WARNING if status in (429, 503) else StepState.FAILED
    return _found(state, explain_http(peer, status, response.headers))
