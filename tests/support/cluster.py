"""Several machines on one PostgreSQL: each with its own settings, disk and way to the database, which can be cut."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from config.example import toml_value
from config.loading import load_settings
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.state import open_state
from dicom_node.verification import Verification, verify
from tests.support.node import CALLING, PYTHON, REPOSITORY, START_S, default_routes, destination
from tests.support.peers import LOOPBACK, find_free_port, wait_until

DEAD_AFTER_S = 5.0


class Relay:
    """A TCP relay to one of several ports: a load balancer with two machines behind it, or a network cable with one.

    Each connection goes to the next port that takes it. `cut` is a network that is gone without a word: what is open
    stalls, and new connections are never answered; `mend` ends what stalled, as a machine's own time-outs do.
    """

    def __init__(self, *ports: int) -> None:
        self._ports = list(ports)
        self._turn = 0
        self._is_cut = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._passes = threading.Event()
        self._passes.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Let nothing pass any more."""
        self._is_cut.set()
        self._passes.clear()

    def mend(self) -> None:
        """Let new connections pass; those that were open are reset."""
        with self._lock:
            stalled, self._open = self._open, set()
        for sock in stalled:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._is_cut.clear()
        self._passes.set()

    def close(self) -> None:
        """Stop."""
        self._listener.close()
        self.mend()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        self._passes.wait()
        for _ in self._ports:
            with self._lock:
                port = self._ports[self._turn % len(self._ports)]
                self._turn += 1
            with contextlib.suppress(OSError):
                server = socket.create_connection((LOOPBACK, port), timeout=5)
                server.settimeout(None)
                break
        else:
            client.close()
            return
        with self._lock:
            self._open.add(server)
        threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
        self._pump(server, client)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._passes.wait()
                target.sendall(data)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, target}


class Machine:
    """One machine: a receiver or a worker, started by `dicom-node run --role`."""

    def __init__(
        self,
        folder: Path,
        name: str,
        role: str,
        tables: Mapping[str, Any],
        database: Relay | None = None,
        *,
        prefix: Sequence[str] = (),
    ) -> None:
        self.name, self.role, self._database = name, role, database
        self._prefix = tuple(prefix)
        self.port: int = tables["node"]["port"]
        self.file = folder / "node.toml"
        self._log = folder / "log.txt"
        self._environment = dict(os.environ)
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        lines: list[str] = []
        for table, value in tables.items():
            for one in value if isinstance(value, list) else [value]:
                lines.append(f"[[{table}]]" if isinstance(value, list) else f"[{table}]")
                lines += [f"{key} = {toml_value(setting)}" for key, setting in one.items()]
        self.file.write_text("\n".join(lines) + "\n")

    @property
    def database(self) -> Relay:
        """The machine's way to the database."""
        assert self._database is not None
        return self._database

    @property
    def pid(self) -> int:
        """Number of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether that process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the machine; `wait` says when it is up."""
        self._environment.update(environment or {})
        self._seen = self.log().count(self._sign)
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, PYTHON, "-m", "dicom_node", "run", "-c", str(self.file), "--role", self.role],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env=self._environment,
            )

    @property
    def _sign(self) -> str:
        return "Worker runs" if self.role == "worker" else "Receiver listens"

    def wait(self) -> None:
        """Wait until the machine is up."""

        def is_up() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self._process.returncode}: {self.log()[-3000:]}")
            return self.log().count(self._sign) > self._seen

        wait_until(is_up, timeout_s=START_S, what=f"the start of {self.name}")

    def kill(self) -> None:
        """Kill the machine, as a power cut does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def stop(self, timeout_s: float = 60.0) -> int:
        """Stop the machine in order; returns its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    def end(self) -> int:
        """Wait for the machine to end by itself; returns its exit code."""
        assert self._process is not None
        return self._process.wait(START_S)

    def close(self) -> None:
        """Give back what it has, once it has ended."""
        if self._database is not None:
            self._database.close()

    def log(self) -> str:
        """Return what the machine has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


class Cluster:
    """Receivers and workers as machines of their own, one database, one place for objects, one address in front.

    Parameters
    ----------
    database_url
        Of an empty PostgreSQL database on the loopback interface.
    storage
        The table of the settings; without it, a folder that all share.
    node
        Further settings of each machine's table `node`.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        pacs_port: int,
        *,
        receivers: int = 2,
        workers: int = 3,
        storage: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        node: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.data_dir: Path = folder / "objects"
        self.url = database_url
        self._environment = dict(environment or {})
        server = int(database_url.rsplit(":", 1)[1].split("/")[0])
        self.machines: dict[str, Machine] = {}
        for role, count in (("receiver", receivers), ("worker", workers)):
            for number in range(1, count + 1):
                name = f"{role}-{number}"
                cable = Relay(server)
                tables = {
                    "node": {
                        "name": name,
                        "ae_title": "LOWDOSE",
                        "bind": LOOPBACK,
                        "port": find_free_port(),
                        "data_dir": str(folder / name / "data"),
                        "database_url": database_url.replace(f":{server}/", f":{cable.port}/"),
                        "drain_s": 10,
                        "dead_after_s": DEAD_AFTER_S,
                        **(node or {}),
                    },
                    "receiver": {"min_free_mb": 16, "network_timeout_s": 15},
                    "storage": dict(storage or {"folder": str(folder / "objects")}),
                    "model": {"threads": 1, "device": "cpu"},
                    "metrics": {"port": 0},
                    "sources": [{"name": "xray", "ae_titles": [CALLING], "hosts": ["127.0.0.0/8"]}],
                    "destinations": [destination("pacs", pacs_port)],
                    "routes": default_routes("pacs"),
                }
                self.machines[name] = Machine(folder / name, name, role, tables, cable)
        self.balancer: Relay | None = Relay(*(m.port for m in self.machines.values() if m.role == "receiver"))

    @property
    def port(self) -> int:
        """The port of the address in front."""
        assert self.balancer is not None
        return self.balancer.port

    def __enter__(self) -> Self:
        try:
            for machine in self.machines.values():
                machine.start(self._environment)
            for machine in self.machines.values():
                machine.wait()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for machine in self.machines.values():
            with contextlib.suppress(Exception):
                machine.kill()
            print(f"-- {machine.name}\n{machine.log()[-3000:]}")
            machine.close()
        if self.balancer is not None:
            self.balancer.close()

    def rows(self, query: str) -> list[Any]:
        """Return the rows of a query on the ledger."""
        database = Database(ledger_url(self.url, self.folder))
        try:
            with database.read() as connection:
                return list(connection.exec_driver_sql(query))
        finally:
            database.close()

    def verify(self, *, deep: bool = False) -> Verification:
        """Verify ledger and store, as a machine whose cable is whole."""
        settings = load_settings(next(iter(self.machines.values())).file)
        settings = settings.model_copy(
            update={
                "node": settings.node.model_copy(
                    update={"database_url": self.url, "name": "look", "data_dir": self.folder / "look"}
                )
            }
        )
        with open_state(settings) as state:
            return verify(state.balance, state.store, deep=deep)

    def wait_balanced(self, received: int, timeout_s: float = 120.0) -> Verification:
        """Wait until `received` objects are delivered; returns the deep verification."""

        def is_done() -> bool:
            total = self.verify().balance.total
            return total.received >= received and total.in_work == 0

        wait_until(is_done, timeout_s=timeout_s, what=f"the delivery of {received} objects")
        found = self.verify(deep=True)
        assert found.ok, found
        assert found.balance.total.received == received, found.balance.total
        return found


def disturb(cluster: Cluster, killed: Sequence[str], cut: Sequence[str]) -> None:
    """Kill some machines and cut others off from the database, at once."""
    for name in cut:
        cluster.machines[name].database.cut()
    for name in killed:
        cluster.machines[name].kill()


def restore(cluster: Cluster, killed: Sequence[str], cut: Sequence[str]) -> None:
    """Undo what `disturb` did: start again, mend."""
    for name in cut:
        cluster.machines[name].database.mend()
    for name in killed:
        cluster.machines[name].start()


__all__ = ["DEAD_AFTER_S", "Cluster", "Machine", "Relay", "disturb", "restore"]
