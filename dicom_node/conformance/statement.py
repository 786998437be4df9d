"""The chapters of the statement in the order of PS3.2 Annex N."""

from __future__ import annotations

from config.settings import Settings
from dicom_node import __version__
from dicom_node.conformance.communication import communication
from dicom_node.conformance.configuration import configuration
from dicom_node.conformance.implementation import implementation_model
from dicom_node.conformance.introduction import introduction
from dicom_node.conformance.markdown import CONTENTS, Section, code, document, paragraph
from dicom_node.conformance.objects import information_objects, other_annexes
from dicom_node.conformance.overview import overview
from dicom_node.conformance.security import security
from dicom_node.conformance.services import services
from dicom_node.conformance.structured_reports import structured_reports
from dicom_node.conformance.terminology import accepted_storage_classes, code_set_usage
from dicom_node.derivation.terms import PRODUCT


def render_statement(settings: Settings) -> str:
    """Return the DICOM Conformance Statement of a node with these settings (Markdown).

    It is a function of the settings and of the version alone: no date, no name of the machine, no path of it.

    References
    ----------
    PS3.2 Annex N.
    """
    return document(
        "DICOM Conformance Statement",
        (
            paragraph(
                f"Product: {PRODUCT}, the low-dose X-ray node, version {__version__}. Statement of the node with AE "
                "title "
                f"{code(settings.node.ae_title)}, made from its settings by `dicom-node conformance`."
            ),
        ),
        chapters=(
            overview(settings),
            Section(title="Table of contents", body=(CONTENTS,)),
            introduction(),
            implementation_model(settings),
            services(settings),
            configuration(settings),
            communication(settings),
            security(settings),
        ),
        annexes=(
            information_objects(settings),
            structured_reports(settings),
            *other_annexes(),
            code_set_usage(settings),
            accepted_storage_classes(),
        ),
    )
