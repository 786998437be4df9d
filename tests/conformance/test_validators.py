"""The validator itself: it finds the faults that a derivation could make, so its silence means something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.support.derived import context, derive_file
from tests.support.objects import cr_dataset, ct_dataset, dx_dataset, rf_dataset, save, xa_dataset
from tests.support.standard_tables import requires_standard_tables, tables_for
from tests.support.validators import Finding, dicom_validator_errors

IMAGE = np.random.default_rng(3).integers(0, 4096, (20, 24)).astype(np.uint16)
CINE = np.random.default_rng(4).integers(0, 1024, (2, 20, 24)).astype(np.uint16)
pytestmark = requires_standard_tables


def remove(keyword: str) -> Callable[[Dataset], None]:
    return lambda ds: ds.__delattr__(keyword)


def put(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda ds: ds.__setattr__(keyword, value)


def in_item(sequence: str, change: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    return lambda ds: change(ds[sequence][0])


@pytest.mark.parametrize(
    ("make", "damage", "finding"),
    [
        (dx_dataset, remove("SeriesInstanceUID"), ("(0020,000E)", "TagMissing")),
        (dx_dataset, put("SOPInstanceUID", ""), ("(0008,0018)", "TagEmpty")),
        (dx_dataset, remove("SeriesNumber"), ("(0020,0011)", "TagMissing")),
        (dx_dataset, remove("Manufacturer"), ("(0008,0070)", "TagMissing")),
        (dx_dataset, remove("PresentationIntentType"), ("(0008,0068)", "TagMissing")),
        (dx_dataset, put("PresentationIntentType", "FOR TEASING"), ("(0008,0068)", "EnumValueNotAllowed")),
        (dx_dataset, put("SeriesDate", "6 May 2026"), ("(0008,0021)", "InvalidValue")),
        (cr_dataset, put("LossyImageCompression", "02"), ("(0028,2110)", "EnumValueNotAllowed")),
        (cr_dataset, put("PhotometricInterpretation", "RGB"), ("(0028,0004)", "EnumValueNotAllowed")),
        (cr_dataset, put("FrameTime", "33"), ("(0018,1063)", "TagUnexpected")),
        (xa_dataset, remove("ImageType"), ("(0008,0008)", "TagMissing")),
        (xa_dataset, remove("FrameIncrementPointer"), ("(0028,0009)", "TagMissing")),
        (
            dx_dataset,
            in_item("SourceImageSequence", put("SpatialLocationsPreserved", "MAYBE")),
            ("(0008,2112) / (0028,135A)", "EnumValueNotAllowed"),
        ),
        (
            cr_dataset,
            in_item("SourceImageSequence", remove("ReferencedSOPInstanceUID")),
            ("(0008,2112) / (0008,1155)", "TagMissing"),
        ),
        (
            cr_dataset,
            in_item("ContributingEquipmentSequence", remove("PurposeOfReferenceCodeSequence")),
            ("(0018,A001) / (0040,A170)", "TagMissing"),
        ),
        (
            xa_dataset,
            in_item("DerivationCodeSequence", remove("ContextGroupExtensionCreatorUID")),
            ("(0008,9215) / (0008,010D)", "TagMissing"),
        ),
        (
            xa_dataset,
            in_item("DerivationCodeSequence", in_item("EquivalentCodeSequence", remove("CodeMeaning"))),
            ("(0008,9215) / (0008,0121) / (0008,0104)", "TagMissing"),
        ),
    ],
)
def test_dicom_validator_sees_what_is_wrong_with_a_derived_object(
    tmp_path: Path, make: Callable[..., Dataset], damage: Callable[[Dataset], None], finding: Finding
) -> None:
    source = save(make(CINE if make is xa_dataset else IMAGE), tmp_path / "source.dcm")
    derived = pydicom.dcmread(derive_file(source, tmp_path / "derived.dcm", context()))
    before = dicom_validator_errors(derived)
    with pydicom.config.disable_value_validation():
        damage(derived)
        assert dicom_validator_errors(derived) - before == {finding}


@pytest.mark.parametrize(
    ("make", "image"), [(cr_dataset, IMAGE), (ct_dataset, IMAGE), (xa_dataset, CINE), (rf_dataset, CINE)]
)
def test_dicom_validator_finds_no_error_in_made_objects(
    tmp_path: Path, make: Callable[..., Dataset], image: np.ndarray
) -> None:
    assert dicom_validator_errors(pydicom.dcmread(save(make(image), tmp_path / "made.dcm"))) == set()


def test_the_tables_hold_conditions_and_enumerated_values() -> None:
    tables = tables_for("1.2.840.10008.5.1.4.1.1.1.1")
    assert tables is not None
    (iod,) = tables.iods.values()
    assert iod["modules"]["voi-lut"]["cond"]["tag"] == "(0008,0068)"
    image = tables.modules["general-image"]
    assert image["(0028,2110)"]["enums"] == [{"val": ["00", "01"]}]
    source = tables.modules["general-reference"]["(0008,2112)"]["items"]
    assert (source["(0008,1155)"]["type"], source["(0028,135A)"]["enums"][0]["val"][:2]) == ("1", ["YES", "NO"])
    assert tables_for("1.2.3") is None
