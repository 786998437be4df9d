"""Who may do what in the console, as data."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from config.settings import RoleName


class Permission(enum.StrEnum):
    """What a page or an act asks of its user; each route names one."""

    ACCOUNT = "account"
    """One's own account: password, sign out."""
    VIEW = "view"
    """Pages without patient data."""
    VIEW_IMAGES = "view images"
    """Pixels, without any attribute of the patient."""
    VIEW_PATIENT = "view patient data"
    """Attributes of the patient and the order. No role has it: it is given to each user by itself."""
    OPERATE = "operate"
    """Hold, release, retry, cancel, reroute, echo and the like."""
    TEST_ROUTES = "test routes with a file"
    """What routes find in a file of one's own, attributes of the patient among them."""
    MANAGE_USERS = "manage users"
    VIEW_AUDIT = "view the audit"


_VIEWER: Final = frozenset({Permission.ACCOUNT, Permission.VIEW, Permission.VIEW_IMAGES})
_OPERATOR: Final = _VIEWER | {Permission.OPERATE, Permission.TEST_ROUTES}
_ADMIN: Final = _OPERATOR | {Permission.MANAGE_USERS, Permission.VIEW_AUDIT}

ROLE_PERMISSIONS: Final[Mapping[RoleName, frozenset[Permission]]] = {
    RoleName.VIEWER: _VIEWER,
    RoleName.OPERATOR: _OPERATOR,
    RoleName.ADMIN: _ADMIN,
}


def permissions_of(role: RoleName, *, sees_patients: bool) -> frozenset[Permission]:
    """Return what a user may do."""
    return ROLE_PERMISSIONS[role] | ({Permission.VIEW_PATIENT} if sees_patients else frozenset())
