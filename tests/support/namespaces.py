"""Machines as network namespaces on a bridge of their own: a cable can be pulled, and nothing leaves the machine.

Sockets belong to the namespace of the thread that opens them, and threads to that of the one that starts them, so the
modality and the PACS of a test can live in namespaces too, without a process of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

_FOLDER = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_NETWORK = "10.77.0"


def why_no_namespaces() -> str | None:
    """Say why no network namespaces can be made here; None if they can."""
    if shutil.which("ip") is None:
        return "ip is not installed (Debian package iproute2)"
    name = f"lowdose{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    try:
        bridge = ["ip", "-n", name, "link", "add", "br0", "type", "bridge"]
        done = subprocess.run(bridge, capture_output=True, text=True, check=False)
        return f"no bridge can be made here: {done.stderr.strip()}" if done.returncode else None
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def requires_namespaces() -> None:
    """Skip the test where network namespaces can't be made."""
    reason = why_no_namespaces()
    if reason is not None:
        pytest.skip(reason)


class Namespaces:
    """Hosts, each a namespace with one cable to a common bridge, which is in a namespace too.

    Parameters
    ----------
    names
        Of the hosts; the first one's address ends in 1, and so on.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._prefix = f"lowdose{os.getpid()}-"
        self._hub = f"{self._prefix}hub"
        self.addresses = {name: f"{_NETWORK}.{number}" for number, name in enumerate(names, 1)}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove)
            _ip("netns", "add", self._hub)
            _ip("-n", self._hub, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._hub, "link", "set", "br0", "up")
            for name, address in self.addresses.items():
                host = self._prefix + name
                _ip("netns", "add", host)
                _ip("-n", host, "link", "set", "lo", "up")
                _ip(
                    "link",
                    "add",
                    "eth0",
                    "netns",
                    host,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    _port(name),
                    "netns",
                    self._hub,
                )
                _ip("-n", self._hub, "link", "set", _port(name), "master", "br0", "up")
                _ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
                _ip("-n", host, "link", "set", "eth0", "up")
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def prefix(self, name: str) -> tuple[str, ...]:
        """Return what runs a command on a host; the process is the command's own."""
        return ("ip", "netns", "exec", self._prefix + name)

    @contextlib.contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Let this thread, and those that it starts, be on a host for the block."""
        with open("/proc/thread-self/ns/net", "rb") as here, open(_FOLDER / (self._prefix + name), "rb") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    def cut(self, name: str) -> None:
        """Pull a host's cable: nobody is told anything."""
        _ip("-n", self._hub, "link", "set", _port(name), "down")

    def mend(self, name: str) -> None:
        """Put the cable back."""
        _ip("-n", self._hub, "link", "set", _port(name), "up")

    def disturb(self, name: str, *, delay_ms: int, loss_percent: float) -> bool:
        """Delay and lose what goes to a host; False where the kernel can't do that."""
        command = ["tc", "-n", self._hub, "qdisc", "replace", "dev", _port(name), "root", "netem"]
        options = ["delay", f"{delay_ms}ms", "loss", f"{loss_percent}%"]
        if shutil.which("tc") is None:
            return False
        return subprocess.run([*command, *options], capture_output=True, check=False).returncode == 0

    def _remove(self) -> None:
        for name in [*(self._prefix + name for name in self.addresses), self._hub]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _port(name: str) -> str:
    # Names of interfaces have 15 characters.
    return f"to-{name}"[:15]


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _enter(descriptor: int) -> None:
    # os.setns is there from Python 3.12 on.
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
