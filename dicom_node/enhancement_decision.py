"""Whether a route enhances an object: the one decision that the enhancer carries out and `route test` foretells."""

from __future__ import annotations

from pydicom.dataset import Dataset

from config.settings import RouteSettings
from dicom_node.derivation import Decision, is_enhanceable
from dicom_node.routing import PASSES_THROUGH


def decide(route: RouteSettings, header: Dataset) -> Decision:
    """Return whether an object with this header is enhanced on `route`, and why (not)."""
    if not route.enhance:
        return Decision(enhance=False, reason=PASSES_THROUGH)
    return is_enhanceable(header, route.sop_classes)
