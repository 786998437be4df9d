"""Log lines: one line for each event whatever a peer sends, and the same facts as JSON."""

from __future__ import annotations

import json
import logging

from dicom_node.logs import JsonFormatter, TextFormatter


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
