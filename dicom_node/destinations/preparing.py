"""Gives an object in the transfer syntax in which it is to go, from its own file or from a temporary one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from config.settings import DestinationSettings
from dicom_node.destinations.base import DeliveryItem
from dicom_node.destinations.syntaxes import compressed_syntax
from dicom_node.errors import DerivationError, NodeError, describe
from dicom_node.transcoding import to_compressed, to_uncompressed

log = logging.getLogger(__name__)

MAX_COMPRESSION_S = 20.0
"""Time after which no further frame of an image is compressed, in seconds. The association is silent meanwhile, and a
peer that hangs up over it (Orthanc after 30 s) would never get the image however often it is tried again."""


@contextmanager
def in_syntax(
    item: DeliveryItem, syntax: str, settings: DestinationSettings, *, folder: Path | None
) -> Iterator[tuple[Path | None, int]]:
    """Give the file that holds the data set in `syntax` and where it begins there; None to try the next syntax.

    Parameters
    ----------
    settings
        Of the destination.
    folder
        For temporary files; None for the system's.

    Raises
    ------
    UnsupportedPixels, DerivationError
        If the object can't be transcoded; whatever goes wrong there concerns this object alone.
    OSError
        If it can't be read, or the temporary file can't be written.
    """
    with ExitStack() as stack:
        if syntax == item.transfer_syntax_uid:
            yield item.path, item.dataset_offset
        elif syntax == compressed_syntax(item.transfer_syntax_uid, is_derived=item.is_derived, settings=settings):
            yield stack.enter_context(_compressed(item, syntax, folder)), 0
        else:
            yield stack.enter_context(_transcoded(item, syntax, folder)), 0


@contextmanager
def _compressed(item: DeliveryItem, syntax: str, folder: Path | None) -> Iterator[Path | None]:
    """Give the data set compressed; None, whatever the reason, where it is to go as it is."""
    with ExitStack() as stack:
        path = None
        try:
            # A frame is not interrupted: the peer may have hung up over the silence while this one was compressed.
            if not item.in_doubt:
                path = stack.enter_context(to_compressed(item.path, syntax, folder=folder, limit_s=MAX_COMPRESSION_S))
        except (NodeError, OSError) as error:
            log.info("Sent as it is", extra={"instance": item.instance_id, "syntax": syntax, "reason": str(error)})
        except Exception:
            log.exception("Compression failed", extra={"instance": item.instance_id, "syntax": syntax})
        yield path


@contextmanager
def _transcoded(item: DeliveryItem, syntax: str, folder: Path | None) -> Iterator[Path]:
    """Give the data set in another syntax; whatever goes wrong while it is made concerns this object alone."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(to_uncompressed(item.path, syntax, folder=folder))
        except (NodeError, OSError):
            raise
        except Exception as error:
            # Codecs raise whatever they like; a poison image must not stop its series.
            log.exception("Transcoding failed", extra={"instance": item.instance_id, "syntax": syntax})
            raise DerivationError(describe(error)) from error
        yield path
