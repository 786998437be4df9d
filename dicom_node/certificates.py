"""X.509 certificates as they lie in files or come from peers: whose they are, how long they hold, what is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from config.loading import Fault
from config.settings import Settings
from dicom_node.certificate_uses import CertificateUse, uses
from dicom_node.pem_files import CertificateUnusable, read_pem
from dicom_node.revocation import RevocationList, list_faults, read_lists

_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What of a certificate concerns people.

    Parameters
    ----------
    subject, issuer
        Distinguished names (RFC 4514).
    names
        Whom it is for: DNS names and addresses of Subject Alternative Name, then the Common Name.
    fingerprint
        SHA-256 of its DER form, in hexadecimal digits.
    not_before, not_after
        Validity, in seconds since the epoch.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    fingerprint: str
    not_before: float
    not_after: float

    def days_left(self, now: float) -> int:
        """Return the whole days until it expires; negative once it has."""
        return int((self.not_after - now) // _DAY_S)

    def is_expired(self, now: float) -> bool:
        """Tell whether its time is over."""
        return now >= self.not_after

    def matches(self, rule: str) -> bool:
        """Tell whether it is the one that an entry of `certificates` names: by a name in it, or by fingerprint."""
        if rule.startswith("sha256:"):
            return rule == f"sha256:{self.fingerprint}"
        return rule.casefold() in (name.casefold() for name in self.names)

    @property
    def rule(self) -> str:
        """The entry of `certificates` that names it: its first name, or its fingerprint where it has none."""
        return self.names[0] if self.names else f"sha256:{self.fingerprint}"

    def validity(self, now: float) -> str:
        """Return in words until when it holds."""
        until = datetime.fromtimestamp(self.not_after, UTC).strftime("%Y-%m-%d")
        if self.is_expired(now):
            return f"expired on {until}"
        if now < self.not_before:
            return f"not valid before {datetime.fromtimestamp(self.not_before, UTC):%Y-%m-%d}"
        days = self.days_left(now)
        return f"valid until {until} ({days} {'day' if days == 1 else 'days'} left)"


def parse_certificate(der: bytes) -> Certificate:
    """Return what a certificate in DER form says; CertificateUnusable if it is none."""
    try:
        found = x509.load_der_x509_certificate(der)
        return Certificate(
            subject=found.subject.rfc4514_string(),
            issuer=found.issuer.rfc4514_string(),
            names=_names(found),
            fingerprint=hashlib.sha256(der).hexdigest(),
            not_before=found.not_valid_before_utc.timestamp(),
            not_after=found.not_valid_after_utc.timestamp(),
        )
    except ValueError as error:
        raise CertificateUnusable("not a certificate that can be read") from error


def _names(found: x509.Certificate) -> tuple[str, ...]:
    names: dict[str, None] = {}
    with contextlib.suppress(x509.ExtensionNotFound):
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names |= dict.fromkeys(alternatives.get_values_for_type(x509.DNSName))
        names |= {str(address): None for address in alternatives.get_values_for_type(x509.IPAddress)}
    names |= {str(attribute.value): None for attribute in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
    return tuple(names)


def read_certificates(path: Path) -> tuple[Certificate, ...]:
    """Return the certificates of a PEM file in their order, the first one being its owner's.

    Raises
    ------
    CertificateUnusable
        If the file can't be read or holds none.
    """
    try:
        found = x509.load_pem_x509_certificates(read_pem(path))
    except ValueError as error:
        raise CertificateUnusable(
            "no certificate in PEM form is in it: it begins with -----BEGIN CERTIFICATE-----"
        ) from error
    return tuple(parse_certificate(one.public_bytes(Encoding.DER)) for one in found)


def require_pair(certificate: Path, key: Path) -> None:
    """Raise CertificateUnusable unless the key can be used as it is and belongs to the certificate."""
    try:
        private = load_pem_private_key(read_pem(key), password=None)
    except TypeError as error:
        raise CertificateUnusable(
            "the key has a password, which nobody could enter: write it without one (openssl pkey -in KEY -out NEW)"
        ) from error
    except ValueError as error:
        raise CertificateUnusable("no private key in PEM form is in it: -----BEGIN PRIVATE KEY-----") from error
    owner = x509.load_pem_x509_certificates(read_pem(certificate))[0]
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != owner.public_key().public_bytes(*form):
        raise CertificateUnusable(f"the key does not belong to the first certificate of {certificate}: name its own")


def certificate_faults(settings: Settings, now: float) -> list[Fault]:
    """Return what is wrong with the files that the settings name, expired certificates among it."""
    faults = broken_files(settings)
    broken = {fault.path for fault in faults}
    for use in uses(settings):
        if use.setting in broken:
            continue
        if use.what == "crl":
            if use.ca is not None and _can_be_read(use.ca):
                faults += [
                    Fault(path=use.setting, value=str(use.path), allowed=allowed)
                    for allowed in list_faults(use.path, use.ca, check=use.check, now=now)
                ]
            continue
        for certificate in read_certificates(use.path)[: 1 if use.what == "certificate" else None]:
            if certificate.is_expired(now) or now < certificate.not_before:
                allowed = f"a certificate that is valid: that of {certificate.subject} is {certificate.validity(now)}"
                faults.append(Fault(path=use.setting, value=str(use.path), allowed=allowed))
    return faults


def broken_files(settings: Settings) -> list[Fault]:
    """Return what keeps the node from using the files at all, which an expired certificate does not."""
    faults = []
    for use in uses(settings):
        try:
            if use.what == "crl":
                read_lists(use.path)
            else:
                read_certificates(use.path)
        except CertificateUnusable as error:
            faults.append(Fault(path=use.setting, value=str(use.path), allowed=str(error)))
            continue
        if use.key is not None:
            try:
                require_pair(use.path, use.key)
            except CertificateUnusable as error:
                setting = use.setting.removesuffix("certificate") + "key"
                faults.append(Fault(path=setting, value=str(use.key), allowed=str(error)))
    return faults


def key_doubts(settings: Settings) -> Iterator[str]:
    """Yield one sentence for each private key that others than its owner can read."""
    for path in dict.fromkeys(use.key for use in uses(settings) if use.key is not None):
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                yield f"private key {path} is open to others than its owner (mode {mode:03o}): chmod 600 {path}"


@dataclass(frozen=True, kw_only=True)
class Expiry:
    """How long a certificate or a revocation list of the settings still holds; `problem` says why that is not known.

    `what` is as of `CertificateUse`; `subject` of a list is its authority, and `is_due` tells that its next update is
    due within `tls.crl_warn_h`.
    """

    setting: str
    path: str
    what: str = "certificate"
    subject: str = ""
    days_left: int | None = None
    sentence: str = ""
    problem: str = ""
    is_due: bool = False

    def ends_soon(self, warn_days: int) -> bool:
        """Tell whether somebody is to be warned: `warn_days` before a certificate ends, or as a list is due."""
        return self.is_due or (self.what != "crl" and self.days_left is not None and self.days_left < warn_days)


def expiries(settings: Settings, now: float) -> list[Expiry]:
    """Return how long each certificate that the settings name still holds, those of authorities too."""
    found = []
    for use in uses(settings):
        try:
            if use.what == "crl":
                found.append(_list_expiry(use, read_lists(use.path), settings.tls.crl_warn_h * 3600, now))
                continue
            certificates = read_certificates(use.path)
        except CertificateUnusable as error:
            found.append(Expiry(setting=use.setting, path=str(use.path), what=use.what, problem=str(error)))
            continue
        # Of a chain the one that ends first ends it all.
        first = min(certificates, key=lambda one: one.not_after)
        found.append(
            Expiry(
                setting=use.setting,
                path=str(use.path),
                what=use.what,
                subject=first.subject,
                days_left=first.days_left(now),
                sentence=f"{first.subject} is {first.validity(now)}",
                problem="expired" if first.is_expired(now) else "",
            )
        )
    return found


def _list_expiry(use: CertificateUse, lists: tuple[RevocationList, ...], warn_s: float, now: float) -> Expiry:
    # Of several lists the one that is due first: without it some peers are refused.
    first = min(lists, key=lambda one: one.next_update or math.inf)
    days_left = None if first.next_update is None else int((first.next_update - now) // _DAY_S)
    return Expiry(
        setting=use.setting,
        path=str(use.path),
        what=use.what,
        subject=first.issuer,
        days_left=days_left,
        sentence=f"revocation list of {first.issuer}, {first.revoked} certificates, is {first.validity(now)}",
        problem="overdue" if first.is_overdue(now) else "",
        is_due=first.is_due_within(warn_s, now),
    )


def _can_be_read(path: Path) -> bool:
    try:
        return bool(read_certificates(path))
    except CertificateUnusable:
        return False
