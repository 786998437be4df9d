"""What an association or a delivery carried, for the audit: studies, SOP classes, and patients where they are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom.filereader import dcmread

from dicom_node.audit.events import Study
from dicom_node.audit.recorder import is_on, names_patients
from dicom_node.destinations.base import DeliveryItem

_STUDIES: Final = 1000


@dataclass(kw_only=True)
class Tally:
    """Objects by study and SOP class; of each study the key of the first one."""

    classes: dict[str, Counter[str]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def add(self, study_instance_uid: str, sop_class_uid: str, key: str) -> None:
        """Count an object; nothing where no audit is written."""
        if not is_on() or (study_instance_uid not in self.classes and len(self.classes) >= _STUDIES):
            return
        self.classes.setdefault(study_instance_uid, Counter())[sop_class_uid] += 1
        self.keys.setdefault(study_instance_uid, key)


def study_of_items(study_instance_uid: str, items: Iterable[DeliveryItem]) -> Study:
    """Return what a delivery carries."""
    listed = list(items)
    patient_id = patient_of(lambda: listed[0].path) if listed else ""
    return Study(
        study_instance_uid=study_instance_uid,
        patient_id=patient_id,
        classes=Counter(item.sop_class_uid for item in listed),
    )


def patient_of(locate: Callable[[], Path]) -> str:
    """Return the Patient ID in a stored object where the audit names patients; empty where it can't be read."""
    if not names_patients():
        return ""
    try:
        header = dcmread(locate(), specific_tags=["PatientID"], stop_before_pixels=True, force=True)
        return str(header.get("PatientID", "") or "")
    except Exception:  # noqa: BLE001 - a header that a maker wrote oddly must not end a delivery; the study still tells
        return ""
