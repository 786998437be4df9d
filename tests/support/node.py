"""A node that really runs: its processes, its settings file, and what its ledger says, as a context manager."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from config.example import toml_value
from config.loading import load_settings
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.state import open_state
from dicom_node.verification import Verification
from dicom_node.verification import verify as verify_state
from tests.support.peers import LOOPBACK, find_free_port, find_program, is_listening, wait_until

PYTHON = sys.executable
REPOSITORY = Path(__file__).resolve().parents[2]
CALLING = "XRAY1"
# A worker loads PyTorch first, on machines that have other things to do.
START_S = 90.0
FAST_BREAKER = {"failures": 3, "probe_every_s": 1.0}
FAST_RETRY = {"initial_delay_s": 0.2, "factor": 1.5, "max_delay_s": 1.0, "jitter": 0.1}


def destination(name: str, port: int, ae_title: str = "PACS", **changes: Any) -> dict[str, Any]:
    """Return a destination on the loopback interface for the settings file, which is soon tried again."""
    retry = {**FAST_RETRY, **changes.pop("retry", {})}
    breaker = {**FAST_BREAKER, **changes.pop("breaker", {})}
    times = {"connect_timeout_s": 3, "acse_timeout_s": 5, "dimse_timeout_s": 20}
    return {
        "name": name,
        "ae_title": ae_title,
        "host": LOOPBACK,
        "port": port,
        **times,
        **changes,
        "retry": retry,
        "breaker": breaker,
    }


def default_routes(*names: str, **changes: Any) -> list[dict[str, Any]]:
    """Return two routes to the same destinations: radiographs are enhanced, everything else is passed through."""
    common = {"quiet_period_s": 0.3, "destinations": list(names)}
    radiographs = {"name": "radiographs", "match": {"Modality": "CR|DX"}, **common, **changes}
    return [radiographs, {"name": "rest", "enhance": False, "send": ["original"], **common}]


class RunningNode:
    """`dicom-node run` on a free port of the loopback interface.

    The block ends with an orderly stop, and fails if a process of the node is left behind.

    Parameters
    ----------
    folder
        Of settings file, data and log; a node started again in it goes on with what is there.
    destinations
        `destination` entries of the settings.
    routes
        Entries of the settings; `default_routes` to all destinations where absent.
    tables
        Further settings by table, such as ``receiver={"max_associations": 2}``; `node` is merged with ours.
    environment
        Environment variables of the node's processes, beside those of the tests.
    program
        What Python runs as the supervisor.
    """

    def __init__(
        self,
        folder: Path,
        *,
        destinations: Sequence[Mapping[str, Any]],
        routes: Sequence[Mapping[str, Any]] | None = None,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "dicom_node"),
        **tables: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.file = folder / "node.toml"
        self.data_dir: Path = Path(tables.get("node", {}).get("data_dir", folder / "data"))
        self.log_file = folder / "log.txt"
        self.port = find_free_port()
        self._environment = dict(environment or {})
        self._program = tuple(program)
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, psutil.Process] = {}
        self._workers = int(tables.get("node", {}).get("workers", 1))
        names = [str(d["name"]) for d in destinations]
        ours: dict[str, Any] = {
            "node": {
                "name": "test",
                "ae_title": "LOWDOSE",
                "bind": LOOPBACK,
                "port": self.port,
                "data_dir": str(self.data_dir),
                "drain_s": 20,
                **tables.pop("node", {}),
            },
            "receiver": {"min_free_mb": 16, **tables.pop("receiver", {})},
            "sources": [{"name": "xray", "ae_titles": [CALLING], "hosts": ["127.0.0.0/8"]}],
            "destinations": list(destinations),
            "routes": list(routes) if routes is not None else default_routes(*names),
            "console": {"enabled": False, **tables.pop("console", {})},
            "model": {"threads": 2, "device": "cpu", **tables.pop("model", {})},
            # Many nodes run at once in the suite, and each test that wants the listener names a port.
            "metrics": {"port": 0, **tables.pop("metrics", {})},
            **tables,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.write_settings(ours)

    # -- settings -------------------------------------------------------------------------------

    def write_settings(self, tables: Mapping[str, Any]) -> None:
        """Write the settings file; it counts from the next start."""
        self.tables = dict(tables)
        lines: list[str] = []
        for name, value in tables.items():
            many = value if isinstance(value, list) else [value]
            for table in many:
                lines.append(f"[[{name}]]" if isinstance(value, list) else f"[{name}]")
                lines += [f"{key} = {toml_value(setting)}" for key, setting in table.items()]
        self.file.write_text("\n".join(lines) + "\n")

    # -- processes ------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill_everything()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            left = [process for process in self._seen.values() if process.is_running()]
            self.kill_everything()
            # The log goes to pytest's captured output, so a failing test shows it.
            print(self.log()[-8000:])
        assert kind is not None or not left, f"processes left behind: {left}"

    def start(self) -> None:
        """Start the node and wait until it listens and its workers run."""
        workers = self.log().count("Worker runs")
        with open(self.log_file, "ab") as log:
            self._supervisor = subprocess.Popen(
                [PYTHON, *self._program, "run", "-c", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )

        def is_up() -> bool:
            assert self._supervisor is not None
            if self._supervisor.poll() is not None:
                raise RuntimeError(f"the node ended with {self._supervisor.returncode}: {self.log()[-3000:]}")
            self.processes()
            return self.log().count("Worker runs") >= workers + self._workers and is_listening(self.port)

        wait_until(is_up, timeout_s=START_S, what="the start of the node")

    def processes(self) -> dict[str, psutil.Process]:
        """Return the processes that live now: supervisor, receiver, worker-0 and so on."""
        if self._supervisor is None or self._supervisor.poll() is not None:
            return {}
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self._supervisor.pid)
            found["supervisor"] = supervisor
            for child in supervisor.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    line = child.cmdline()
                    if "receiver" in line:
                        found["receiver"] = child
                    elif "worker" in line:
                        found[f"worker-{line[line.index('--number') + 1]}"] = child
        self._seen.update({process.pid: process for process in found.values()})
        return found

    def kill(self, name: str) -> None:
        """Kill one process with SIGKILL."""
        process = self.processes()[name]
        process.send_signal(signal.SIGKILL)
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            process.wait(10)

    def kill_everything(self) -> None:
        """Kill the supervisor and its children with SIGKILL, as a power cut does."""
        self.processes()
        for process in self._seen.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(list(self._seen.values()), timeout=10)
        if self._supervisor is not None:
            self._supervisor.wait(10)

    def interrupt(self, with_signal: int = signal.SIGTERM) -> None:
        """Send a signal to the supervisor."""
        self.processes()
        assert self._supervisor is not None
        self._supervisor.send_signal(with_signal)

    def stop(self, with_signal: int = signal.SIGTERM, *, timeout_s: float = 60.0) -> int:
        """Stop the node in order; returns its exit code."""
        assert self._supervisor is not None
        if self._supervisor.poll() is None:
            self.interrupt(with_signal)
        return self._supervisor.wait(timeout_s)

    def left_behind(self) -> list[psutil.Process]:
        """Return the processes of this node that were seen alive and still are."""
        return [process for process in self._seen.values() if process.is_running()]

    def wait_for_restart(self, name: str, than: int) -> None:
        """Wait until a process runs under another id than `than`, and does its work."""
        listening = name == "receiver"

        def is_new() -> bool:
            process = self.processes().get(name)
            if process is None or process.pid == than:
                return False
            return not listening or is_listening(self.port)

        wait_until(is_new, timeout_s=START_S, what=f"the restart of {name}")

    def log(self) -> str:
        """Return what the node has logged so far, over all its starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    # -- commands -------------------------------------------------------------------------------

    def command(self, *arguments: str, exit_codes: Sequence[int] = (0,)) -> dict[str, Any]:
        """Run a command of the product with `--json` and return its object."""
        done = subprocess.run(
            [PYTHON, "-m", "dicom_node", *arguments, "-c", str(self.file), "--json"],
            capture_output=True,
            cwd=REPOSITORY,
            timeout=60,
            check=False,
        )
        assert done.returncode in exit_codes, (arguments, done.returncode, done.stdout, done.stderr)
        return dict(json.loads(done.stdout))

    def send(
        self, *paths: Path, calling: str = CALLING, options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Send files with DCMTK `dcmsend`, as they are, in one association; nothing is checked here."""
        program = find_program("dcmsend")
        assert program is not None, "DCMTK is not installed"
        ours = ["-v", "-aet", calling, "-aec", "LOWDOSE", "--decompress-never", "--no-halt", "--no-uid-checks"]
        return subprocess.run(
            [program, *ours, *options, LOOPBACK, str(self.port), *map(str, paths)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
            env={**os.environ, "TCP_NODELAY": "1"},
        )

    # -- what the ledger says -------------------------------------------------------------------

    def verify(self, *, deep: bool = True) -> Verification:
        """Verify ledger and store from this process, which is faster than the command."""
        with open_state(load_settings(self.file)) as state:
            return verify_state(state.balance, state.store, deep=deep)

    def rows(self, query: str) -> list[Any]:
        """Return the rows of a query on the ledger."""
        database = self._database()
        try:
            with database.read() as connection:
                return list(connection.exec_driver_sql(query))
        finally:
            database.close()

    def _database(self) -> Database:
        return Database(ledger_url(str(self.tables["node"].get("database_url", "")), self.data_dir))

    def wait_for_rows(self, query: str, *, timeout_s: float = 60.0) -> list[Any]:
        """Return the rows of a query on the ledger as soon as there are any."""
        wait_until(lambda: bool(self.rows(query)), timeout_s=timeout_s, what=query)
        return self.rows(query)

    def wait_until_idle(self, *, timeout_s: float = 90.0) -> None:
        """Wait until nothing is in work any more but dead letters."""

        def is_idle() -> bool:
            total = self.verify(deep=False).balance.total
            return total.in_work == total.dead_letters

        wait_until(is_idle, timeout_s=timeout_s, what="the end of the work")

    def wait_balanced(self, received: int, *, dead_letters: int = 0, timeout_s: float = 90.0) -> Verification:
        """Wait until `received` objects are delivered, quarantined or dead letters; returns the deep verification."""

        def is_done() -> bool:
            total = self.verify(deep=False).balance.total
            return total.received >= received and total.in_work == total.dead_letters

        try:
            wait_until(is_done, timeout_s=timeout_s, what=f"the delivery of {received} objects")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.verify(deep=False).balance.total}; {self.log()[-3000:]}") from None
        found = self.verify()
        assert found.ok, found
        assert found.balance.total.received == received, found.balance.total
        assert found.balance.total.dead_letters == dead_letters, found.balance.total
        return found


@contextlib.contextmanager
def running_node(folder: Path, *ports: int, **options: Any) -> Iterator[RunningNode]:
    """Run a node with a destination `pacs`, `pacs2` ... for each port."""
    names = ["pacs", *(f"pacs{n}" for n in range(2, len(ports) + 1))]
    destinations = options.pop("destinations", None) or [
        destination(name, port) for name, port in zip(names, ports, strict=True)
    ]
    with RunningNode(folder, destinations=destinations, **options) as node:
        yield node
