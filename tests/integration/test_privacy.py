"""What a node writes to its log never holds a patient's data, whatever becomes of the objects."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pydicom import config as pydicom_config

from tests.support.modality import ModalityAssociation
from tests.support.node import default_routes, destination, running_node
from tests.support.peers import MockScp, ReceivedObject, closed_port, read_part10
from tests.support.radiographs import CT, radiograph

MARK = "ZQX"
"""Begins every value below and occurs nowhere else."""

ATTRIBUTES = {
    "PatientName": f"{MARK}NAME^FIRST",
    "PatientID": f"{MARK}ID",
    "OtherPatientNames": f"{MARK}OTHER",
    "PatientAddress": f"{MARK}STREET 1",
    "PatientComments": f"{MARK}COMMENT",
    "AccessionNumber": f"{MARK}ACC",
    "ReferringPhysicianName": f"{MARK}REFERRER",
    "OperatorsName": f"{MARK}OPERATOR",
    "InstitutionName": f"{MARK}HOSPITAL",
    "StudyDescription": f"{MARK}STUDY",
    "SeriesDescription": f"{MARK}SERIES",
    "ImageComments": f"{MARK}IMAGE",
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


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_of_a_node_holds_nothing_of_a_patient(tmp_path: Path, form: str) -> None:
    objects = tmp_path / "objects"
    objects.mkdir()
    enhanced = [marked(objects, n, series=1) for n in range(2)]
    # There are fewer pixels than it says.
    unreadable = marked(objects, 1, series=2, Rows=999)
    passed = marked(objects, 1, series=3, sop_class=CT)
    refused = dataclasses.replace(passed, sop_instance_uid="1.2.3")
    cut_off = dataclasses.replace(enhanced[0], data=enhanced[0].data[:-500])
    with MockScp(statuses={0: 0xC000, 1: 0xA700}) as pacs, closed_port() as nobody:
        destinations = [
            destination("pacs", pacs.port, "PACS"),
            destination("away", nobody, "AWAY", retry={"max_age_h": 0.001}),
        ]
        # Conditions make the node read these attributes; none of them holds.
        conditions = {"PatientBirthDate": "1.*", "PatientWeight": {"min": 0}, "PatientSex": "F", "PatientName": "A.*"}
        routes = [
            *({"name": key, "match": {key: value}, "destinations": ["pacs"]} for key, value in conditions.items()),
            *default_routes("pacs", "away", report=True),
        ]
        logging = {"level": "debug", "format": form}
        with running_node(tmp_path / "node", destinations=destinations, routes=routes, logging=logging) as node:
            modality = ModalityAssociation(node.port)
            assert [modality.store_object(o) for o in (*enhanced, unreadable, passed)] == [0, 0, 0, 0]
            assert modality.store_object(refused) == 0xA900
            assert modality.store_object(cut_off) == 0xC000
            modality.release()
            node.wait_until_idle(timeout_s=60)
            answers = [node.command("status"), node.command("queue", "list"), node.verify()]
            assert node.rows("SELECT count(*) FROM instance WHERE origin = 'report'") == [(1,)]
        log = node.log()
    # The node did what it was to do, so the log had the occasion.
    for sentence in ("Stored instance", "Instance not stored", "Image passed through", "Delivered", "Series concluded"):
        assert sentence in log
    assert MARK not in log
    assert MARK not in str(answers)
