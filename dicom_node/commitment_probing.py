"""Tries out Storage Commitment for `doctor`, step by step: the SCP of each destination, and where modalities listen."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from config.settings import Settings, SourceSettings
from dicom_node.commitment_association import CommitmentPeer, CommitmentPeers
from dicom_node.destinations.base import ProbeStep, StepState
from dicom_node.destinations.explanations import explain_failure
from dicom_node.destinations.probing import StepFinding, StepWalk, connect_peer, resolve_peer, secure_peer
from dicom_node.errors import ContextRejected, DeliveryError

_STEPS = ("name", "tcp", "tls", "commitment")


@dataclass(frozen=True, kw_only=True)
class CommitmentProbe:
    """Tries out one peer, without asking or reporting anything.

    `peer` is None where it is not known before a request comes; `why` says so.
    """

    name: str
    peer: CommitmentPeer | None
    why: str = ""

    def probe(self) -> list[ProbeStep]:
        """Return the steps up to an association for Storage Commitment; those after a failed one are skipped."""
        peer = self.peer
        if peer is None:
            return [ProbeStep(name="commitment", state=StepState.SKIPPED, sentence=self.why)]
        walk = StepWalk()
        named, tls, timeout_s = peer.named, peer.tls, peer.connect_timeout_s
        reached = walk.step("name", lambda: resolve_peer(named)) and walk.step("tcp", lambda: _reach(peer))
        # A modality that does not answer is a warning, and the end all the same.
        reached = reached and walk.steps[-1].state is StepState.OK
        if reached and (tls is None or walk.step("tls", lambda: secure_peer(named, tls, timeout_s))):
            walk.step("commitment", lambda: _associate(peer))
        done = {step.name for step in walk.steps}
        return walk.steps + [
            ProbeStep(name=name, state=StepState.SKIPPED, sentence="not tried, because an earlier step failed")
            for name in _STEPS
            if name not in done and (name != "tls" or tls is not None)
        ]


def commitment_probes(settings: Settings) -> Iterator[CommitmentProbe]:
    """Yield a probe for each destination that is asked for commitment, and each source that is brought reports."""
    for entry in settings.dicom_destinations:
        if entry.commitment is not None:
            peer = CommitmentPeer.of_destination(entry, entry.commitment, settings.node.ae_title)
            yield CommitmentProbe(name=f"{entry.name}: commitment", peer=peer)
    for source in settings.sources:
        if source.commitment is not None and source.commitment.port is not None:
            yield _of_source(source, source.commitment.port, settings)


def _of_source(source: SourceSettings, port: int, settings: Settings) -> CommitmentProbe:
    asked = source.commitment
    assert asked is not None
    name = f"{source.name}: commitment reports"
    host = asked.host or _only_host(source)
    if host is None:
        why = "reports go to the address that a request comes from; commitment.host of the source would let it be tried"
        return CommitmentProbe(name=name, peer=None, why=why)
    peer = CommitmentPeer.of_source(
        source.name,
        asked,
        ae_title=asked.ae_title or source.ae_titles[0],
        host=host,
        port=port,
        calling_ae_title=settings.node.ae_title,
    )
    return CommitmentProbe(name=name, peer=peer)


def _only_host(source: SourceSettings) -> str | None:
    """Return the host that a source calls from, where its settings leave no choice."""
    if len(source.hosts) != 1 or source.hosts[0] == "*":
        return None
    (host,) = source.hosts
    try:
        network = ipaddress.ip_network(host, strict=False)
    except ValueError:
        return host
    return str(network.network_address) if network.num_addresses == 1 else None


def _reach(peer: CommitmentPeer) -> StepFinding:
    found = connect_peer(peer.named, peer.connect_timeout_s)
    if found.state is StepState.OK or not peer.is_modality:
        return found
    later = "is it switched off? It gets its reports when it is back"
    return StepFinding(state=StepState.WARNING, sentence=f"{found.sentence}; {later}")


def _associate(peer: CommitmentPeer) -> StepFinding:
    what = "reports of Storage Commitment" if peer.is_modality else "Storage Commitment"
    try:
        association = CommitmentPeers().open(peer)
    except ContextRejected:
        advice = "enter this node there as one that brings them" if peer.is_modality else "is it switched on there?"
        return StepFinding(state=StepState.FAILED, sentence=f"{peer.named} does not take {what}: {advice}")
    except DeliveryError as error:
        return StepFinding(state=StepState.FAILED, sentence=explain_failure(peer.named, error))
    association.release()
    named = peer.named
    return StepFinding(state=StepState.OK, sentence=f"{what} accepted: {named.calling_ae_title} calls {named.ae_title}")
