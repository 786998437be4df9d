"""The supervisor: children are kept alive, a fatal end stops all, and nothing outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from dicom_node.app import role_command
from dicom_node.supervisor import MAX_DELAY_S, Role, Supervisor, restart_delay_s

# Stops in order on SIGTERM, or when its standard input ends, as the node's roles do.
CHILD = """
import os, signal, sys, threading
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def watch():
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
signal.sigwait([signal.SIGTERM])
open(sys.argv[1], "a").write("stopped\\n")
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_for(condition, timeout_s: float = 20.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def node(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A supervisor with one child, as a process of its own."""
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    record = tmp_path / "record"
    record.touch()
    main = tmp_path / "main.py"
    main.write_text(
        textwrap.dedent(f"""
        import sys
        from dicom_node.supervisor import Role, Supervisor
        role = Role(name="child", command=[sys.executable, {str(child)!r}, {str(record)!r}])
        sys.exit(Supervisor([role], drain_s=5).run())
        """)
    )
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, str(main)], env={**os.environ, "PYTHONPATH": root})
    wait_for(lambda: record.read_text())
    yield process, record
    process.kill()
    process.wait()


def pids(record: Path) -> list[int]:
    return [int(line) for line in record.read_text().split() if line.isdigit()]


def test_a_child_that_dies_is_started_again(node) -> None:  # type: ignore[no-untyped-def]
    _, record = node
    os.kill(pids(record)[0], signal.SIGKILL)
    wait_for(lambda: len(pids(record)) == 2)
    assert is_running(pids(record)[1])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_children_end_in_order(node, signum: signal.Signals) -> None:  # type: ignore[no-untyped-def]
    process, record = node
    process.send_signal(signum)
    assert process.wait(20) == 0
    assert record.read_text().endswith("stopped\n")
    assert not is_running(pids(record)[0])


def test_children_end_when_the_supervisor_is_killed(node) -> None:  # type: ignore[no-untyped-def]
    process, record = node
    process.kill()
    process.wait()
    wait_for(lambda: not is_running(pids(record)[0]))


def test_a_fatal_exit_code_stops_everything_and_is_passed_on() -> None:
    role = Role(name="r", command=[sys.executable, "-c", "raise SystemExit(3)"], fatal_codes=frozenset({3}))
    other = Role(name="o", command=[sys.executable, "-c", "import time; time.sleep(60)"])
    begin = time.monotonic()
    previous = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    try:
        assert Supervisor([other, role], drain_s=1).run() == 3
    finally:
        for signum, handler in zip((signal.SIGINT, signal.SIGTERM), previous, strict=True):
            signal.signal(signum, handler)
    assert other.process is None
    assert time.monotonic() - begin < 15


def test_a_fatal_exit_code_of_a_child_that_ran_before_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a worker that dies while the database is away: it can't start until that is back."""
    monkeypatch.setattr("dicom_node.supervisor.STEADY_S", 0.5)
    starts = tmp_path / "starts"
    # The first one runs for longer than it takes to be steady, all others can't start.
    code = (
        f"import sys, time; first = not __import__('pathlib').Path({str(starts)!r}).exists();"
        f"open({str(starts)!r}, 'a').write('x'); time.sleep(1.5 if first else 0); sys.exit(1 if first else 4)"
    )
    role = Role(name="r", command=[sys.executable, "-c", code], fatal_codes=frozenset({4}))
    supervisor = Supervisor([role], drain_s=1)
    previous = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    stopper = threading.Thread(
        target=lambda: (wait_for(lambda: starts.exists() and len(starts.read_text()) >= 4), supervisor._stop.set())
    )
    stopper.start()
    try:
        assert supervisor.run() == 0
    finally:
        stopper.join(30)
        for signum, handler in zip((signal.SIGINT, signal.SIGTERM), previous, strict=True):
            signal.signal(signum, handler)
    assert len(starts.read_text()) >= 4


def test_a_child_that_fails_again_and_again_waits_longer_up_to_a_bound() -> None:
    delays = [restart_delay_s(failures) for failures in range(1, 12)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY_S


def test_a_role_imports_nothing_from_the_folder_that_the_node_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    (tmp_path / "typer.py").write_text("raise SystemExit(77)")
    done = subprocess.run(
        [*role_command(tmp_path / "node.toml"), "nobody"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    # The program itself says so.
    assert (done.returncode, "nobody" in done.stderr) == (2, True)
