"""Makes quality reports in tests from outcomes with figures of their own, and the example of the documentation."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from highdicom.sr import EnhancedSR
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.ledger.arrivals import DerivedInstance, EnhancementDecision, EnhancementRecord, StoredInstance
from dicom_node.ledger.outcomes import ImageOutcome
from dicom_node.part10 import open_part10
from dicom_node.quality_report import COMMENT, ReportContext, build_report, private_code
from tests.support.objects import dx_dataset, save

MODEL_DIGEST = "0123456789abcdef" * 4
DX = "1.2.840.10008.5.1.4.1.1.1.1.1"
REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "report.md"
STUDY, SERIES, DERIVED_SERIES = "1.2.3.1", "1.2.3.2", "2.25.1000"


def source(number: int, *, sop_class_uid: str = DX, digest: str = "a" * 64) -> StoredInstance:
    """Return image `number` of the series as it was received."""
    return StoredInstance(
        instance_id=number,
        arrival_id=1,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=f"{SERIES}.{number}",
        study_instance_uid=STUDY,
        series_instance_uid=SERIES,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        key=f"{number:032x}",
        size=1000,
        dataset_offset=300,
        digest=digest,
        calling_ae_title="XRAY1",
        called_ae_title="LOWDOSE",
        host="127.0.0.1",
    )


def enhanced(number: int, **changes: Any) -> ImageOutcome:
    """Return an image that was enhanced."""
    values: dict[str, Any] = {
        "decision": EnhancementDecision.ENHANCED,
        "strength": 0.7,
        "noise_before": 39.75,
        "noise_after": 12.3251953125,
        "model_digest": MODEL_DIGEST,
    }
    return ImageOutcome(
        source=source(number),
        record=EnhancementRecord(**{**values, **changes}),
        derived=DerivedInstance(
            sop_class_uid=DX,
            sop_instance_uid=f"2.25.{number}",
            study_instance_uid=STUDY,
            series_instance_uid=DERIVED_SERIES,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            key=f"{number + 1000:032x}",
            size=1000,
            dataset_offset=300,
            digest="b" * 64,
        ),
        decided_at=1_767_348_800.0 + number,
    )


def passed_through(number: int, reason: str, **changes: Any) -> ImageOutcome:
    """Return an object that was passed through."""
    record = EnhancementRecord(decision=EnhancementDecision.PASSED_THROUGH, reason=reason)
    return ImageOutcome(
        source=source(number, **changes), record=record, derived=None, decided_at=1_767_348_800.0 + number
    )


def context(**changes: Any) -> ReportContext:
    """Return a report context with made-up circumstances."""
    values: dict[str, Any] = {
        "node_name": "node1",
        "node_version": "0.1.0",
        "model_name": "lite",
        "model_digest": MODEL_DIGEST,
        "strength": 0.7,
        "generation": 1,
        "series_number_offset": 2000,
        "now": datetime(2026, 5, 6, 7, 8, 9, 123456, tzinfo=UTC),
        "series_time": datetime(2026, 5, 6, 7, 0, 0, tzinfo=UTC),
    }
    return ReportContext(**{**values, **changes})


def radiograph(**attributes: Any) -> Dataset:
    """Return image 1 of the series."""
    pixels = np.full((8, 8), 100, np.uint16)
    uids = {"study_instance_uid": STUDY, "series_instance_uid": SERIES, "sop_instance_uid": f"{SERIES}.1"}
    return dx_dataset(pixels, **uids, **attributes)


def report_on(path: Path, outcomes: Sequence[ImageOutcome], circumstances: ReportContext | None = None) -> Dataset:
    """Return the report on `outcomes`, whose first enhanced image is in `path`."""
    with open_part10(path) as part10:
        return build_report(part10.header, outcomes, circumstances or context())


def numbers_of(report: EnhancedSR) -> list[dict[str, Any]]:
    """Return what a report says of each image, by our Code Values, as highdicom reads it."""
    found = []
    for group in report.content.get_image_measurement_groups():
        told: dict[str, Any] = {m.name.value: m.value for m in group.get_measurements()}
        (decision,) = group.get_qualitative_evaluations(name=private_code("DECISION"))
        comments = [item.value for item in group[0].ContentSequence if item.name == COMMENT]
        references = [item for item in group[0].ContentSequence if item.name == codes.DCM.SourceOfMeasurement]
        told["decision"] = decision.value.value
        told["comment"] = comments[0] if comments else None
        told["sources"] = [str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for item in references]
        found.append(told)
    return found


def example_dump() -> str:
    """Return the example of the documentation as `dsrdump` shows it."""
    outcomes = [
        enhanced(1),
        enhanced(2, strength=0.35, reason="strength lowered to 0.35: what was removed holds structure"),
        passed_through(3, "it is a quality control image"),
    ]
    with TemporaryDirectory() as folder:
        report = report_on(save(radiograph(), Path(folder) / "image.dcm"), outcomes)
        return dsrdump(save(report, Path(folder) / "report.dcm"))


def dsrdump(path: Path) -> str:
    """Return what DCMTK's `dsrdump` shows of a document; CalledProcessError where it can't read it."""
    done = subprocess.run(
        ["dsrdump", "+Pl", "+Pc", "+Pu", str(path)], capture_output=True, timeout=60, check=True, text=True
    )
    assert not done.stderr, done.stderr
    return done.stdout


def page_with(dump: str) -> str:
    """Return the page of the documentation with `dump` as its example."""
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(r"(?s)(?<=```text\n).*?(?=```)", lambda _: dump.strip() + "\n", text, count=1)


if __name__ == "__main__":
    PAGE.write_text(page_with(example_dump()), encoding="utf-8")
