"""Who calls through a load balancer: the header that it puts before everything else (PROXY protocol, version 2).

Believed only of the balancers that the settings name. From anybody else it is no valid PDU, and ends the connection.

References
----------
"The PROXY protocol, versions 1 & 2", Willy Tarreau, section 2.2; haproxy sends it with ``send-proxy-v2``.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from dicom_node.upper_layer import NegotiationFailed

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_IPV4, _IPV6 = 0x11, 0x21
_ADDRESS_BYTES: Final = {_IPV4: 4, _IPV6: 16}
_LONGEST: Final = 4096
"""Bytes of addresses and further values; a balancer sends less than 1024."""


class Peer(NamedTuple):
    """Where a connection comes from."""

    address: str
    port: int


class NoProxyHeader(NegotiationFailed):
    """A balancer did not say for whom it connects; the message says what to do."""


def is_balancer(address: str, networks: Sequence[str]) -> bool:
    """Tell whether `address` lies in one of `networks`."""
    found = ipaddress.ip_address(address.split("%")[0])
    # A listener on "::" sees IPv4 peers under their mapped addresses.
    found = getattr(found, "ipv4_mapped", None) or found
    return any(found in ipaddress.ip_network(network, strict=False) for network in networks)


def receive_proxy_header(sock: socket.socket, timeout_s: float) -> Peer | None:
    """Read the header, and nothing behind it.

    Returns
    -------
    For whom the balancer connects; None where it connects for itself, as to see whether we live.

    Raises
    ------
    NoProxyHeader
        If something else comes, or nothing in time.
    NegotiationFailed
        If the connection ends before anything comes, as that of a check does.
    """
    until = time.monotonic() + timeout_s
    signature, command, family, length = _HEAD.unpack(_receive(sock, _HEAD.size, until, is_first=True))
    if signature != _SIGNATURE or command not in (_LOCAL, _PROXY) or length > _LONGEST:
        raise NoProxyHeader(
            "the balancer sent no PROXY header of version 2: let it send one (haproxy: send-proxy-v2), or take its "
            "address out of receiver.proxy_protocol_from"
        )
    body = _receive(sock, length, until)
    if command == _LOCAL:
        return None
    size = _ADDRESS_BYTES.get(family)
    if size is None or length < 2 * size + 4:
        raise NoProxyHeader("the balancer's PROXY header is not of a TCP connection over IPv4 or IPv6")
    (port,) = struct.unpack_from("!H", body, 2 * size)
    return Peer(address=str(ipaddress.ip_address(body[:size])), port=port)


def _receive(sock: socket.socket, count: int, until: float, *, is_first: bool = False) -> bytes:
    received = b""
    try:
        while len(received) < count:
            sock.settimeout(max(until - time.monotonic(), 0.001))
            piece = sock.recv(count - len(received))
            if not piece:
                if is_first and not received:
                    raise NegotiationFailed("the connection ended before anything came")
                raise NoProxyHeader("the connection ended within the balancer's PROXY header")
            received += piece
    except TimeoutError as error:
        raise NoProxyHeader("no PROXY header of the balancer in time") from error
    except OSError as error:
        raise NegotiationFailed(str(error)) from error
    sock.settimeout(None)
    return received
