"""Chapter 4: the application entities, how objects flow through them, and who is connected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from config.settings import DicomDestinationSettings, DicomwebDestinationSettings, RouteSettings, Settings
from dicom_node.conformance.markdown import Section, bullets, code, codes, drawing, paragraph, see, table
from dicom_node.routing import condition_in_words

RECEIVER_AE: Final = "Receiver AE"
SENDER_AE: Final = "Sender AE"

_DATA_FLOW: Final = """
    remote                        :            this node             :            remote
                                  :                                  :
    modality sends    -- C-ECHO --:-> +--------------+               :
    or verifies       -- C-STORE -:-> | Receiver AE  |               :
    asks for commitment  N-ACTION-:-> |              | <- N-EVENT- --:-- PACS reports on
                                  :   |              |    REPORT     :   commitment
                                  :   +--------------+               :
                                  :          | stored and recorded   :
                                  :          v                       :
                                  :    series complete               :
                                  :          |                       :
                                  :          v                       :
                                  :    enhance, or pass through      :
                                  :          |                       :
                                  :          v                       :
                                  :   +--------------+               :
                                  :   |  Sender AE   | -- C-STORE ---:-> PACS stores
    modality gets     <- N-EVENT- -:-- |              | -- N-ACTION --:-> PACS commits
    its report           REPORT   :   +--------------+ -- C-ECHO ----:-> (doctor alone)
"""


def implementation_model(settings: Settings) -> Section:
    """Return the chapter."""
    return Section(
        title="Implementation model",
        parts=(
            Section(
                title="Application data flow",
                body=(
                    drawing(_DATA_FLOW),
                    bullets(
                        (
                            f"The {RECEIVER_AE} takes objects from the sources of the settings and answers with "
                            "success only when an object is on disk and in the ledger.",
                            f"The {SENDER_AE} sends what a route demands to the destinations of that route, and tries "
                            "again what a destination can't take for now.",
                        )
                    ),
                ),
            ),
            Section(
                title="Functional definitions",
                parts=(
                    Section(title=f"Function of the {RECEIVER_AE}", body=(_receiver_function(),)),
                    Section(title=f"Function of the {SENDER_AE}", body=(_sender_function(),)),
                ),
            ),
            Section(title="Sequencing of activities", body=(_sequence(),)),
            _connected(settings),
        ),
    )


def _receiver_function() -> str:
    return paragraph(
        "Verification SCP and Storage SCP. It listens while the node runs, whatever state the destinations are in. It "
        "changes nothing in what it receives: the bytes of each data set are kept in the transfer syntax that they "
        "came in. It takes requests for Storage Commitment, and reports on those of the node. "
        "Objects that can't be parsed go to quarantine, and the sender is told so."
    )


def _sender_function() -> str:
    return paragraph(
        "Storage SCU. A delivery is made when the series of a route is enhanced or passed through, and is tried until "
        "the destination has every object of it, has refused it for good, or the delivery has reached its maximum age. "
        "Each destination has a queue of its own, so one that is down holds up no other. Verification SCU where "
        "`dicom-node doctor` tries out a destination. It asks for Storage Commitment, "
        "and reports on it. `dicom-node send`, a small modality, is the same Storage SCU "
        "with the calling AE title that it is given. To a destination of kind dicomweb the same deliveries go by the "
        f"Store transaction instead ({see('DICOM Web Services')})."
    )


def _sequence() -> str:
    return bullets(
        (
            "Receive: each C-STORE is answered by itself. An association may hold objects of any number of patients, "
            "studies and series.",
            "Complete: a series counts as complete when no association that brought objects of it is open and the "
            "route's `quiet_period_s` has passed. An object that comes later is no error: it makes another arrival, "
            "and what is derived from it joins the derived series.",
            "Route: the first object of a series decides which route takes the series.",
            "Enhance: image by image. What is not enhanced when the route's `deadline_s` has passed is passed through.",
            "Deliver: the enhanced objects, the originals or both, as the route's `send` says. Where an image was not "
            "enhanced its original stands in.",
            "Keep: a series that a destination refused, or did not get within the maximum age, stays until somebody "
            "decides about it.",
            "Delete: an object is deleted `retention.keep_h` after every destination has it "
            f"({see('General parameters')}).",
        )
    )


def _connected(settings: Settings) -> Section:
    return Section(
        title="Connected systems",
        body=(*_sources(settings), *_destinations(settings), *_routes(settings)),
    )


def _sources(settings: Settings) -> Iterator[str]:
    if not settings.sources:
        yield paragraph("These settings name no source: every association is rejected until one is named.")
        return
    rows = ((code(source.name), codes(source.ae_titles), codes(source.hosts)) for source in settings.sources)
    yield table("Sources", ("Source", "Calling AE titles", "Addresses"), rows)


def _destinations(settings: Settings) -> Iterator[str]:
    if not settings.destinations:
        yield paragraph("These settings name no destination: nothing is sent.")
        return
    dicom = [entry for entry in settings.destinations if isinstance(entry, DicomDestinationSettings)]
    web = [entry for entry in settings.destinations if isinstance(entry, DicomwebDestinationSettings)]
    if dicom:
        header = ("Destination", "Called AE title", "Host", "Port", "Calling AE title", "Associations at once")
        yield table("Destinations", header, (_destination_row(settings, entry) for entry in dicom))
    if web:
        columns = ("Destination", "DICOMweb service", "Requests at once", "Objects in a request", "MB in a request")
        yield table("DICOMweb destinations", columns, map(_web_row, web))


def _web_row(entry: DicomwebDestinationSettings) -> tuple[str, ...]:
    return (
        code(entry.name),
        code(entry.url),
        str(entry.concurrency),
        str(entry.max_objects),
        str(entry.max_request_mb),
    )


def _destination_row(settings: Settings, entry: DicomDestinationSettings) -> tuple[str, ...]:
    calling = entry.calling_ae_title or settings.node.ae_title
    return (
        code(entry.name),
        code(entry.ae_title),
        code(entry.host),
        code(entry.port),
        code(calling),
        str(entry.concurrency),
    )


def _routes(settings: Settings) -> Iterator[str]:
    if not settings.routes_in_order:
        yield paragraph("These settings have no route: what is received is kept and not forwarded.")
        return
    header = ("Route", "Takes a series if", "Enhances", "Sends", "To")
    yield table("Routes, the first that matches takes the series", header, map(_route_row, settings.routes_in_order))


def _route_row(route: RouteSettings) -> tuple[str, ...]:
    conditions = (f"{code(key)} is {code(condition_in_words(condition))}" for key, condition in route.match.items())
    return (
        code(route.name),
        " and ".join(conditions) or "always",
        codes(route.sop_classes) if route.enhance else "nothing",
        codes(content.value for content in route.send),
        codes(route.destinations),
    )
