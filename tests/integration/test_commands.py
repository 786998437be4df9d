"""The commands: one clear sentence for each mistake, documented exit codes, and JSON that is one object."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless

from config.loading import load_settings
from dicom_node import cli, state
from dicom_node.app import only_one
from dicom_node.conformance import render_statement
from dicom_node.ledger.database import ledger_url
from tests.contract.conftest import Clock, Ledger
from tests.support.objects import cr_dataset, save, sr_dataset
from tests.support.peers import MockScp, closed_port


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command; in this process, where starting one more would prove nothing more."""
    command = [str(argument) for argument in arguments]
    if command[0] == "run":
        program = [sys.executable, "-m", "dicom_node", *command]
        return subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", ["dicom-node", *command])
        cli.main()
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(command, ended.value.code, out.getvalue(), err.getvalue())


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A settings file as `init` writes it, its destination on a port where nothing listens."""
    assert run("init", tmp_path / "node").returncode == 0
    file = tmp_path / "node" / "node.toml"
    with closed_port() as port:
        file.write_text(file.read_text().replace("port = 11113", f"port = {port}"))
    return file


@pytest.fixture
def image(tmp_path: Path) -> Path:
    import numpy as np

    return save(cr_dataset(np.full((16, 16), 1000, dtype=np.uint16)), tmp_path / "image.dcm")


def test_every_exit_code_is_documented_where_people_look() -> None:
    codes = {getattr(state, name) for name in dir(state) if name.startswith("EXIT_")}
    for text in (cli.__doc__ or "", (Path(__file__).parents[2] / "README.md").read_text()):
        said = re.search(r"[Ee]xit codes:(.*?)\n\n", text.replace("\n\n", "\n\n") + "\n\n", re.DOTALL)
        assert said is not None
        assert {int(code) for code in re.findall(r"(?:^|;)\s*(\d)\s", said.group(1))} == codes


def test_init_never_overwrites_a_settings_file(settings: Path) -> None:
    before = settings.read_text()
    again = run("init", settings.parent)
    assert again.returncode == state.EXIT_USAGE
    assert "exists and is left as it is" in again.stderr
    assert settings.read_text() == before


def test_check_names_every_fault_and_warns_of_what_is_never_forwarded(settings: Path, tmp_path: Path) -> None:
    assert run("check", "-c", settings).returncode == 0
    broken = tmp_path / "broken.toml"
    broken.write_text('[node]\nport = 0\nname = ""\n')
    found = run("check", "-c", broken)
    assert found.returncode == state.EXIT_USAGE
    assert "node.port = 0" in found.stderr
    assert "node.name = ''" in found.stderr
    as_json = json.loads(run("check", "-c", broken, "--json").stdout)
    assert {fault["path"] for fault in as_json["faults"]} == {"node.port", "node.name"}
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    assert len(json.loads(run("check", "-c", empty, "--json").stdout)["warnings"]) == 2


def test_a_taken_port_ends_the_node_with_its_own_code_and_says_what_to_do(settings: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        settings.write_text(settings.read_text().replace("# port = 11112", f"port = {port}"))
        ended = run("run", "-c", settings)
    assert ended.returncode == state.EXIT_PORT
    assert f"port {port}" in ended.stderr
    assert "choose another node.port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_data_folder_that_is_a_file_ends_with_its_own_code(settings: Path) -> None:
    data_dir = settings.parent / "node-data"
    data_dir.rmdir()
    data_dir.write_text("")
    for command in (("status",), ("verify",), ("run",)):
        ended = run(*command, "-c", settings)
        assert ended.returncode == state.EXIT_DATA_DIR, ended
        assert "can't be written" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_database_that_does_not_answer_ends_with_its_own_code(settings: Path) -> None:
    with closed_port() as port:
        url = f'database_url = "postgresql://u:secret@127.0.0.1:{port}/d"'
        settings.write_text(settings.read_text().replace('# database_url = ""', url))
        ended = run("status", "-c", settings)
    assert ended.returncode == state.EXIT_LEDGER
    assert "check node.database_url" in ended.stderr
    assert "secret" not in ended.stderr


def test_send_tells_where_nothing_listens_and_what_is_no_target(image: Path) -> None:
    with closed_port() as port:
        ended = run("send", image, "--to", f"LOWDOSE@127.0.0.1:{port}")
    assert ended.returncode == state.EXIT_FOUND_FAULTS
    assert "nothing listens" in ended.stderr
    assert run("send", image, "--to", "LOWDOSE").returncode == state.EXIT_USAGE


def test_send_tells_of_a_wrong_ae_title(image: Path) -> None:
    with MockScp(called_ae_title="RIGHT") as scp:
        ended = run("send", image, "--to", f"WRONG@127.0.0.1:{scp.port}", "--json")
    assert ended.returncode == state.EXIT_FOUND_FAULTS
    said = json.loads(ended.stdout)
    assert said["sent"] == 0
    assert "WRONG" in said["failed"][0]["reason"]


def test_doctor_finds_a_dead_destination_and_a_good_one(settings: Path) -> None:
    dead = run("doctor", "-c", settings, "--json")
    assert dead.returncode == state.EXIT_FOUND_FAULTS
    steps = {step["step"]: step["state"] for step in json.loads(dead.stdout)["subjects"]["pacs"]}
    assert steps["tcp"] == "failed"
    assert steps["echo"] == "skipped"
    with MockScp(ae_title="PACS") as scp:
        settings.write_text(re.sub(r"(?m)^port = \d+", f"port = {scp.port}", settings.read_text()))
        assert run("doctor", "-c", settings, "--json").returncode == state.EXIT_OK


def test_route_test_tells_which_route_and_why(settings: Path, image: Path) -> None:
    said = json.loads(run("route", "test", image, "-c", settings, "--json").stdout)
    assert said["route"] == "radiographs"
    assert said["trials"][0]["conditions"] == [
        {"key": "Modality", "condition": "CR|DX|IO|XA|RF", "value": "CR", "holds": True}
    ]
    no_dicom = run("route", "test", settings, "-c", settings)
    assert no_dicom.returncode == state.EXIT_USAGE
    assert "name a DICOM file" in no_dicom.stderr


def with_lines(settings: Path, **lines: str) -> Path:
    """Set settings that stand as comments in the file that `init` writes."""
    text = settings.read_text()
    for name, value in lines.items():
        text, count = re.subn(rf"(?m)^(# )?{name} = .*$", f"{name} = {value}", text)
        assert count == 1, name
    settings.write_text(text)
    return settings


def test_route_test_tells_what_becomes_of_an_object_and_what_each_destination_gets(settings: Path, image: Path) -> None:
    with_lines(settings, send='["original", "enhanced"]', compress='"jpeg-ls"', strength='"mild"', report="true")
    ended = run("route", "test", image, "-c", settings, "--json")
    assert ended.returncode == state.EXIT_OK
    (found,) = json.loads(ended.stdout)["objects"]
    assert found == {
        "file": str(image),
        "route": "radiographs",
        "trials": json.loads(ended.stdout)["trials"],
        "enhanced": True,
        "reason": "Computed Radiography Image Storage, 12 bits, 1 frame(s)",
        "strength": 0.4,
        "report": True,
        "sends": [
            {
                "destination": "pacs",
                "content": "original",
                "transfer_syntaxes": [ExplicitVRLittleEndian, ImplicitVRLittleEndian],
            },
            {
                "destination": "pacs",
                "content": "enhanced",
                "transfer_syntaxes": [JPEGLSLossless, ExplicitVRLittleEndian, ImplicitVRLittleEndian],
            },
        ],
    }
    text = run("route", "test", image, "-c", settings).stdout
    assert "holds  Modality = 'CR', wanted CR|DX|IO|XA|RF" in text
    assert "enhanced with strength 0.40 (Computed Radiography" in text
    assert "pacs gets the enhanced image in JPEG-LS Lossless Image Compression, else Explicit VR Little Endian" in text
    assert "pacs gets a report on the series, an Enhanced SR" in text


def test_route_test_takes_folders_and_several_files_and_names_what_it_skips(
    settings: Path, image: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study" / "series"
    folder.mkdir(parents=True)
    save(sr_dataset(), folder / "report.dcm")
    (folder / "notes.txt").write_text("nothing")
    (folder / "empty.dcm").touch()
    said = json.loads(run("route", "test", tmp_path / "study", image, "-c", settings, "--json").stdout)
    assert "route" not in said
    assert [(Path(o["file"]).name, o["route"], o["enhanced"]) for o in said["objects"]] == [
        ("report.dcm", "fallback", False),
        ("image.dcm", "radiographs", True),
    ]
    assert [(Path(entry["path"]).name, entry["reason"]) for entry in said["skipped"]] == [
        ("empty.dcm", "not a DICOM file"),
        ("notes.txt", "not a DICOM file"),
    ]
    # With only one object the answer keeps the keys that it had when it took one file.
    single = json.loads(run("route", "test", image, "-c", settings, "--json").stdout)
    assert (single["route"], single["trials"]) == ("radiographs", said["objects"][1]["trials"])
    text = run("route", "test", image, image, "-c", settings).stdout
    assert f"{image} and 1 more" in text
    assert text.count("takes it") == 1


def test_route_test_tells_of_no_report_where_none_is_asked_for(settings: Path, image: Path) -> None:
    with_lines(settings, report="false")
    assert "report" not in run("route", "test", image, "-c", settings).stdout


def test_route_test_warns_of_a_sender_that_would_be_rejected(settings: Path, image: Path) -> None:
    def warnings(*options: str) -> list[str]:
        said = run("route", "test", image, "-c", settings, *options, "--json")
        found: list[str] = json.loads(said.stdout)["warnings"]
        return found

    assert warnings() == warnings("--calling", "XRAY1") == []
    assert warnings("--calling", "XRAY2", "--called", "OTHER") == [
        "XRAY2 is in no [[sources]]: its association would be rejected, and no route be asked",
        "this node is LOWDOSE: an association that calls another would be rejected",
    ]
    settings.write_text(settings.read_text().replace("match = { Modality", 'match = { source = ".*", Modality'))
    assert warnings() == ["no calling AE title is assumed, and routes ask for the sender: name one with --calling"]
    assert "warning: no calling AE title" in run("route", "test", image, "-c", settings).stdout


def test_send_shows_as_sent_only_what_arrived(image: Path) -> None:
    with closed_port() as port:
        ended = run("send", image, "--to", f"LOWDOSE@127.0.0.1:{port}")
    assert "0 of 1 sent" in ended.stderr
    with MockScp() as scp:
        ended = run("send", image, "--to", f"{scp.ae_title}@127.0.0.1:{scp.port}")
    assert "1 of 1 sent" in ended.stderr


def test_route_test_plays_an_ae_title_and_ends_with_1_where_no_route_takes_one(settings: Path, image: Path) -> None:
    text = settings.read_text().replace('match = { Modality = "CR|DX|IO|XA|RF" }', "match = MATCH")
    text = text.replace("[fallback]", "[nothing]").split("[nothing]")[0] + "[model]" + text.split("[model]")[1]
    match = '{ source = "xray-room-1", called_ae_title = "LOW.*" }'
    settings.write_text(text.replace("MATCH", match))
    taken = run("route", "test", image, "-c", settings, "--calling", "XRAY1", "--json")
    assert (taken.returncode, json.loads(taken.stdout)["route"]) == (state.EXIT_OK, "radiographs")
    for options in (("--calling", "XRAY2"), ("--calling", "XRAY1", "--called", "OTHER"), ()):
        kept = run("route", "test", image, "-c", settings, *options, "--json")
        assert kept.returncode == state.EXIT_FOUND_FAULTS
        (found,) = json.loads(kept.stdout)["objects"]
        assert (found["route"], found["sends"]) == (None, [])
        assert found["reason"] == "no route takes it: it would be kept until one does"
    assert "FAILS  source = ''" in run("route", "test", image, "-c", settings).stdout
    assert "there is no [fallback]" in run("check", "-c", settings).stdout


def test_route_test_plays_an_address_where_sources_share_an_ae_title(settings: Path, image: Path) -> None:
    text = settings.read_text().replace('match = { Modality = "CR|DX|IO|XA|RF" }', 'match = { source = "second" }')
    for name, host in (("first", "192.0.2.1"), ("second", "192.0.2.2")):
        text += f'\n[[sources]]\nname = "{name}"\nae_titles = ["TWIN"]\nhosts = ["{host}"]\n'
    settings.write_text(text)

    def tried(*options: str) -> dict[str, Any]:
        said = json.loads(run("route", "test", image, "-c", settings, "--calling", "TWIN", *options, "--json").stdout)
        trial: dict[str, Any] = said["trials"][0]
        return trial

    assert tried("--host", "192.0.2.2")["matches"]
    assert tried()["conditions"][0]["value"] == "first"
    wrong = run("route", "test", image, "-c", settings, "--host", "pacs.local")
    assert (wrong.returncode, "'pacs.local' is no IP address" in wrong.stderr) == (state.EXIT_USAGE, True)


def test_check_tells_of_routes_that_nothing_reaches(settings: Path) -> None:
    assert "warning" not in run("check", "-c", settings).stdout
    first = '[[routes]]\nname = "{}"\ndestinations = ["pacs"]\n'
    settings.write_text(settings.read_text() + first.format("all") + first.format("later"))
    assert json.loads(run("check", "-c", settings, "--json").stdout)["warnings"] == [
        "route later is never reached: all before it takes everything"
    ]


def test_an_empty_node_is_balanced_and_its_queue_is_empty(settings: Path) -> None:
    verified = json.loads(run("verify", "-c", settings, "--json").stdout)
    assert verified["ok"] is True
    assert verified["received"] == 0
    assert json.loads(run("queue", "list", "-c", settings, "--json").stdout) == {"deliveries": [], "holds": []}
    refused = run("queue", "retry", 7, "-c", settings)
    assert refused.returncode == state.EXIT_USAGE
    assert "queue list" in refused.stderr


@pytest.mark.parametrize("command", ["list", "retry"])
def test_the_queue_of_a_misspelt_destination_is_not_said_to_be_empty(settings: Path, command: str) -> None:
    refused = run("queue", command, "-c", settings, "--destination", "pasc")
    assert (refused.returncode, refused.stdout) == (state.EXIT_USAGE, "")
    assert refused.stderr == "dicom-node: no destination 'pasc'; known are pacs\n"
    assert run("queue", command, "-c", settings, "--destination", "pacs").returncode == state.EXIT_OK


@pytest.fixture
def ledger(settings: Path) -> Iterator[Ledger]:
    """The ledger of the node, for what only a running node would write into it."""
    opened = Ledger(ledger_url("", settings.parent / "node-data"), Clock())
    yield opened
    opened.database.close()


def refuse(ledger: Ledger, destination: str) -> None:
    """Have a destination refuse a series as a whole."""
    arrival_id = ledger.complete()
    (image,) = ledger.arrivals.begin(arrival_id, 0)
    ledger.pass_through(image)
    ledger.arrivals.conclude(arrival_id, destinations=(destination,), send_original=True, send_enhanced=False)
    (delivery,) = ledger.deliveries.due()
    ledger.deliveries.begin(delivery.delivery_id, 0)
    ledger.deliveries.refuse(delivery.delivery_id, "it does not take this SOP class")


def test_a_destination_that_only_the_ledger_knows_still_has_its_queue(settings: Path, ledger: Ledger) -> None:
    refuse(ledger, "former-pacs")
    said = run("queue", "list", "-c", settings, "--destination", "former-pacs")
    assert "0 sent, 1 refused, 0 left, 1 try\n" in said.stdout
    retried = run("queue", "retry", "-c", settings, "--destination", "former-pacs")
    assert retried.stdout == "1 delivery is tried again now.\n"


def test_status_leads_from_dead_letters_to_their_reasons(settings: Path, ledger: Ledger) -> None:
    assert "queue list" not in run("status", "-c", settings).stdout
    refuse(ledger, "pacs")
    assert "dicom-node queue list -c FILE says why" in run("status", "-c", settings).stdout


def test_status_names_what_is_quarantined_with_sender_reason_and_file(settings: Path, ledger: Ledger) -> None:
    key = f"q-{'0' * 32}"
    reason = "the data set is cut off: [7fe0,0010] announces 152788 bytes more than came, which is a long sentence"
    ledger.reception.record_quarantined(
        association_id=ledger.associate(),
        key=key,
        size=10,
        dataset_offset=5,
        digest="e" * 64,
        reason=reason,
        sop_instance_uid="1.2.3",
    )
    (line,) = [line for line in run("status", "-c", settings).stdout.splitlines() if line.startswith("Quarantined")]
    file = settings.parent / "node-data" / "quarantine" / f"{key}.dcm"
    assert line.endswith(f", from XRAY1 at 127.0.0.1: {reason}; it lies in {file}")
    (told,) = json.loads(run("status", "-c", settings, "--json").stdout)["quarantined"]
    assert told == {
        "at": ledger.clock.now,
        "calling_ae_title": "XRAY1",
        "host": "127.0.0.1",
        "sop_instance_uid": "1.2.3",
        "reason": reason,
        "key": key,
    }


def test_conformance_writes_the_statement_of_the_settings(settings: Path, tmp_path: Path) -> None:
    settings.write_text(settings.read_text().replace('# ae_title = "LOWDOSE"', 'ae_title = "NIGHTSHIFT"'))
    printed = run("conformance", "-c", settings)
    assert printed.returncode == state.EXIT_OK
    assert printed.stdout == render_statement(load_settings(settings))
    assert "AE title `NIGHTSHIFT`" in printed.stdout
    file = tmp_path / "statement.md"
    written = run("conformance", "-c", settings, "--output", file)
    assert (written.returncode, written.stdout) == (state.EXIT_OK, "")
    assert file.read_text() == printed.stdout


def test_conformance_names_every_fault_of_the_settings_and_a_file_that_can_not_be_written(
    settings: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text('[node]\nport = 0\nae_title = "far too long a title"\n')
    found = run("conformance", "-c", broken)
    assert (found.returncode, found.stdout) == (state.EXIT_USAGE, "")
    assert "node.port = 0" in found.stderr
    assert "node.ae_title = 'far too long a title'" in found.stderr
    refused = run("conformance", "-c", settings, "--output", tmp_path / "nowhere" / "statement.md")
    assert refused.returncode == state.EXIT_USAGE
    assert "can't be written (No such file or directory); name another file" in refused.stderr


def test_a_second_receiver_on_the_same_data_folder_is_refused(settings: Path) -> None:
    # It would take the first one's open associations for ended.
    with only_one(settings.parent / "node-data", "receiver"):
        ended = run("run", "-c", settings, "--role", "receiver")
    assert ended.returncode == state.EXIT_DATA_DIR
    assert "another receiver runs on" in ended.stderr
