"""The ledger of the console's users."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from config.settings import RoleName
from dicom_node.errors import OperationRefused
from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import console_session, console_user


@dataclass(frozen=True, kw_only=True)
class ConsoleUser:
    """Who may use the console.

    Attributes
    ----------
    issuer
        Of OpenID Connect; empty where the user has a password.
    must_change
        The password was made by somebody else.
    """

    user_id: int
    name: str
    issuer: str
    role: RoleName
    sees_patients: bool
    disabled: bool
    must_change: bool
    created_at: float
    last_login_at: float | None


class UserLedger:
    """The side of the ledger that knows the users; what ends a right ends the user's sessions too."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[ConsoleUser]:
        """Return every user by name."""
        with self._database.read() as connection:
            return [user_of(row) for row in connection.execute(select(console_user).order_by(console_user.c.name))]

    def get(self, name: str) -> ConsoleUser:
        """Return a user; OperationRefused if there is none."""
        found = self.find(name)
        if found is None:
            raise OperationRefused(f"there is no user {name!r}; `dicom-node user list` shows them")
        return found

    def find(self, name: str) -> ConsoleUser | None:
        """Return a user, or nothing."""
        with self._database.read() as connection:
            row = connection.execute(select(console_user).where(console_user.c.name == name)).one_or_none()
        return None if row is None else user_of(row)

    def password_hash(self, name: str) -> str | None:
        """Return the hash of a user's password; None where there is no such user, or one without a password."""
        with self._database.read() as connection:
            value: str | None = connection.scalar(
                select(console_user.c.password_hash).where(console_user.c.name == name)
            )
            return value

    def add(
        self, name: str, password_hash: str, role: RoleName, *, sees_patients: bool, must_change: bool
    ) -> ConsoleUser:
        """Add a user with a password; OperationRefused if the name is taken."""
        try:
            with self._database.write() as connection:
                self._insert(connection, name, password_hash, role, sees_patients, must_change)
        except IntegrityError as error:
            raise OperationRefused(f"there is a user {name!r} already") from error
        return self.get(name)

    def add_first(self, name: str, password_hash: str) -> bool:
        """Add the first admin; False if there is any user already, also one that another process adds just now."""
        try:
            with self._database.write() as connection:
                if connection.scalar(select(func.count()).select_from(console_user)):
                    return False
                self._insert(connection, name, password_hash, RoleName.ADMIN, True, True)
                return True
        except IntegrityError:
            return False

    def _insert(
        self,
        connection: Connection,
        name: str,
        password_hash: str,
        role: RoleName,
        sees_patients: bool,
        must_change: bool,
    ) -> None:
        connection.execute(
            insert(console_user),
            {
                "name": name,
                "issuer": "",
                "subject": name,
                "password_hash": password_hash,
                "role": role.value,
                "sees_patients": sees_patients,
                "disabled": False,
                "must_change": must_change,
                "created_at": self._database.now(),
            },
        )

    def take_in(self, *, issuer: str, subject: str, name: str, role: RoleName, sees_patients: bool) -> ConsoleUser:
        """Return the user that an issuer vouches for, with the rights that it has now; added where it is new."""
        theirs = (console_user.c.issuer == issuer) & (console_user.c.subject == subject)
        rights = {"role": role.value, "sees_patients": sees_patients}
        with self._database.write() as connection:
            known = connection.execute(update(console_user).where(theirs).values(**rights)).rowcount
            if not known:
                taken = connection.scalar(select(console_user.c.id).where(console_user.c.name == name))
                connection.execute(
                    insert(console_user),
                    {
                        "name": f"{name[:100]} {subject[:24]}" if taken else name[:128],
                        "issuer": issuer,
                        "subject": subject,
                        "disabled": False,
                        "must_change": False,
                        "created_at": self._database.now(),
                        **rights,
                    },
                )
            return user_of(connection.execute(select(console_user).where(theirs)).one())

    def note_login(self, user_id: int) -> None:
        """Write down that a user signed in."""
        self._change(user_id, last_login_at=self._database.now())

    def set_password(self, user_id: int, password_hash: str, *, must_change: bool) -> None:
        """Give a user another password; every session of the user ends."""
        self._change(user_id, password_hash=password_hash, must_change=must_change, end_sessions=True)

    def rehash(self, user_id: int, password_hash: str) -> None:
        """Keep another hash of the same password."""
        self._change(user_id, password_hash=password_hash)

    def set_role(self, user_id: int, role: RoleName, *, sees_patients: bool) -> None:
        """Give a user other rights; OperationRefused if nobody could manage users then."""
        self._change(
            user_id, role=role.value, sees_patients=sees_patients, loses_admin=role is not RoleName.ADMIN,
            end_sessions=True,
        )  # fmt: skip

    def set_disabled(self, user_id: int, *, disabled: bool) -> None:
        """Lock a user out, or let the user in again; OperationRefused if nobody could manage users then."""
        self._change(user_id, disabled=disabled, loses_admin=disabled, end_sessions=disabled)

    def _change(self, user_id: int, *, loses_admin: bool = False, end_sessions: bool = False, **values: Any) -> None:
        with self._database.write() as connection:
            connection.execute(update(console_user).where(console_user.c.id == user_id).values(**values))
            if loses_admin and not connection.scalar(
                select(func.count())
                .select_from(console_user)
                .where(console_user.c.role == RoleName.ADMIN.value, console_user.c.disabled.is_(False))
            ):
                raise OperationRefused("this is the last admin: make another user an admin first")
            if end_sessions:
                connection.execute(delete(console_session).where(console_session.c.user_id == user_id))


def require_user_name(name: str) -> None:
    """Refuse a name that can't be told from others, or could be that of a user of an issuer."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", name):
        raise OperationRefused("a name has 1 to 64 letters, digits, dots, hyphens, underscores and @; take another one")


def user_of(row: Any) -> ConsoleUser:
    """Return the user of a row that has every column of `console_user`."""
    return ConsoleUser(
        user_id=row.id,
        name=row.name,
        issuer=row.issuer,
        role=RoleName(row.role),
        sees_patients=row.sees_patients,
        disabled=row.disabled,
        must_change=row.must_change,
        created_at=row.created_at,
        last_login_at=row.last_login_at,
    )
