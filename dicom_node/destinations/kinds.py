"""Makes the destination for the settings of one, whatever its kind."""

from __future__ import annotations

from pathlib import Path

from config.settings import DicomDestinationSettings, DicomwebDestinationSettings
from dicom_node.destinations.base import Destination
from dicom_node.destinations.storage_scu import StorageScu
from dicom_node.destinations.stow_rs import StowRs


def make_destination(
    settings: DicomDestinationSettings | DicomwebDestinationSettings,
    *,
    node_ae_title: str,
    scratch_folder: Path | None = None,
) -> Destination:
    """Return the destination.

    Parameters
    ----------
    node_ae_title
        AE title of this node.
    scratch_folder
        For transcoded objects while they are sent; the system's folder for temporary files unless given.
    """
    if isinstance(settings, DicomwebDestinationSettings):
        return StowRs(settings, node_ae_title=node_ae_title, scratch_folder=scratch_folder)
    return StorageScu(settings, node_ae_title=node_ae_title, scratch_folder=scratch_folder)
