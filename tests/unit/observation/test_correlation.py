"""One id along the whole way: computed alike everywhere, and never that of another study."""

from __future__ import annotations

import json
import logging
import subprocess
import threading

import pytest

from dicom_node.logs import JsonFormatter, TextFormatter
from dicom_node.observation.correlation import correlated, current_trace_id, follow, fresh, trace_id_of


def line(**facts: object) -> dict[str, object]:
    record = logging.LogRecord("dicom_node", logging.INFO, __file__, 1, "Delivered", None, None)
    record.__dict__.update(facts)
    found: dict[str, object] = json.loads(JsonFormatter("worker-0").format(record))
    return found


def test_the_id_is_a_trace_id_and_an_operator_can_compute_it() -> None:
    uid = "1.2.840.113619.2.5.1762583153"
    said = subprocess.run(f"printf %s {uid} | sha256sum | cut -c1-32", shell=True, capture_output=True, check=True)
    assert trace_id_of(uid) == said.stdout.decode().strip()
    assert len(trace_id_of(uid)) == 32
    assert trace_id_of("") == ""


def test_every_record_about_a_study_has_its_id_and_no_other_has() -> None:
    assert "trace_id" not in line()
    with correlated("1.2.3"):
        assert line()["trace_id"] == trace_id_of("1.2.3")
        with correlated("1.2.4"):
            assert line()["trace_id"] == trace_id_of("1.2.4")
        assert line()["trace_id"] == trace_id_of("1.2.3")
        assert line(trace_id="given")["trace_id"] == "given"
        # Nothing is known of what this one is about.
        assert line(trace_id="")["trace_id"] == trace_id_of("1.2.3")
    assert "trace_id" not in line(trace_id="")
    text = TextFormatter("worker-0").format(
        logging.makeLogRecord({"name": "dicom_node", "msg": "Delivered", "trace_id": "abc"})
    )
    assert text.endswith("Delivered trace_id=abc")


def test_a_thread_that_is_used_again_forgets_the_study_before() -> None:
    seen = []

    @fresh
    def work(uid: str, *, fails: bool = False) -> None:
        seen.append(current_trace_id())
        follow(uid)
        seen.append(current_trace_id())
        if fails:
            raise KeyError(uid)

    work("1.2.3")
    with pytest.raises(KeyError):
        work("1.2.4", fails=True)
    with correlated("1.2.9"):
        work("1.2.5")
        assert current_trace_id() == trace_id_of("1.2.9")
    assert seen == ["", trace_id_of("1.2.3"), "", trace_id_of("1.2.4"), "", trace_id_of("1.2.5")]
    assert current_trace_id() == ""


def test_threads_know_nothing_of_each_other() -> None:
    follow("1.2.3")
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(current_trace_id()))
    thread.start()
    thread.join()
    follow("")
    assert seen == [""]
