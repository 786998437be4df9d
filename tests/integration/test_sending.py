"""What `dicom-node send` does, against a real SCP."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from dicom_node.sending import parse_target, send
from tests.support.items import CT, DX, write_image, write_series
from tests.support.peers import MockScp, closed_port


def console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=400, force_terminal=False), text


def test_a_folder_is_sent_and_summed_up(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "study", 5)
    (tmp_path / "study" / "notes.txt").write_text("nothing to see")
    out, text = console()
    with MockScp() as peer:
        target = parse_target(f"MOCKPACS@127.0.0.1:{peer.port}")
        summary = send([tmp_path / "study"], target, calling_ae_title="MODALITY", console=out)
    assert (summary.sent, summary.failed, len(summary.skipped)) == (5, (), 1)
    assert summary.is_complete
    assert summary.sent_bytes == sum(path.stat().st_size for path in paths)
    assert {entry.calling_ae_title for entry in peer.objects} == {"MODALITY"}
    assert "5 sent to MOCKPACS, 1 skipped (no storable DICOM object); 0.0 MB in" in text.getvalue()
    assert "5 of 5 sent" in text.getvalue()


def test_each_failure_gets_one_line_with_file_and_reason(tmp_path: Path) -> None:
    write_image(tmp_path, 0)
    write_image(tmp_path, 1)
    write_image(tmp_path, 2)
    write_image(tmp_path, 3, sop_class=CT)
    out, text = console()
    with MockScp(statuses={1: 0xA700, 2: 0xB007}, contexts={DX: ("1.2.840.10008.1.2.1",)}) as peer:
        target = parse_target(f"MOCKPACS@127.0.0.1:{peer.port}")
        summary = send([tmp_path], target, calling_ae_title="MODALITY", console=out)
    lines = text.getvalue().splitlines()
    assert [(t.path.name, t.will_pass) for t in summary.failed] == [("00001.dcm", True), ("00003.dcm", False)]
    assert [t.path.name for t in summary.warnings] == ["00002.dcm"]
    assert summary.sent == 2
    assert not summary.is_complete
    assert len([line for line in lines if "00001.dcm: not sent: MOCKPACS at" in line and "A700" in line]) == 1
    assert len([line for line in lines if "00002.dcm: stored, but: MOCKPACS at" in line and "B007" in line]) == 1
    assert (
        len([line for line in lines if "00003.dcm: not sent: MOCKPACS at" in line and "CT Image Storage" in line]) == 1
    )
    assert lines[-1].startswith("2 sent to MOCKPACS, 2 not sent;")


def test_a_dead_node_is_told_once_for_each_file_and_ends_soon(tmp_path: Path) -> None:
    write_series(tmp_path, 2)
    out, text = console()
    with closed_port() as port:
        summary = send([tmp_path], parse_target(f"X@127.0.0.1:{port}"), calling_ae_title="MODALITY", console=out)
    assert summary.sent == 0
    assert len(summary.failed) == 2
    assert f"nothing listens on port {port} there; is it running, and is the port right?" in text.getvalue()


def test_nothing_to_send_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    out, _ = console()
    with closed_port() as port:
        summary = send([tmp_path], parse_target(f"X@127.0.0.1:{port}"), calling_ae_title="MODALITY", console=out)
    assert not summary.is_complete
    assert len(summary.skipped) == 1


def test_the_summary_as_json_is_plain_data(tmp_path: Path) -> None:
    write_series(tmp_path, 1)
    out, _ = console()
    with MockScp() as peer:
        target = parse_target(f"MOCKPACS@127.0.0.1:{peer.port}")
        summary = send([tmp_path], target, calling_ae_title="MODALITY", console=out)
    found = json.loads(json.dumps(summary.as_json()))
    assert set(found) == {"sent", "warnings", "failed", "skipped", "sent_bytes", "seconds"}
    assert (found["sent"], found["failed"]) == (1, [])
