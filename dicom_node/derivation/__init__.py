"""Derived objects: which objects are enhanced, and what the enhanced object says of itself."""

from dicom_node.derivation.context import DerivationContext
from dicom_node.derivation.derive import derive
from dicom_node.derivation.differences import ALLOWED_DIFFERENCES, find_differences, unexpected_differences
from dicom_node.derivation.eligibility import DEFAULT_SOP_CLASSES, Decision, enabled_sop_class_uids, is_enhanceable
from dicom_node.derivation.uids import derived_series_instance_uid, derived_sop_instance_uid

__all__ = [
    "ALLOWED_DIFFERENCES",
    "DEFAULT_SOP_CLASSES",
    "Decision",
    "DerivationContext",
    "derive",
    "derived_series_instance_uid",
    "derived_sop_instance_uid",
    "enabled_sop_class_uids",
    "find_differences",
    "is_enhanceable",
    "unexpected_differences",
]
