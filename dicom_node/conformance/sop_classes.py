"""Which SOP classes the node takes and which it enhances, found out by asking the code that decides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID, ExplicitVRLittleEndian

from config.settings import RouteSettings, Settings
from dicom_node.association_policy import is_accepted_abstract_syntax
from dicom_node.conformance.transfer_syntaxes import small_image
from dicom_node.derivation.eligibility import SOP_CLASSES, enabled_sop_class_uids, is_enhanceable
from dicom_node.negotiation import VERIFICATION


@dataclass(frozen=True, kw_only=True)
class EnhancedClass:
    """A SOP class that can be enhanced, or that a route wants enhanced.

    Attributes
    ----------
    setting
        What `sop_classes` of a route calls it: a short name, or the UID itself.
    is_supported
        Whether images of it are enhanced; a route can also name a class that is always passed through.
    by_default
        Whether a route enhances it that does not set `sop_classes`.
    routes
        The routes of these settings that enhance it.
    """

    uid: UID
    setting: str
    is_supported: bool
    by_default: bool
    routes: tuple[str, ...]


def storage_classes() -> tuple[UID, ...]:
    """Return every storage SOP class of the DICOM dictionary that the receiver accepts, in the order of their UIDs."""
    accepted = (UID(uid) for uid in UID_dictionary if uid != VERIFICATION and is_accepted_abstract_syntax(uid))
    return tuple(sorted(accepted, key=_in_order))


def enhanced_classes(settings: Settings) -> tuple[EnhancedClass, ...]:
    """Return the SOP classes that have a short name, and those that a route names by UID."""
    names = {uid: name for name, uids in SOP_CLASSES.items() for uid in uids}
    named_by_uid = {UID(entry) for route in settings.routes for entry in route.sop_classes if entry not in SOP_CLASSES}
    default = enabled_sop_class_uids(RouteSettings.model_fields["sop_classes"].get_default())
    return tuple(
        EnhancedClass(
            uid=uid,
            setting=names.get(uid, str(uid)),
            is_supported=uid in names or is_enhanceable(small_image(uid, ExplicitVRLittleEndian), [uid]).enhance,
            by_default=uid in default,
            routes=tuple(_enhancing(settings.routes, uid)),
        )
        for uid in sorted({*names, *named_by_uid}, key=_in_order)
    )


def name_of(uid: str) -> str:
    """Return the name that DICOM gives to a UID, with a word if it is retired; the UID itself if it has none."""
    known = UID(uid)
    name = known.name.removesuffix(" SOP Class")
    return f"{name} (retired)" if known.is_retired and "(Retired)" not in name else name


def _enhancing(routes: Iterable[RouteSettings], uid: str) -> Iterator[str]:
    for route in routes:
        if route.enhance and uid in enabled_sop_class_uids(route.sop_classes):
            yield route.name


def _in_order(uid: str) -> tuple[int, ...]:
    return tuple(int(part) for part in uid.split("."))
