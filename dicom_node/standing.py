"""The periodic care for destinations that are down: probe them, give up what is too old, turn to the failover."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from config.settings import DestinationSettings
from dicom_node.destinations.base import Destination, StepState
from dicom_node.errors import OperationRefused
from dicom_node.ledger.deliveries import DeliveryLedger
from dicom_node.ledger.destinations import DestinationLedger, DestinationLine, HoldScope
from dicom_node.ledger.operations import OperationLedger
from dicom_node.observation.correlation import trace_id_of
from dicom_node.states import BreakerState, DeliveryState

log = logging.getLogger(__name__)

# A peer that takes none of the classes that a probe asks about may take those that it is sent.
_ANSWERS = frozenset({"contexts", "compression"})


@dataclass(frozen=True, kw_only=True)
class StandingWatch:
    """Looks after destinations that are down; may run in every worker at once.

    Parameters
    ----------
    standings, deliveries, operations
        Sides of the ledger.
    settings, destinations
        Of each destination, by its name.
    clock
        Seconds since the epoch.
    """

    standings: DestinationLedger
    deliveries: DeliveryLedger
    operations: OperationLedger
    settings: Mapping[str, DestinationSettings]
    destinations: Mapping[str, Destination]
    clock: Callable[[], float]

    def probe(self) -> None:
        """Probe what is down and due; what answers is tried again at once."""
        shortest_s = min((s.breaker.probe_every_s for s in self.settings.values()), default=60.0)
        due = self.standings.take_probes(shortest_s)
        if not due:
            return
        # A probe waits for time-outs: one that hangs must not keep the others waiting.
        with ThreadPoolExecutor(len(due), thread_name_prefix="probe") as pool:
            list(pool.map(self._probe, due))

    def _probe(self, name: str) -> None:
        destination, settings = self.destinations.get(name), self.settings.get(name)
        if destination is None or settings is None:
            self.standings.close(name, "no longer in the settings")
            return
        failed = [s for s in destination.probe() if s.state is StepState.FAILED and s.name not in _ANSWERS]
        if failed:
            self.standings.delay_probe(name, settings.breaker.probe_every_s, failed[0].sentence)
            log.info("Destination is still down", extra={"destination": name, "reason": failed[0].sentence})
        elif self.standings.close(name, "it answered a probe"):
            log.info("Destination answers again", extra={"destination": name})

    def give_up_and_turn(self) -> None:
        """Hand what waits for a destination that is down to its failover, and give up what has waited too long.

        A destination on hold is the operator's: what waits for it goes nowhere else by itself.
        """
        held = {hold.subject for hold in self.standings.holds() if hold.scope is HoldScope.DESTINATION}
        for line in self.standings.lines():
            settings = self.settings.get(line.name)
            if settings is None or line.state is not BreakerState.OPEN:
                continue
            failover = None if line.name in held else settings.failover
            if failover is not None and self.clock() - line.since >= settings.failover_after_s:
                self._turn(line, failover)
            max_age_h = settings.retry.max_age_h
            reason = f"{line.name} is down, and the delivery has waited for {max_age_h:g} h: {line.reason}"
            for delivery_id in self.deliveries.abandon_waiting(line.name, max_age_h * 3600, reason):
                log.error(
                    "Delivery is a dead letter",
                    extra={
                        "trace_id": trace_id_of(self.deliveries.study_of(delivery_id)),
                        "delivery": delivery_id,
                        "destination": line.name,
                        "alarm": "dead_letter",
                    },
                )

    def _turn(self, line: DestinationLine, failover: str) -> None:
        for waiting in self.deliveries.lines(states=[DeliveryState.PENDING], destination=line.name):
            try:
                to = self.operations.reroute(waiting.delivery_id, failover, f"failover, {line.name} is down")
            except OperationRefused as error:
                # The failover is being sent something of this series; the next run tries again.
                log.info("No failover yet", extra={"delivery": waiting.delivery_id, "reason": str(error)})
            else:
                log.warning(
                    "Delivery goes to the failover",
                    extra={"delivery": waiting.delivery_id, "destination": failover, "as": to, "alarm": "failover"},
                )
