"""What a node writes to its log never holds a patient's data, whatever becomes of the objects."""

from __future__ import annotations

import base64
import dataclasses
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import config as pydicom_config

from tests.support.modality import ModalityAssociation
from tests.support.node import REPOSITORY, default_routes, destination, running_node
from tests.support.peers import MockScp, ReceivedObject, closed_port, read_part10
from tests.support.radiographs import CT, DX, radiograph

MARK = "ZQX"
"""Begins every value below and occurs nowhere else."""

ATTRIBUTES = {
    "PatientName": f"{MARK}NAME^FIRST",
    "PatientID": f"{MARK}ID",
    "OtherPatientNames": f"{MARK}OTHER",
    "PatientAddress": f"{MARK}STREET 1",
    "PatientComments": f"'); DROP TABLE instance; --{MARK}COMMENT",
    "AccessionNumber": f"{MARK}ACC",
    "ReferringPhysicianName": f"{MARK}REFERRER",
    "OperatorsName": f"{MARK}OPERATOR",
    "InstitutionName": f"{MARK}HOSPITAL",
    "StudyDescription": f"../../../../{MARK}STUDY",
    "SeriesDescription": f"$(touch {MARK}SERIES)",
    "ImageComments": f"|touch {MARK}IMAGE;\r\n`id`",
    # Values that contradict their VR: libraries like to quote them in warnings and errors.
    "PatientBirthDate": f"{MARK}BORN",
    "PatientAge": f"{MARK}AGE",
    "PatientSex": f"{MARK}SEX OF NOBODY KNOWS HOW",
}
PLACEHOLDER = b"987654"
"""Of Patient's Weight, whose VR (DS) can't be given a text; replaced in the encoded object."""


def marked(folder: Path, number: int, **changes: Any) -> ReceivedObject:
    """Return a radiograph with the mark in every attribute of its patient; `changes` to other attributes."""
    ds = radiograph(number, **{key: changes.pop(key) for key in ("series", "sop_class") if key in changes})
    before = pydicom_config.settings.writing_validation_mode
    pydicom_config.settings.writing_validation_mode = pydicom_config.IGNORE
    try:
        for keyword, value in {**ATTRIBUTES, **changes}.items():
            setattr(ds, keyword, value)
        ds.PatientWeight = PLACEHOLDER.decode()
        path = folder / f"{ds.SOPInstanceUID}.dcm"
        ds.save_as(path, enforce_file_format=True)
    finally:
        pydicom_config.settings.writing_validation_mode = before
    whole = read_part10(path)
    data = whole.data.replace(PLACEHOLDER, f"{MARK}KG ".encode())
    assert data.count(MARK.encode()) == len(ATTRIBUTES) + 1, "a value was not written as it is"
    return dataclasses.replace(whole, data=data)


_FAULTS = """
import sys

if "worker" in sys.orig_argv:
    import pathlib

    from dicom_node import enhancement
    from dicom_node.destinations import preparing
    from dicom_node.workflows import Workflows

    decide, conclude, decode = enhancement.decide, Workflows._conclude_with, preparing.to_uncompressed

    def quoting(route, header):
        if str(header.SeriesInstanceUID).endswith(".2.5"):
            raise RuntimeError(f"Invalid value for VR PN: {{header.PatientName}}")
        return decide(route, header)

    def failing_once(self, arrival, *arguments):
        # The engine notes the error of a workflow.
        if arrival.series_instance_uid.endswith(".2.1"):
            mark = pathlib.Path({mark!r})
            if not mark.exists():
                mark.touch()
                raise KeyError("{value}^WORKFLOW")
        return conclude(self, arrival, *arguments)

    def poisoned(path, *arguments, **options):
        raise ValueError("{value} can't be transcoded")

    enhancement.decide = quoting
    Workflows._conclude_with = failing_once
    preparing.to_uncompressed = poisoned

if "receiver" in sys.orig_argv:
    from dicom_node import storage_scp

    scan = storage_scp.scan_header

    def scanning(data, *arguments, **options):
        if b"1.2.826.0.1.3680043.10.2.3.6.1" in bytes(data[:4096]):
            raise ArithmeticError("{value}^RECEIVER")
        return scan(data, *arguments, **options)

    storage_scp.scan_header = scanning
"""
"""Errors that quote a value where nobody foresees them: in deciding, in a workflow, in a codec, in receiving."""


def with_faults(folder: Path) -> dict[str, str]:
    """Return the environment of a node with `_FAULTS`."""
    folder.mkdir()
    code = _FAULTS.format(mark=str(folder / "mark"), value=f"{MARK}VALUE")
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{folder}:{REPOSITORY}"}


def everything_in(file: Path) -> Iterator[str]:
    """Yield every value of every row of an SQLite file, and what pickles in base64 among them hold."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    yield str(value)
                    if isinstance(value, str) and len(value) % 4 == 0:
                        with suppress(ValueError):
                            yield base64.b64decode(value, validate=True).decode("latin-1")


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_of_a_node_holds_nothing_of_a_patient(tmp_path: Path, form: str) -> None:
    objects = tmp_path / "objects"
    objects.mkdir()
    enhanced = [marked(objects, n, series=1) for n in range(2)]
    # There are fewer pixels than it says.
    unreadable = marked(objects, 1, series=2, Rows=999)
    passed = marked(objects, 1, series=3, sop_class=CT)
    # No route's Modality, and a syntax that the PACS does not take: it goes through a codec that fails.
    quoted = marked(objects, 1, series=5)
    unforeseen = marked(objects, 1, series=6)
    refused = dataclasses.replace(passed, sop_instance_uid="1.2.3")
    cut_off = dataclasses.replace(enhanced[0], data=enhanced[0].data[:-500])
    comments = dict.fromkeys(range(3), f"Patient {MARK}NAME unknown")
    statuses = {0: 0xC000, 1: 0xA700, 2: 0xA900}
    implicit = dict.fromkeys((DX, CT), ("1.2.840.10008.1.2",))
    with (
        MockScp(statuses=statuses, comments=comments) as pacs,
        MockScp(contexts=implicit) as other,
        closed_port() as nobody,
    ):
        destinations = [
            destination("pacs", pacs.port, "PACS"),
            destination("other", other.port, "OTHER"),
            destination("away", nobody, "AWAY", retry={"max_age_h": 0.001}),
        ]
        # Conditions make the node read these attributes; none of them holds.
        conditions = {"PatientBirthDate": "1.*", "PatientWeight": {"min": 0}, "PatientSex": "F", "PatientName": "A.*"}
        routes = [
            *({"name": key, "match": {key: value}, "destinations": ["pacs"]} for key, value in conditions.items()),
            *default_routes("pacs", "other", "away", report=True),
        ]
        logging = {"level": "debug", "format": form}
        environment = with_faults(tmp_path / "faults")
        with running_node(
            tmp_path / "node", destinations=destinations, routes=routes, logging=logging, environment=environment
        ) as node:
            modality = ModalityAssociation(node.port)
            assert [modality.store_object(o) for o in (*enhanced, unreadable, passed, quoted)] == [0] * 5
            assert modality.store_object(unforeseen) == 0x0110
            assert modality.store_object(refused) == 0xA900
            assert modality.store_object(cut_off) == 0xC000
            modality.release()
            node.wait_until_idle(timeout_s=90)
            answers = [node.command("status"), node.command("queue", "list"), node.verify()]
            assert node.rows("SELECT count(*) FROM instance WHERE origin = 'report'") == [(1,)]
        log = node.log()
    data_dir = node.data_dir
    # The node did what it was to do, so the log had the occasion.
    for sentence in ("Stored instance", "Instance not stored", "Image passed through", "Delivered", "Series concluded"):
        assert sentence in log
    for error in ("RuntimeError", "KeyError", "ValueError", "ArithmeticError"):
        assert error in log, f"{error} was not brought about, or nothing tells of it"
    assert MARK not in log, [line for line in log.splitlines() if MARK in line]
    assert MARK not in str(answers)
    assert "C000 (cannot understand)" in str(answers) + log
    # What stays: rows, also of the engine, texts beside quarantined objects, names of files.
    for name in ("ledger.sqlite", "workflows.sqlite"):
        values = list(everything_in(data_dir / name))
        assert len(values) > 100
        assert not [value for value in values if MARK in value], name
    assert any("Unforeseen" in value for value in values), "the engine noted no error"
    assert not list(REPOSITORY.glob(f"*{MARK}*")), "something in an attribute was run"
    for path in data_dir.rglob("*"):
        assert MARK not in str(path)
        if path.suffix == ".txt":
            assert MARK not in path.read_text()
    assert_closed_to_others(data_dir)


def assert_closed_to_others(data_dir: Path) -> None:
    """Whatever lies in a data folder after a run, databases and their logs too, is its owner's alone."""
    found = [data_dir, *data_dir.rglob("*")]
    kinds = {path.suffix for path in found if path.is_file()}
    assert {".dcm", ".txt", ".lock", ".sqlite"} <= kinds
    for path in found:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))
