"""What validators say of an object, as sets that can be compared: `dciodvfy` and `dicom-validator`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pydicom
from dicom_validator.validator.error_handler import NullValidationResultHandler
from dicom_validator.validator.iod_validator import IODValidator
from pydicom.dataset import Dataset
from pydicom.uid import UID

from tests.support.standard_tables import tables_for

Finding = tuple[str, str]

REFERENCE_TO_SOURCE: Final[Finding] = ("(0008,2112) / (0008,1155)", "InvalidValue")


MISTAKEN: Final = ("Error - Unrecognized enumerated value <RF> for value 1 of attribute <Modality>",)
"""What dciodvfy says of every Enhanced XRF image; PS3.3 A.48.3.1.1 asks for RF."""


def dciodvfy_errors(path: Path) -> set[str]:
    """Return the errors of `dciodvfy`, in its words."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    return {line for line in lines if line.startswith("Error") and line not in MISTAKEN}


def new_dciodvfy_errors(source: Path, derived: Path) -> set[str]:
    """Return the errors of `derived` that `source` does not have."""
    uid = _invalid_uid(source)
    new = dciodvfy_errors(derived) - dciodvfy_errors(source)
    return {error for error in new if not (uid and uid in error)}


def new_dicom_validator_errors(source: Path, derived: Path) -> set[Finding]:
    """Return the errors of `derived` that `source` does not have."""
    before, after = (pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in (source, derived))
    new = dicom_validator_errors(after) - dicom_validator_errors(before)
    return new - {REFERENCE_TO_SOURCE} if _invalid_uid(source) else new


def dicom_validator_errors(ds: Dataset) -> set[Finding]:
    """Return the errors of `dicom-validator`: the attribute, after the sequences that it is in, and the kind of error.

    Raises
    ------
    KeyError
        If the tables of the standard do not know the SOP class.
    """
    tables = tables_for(str(ds.SOPClassUID))
    if tables is None:
        raise KeyError(ds.SOPClassUID)
    result = IODValidator(ds, tables, error_handler=NullValidationResultHandler()).validate()
    return {(str(tag), error.code.name) for found in result.module_errors.values() for tag, error in found.items()}


def _invalid_uid(source: Path) -> str:
    """Return the source's own UID if it is none: then our reference to it is none either."""
    uid = str(pydicom.dcmread(source, stop_before_pixels=True, force=True).SOPInstanceUID)
    return "" if UID(uid).is_valid else uid
