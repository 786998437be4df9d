"""haproxy in front of receivers, set up as docs/cluster.md says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.node import REPOSITORY
from tests.support.peers import find_program

HAPROXY = find_program("haproxy")
requires_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed (Debian package haproxy)")


def documented_configuration() -> str:
    """Return the configuration of haproxy as the documentation has it."""
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    found = re.search(r"^( *)# haproxy\.cfg\n(.*?)^\1```", page, re.MULTILINE | re.DOTALL)
    assert found is not None, "docs/cluster.md shows no haproxy.cfg"
    indent = len(found[1])
    return "\n".join(line[indent:] for line in found[2].splitlines()) + "\n"


class Balancer:
    """A running haproxy.

    Parameters
    ----------
    folder
        For its configuration and its log.
    bind
        Address and port that it listens on.
    servers
        Address and port of each receiver, by its name.
    prefix
        What runs a command where the balancer is to be.
    """

    def __init__(self, folder: Path, *, bind: str, servers: Mapping[str, str], prefix: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = documented_configuration()
        # Everything is as documented but where it listens, and which receivers there are.
        lines = [line for line in text.splitlines() if not re.match(r"\s*server ", line)]
        (server,) = {
            re.sub(r"^\s*server \S+ \S+", "", line) for line in text.splitlines() if re.match(r"\s*server ", line)
        }
        lines += [f"    server {name} {place}{server}" for name, place in servers.items()]
        self.file = folder / "haproxy.cfg"
        self.file.write_text(re.sub(r"bind \S+", f"bind {bind}", "\n".join(lines)) + "\n")
        self._log = folder / "haproxy.txt"
        self._prefix = tuple(prefix)

    def __enter__(self) -> Self:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, str(HAPROXY), "-db", "-f", str(self.file)], stdout=log, stderr=log
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        print(self._log.read_text(errors="replace")[-2000:])

    @property
    def is_running(self) -> bool:
        """Whether it lives."""
        return self._process.poll() is None
