"""The listener: a TCP port for the outside, sockets between processes, whatever peers and leftovers do."""

from __future__ import annotations

import os
import socket
import stat
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dicom_node.observation.kept import Kept
from dicom_node.observation.listener import Answer, ask, names_on_sockets, on_port, on_socket
from tests.support.peers import LOOPBACK, wait_until


def echo(path: str) -> Answer:
    if path == "/bad":
        raise RuntimeError("unforeseen")
    return Answer.of_json(200, {"path": path})


def get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_path_is_answered_and_an_unforeseen_error_is_a_500() -> None:
    with on_port(LOOPBACK, 0, echo) as port:
        assert get(port, "/x?y=1") == (200, b'{\n  "path": "/x"\n}\n')
        assert get(port, "/bad")[0] == 500
        assert get(port, "/x")[0] == 200


def test_only_get_and_head_are_answered() -> None:
    with on_port(LOOPBACK, 0, echo) as port:
        request = urllib.request.Request(f"http://{LOOPBACK}:{port}/x", data=b"1", method="POST")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 501


def test_many_silent_connections_do_not_take_every_thread() -> None:
    with on_port(LOOPBACK, 0, echo) as port:
        before = threading.active_count()
        silent = [socket.create_connection((LOOPBACK, port), timeout=10) for _ in range(60)]
        # Those beyond the bound are hung up on.
        wait_until(lambda: sum(is_closed(one) for one in silent) >= 40)
        assert threading.active_count() - before <= 20
        for one in silent:
            one.close()
        wait_until(lambda: get_quietly(port) == 200)


def is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def get_quietly(port: int) -> int:
    try:
        return get(port, "/x")[0]
    except OSError:
        return 0


def test_a_process_is_asked_on_its_socket_however_long_the_path_is(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 120) / "run"
    folder.parent.mkdir()
    with on_socket(folder, "worker-0", echo):
        assert ask(folder, "worker-0", "/health").body == b'{\n  "path": "/health"\n}\n'
        assert names_on_sockets(folder) == ["worker-0"]
        assert stat.S_IMODE((folder / "worker-0.sock").stat().st_mode) == 0o600
    assert names_on_sockets(folder) == []


def test_a_socket_left_by_a_process_that_was_killed_is_told_apart_and_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(os.path.relpath(tmp_path / "receiver.sock"))
    left.close()
    assert names_on_sockets(tmp_path) == ["receiver"]
    with pytest.raises(ConnectionRefusedError):
        ask(tmp_path, "receiver", "/health")
    with on_socket(tmp_path, "receiver", echo):
        assert ask(tmp_path, "receiver", "/health").status == 200


def test_a_process_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    release = threading.Event()

    def hang(_path: str) -> Answer:
        release.wait(60)
        return Answer.of_json(200, {})

    with on_socket(tmp_path, "receiver", hang):
        with pytest.raises(TimeoutError):
            ask(tmp_path, "receiver", "/health", timeout_s=0.2)
        release.set()


# -- what is slow -----------------------------------------------------------------------------------


def test_nobody_waits_for_a_look_up_that_hangs_and_it_is_begun_once() -> None:
    release, begun = threading.Event(), []

    def look() -> str:
        begun.append(1)
        release.wait(60)
        return "found"

    kept = Kept(look, 5.0, late=lambda _s: "late", wait_s=0.1)
    assert [kept.get() for _ in range(3)] == ["late"] * 3
    assert len(begun) == 1
    release.set()
    wait_until(lambda: kept.get() == "found")


def test_a_value_is_looked_up_again_only_when_it_is_old() -> None:
    now, begun = [0.0], []

    def look() -> int:
        begun.append(1)
        return len(begun)

    kept = Kept(look, 5.0, late=lambda _s: -1, wait_s=30, monotonic=lambda: now[0])
    assert [kept.get(), kept.get()] == [1, 1]
    now[0] = 6.0
    assert kept.get() == 2


def test_the_error_of_a_look_up_comes_to_who_asks_and_passes() -> None:
    fails = [True]

    def look() -> str:
        if fails[0]:
            raise OSError("gone")
        return "found"

    kept = Kept(look, 5.0, late=lambda _s: "late", wait_s=30)
    with pytest.raises(OSError, match="gone"):
        kept.get()
    fails[0] = False
    assert kept.get() == "found"
