"""Certificates for tests: authorities, and what they sign, as PEM files."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from config.settings import PeerTlsSettings, TlsSettings


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate and its private key, as files."""

    certificate: Path
    key: Path
    fingerprint: str

    def move_to(self, other: Pair) -> None:
        """Take the place of another pair's files, key first, as a renewal does."""
        self.key.replace(other.key)
        self.certificate.replace(other.certificate)


class Authority:
    """A certificate authority of its own, which signs whatever it is asked to."""

    def __init__(self, folder: Path, name: str = "Hospital Test CA", *, above: Authority | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._serials: dict[str, int] = {}
        self._lists = 0
        signer = above or self
        certificate = (
            signer._builder(self._name, self._key.public_key(), days=3650)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1 if above is None else 0), critical=True)
            .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True)
            .sign(signer._key, hashes.SHA256())
        )
        signer._serials[name] = certificate.serial_number
        self.file = folder / f"{name.split()[0].lower()}-ca.pem"
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def _builder(self, subject: x509.Name, public: object, *, days: float) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        begin = min(now, now + timedelta(days=days)) - timedelta(days=30)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(now + timedelta(days=days))
        )

    def sign(
        self,
        common_name: str,
        *,
        names: tuple[str, ...] = ("127.0.0.1", "localhost"),
        days: float = 365,
        kind: str = "ec",
        file: str | None = None,
    ) -> Pair:
        """Make a key, and a certificate for it.

        Parameters
        ----------
        names
            DNS names and addresses that it is for.
        days
            Until it expires; negative where that is past.
        kind
            ``ec`` (P-256) or the bits of an RSA key.
        file
            Name of the files; the common name unless given.
        """
        key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, int(kind))
        builder = self._builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]), key.public_key(), days=days
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        self._serials[common_name] = certificate.serial_number
        base = self.folder / (file or common_name)
        pair = Pair(
            certificate=base.with_suffix(".crt"),
            key=base.with_suffix(".key"),
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        )
        pair.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair

    def write_list(self, path: Path, *revoked: str, days: float = 7, from_days: float = -1) -> Path:
        """Put a revocation list in the place of `path`.

        Parameters
        ----------
        revoked
            Common names of the certificates that it revokes; of one that was signed several times, the last.
        days
            Until its next update is due; negative where that is past.
        from_days
            From when it holds.
        """
        now = datetime.now(UTC)
        self._lists += 1
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now + timedelta(days=min(from_days, days - 1)))
            .next_update(now + timedelta(days=days))
            .add_extension(x509.CRLNumber(self._lists), critical=False)
        )
        for name in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(self._serials[name]).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        new = path.with_suffix(".new")
        new.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        new.replace(path)
        return path


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def server_settings(pair: Pair, authority: Authority, **changes: object) -> TlsSettings:
    """Return the settings of a receiver with TLS, on any free port."""
    made = TlsSettings.model_validate(
        {"certificate": pair.certificate, "key": pair.key, "ca": authority.file, **changes}
    )
    return made.model_copy(update={"port": 0})


def client_settings(authority: Authority, pair: Pair | None = None, **changes: object) -> PeerTlsSettings:
    """Return the settings of a destination that TLS is spoken with."""
    files = {} if pair is None else {"certificate": pair.certificate, "key": pair.key}
    return PeerTlsSettings.model_validate({"ca": authority.file, **files, **changes})
