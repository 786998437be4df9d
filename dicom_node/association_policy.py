"""Whom the receiver associates with and what it accepts on the association; pure decisions."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom.uid import UID, MediaStorageDirectoryStorage
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from config.settings import SourceSettings
from dicom_node.dataset_header import is_identifier
from dicom_node.rejections import (
    APPLICATION_CONTEXT,
    CALLED_AE_TITLE,
    CALLING_AE_TITLE,
    LOW_SPACE,
    SHUTTING_DOWN,
    SOURCE_BUSY,
    TOO_MANY_ASSOCIATIONS,
    TRANSPORT,
    Rejection,
)
from dicom_node.upper_layer import VERIFICATION, AssociationRequest, ProposedContext

APPLICATION_CONTEXT_NAME: Final = "1.2.840.10008.3.1.1.1"

TRANSFER_SYNTAXES: Final[Mapping[str, str]] = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline (Process 1)",
    "1.2.840.10008.1.2.4.51": "JPEG Extended (Process 2 and 4)",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless, Non-Hierarchical (Process 14)",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless, Non-Hierarchical, First-Order Prediction",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Lossy (Near-Lossless)",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 (Lossless Only)",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 (Lossless Only)",
    "1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 with RPCL (Lossless Only)",
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000",
}
"""What the receiver accepts data sets in."""

NOT_STORED: Final = frozenset((MediaStorageDirectoryStorage, UID("1.2.840.10008.1.20.2")))
"""SOP classes that only sound like storage: a DICOMDIR (PS3.3 F), and Storage Commitment Pull Model, retired."""


@dataclass(frozen=True, kw_only=True)
class ReceiverLoad:
    """How the receiver stands at the moment of a request.

    `by_source` counts associations by the source's name; `no_room` says what the disks are short of.
    """

    associations: int
    max_associations: int
    no_room: str | None
    is_stopping: bool
    by_source: Mapping[str, int] = field(default_factory=dict)


def judge_association(
    request: AssociationRequest,
    *,
    ae_title: str,
    sources: Sequence[SourceSettings],
    addresses: Mapping[str, frozenset[str]],
    load: ReceiverLoad,
    reporters: Sequence[SourceSettings] = (),
) -> Rejection | None:
    """Decide on an association request.

    Parameters
    ----------
    ae_title
        The one that we answer to.
    addresses
        Of each host name in the sources, what it resolves to now; see `host_names`.
    reporters
        From where destinations may bring reports on Storage Commitment; they may do nothing else.

    Returns
    -------
    The rejection to send, or ``None`` to accept. Who the peer is comes before how we are: a stranger learns nothing
    of the node's state.

    References
    ----------
    PS3.8 9.3.4.
    """
    if request.application_context_name != APPLICATION_CONTEXT_NAME:
        return APPLICATION_CONTEXT.reject("application context name not supported")
    if request.called_ae_title != ae_title:
        return CALLED_AE_TITLE.reject(
            f"called AE title {request.called_ae_title!r} is not ours: this node is {ae_title!r}"
        )
    source = find_source(request.calling_ae_title, request.host, sources, addresses)
    found = [source] if source is not None else _reporting(request, reporters, addresses)
    if not found:
        return CALLING_AE_TITLE.reject(_explain_stranger(request, sources))
    kind = "source" if source is not None else "destination"
    faults = [transport_fault(request, entry, kind) for entry in found]
    if None not in faults:
        return TRANSPORT.reject(faults[0] or "")
    source = found[faults.index(None)]
    if load.is_stopping:
        return SHUTTING_DOWN.reject("the receiver is shutting down")
    if load.no_room is not None:
        return LOW_SPACE.reject(f"a disk is above its high watermark: {load.no_room}")
    if load.associations >= load.max_associations:
        return TOO_MANY_ASSOCIATIONS.reject(
            f"{load.associations} associations are open, receiver.max_associations is {load.max_associations}"
        )
    if source.max_associations and load.by_source.get(source.name, 0) >= source.max_associations:
        return SOURCE_BUSY.reject(
            f"{load.by_source[source.name]} associations of source {source.name!r} are open, its max_associations is "
            f"{source.max_associations}"
        )
    return None


def find_source(
    calling_ae_title: str, host: str, sources: Sequence[SourceSettings], addresses: Mapping[str, frozenset[str]]
) -> SourceSettings | None:
    """Return the first source whose AE titles and hosts both match."""
    for source in sources:
        if calling_ae_title in source.ae_titles and any(_is_host(host, rule, addresses) for rule in source.hosts):
            return source
    return None


def _reporting(
    request: AssociationRequest, reporters: Sequence[SourceSettings], addresses: Mapping[str, frozenset[str]]
) -> list[SourceSettings]:
    """Return every destination that the peer may be: one system can be several, of which each asks for its own."""
    who = request.calling_ae_title, request.host
    return [entry for entry in reporters if find_source(*who, [entry], addresses) is not None]


def host_names(sources: Sequence[SourceSettings]) -> frozenset[str]:
    """Return the host rules that are names, which somebody has to resolve."""
    return frozenset(rule for source in sources for rule in source.hosts if rule != "*" and _network(rule) is None)


def source_lines(request: AssociationRequest) -> str:
    """Return the lines of the settings file that would admit this peer."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", request.calling_ae_title).strip("-._") or "source"
    # Who shows a certificate is known by it from then on, and an address is no longer all that tells him apart.
    bound = f"\ncertificates = [{json.dumps(request.certificate.rule)}]" if request.certificate else ""
    return (
        f"[[sources]]\nname = {json.dumps(name)}\n"
        f"ae_titles = [{json.dumps(request.calling_ae_title)}]\nhosts = [{json.dumps(request.host)}]{bound}"
    )


def choose_transfer_syntax(context: ProposedContext) -> str | None:
    """Return the first transfer syntax that we accept, an empty text if there is none, ``None`` for no storage."""
    if not is_accepted_abstract_syntax(context.abstract_syntax):
        return None
    return next((syntax for syntax in context.transfer_syntaxes if syntax in TRANSFER_SYNTAXES), "")


def is_accepted_abstract_syntax(uid: str) -> bool:
    """Tell whether a SOP class is Verification, or of the Storage Service Class as far as anybody can know.

    Private and unknown UIDs count as storage: a modality's new class must not be lost for want of a table entry.
    Other services, and the objects without study and series that PS3.4 GG stores, are refused.
    """
    if uid == VERIFICATION:
        return True
    if not is_identifier(uid):
        return False
    known = UID(uid)
    if known.type not in ("", "SOP Class") or known in NOT_STORED:
        return False
    service = uid_to_service_class(uid)
    if service is not ServiceClass:
        return service is StorageServiceClass
    # No service to pynetdicom: unknown, or a retired class that the dictionary can name.
    return not known.type or "Storage" in known.name


def _is_host(host: str, rule: str, addresses: Mapping[str, frozenset[str]]) -> bool:
    if rule == "*":
        return True
    address = ipaddress.ip_address(host)
    # A listener on "::" sees IPv4 peers under their mapped addresses.
    address = getattr(address, "ipv4_mapped", None) or address
    network = _network(rule)
    if network is None:
        return str(address) in addresses.get(rule, frozenset())
    return address in network


def _network(rule: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(rule, strict=False)
    except ValueError:
        return None


def transport_fault(request: AssociationRequest, source: SourceSettings, kind: str = "source") -> str | None:
    """Tell why the connection is not what the source, or the destination for its reports, asks for; None if it is."""
    named = f"{kind} {source.name!r}"
    setting = "certificates" if kind == "source" else "commitment.report_certificates"
    who = f"calling AE title {request.calling_ae_title!r} from {request.host}"
    if source.requires_tls and not request.is_secure:
        return f"{who} came without TLS, which {named} requires: let it call tls.port with TLS"
    if not source.certificates:
        return None
    shown = request.certificate
    if shown is None:
        return f"{who} showed no certificate, and {named} has {setting}: give it one of them"
    if any(shown.matches(rule) for rule in source.certificates):
        return None
    return (
        f"{who} showed a certificate that {named} does not have; if it is its own, add to its "
        f"{setting}:\n{json.dumps(shown.rule)}"
    )


def _explain_stranger(request: AssociationRequest, sources: Sequence[SourceSettings]) -> str:
    known = [source.name for source in sources if request.calling_ae_title in source.ae_titles]
    who = f"calling AE title {request.calling_ae_title!r} from {request.host}"
    if known:
        return f"{who} is not a known source: add {request.host!r} to the hosts of source {known[0]!r}"
    return f"{who} is not a known source; to admit it, add:\n{source_lines(request)}"
