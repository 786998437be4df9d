"""The chain of audit messages: every change of it shows, and neither processes, crashes nor a full disk break it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.audit.chain import HEAD, AuditChain, files_of, read_entries, verify
from tests.support.node import REPOSITORY


def write(folder: Path, count: int, *, rotate_bytes: int = 1_000_000, first: int = 1) -> AuditChain:
    chain = AuditChain(folder, rotate_bytes=rotate_bytes)
    for number in range(first, first + count):
        chain.append(f"<m{number}/>", 1_800_000_000.0 + number)
    return chain


def breaks(folder: Path) -> list[str]:
    return [one.what for one in verify(folder)[1]]


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines(keepends=True)


def test_a_chain_as_it_was_written_holds_and_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    os.umask(0o022)
    write(folder, 5)
    assert verify(folder) == (5, [])
    assert [entry.message for entry in read_entries(folder, 3)] == ["<m4/>", "<m5/>"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(files_of(folder)[0].stat().st_mode) == 0o600
    # An empty folder, and none, have nothing wrong with them.
    assert verify(tmp_path / "none") == (0, [])


def change(lines: list[str]) -> None:
    lines[1] = lines[1].replace("<m2/>", "<mX/>")


def change_last(lines: list[str]) -> None:
    lines[-1] = lines[-1].replace("<m5/>", "<mX/>")


def remove(lines: list[str]) -> None:
    del lines[2]


def remove_last(lines: list[str]) -> None:
    del lines[-1]


def remove_first(lines: list[str]) -> None:
    del lines[0]


def swap(lines: list[str]) -> None:
    lines[1], lines[2] = lines[2], lines[1]


def repeat(lines: list[str]) -> None:
    lines.insert(2, lines[1])


def insert(lines: list[str]) -> None:
    entry = json.loads(lines[2])
    lines.insert(2, json.dumps({**entry, "message": "<forged/>"}) + "\n")


def garble(lines: list[str]) -> None:
    lines[1] = "not JSON\n"


def renumber(lines: list[str]) -> None:
    del lines[1]
    for place in range(1, len(lines)):
        entry = json.loads(lines[place])
        lines[place] = json.dumps({**entry, "n": place + 1}) + "\n"


@pytest.mark.parametrize(
    "tamper", [change, change_last, remove, remove_last, remove_first, swap, repeat, insert, garble, renumber]
)
def test_whatever_is_done_to_the_lines_shows(tmp_path: Path, tamper: Callable[[list[str]], None]) -> None:
    write(tmp_path, 5)
    file = files_of(tmp_path)[0]
    lines = lines_of(file)
    tamper(lines)
    file.write_text("".join(lines))
    assert breaks(tmp_path)


def test_files_that_were_removed_or_exchanged_show(tmp_path: Path) -> None:
    write(tmp_path, 9, rotate_bytes=300)
    files = files_of(tmp_path)
    assert len(files) > 3
    assert verify(tmp_path) == (9, [])
    kept = files[1].read_bytes()
    files[1].unlink()
    assert breaks(tmp_path)
    files[1].write_bytes(kept)
    assert verify(tmp_path) == (9, [])
    last = files[-1].read_bytes()
    files[-1].unlink()
    assert any("gone from the end" in what for what in breaks(tmp_path))
    files[-1].write_bytes(last)
    (tmp_path / HEAD).unlink()
    assert breaks(tmp_path) == ["it is gone"]


def test_a_chain_goes_on_after_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    write(tmp_path, 3)
    file = files_of(tmp_path)[0]
    with open(file, "ab") as stream:
        stream.write(b'{"n": 4, "at": 18')
    assert breaks(tmp_path) == ["the last line was cut off"]
    write(tmp_path, 2, first=4)
    assert verify(tmp_path) == (5, [])


def test_a_crash_before_the_head_is_written_is_no_break(tmp_path: Path) -> None:
    write(tmp_path, 3)
    head = (tmp_path / HEAD).read_text()
    write(tmp_path, 1, first=4)
    (tmp_path / HEAD).write_text(head)
    assert verify(tmp_path) == (4, [])
    write(tmp_path, 1, first=5)
    assert verify(tmp_path) == (5, [])


def test_a_disk_that_is_full_for_a_while_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = write(tmp_path, 2)

    def half(descriptor: int, data: bytes, offset: int) -> int:
        return pwrite(descriptor, data[: len(data) // 2], offset)

    pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(OSError, match="No space"):
            chain.append("<lost/>", 1.0)
    assert verify(tmp_path) == (2, [])
    chain.append("<m3/>", 2.0)
    assert [entry.message for entry in read_entries(tmp_path)] == ["<m1/>", "<m2/>", "<m3/>"]
    assert verify(tmp_path) == (3, [])


def test_a_file_longer_than_what_is_read_of_its_end(tmp_path: Path) -> None:
    AuditChain(tmp_path, rotate_bytes=10_000_000).append("<m1/>", 1.0)
    for message in ("x" * 400_000, "<m3/>", "y" * 400_000, "<m5/>"):
        # Each as a process of its own would: it knows nothing of the one before.
        AuditChain(tmp_path, rotate_bytes=10_000_000).append(message, 1.0)
    assert verify(tmp_path) == (5, [])


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dicom_node.audit.chain import AuditChain\n"
        "chain = AuditChain(Path(sys.argv[1]), rotate_bytes=2000)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for n in range(100): chain.append(f'<m{n}/>', float(n))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    writers = [subprocess.Popen(command, env=environment, **pipes) for _ in range(3)]
    # All of them begin at once, however long each took to start.
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert verify(tmp_path) == (300, [])
    assert len(files_of(tmp_path)) > 5
