"""Certificate revocation lists (RFC 5280 5) as they lie in files: whose they are, how long they hold, what is wrong.

OpenSSL looks certificates up in them. Here they are read for people: before it refuses everybody for want of a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from dicom_node.pem_files import CertificateUnusable, read_pem

_LIST: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_DAY_S: Final = 86_400.0
_HOUR_S: Final = 3_600.0


@dataclass(frozen=True, kw_only=True)
class RevocationList:
    """What of a list concerns people.

    Parameters
    ----------
    issuer
        Distinguished name of its authority (RFC 4514).
    last_update
        From when it holds, in seconds since the epoch.
    next_update
        Until when, in seconds since the epoch; None where it does not say, and then it holds for ever.
    revoked
        Number of certificates in it.
    """

    issuer: str
    last_update: float
    next_update: float | None
    revoked: int

    def is_overdue(self, now: float) -> bool:
        """Tell whether the next list should be there by now; OpenSSL refuses every peer then."""
        return self.next_update is not None and now >= self.next_update

    def is_due_within(self, seconds: float, now: float) -> bool:
        """Tell whether the next list is due in so many seconds, or is overdue."""
        return self.next_update is not None and now + seconds >= self.next_update

    def validity(self, now: float) -> str:
        """Return in words until when it holds."""
        if now < self.last_update:
            return f"not valid before {_at(self.last_update)}"
        if self.next_update is None:
            return f"of {_at(self.last_update)}, without an end"
        if self.is_overdue(now):
            return f"overdue since {_at(self.next_update)}"
        left_s = self.next_update - now
        left = f"{left_s / _HOUR_S:.0f} hours" if left_s < 2 * _DAY_S else f"{left_s // _DAY_S:.0f} days"
        return f"valid until {_at(self.next_update)} ({left} left)"


def read_lists(path: Path) -> tuple[RevocationList, ...]:
    """Return the revocation lists of a PEM file in their order.

    Raises
    ------
    CertificateUnusable
        If the file can't be read, holds none, or holds certificates too: OpenSSL would believe whoever they sign.
    """
    return tuple(_describe(one) for one in _load(path))


def _load(path: Path) -> list[x509.CertificateRevocationList]:
    text = read_pem(path)
    if b"-----BEGIN CERTIFICATE-----" in text or b"-----BEGIN TRUSTED CERTIFICATE-----" in text:
        raise CertificateUnusable("there is a certificate in it, which would be trusted: put lists into it alone")
    pieces = _LIST.findall(text)
    if not pieces:
        if text[:1] == b"\x30":
            raise CertificateUnusable("it is in DER form: openssl crl -inform DER -in FILE -out NEW makes PEM of it")
        raise CertificateUnusable("no revocation list in PEM form is in it: it begins with -----BEGIN X509 CRL-----")
    try:
        return [x509.load_pem_x509_crl(piece) for piece in pieces]
    except ValueError as error:
        raise CertificateUnusable("a revocation list in it can't be read: get it anew") from error


def _describe(one: x509.CertificateRevocationList) -> RevocationList:
    return RevocationList(
        issuer=one.issuer.rfc4514_string(),
        last_update=one.last_update_utc.timestamp(),
        next_update=None if one.next_update_utc is None else one.next_update_utc.timestamp(),
        revoked=len(one),
    )


def list_faults(path: Path, authorities: Path, *, check: Literal["chain", "leaf"], now: float) -> Iterator[str]:
    """Yield for each thing that makes peers be refused, although their certificates are fine, what is needed instead.

    Parameters
    ----------
    path
        Of the lists; it can be read.
    authorities
        The file that `ca` names. Those that peers show themselves, between it and them, are not known here.
    check
        As `tls.crl_check`.
    """
    known = x509.load_pem_x509_certificates(read_pem(authorities))
    lists = _load(path)
    for one in lists:
        described = _describe(one)
        if described.is_overdue(now) or now < described.last_update:
            said = f"that of {described.issuer} is {described.validity(now)}"
            yield f"a list that is valid: {said}, and every peer is refused"
        issuers = [authority for authority in known if authority.subject == one.issuer]
        if issuers and not any(_is_signed_by(one, authority) for authority in issuers):
            yield f"a list that its authority signed: that of {described.issuer} is signed with another key"
    listed = {one.issuer for one in lists}
    above = {authority.issuer for authority in known if authority.issuer != authority.subject}
    for authority in known:
        is_needed = check == "chain" or authority.subject not in above
        if is_needed and authority.subject not in listed:
            name = authority.subject.rfc4514_string()
            yield f"a list of each authority in ca: there is none of {name}, so every peer below it is refused"


def _is_signed_by(one: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return one.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, InvalidSignature, UnsupportedAlgorithm):
        return False


def _at(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
