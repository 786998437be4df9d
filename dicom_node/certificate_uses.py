"""Which files of certificates, keys and revocation lists the settings name, and in which place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from config.settings import DicomwebDestinationSettings, PeerTlsSettings, Settings, TlsSettings


@dataclass(frozen=True, kw_only=True)
class CertificateUse:
    """A file that the settings name, and in which place.

    `what` is ``certificate``, ``ca`` or ``crl``; `key` is that of the certificate, `ca` and `check` those of the list.
    """

    setting: str
    what: str
    path: Path
    key: Path | None = None
    ca: Path | None = None
    check: Literal["chain", "leaf"] = "chain"


def uses(settings: Settings) -> Iterator[CertificateUse]:
    """Yield each certificate file that the settings name, in their order; one file in two places comes once."""
    seen: set[tuple[Path | None, ...]] = set()
    for use in _named(settings):
        if (files := (use.path, use.key, use.ca)) not in seen:
            seen.add(files)
            yield use


def _named(settings: Settings) -> Iterator[CertificateUse]:
    yield from _of_table("tls", settings.tls)
    for n, source in enumerate(settings.sources):
        if source.commitment is not None:
            yield from _of_table(f"sources[{n}].commitment.tls", source.commitment.tls)
    for n, destination in enumerate(settings.destinations):
        place = f"destinations[{n}]"
        if isinstance(destination, DicomwebDestinationSettings):
            yield from _of_web(place, destination)
            continue
        yield from _of_table(f"{place}.tls", destination.tls)
        if destination.commitment is not None and destination.commitment.tls is not None:
            yield from _of_table(f"{place}.commitment.tls", destination.commitment.tls)


def _of_table(place: str, table: TlsSettings | PeerTlsSettings) -> Iterator[CertificateUse]:
    if not table.enabled:
        return
    if table.certificate is not None:
        yield CertificateUse(setting=f"{place}.certificate", what="certificate", path=table.certificate, key=table.key)
    if table.ca is not None:
        yield CertificateUse(setting=f"{place}.ca", what="ca", path=table.ca)
    if table.crl is not None:
        yield CertificateUse(setting=f"{place}.crl", what="crl", path=table.crl, ca=table.ca, check=table.crl_check)


def _of_web(place: str, web: DicomwebDestinationSettings) -> Iterator[CertificateUse]:
    if (certificate := web.client_certificate) is not None:
        key = web.client_key or certificate
        yield CertificateUse(setting=f"{place}.client_certificate", what="certificate", path=certificate, key=key)
    if web.ca_file is not None:
        yield CertificateUse(setting=f"{place}.ca_file", what="ca", path=web.ca_file)
    if web.crl_file is not None:
        yield CertificateUse(setting=f"{place}.crl_file", what="crl", path=web.crl_file, ca=web.ca_file)
