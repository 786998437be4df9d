"""Log lines: one line for each event whatever a peer sends, and the same facts as JSON."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node.errors import LedgerUnavailable, UnsupportedPixels, describe
from dicom_node.logs import JsonFormatter, TextFormatter, where
from dicom_node.private_errors import Unforeseen, without_values
from tests.support.node import REPOSITORY


def record(**facts: object) -> logging.LogRecord:
    made = logging.LogRecord("dicom_node", logging.INFO, __file__, 1, "Stored instance", None, None)
    made.__dict__.update(facts)
    return made


def test_a_line_stays_one_line_whatever_a_peer_calls_itself() -> None:
    line = TextFormatter("receiver").format(record(calling_ae_title="A\nINFO forged: line", reason="two words"))
    assert "\n" not in line
    assert 'calling_ae_title="A\\nINFO forged: line"' in line
    assert 'reason="two words"' in line


def test_json_has_the_facts_as_keys() -> None:
    line = json.loads(JsonFormatter("worker-0").format(record(delivery=7, state="sent")))
    assert line["message"] == "Stored instance"
    assert (line["role"], line["level"], line["delivery"], line["state"]) == ("worker-0", "info", 7, "sent")


def failing() -> None:
    try:
        raise ValueError("Invalid value for VR PN: 'DOE^JANE'")
    except ValueError as error:
        raise UnsupportedPixels("the header can't be read") from error


def test_a_traceback_tells_places_and_kinds_and_our_own_words_alone() -> None:
    with pytest.raises(UnsupportedPixels) as caught:
        failing()
    text = where(caught.value)
    assert "DOE" not in text
    first, led_to, second = text.partition("which led to:")
    assert "test_logs.py" in first
    assert first.rstrip().endswith("ValueError: ValueError")
    assert led_to
    assert second.endswith("UnsupportedPixels: the header can't be read")
    for formatter in (TextFormatter("worker-0"), JsonFormatter("worker-0")):
        made = record()
        made.exc_info = (UnsupportedPixels, caught.value, caught.value.__traceback__)
        line = formatter.format(made)
        assert "DOE" not in line
        assert "ValueError" in line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LedgerUnavailable("the database is locked"), "the database is locked"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/DOE"), "OSError: No space left on device"),
        (KeyError("DOE"), "KeyError"),
        (OSError("DOE"), "OSError"),
    ],
)
def test_of_errors_no_more_is_told_than_is_known_to_be_harmless(error: Exception, said: str) -> None:
    assert describe(error) == said


def test_lines_of_libraries_end_before_what_they_quote() -> None:
    made = logging.LogRecord("pydicom", logging.ERROR, __file__, 1, "Invalid value for VR PN: 'DOE'", None, None)
    assert "DOE" not in TextFormatter("worker-0").format(made)
    assert json.loads(JsonFormatter("worker-0").format(made))["message"] == "Invalid value for VR PN"
    ours = logging.LogRecord("dicom_node.worker", logging.ERROR, __file__, 1, "One: two", None, None)
    assert "One: two" in TextFormatter("worker-0").format(ours)


def test_a_step_fails_with_errors_of_ours_alone() -> None:
    @without_values
    def step(error: Exception) -> None:
        raise error

    with pytest.raises(LedgerUnavailable, match="locked"):
        step(LedgerUnavailable("locked"))
    with pytest.raises(Unforeseen, match=r"^KeyError$") as caught:
        step(KeyError("DOE"))
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("ends", ["main", "thread"])
def test_an_error_that_nobody_catches_ends_without_its_words(ends: str) -> None:
    code = (
        "import threading; from dicom_node.logs import hook_exceptions; hook_exceptions()\n"
        "def fail(): raise ValueError('DOE^JANE')\n"
        + ("fail()" if ends == "main" else "t = threading.Thread(target=fail); t.start(); t.join()")
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False
    )
    assert "DOE" not in done.stderr
    assert "ValueError" in done.stderr
    assert "in fail" in done.stderr


def test_what_init_writes_and_what_a_node_finds_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "node"

    def command(*arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "dicom_node", *arguments],
            capture_output=True, cwd=REPOSITORY, timeout=120, check=True, preexec_fn=lambda: os.umask(0),
        )  # fmt: skip

    command("init", str(folder))
    assert (folder / "node.toml").stat().st_mode & 0o777 == 0o600
    assert (folder / "node-data").stat().st_mode & 0o777 == 0o700
    (folder / "node-data").chmod(0o755)
    command("status", "-c", str(folder / "node.toml"))
    for path in [folder / "node-data", *(folder / "node-data").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_a_command_warns_of_comes_with_its_facts() -> None:
    code = (
        "import logging; from dicom_node.logs import speak_with_facts; speak_with_facts('dicom-node'); "
        "logging.getLogger('dicom_node.scrub').error('A file is bad', extra={'key': 'abc'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=True
    )
    assert done.stderr.endswith("ERROR   dicom-node: A file is bad key=abc\n")
