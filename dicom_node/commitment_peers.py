"""Who may ask for Storage Commitment and who may bring its reports; pure decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.settings import CommitmentSettings, DicomDestinationSettings, Settings, SourceSettings
from dicom_node.association_policy import choose_transfer_syntax, find_source, transport_fault
from dicom_node.ledger.commitment_requests import AnsweringPolicy
from dicom_node.ledger.commitments import AskingPolicy, ResendPolicy
from dicom_node.upper_layer import STORAGE_COMMITMENT, VERIFICATION, AssociationRequest, ProposedContext

SYNTAXES: Final[tuple[str, ...]] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
"""What requests and reports are taken in."""


@dataclass(frozen=True, kw_only=True)
class Rights:
    """What a peer may do: store as this source, and speak for these destinations about commitment."""

    source: SourceSettings | None
    destinations: frozenset[str]

    @property
    def may_ask(self) -> bool:
        """Whether its requests for commitment are answered."""
        return self.source is not None and self.source.commitment is not None

    def choose_transfer_syntax(self, context: ProposedContext) -> str | None:
        """Return the transfer syntax to accept, as `association_policy.choose_transfer_syntax` does.

        A destination that is no source may bring reports and verify, but store nothing.
        """
        if context.abstract_syntax == STORAGE_COMMITMENT:
            if not (self.may_ask or self.destinations):
                return None
            return next((syntax for syntax in context.transfer_syntaxes if syntax in SYNTAXES), "")
        if self.source is None and context.abstract_syntax != VERIFICATION:
            return None
        return choose_transfer_syntax(context)


def rights_of(request: AssociationRequest, settings: Settings, addresses: Mapping[str, frozenset[str]]) -> Rights:
    """Return what the peer of an association may do; `addresses` as for `judge_association`.

    A source that is a destination too has to fulfil what the destination asks of whoever brings its reports, TLS and
    certificate, or it may store and not report.
    """
    ae_title, host = request.calling_ae_title, request.host
    return Rights(
        source=find_source(ae_title, host, settings.sources, addresses),
        destinations=frozenset(
            entry.name
            for entry in report_sources(settings.dicom_destinations)
            if find_source(ae_title, host, [entry], addresses) is not None and transport_fault(request, entry) is None
        ),
    )


def report_sources(destinations: Sequence[DicomDestinationSettings]) -> tuple[SourceSettings, ...]:
    """Return from where each destination that commits may bring its reports, in the form of a source."""
    # Not validated again: a destination's host may be written as no source's may, and then matches nothing.
    return tuple(
        SourceSettings.model_construct(
            name=entry.name,
            ae_titles=(entry.ae_title, *_given(asked.ae_title), *asked.report_ae_titles),
            hosts=(entry.host, *_given(asked.host), *asked.report_hosts),
            commitment=None,
            tls=asked.report_tls,
            certificates=asked.report_certificates,
        )
        for entry in destinations
        if (asked := entry.commitment) is not None
    )


def committing(settings: Settings) -> dict[str, CommitmentSettings]:
    """Return how each destination that commits is asked, by its name."""
    return {entry.name: entry.commitment for entry in settings.dicom_destinations if entry.commitment is not None}


def asking_policy(asked: CommitmentSettings) -> AskingPolicy:
    """Return when a destination is asked."""
    return AskingPolicy(
        delay_s=asked.delay_s,
        timeout_s=asked.timeout_s,
        max_age_s=asked.max_age_h * 3600,
        max_references=asked.max_references,
    )


def resend_policies(settings: Settings, names: frozenset[str]) -> dict[str, ResendPolicy]:
    """Return how each of the destinations `names` is sent again what it has not committed."""
    return {
        entry.name: ResendPolicy(
            max_resends=entry.commitment.max_resends,
            delay_s=entry.retry.initial_delay_s,
        )
        for entry in settings.dicom_destinations
        if entry.commitment is not None and entry.name in names
    }


def answering_policy(settings: Settings, source_name: str) -> AnsweringPolicy | None:
    """Return what counts as committed for a source; None where its requests are not answered any more."""
    for source in settings.sources:
        if source.name == source_name and source.commitment is not None:
            return AnsweringPolicy(
                committing=frozenset(committing(settings)),
                sent_counts=source.commitment.counts == "sent",
                originals_may_be_replaced=source.commitment.originals == "replaced",
                wait_s=source.commitment.wait_s,
            )
    return None


def _given(value: str | None) -> tuple[str, ...]:
    return () if value is None else (value,)
