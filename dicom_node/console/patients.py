"""Patient and order of a study, read from a stored object for those who may see it; the ledger has none of it."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicom_node.errors import UnsupportedPixels
from dicom_node.instance_store import InstanceStore
from dicom_node.object_keeping import StoreUnavailable, UnknownObject
from dicom_node.part10 import open_part10


@dataclass(frozen=True, kw_only=True)
class PatientFacts:
    """What an object says of its patient and order; `missing` says why there is nothing."""

    name: str = ""
    patient_id: str = ""
    birth_date: str = ""
    sex: str = ""
    accession_number: str = ""
    study_description: str = ""
    study_date: str = ""
    missing: str = ""


def read_patient(store: InstanceStore, key: str | None) -> PatientFacts:
    """Return what the object under `key` says of its patient."""
    if key is None:
        return PatientFacts(missing="retention has removed every object of this study; the PACS has them")
    try:
        with open_part10(store.path(key), folder=store.scratch) as part10:
            header = part10.header
            return PatientFacts(
                name=_text(header, "PatientName"),
                patient_id=_text(header, "PatientID"),
                birth_date=_date(header, "PatientBirthDate"),
                sex=_text(header, "PatientSex"),
                accession_number=_text(header, "AccessionNumber"),
                study_description=_text(header, "StudyDescription"),
                study_date=_date(header, "StudyDate"),
            )
    except (OSError, UnsupportedPixels, UnknownObject, StoreUnavailable):
        return PatientFacts(missing="the object can't be read now; dicom-node verify --deep -c FILE says more")


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword, "")
    # Components of a name are separated by carets, groups of it (PS3.5 6.2.1) by equals signs.
    text = "" if value is None else str(value)
    return ", ".join(part.replace("^", " ").strip() for part in text.split("=") if part) if "Name" in keyword else text


def _date(header: Dataset, keyword: str) -> str:
    text = _text(header, keyword)
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 and text.isdigit() else text
