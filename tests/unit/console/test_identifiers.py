"""The key of identifiers, and what of an object is hashed with it."""

from __future__ import annotations

import io
import logging
import stat
import threading
from pathlib import Path

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from config.loading import load_settings, parse_settings
from config.settings import Settings
from dicom_node.dataset_header import DatasetHeader, scan_header
from dicom_node.identifiers import ACCESSION, KEY_FILE, PATIENT, Identifiers, open_identifiers, try_identifiers
from tests.support.radiographs import radiograph


def settings(folder: Path) -> Settings:
    return parse_settings({"node": {"data_dir": str(folder)}})


def scanned(ds: Dataset, syntax: str) -> DatasetHeader:
    buffer = io.BytesIO()
    ds.file_meta.TransferSyntaxUID = syntax
    dcmwrite(buffer, ds, enforce_file_format=True)
    encoded = buffer.getvalue()
    offset = 132 + 12 + int.from_bytes(encoded[140:144], "little")
    header = scan_header(encoded[offset:], syntax, is_whole=True)
    assert header is not None
    return header


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_the_header_has_patient_and_order_in_every_transfer_syntax(syntax: str) -> None:
    ds = radiograph(1, size=16)
    ds.PatientID, ds.AccessionNumber = "P-77 ", "A-5"
    ds["PixelData"].VR = "OW"
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = b""
    header = scanned(ds, str(syntax))
    assert (header.patient_id, header.accession_number) == (b"P-77", b"A-5")
    # It goes into messages of errors and into logs.
    assert "P-77" not in repr(header)
    assert "A-5" not in repr(header)


def test_strange_identifiers_keep_no_object_out() -> None:
    ds = radiograph(1, size=16)
    del ds.PatientID
    ds.AccessionNumber = ""
    header = scanned(ds, ExplicitVRLittleEndian)
    assert (header.patient_id, header.accession_number) == (b"", b"")
    assert Identifiers(bytes(32)).of_header(header) == ()
    ds.add_new(0x00100020, "LT", "x" * 2000)
    assert scanned(ds, ExplicitVRLittleEndian).patient_id == b""


def test_hashes_depend_on_kind_key_and_value() -> None:
    one, other = Identifiers(bytes(32)), Identifiers(bytes(31) + b"1")
    values = {
        one.of_text(PATIENT, "1")[0],
        one.of_text(ACCESSION, "1")[0],
        one.of_text(PATIENT, "2")[0],
        other.of_text(PATIENT, "1")[0],
    }
    assert len(values) == 4
    assert all(len(value) == 32 for value in values)
    assert one.of_text(PATIENT, " 1 ") == one.of_text(PATIENT, "1")
    assert one.of_text(PATIENT, " ") == []
    assert one.derive("oidc") != one.derive("other")


def test_the_key_is_made_once_for_the_node_alone_and_stays(tmp_path: Path) -> None:
    found: list[list[str]] = []
    start = threading.Barrier(8)

    def race() -> None:
        start.wait()
        found.append(open_identifiers(settings(tmp_path)).of_text(PATIENT, "1"))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({tuple(one) for one in found}) == 1
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert len((tmp_path / KEY_FILE).read_bytes()) == 32


def test_machines_of_a_cluster_name_one_key(tmp_path: Path) -> None:
    (tmp_path / "shared.key").write_bytes(bytes(range(32)))
    file = tmp_path / "node.toml"
    file.write_text('[node]\nidentifier_key = "shared.key"\n')
    loaded = load_settings(file)
    assert loaded.node.identifier_key == tmp_path / "shared.key"
    assert open_identifiers(loaded).of_text(PATIENT, "1") == Identifiers(bytes(range(32))).of_text(PATIENT, "1")


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_key_that_can_t_be_used_is_said_and_keeps_nothing_out(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    with caplog.at_level(logging.ERROR):
        assert try_identifiers(settings(tmp_path)) is None
    assert "not found by patient ID" in caplog.text
