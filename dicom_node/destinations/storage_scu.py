"""A DICOM destination: sends a series by C-STORE on one association, straight from its files where the peer allows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID

from config.settings import DicomDestinationSettings
from dicom_node.data_phase import PeerAborted
from dicom_node.destinations.base import (
    DeliveryItem,
    ItemOutcome,
    Outcome,
    ProbeStep,
    Silence,
    StopSending,
    classify_status,
)
from dicom_node.destinations.explanations import Peer, explain_context, explain_failure, explain_status
from dicom_node.destinations.preparing import in_syntax
from dicom_node.destinations.probing import probe_peer
from dicom_node.destinations.syntaxes import COMPRESSIONS, FALLBACK_SYNTAXES, compressed_syntax, offered_syntaxes
from dicom_node.errors import (
    ContextRejected,
    DeliveryError,
    DerivationError,
    TransientFailure,
    UnsupportedPixels,
)
from dicom_node.negotiation import MAX_CONTEXTS
from dicom_node.tls import client_files
from dicom_node.upper_layer import (
    AcceptedContext,
    ProposedContext,
    RequestedAssociation,
    StoreResponse,
    open_association,
)

log = logging.getLogger(__name__)

LOSSES_IN_VAIN = 2
"""Associations lost one after the other, with nothing answered, after which the peer is left alone for now."""


@dataclass(frozen=True, kw_only=True)
class AssociationPlan:
    """The contexts to propose on one association, and the objects that they are for."""

    contexts: tuple[ProposedContext, ...]
    items: tuple[DeliveryItem, ...]


def propose_contexts(kinds: Iterable[tuple[str, str]]) -> tuple[ProposedContext, ...]:
    """Return the contexts for objects of these (SOP class, transfer syntax) pairs; pure.

    For each class, one context with each syntax that its objects have, that they can be sent as they are, and one
    with what remains of the uncompressed little endian syntaxes as the way out. A context of several syntaxes would
    let the peer choose a single one of them for the class (PS3.8 9.3.3.2). Implicit VR Little Endian is always among
    them, as PS3.5 10.1 asks.
    """
    syntaxes: dict[str, dict[str, None]] = {}
    for sop_class, syntax in kinds:
        syntaxes.setdefault(sop_class, {})[syntax] = None
    contexts = []
    for sop_class, own in syntaxes.items():
        contexts += [ProposedContext(abstract_syntax=sop_class, transfer_syntaxes=(syntax,)) for syntax in own]
        fallback = tuple(syntax for syntax in FALLBACK_SYNTAXES if syntax not in own)
        if fallback:
            contexts.append(ProposedContext(abstract_syntax=sop_class, transfer_syntaxes=fallback))
    return tuple(contexts)


def plan_association(
    items: Sequence[DeliveryItem], settings: DicomDestinationSettings | None = None
) -> AssociationPlan:
    """Return the plan for as many of the first `items` as one association has contexts for; pure.

    Where `settings` ask for compression, the compressed syntax is proposed beside the object's own.
    """
    kinds: dict[tuple[str, str], None] = {}
    contexts: tuple[ProposedContext, ...] = ()
    for count, item in enumerate(items):
        syntaxes = [item.transfer_syntax_uid]
        if settings is not None and (compressed := _compressed_syntax(item, settings)) is not None:
            syntaxes.insert(0, compressed)
        new = {(item.sop_class_uid, syntax): None for syntax in syntaxes}
        if new.keys() <= kinds.keys():
            continue
        widened = propose_contexts([*kinds, *new])
        if len(widened) > MAX_CONTEXTS:
            return AssociationPlan(contexts=contexts, items=tuple(items[:count]))
        kinds, contexts = kinds | new, widened
    return AssociationPlan(contexts=contexts, items=tuple(items))


class StorageScu:
    """A `Destination` that is a storage SCP (PS3.4 Annex B).

    Parameters
    ----------
    settings
        Where it is and how long to wait.
    node_ae_title
        AE title that we call with unless the destination's settings name another.
    label
        What sentences call it; the destination's name unless given.
    scratch_folder
        For transcoded objects while they are sent; the system's folder for temporary files unless given.
    quotes_peer
        Whether reasons quote the peer's Error Comment, which may name the patient: for a person at a terminal who has
        the objects anyway, never for what is logged or stored.
    """

    def __init__(
        self,
        settings: DicomDestinationSettings,
        *,
        node_ae_title: str,
        label: str | None = None,
        scratch_folder: Path | None = None,
        quotes_peer: bool = False,
    ) -> None:
        self._settings = settings
        self._quotes_peer = quotes_peer
        self._tls = client_files(settings.tls) if settings.tls.enabled else None
        self._scratch_folder = scratch_folder
        self.peer = Peer(
            name=settings.name if label is None else label,
            ae_title=settings.ae_title,
            host=settings.host,
            port=settings.port,
            calling_ae_title=settings.calling_ae_title or node_ae_title,
        )

    @property
    def name(self) -> str:
        """Name of the destination in the settings."""
        return self._settings.name

    def deliver(self, items: Sequence[DeliveryItem], *, on_outcome: Callable[[ItemOutcome], None]) -> None:
        """Send `items` and report exactly one outcome for each, as soon as it is known; see `Destination.deliver`.

        When the association is lost, the object that was on its way is to be tried again and the others go on, on a
        fresh one: an object that makes the peer abort does not stop its series. A second loss in a row with nothing
        answered in between ends the attempt.
        """
        waiting = sorted(items, key=lambda item: item.in_doubt)
        in_vain = 0
        while waiting:
            plan = plan_association(waiting, self._settings)
            try:
                association = self.open(plan.contexts)
            except ContextRejected:
                for item in plan.items:
                    on_outcome(self._refuse_context(item, ()))
                waiting = waiting[len(plan.items) :]
                continue
            except DeliveryError as error:
                outcome = Outcome.RETRY if error.transient else Outcome.REFUSED
                silence = Silence.UNREACHED if error.transient else None
                self._report_unsent(waiting, outcome, explain_failure(self.peer, error), on_outcome, silence)
                return
            answered, loss = self._send(association, plan.items, on_outcome)
            waiting = waiting[answered:]
            if loss is None:
                continue
            reason = explain_failure(self.peer, loss)
            log.warning("Association lost", extra={"destination": self.name, "reason": reason, "answered": answered})
            on_outcome(_blame(waiting.pop(0), loss, reason))
            in_vain = 0 if answered else in_vain + 1
            if in_vain == LOSSES_IN_VAIN:
                self._report_unsent(waiting, Outcome.RETRY, reason, on_outcome, Silence.LOST)
                return

    def probe(self) -> list[ProbeStep]:
        """Try out name, TCP, association, presentation contexts and C-ECHO; nothing is stored."""
        return probe_peer(
            self.peer,
            open_association=self.open,
            connect_timeout_s=self._settings.connect_timeout_s,
            tls=self._settings.tls if self._settings.tls.enabled else None,
            compression=COMPRESSIONS.get(self._settings.compress),
        )

    def open(self, contexts: Sequence[ProposedContext]) -> RequestedAssociation:
        """Open an association with these contexts; `DeliveryError` says why there is none."""
        settings = self._settings
        return open_association(
            host=settings.host,
            port=settings.port,
            called_ae_title=settings.ae_title,
            calling_ae_title=self.peer.calling_ae_title,
            contexts=contexts,
            connect_timeout_s=settings.connect_timeout_s,
            acse_timeout_s=settings.acse_timeout_s,
            dimse_timeout_s=settings.dimse_timeout_s,
            tls=self._tls,
            server_name=settings.tls.server_name,
        )

    def _send(
        self,
        association: RequestedAssociation,
        items: Sequence[DeliveryItem],
        on_outcome: Callable[[ItemOutcome], None],
    ) -> tuple[int, TransientFailure | None]:
        """Return how many of `items` have an outcome, and what ended the association before the others had one."""
        reported = 0
        stop: StopSending | None = None
        try:
            with association:
                for item in items:
                    outcome = self._store(association, item)
                    reported += 1
                    try:
                        on_outcome(outcome)
                    except StopSending as error:
                        stop = error
                        break
        except TransientFailure as error:
            if reported < len(items) and stop is None:
                return reported, error
            # Everything is answered: whether the goodbye was civil changes nothing.
            log.info("Association ended without a release", extra={"destination": self.name, "reason": str(error)})
        if stop is not None:
            raise stop
        return reported, None

    def _store(self, association: RequestedAssociation, item: DeliveryItem) -> ItemOutcome:
        """Send one object; `TransientFailure` if the association is lost before the answer."""
        try:
            response = self._store_as_accepted(association, item)
        except (UnsupportedPixels, DerivationError) as error:
            own = explain_context(self.peer, item.sop_class_uid, item.transfer_syntax_uid, class_accepted=True)
            return _outcome(item, Outcome.REFUSED, f"{own}; it can't be transcoded here: {error}")
        except OSError as error:
            # The folder for temporary files may be missing instead.
            if isinstance(error, FileNotFoundError) and not item.path.exists():
                return _outcome(item, Outcome.REFUSED, f"stored object {item.path} is missing on this node")
            return _outcome(
                item, Outcome.RETRY, f"stored object {item.path} can't be read or transcoded: {error.strerror or error}"
            )
        if response is None:
            return self._refuse_context(item, association.accepted.values())
        outcome = classify_status(response.status, in_doubt=item.in_doubt)
        return ItemOutcome(
            instance_id=item.instance_id,
            outcome=outcome,
            status=response.status,
            reason=explain_status(self.peer, response.status, response.error_comment if self._quotes_peer else ""),
            # The doubt of an earlier attempt outlives an answer such as "out of resources".
            in_doubt=item.in_doubt and outcome is Outcome.RETRY,
        )

    def _store_as_accepted(self, association: RequestedAssociation, item: DeliveryItem) -> StoreResponse | None:
        """Stream the file, or a transcoding of it, in the best syntax that is accepted; None if nothing is."""
        offered = offered_syntaxes(item.transfer_syntax_uid, is_derived=item.is_derived, settings=self._settings)
        for syntax in offered:
            context_id = association.context_for(item.sop_class_uid, syntax)
            if context_id is None:
                continue
            with ExitStack() as stack:
                source, offset = stack.enter_context(
                    in_syntax(item, syntax, self._settings, folder=self._scratch_folder)
                )
                if source is None:
                    continue
                return association.store(
                    context_id=context_id,
                    sop_class_uid=item.sop_class_uid,
                    sop_instance_uid=item.sop_instance_uid,
                    source=source,
                    offset=offset,
                )
        return None

    def _refuse_context(self, item: DeliveryItem, accepted: Iterable[AcceptedContext]) -> ItemOutcome:
        class_accepted = any(context.abstract_syntax == item.sop_class_uid for context in accepted)
        return _outcome(
            item,
            Outcome.REFUSED,
            explain_context(self.peer, item.sop_class_uid, item.transfer_syntax_uid, class_accepted=class_accepted),
        )

    def _report_unsent(
        self,
        items: Iterable[DeliveryItem],
        outcome: Outcome,
        reason: str,
        on_outcome: Callable[[ItemOutcome], None],
        silence: Silence | None,
    ) -> None:
        for item in items:
            on_outcome(_outcome(item, outcome, reason, in_doubt=item.in_doubt, silence=silence))


def _compressed_syntax(item: DeliveryItem, settings: DicomDestinationSettings) -> str | None:
    return compressed_syntax(item.transfer_syntax_uid, is_derived=item.is_derived, settings=settings)


def _blame(item: DeliveryItem, loss: TransientFailure, reason: str) -> ItemOutcome:
    """Return the outcome of the object that was on its way when the association was lost.

    Usually that is the network's fault or the peer's. But a UID that is none makes DCMTK abort, every time.
    """
    is_valid = UID(item.sop_instance_uid).is_valid and UID(item.sop_class_uid).is_valid
    if is_valid or not isinstance(loss.__cause__, PeerAborted):
        return _outcome(item, Outcome.RETRY, reason, in_doubt=True, silence=Silence.LOST)
    fault = f"{reason}; SOP Class or Instance UID of the object is invalid: {item.sop_instance_uid}"
    return _outcome(item, Outcome.REFUSED, fault, in_doubt=True, silence=Silence.LOST)


def _outcome(
    item: DeliveryItem, outcome: Outcome, reason: str, *, in_doubt: bool = False, silence: Silence | None = None
) -> ItemOutcome:
    return ItemOutcome(
        instance_id=item.instance_id,
        outcome=outcome,
        status=None,
        reason=reason,
        in_doubt=in_doubt,
        silence=silence,
    )
