"""General Equipment and Contributing Equipment of a derived object, in both modes of the setting `equipment`."""

from __future__ import annotations

import copy
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicom_node.derivation.context import DerivationContext
from dicom_node.derivation.terms import PRODUCT, acquisition_equipment, processing_equipment
from dicom_node.derivation.text import LO_CHARACTERS, SH_CHARACTERS, date_and_time, zone_of
from dicom_node.functional_groups import has_functional_groups

CONTRIBUTED: Final = (
    "Manufacturer", "InstitutionName", "InstitutionAddress", "StationName", "InstitutionalDepartmentName",
    "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "DeviceUID", "UDISequence",
    "SpatialResolution", "DateOfLastCalibration", "TimeOfLastCalibration",
)  # fmt: skip
"""What General Equipment and an item of Contributing Equipment Sequence have in common (PS3.3 C.7.5.1, C.12.1.1.5)."""

MOVED: Final = (
    "DeviceSerialNumber", "DeviceUID", "UDISequence", "DateOfLastCalibration", "TimeOfLastCalibration",
)  # fmt: skip
"""What identifies the acquisition device and has no counterpart in the node. Institution, spatial resolution and gantry
stay: they are true of the derived image too."""


def describe_equipment(derived: Dataset, source: Dataset, context: DerivationContext) -> None:
    """Write both equipment modules of `derived`; `source` holds the values from before.

    In mode `standard` the node is the General Equipment, and the device that made the source becomes a contributor: it
    acquired, or, where the source was derived itself, it processed. In mode `preserve` the device stays and the node is
    the contributor.
    """
    contributors = list(source.get("ContributingEquipmentSequence") or ())
    if context.settings.equipment == "standard":
        contributors.append(_device(source, derived))
        _identify(derived, context)
        for keyword in MOVED:
            derived.pop(keyword, None)
        if has_functional_groups(source):
            # Type 1 in Enhanced General Equipment (PS3.3 C.7.5.2); the name is what tells one node from another.
            derived.DeviceSerialNumber = context.node_name[:LO_CHARACTERS]
    else:
        contributors.append(_node(source, context))
    derived.ContributingEquipmentSequence = Sequence(copy.deepcopy(contributors))


def is_our_equipment(ds: Dataset) -> bool:
    """Tell whether `describe_equipment` wrote the equipment of `ds`, in either mode."""
    contributors = list(ds.get("ContributingEquipmentSequence") or ())
    return any(
        (item.get("Manufacturer"), item.get("ManufacturerModelName")) == (PRODUCT, PRODUCT)
        for item in (ds, *contributors)
    )


def _device(source: Dataset, unconverted: Dataset) -> Dataset:
    # The bytes go into the item: not all text that can be decoded can be encoded again.
    item = Dataset(parent_encoding=unconverted.original_character_set)
    implicit, little = unconverted.original_encoding
    item.set_original_encoding(implicit, little, unconverted.original_character_set)
    for keyword in CONTRIBUTED:
        if keyword in source and not source[keyword].is_empty:
            tag = source[keyword].tag
            item[tag] = copy.deepcopy(unconverted.get_item(tag))
    # Type 1 in the sequence, type 2 in most sources.
    if "Manufacturer" not in item:
        item.Manufacturer = "Unknown"
    purpose = processing_equipment() if _is_derived(source) else acquisition_equipment()
    item.PurposeOfReferenceCodeSequence = Sequence([purpose])
    return item


def _node(source: Dataset, context: DerivationContext) -> Dataset:
    item = Dataset()
    _identify(item, context)
    item.ContributionDateTime = "".join(date_and_time(context.now, zone_of(source))) + context.now.strftime("%z") * (
        zone_of(source) is None
    )
    item.ContributionDescription = "Denoising"
    item.PurposeOfReferenceCodeSequence = Sequence([processing_equipment()])
    return item


def identify_node(ds: Dataset, *, node_name: str, node_version: str, model_name: str, model_digest: str) -> None:
    """Write the node as the equipment that made `ds` (PS3.3 C.7.5.1)."""
    ds.Manufacturer = PRODUCT
    ds.ManufacturerModelName = PRODUCT
    ds.StationName = node_name[:SH_CHARACTERS]
    ds.SoftwareVersions = [
        f"{PRODUCT} {node_version}"[:LO_CHARACTERS],
        model_name[:LO_CHARACTERS],
        model_digest[:LO_CHARACTERS],
    ]


def _identify(ds: Dataset, context: DerivationContext) -> None:
    identify_node(
        ds,
        node_name=context.node_name,
        node_version=context.node_version,
        model_name=context.model_name,
        model_digest=context.model_digest,
    )


def _is_derived(source: Dataset) -> bool:
    image_type = source.get("ImageType")
    first = image_type if isinstance(image_type, str) else image_type[0] if image_type else ""
    return str(first).strip() == "DERIVED"
