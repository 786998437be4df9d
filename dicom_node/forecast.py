"""What would become of an object: its route, whether it is enhanced, and what each destination would get; pure."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import UID

from config.settings import Content, DestinationSettings, Settings
from dicom_node.derivation import Decision
from dicom_node.destinations.syntaxes import compressed_syntax, offered_syntaxes
from dicom_node.enhancement_decision import decide
from dicom_node.errors import UnsupportedPixels
from dicom_node.part10 import Part10File
from dicom_node.pixel_encoding import can_hold, output_syntax
from dicom_node.pixels import read_spec
from dicom_node.routing import RouteTrial, SenderFacts, match_route
from dicom_node.transcoding import check_compressible

SHADOW = "shadow mode: it would be enhanced to measure, and the original alone goes on"
UNROUTED = "no route takes it: it would be kept until one does"


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """What one destination would get.

    Attributes
    ----------
    destination
        By name.
    content
        The enhanced image, or the original.
    transfer_syntaxes
        The first that the destination accepts is taken; which that is shows when it is asked.
    """

    destination: str
    content: Content
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What would become of an object that opens a series.

    Attributes
    ----------
    route
        Which takes it; None if none does.
    trials
        The routes that were tried until then.
    enhanced
        Whether it would be denoised, unless a guard refuses, the weights can't be used or the deadline passes.
    reason
        Why, or why not.
    strength
        Share of the estimated noise to remove; None where it is not enhanced.
    shipments
        One for each destination and content.
    report
        Whether every destination would get a quality report on the series too, unless none can be made.
    """

    route: str | None
    trials: tuple[RouteTrial, ...]
    enhanced: bool
    reason: str
    strength: float | None = None
    shipments: tuple[Shipment, ...] = ()
    report: bool = False


def foresee(settings: Settings, part10: Part10File, sender: SenderFacts) -> Forecast:
    """Return what a node with these settings would do with an object that `sender` brought."""
    route, trials = match_route(settings.routes_in_order, part10.header, sender)
    if route is None:
        return Forecast(route=None, trials=trials, enhanced=False, reason=UNROUTED)
    decision = decide(route, part10.header)
    if route.shadow and decision.enhance:
        decision = Decision(enhance=False, reason=SHADOW)
    contents = tuple(content for content in Content if content in route.send) if decision.enhance else ()
    return Forecast(
        route=route.name,
        trials=trials,
        enhanced=decision.enhance,
        reason=decision.reason,
        strength=route.strength_value if decision.enhance else None,
        shipments=tuple(
            _shipment(part10, content, settings.destination(name))
            for name in route.destinations
            # The original stands in where there is no enhanced image.
            for content in contents or (Content.ORIGINAL,)
        ),
        report=route.report and decision.enhance,
    )


def shipments_in_words(forecast: Forecast) -> tuple[str, ...]:
    """Return what each destination would get, a sentence for each object."""
    objects = []
    for shipment in forecast.shipments:
        what = "enhanced image" if shipment.content is Content.ENHANCED else "original"
        names = ", else ".join(UID(syntax).name for syntax in shipment.transfer_syntaxes)
        objects.append(f"{shipment.destination} gets the {what} in {names}")
    told = dict.fromkeys(shipment.destination for shipment in forecast.shipments if forecast.report)
    return (
        *objects,
        *(f"{name} gets a report on the series, an Enhanced SR, if an image of it is enhanced" for name in told),
    )


def sender_troubles(settings: Settings, sender: SenderFacts) -> list[str]:
    """Return why the sender that a forecast assumes would not come so far, or is not told enough to judge routes."""
    found = []
    if sender.calling_ae_title and not sender.source:
        found.append(
            f"{sender.calling_ae_title} is in no [[sources]]: its association would be rejected, and no route be asked"
        )
    if sender.called_ae_title != settings.node.ae_title:
        found.append(f"this node is {settings.node.ae_title}: an association that calls another would be rejected")
    asked = {key for route in settings.routes for key in route.match}
    if not sender.calling_ae_title and asked & {"calling_ae_title", "source"}:
        found.append("no calling AE title is assumed, and routes ask for the sender: name one with --calling")
    return found


def _shipment(part10: Part10File, content: Content, settings: DestinationSettings) -> Shipment:
    is_derived = content is Content.ENHANCED
    own = output_syntax(read_spec(part10.header)) if is_derived else part10.transfer_syntax_uid
    offered = offered_syntaxes(own, is_derived=is_derived, settings=settings)
    compressed = compressed_syntax(own, is_derived=is_derived, settings=settings)
    if compressed is not None and not _takes_compression(part10, compressed, is_derived=is_derived):
        offered = tuple(syntax for syntax in offered if syntax != compressed)
    return Shipment(destination=settings.name, content=content, transfer_syntaxes=offered)


def _takes_compression(part10: Part10File, syntax: str, *, is_derived: bool) -> bool:
    if is_derived:
        return can_hold(syntax, read_spec(part10.header))
    try:
        check_compressible(part10, syntax)
    except UnsupportedPixels:
        return False
    return True
