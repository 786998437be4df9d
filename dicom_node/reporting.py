"""The report of one series: made in bounded time and stored; or why there is none, and the images go on without it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from pydicom.dataset import Dataset

from config.settings import DerivationSettings
from dicom_node import __version__
from dicom_node.enhancement import LoadedModel, ModelAtHand
from dicom_node.errors import OutOfResources, describe
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.arrivals import Arrival, DerivedInstance
from dicom_node.ledger.outcomes import ImageOutcome
from dicom_node.part10 import open_part10

log = logging.getLogger(__name__)

# The images of the series wait while its report is made, about 0.04 s for each image on one busy core.
REPORT_LIMIT_S = 20.0
# One that is given up still takes the processor to its end, so what can't be ready in time is not begun.
MAX_IMAGES = 300


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """Makes quality reports.

    Parameters
    ----------
    store
        Where the received objects lie and the report goes.
    model
        The denoiser, which the report names.
    derivation
        Offsets of Series Number.
    node_name
        As reports name the equipment that made them.
    limit_s
        Longest time that the making of a report may take.
    """

    store: InstanceStore
    model: ModelAtHand
    derivation: DerivationSettings
    node_name: str
    limit_s: float = REPORT_LIMIT_S

    def make(
        self, arrival: Arrival, outcomes: Sequence[ImageOutcome], *, strength: float, series_at: float
    ) -> DerivedInstance | str:
        """Make and store the report on an arrival of which at least one image was enhanced.

        Parameters
        ----------
        strength
            That the route asks for, 0 to 1.
        series_at
            When the derived series came to be, in seconds since the epoch.

        Returns
        -------
        The report, safe in the store; or a sentence that says why there is none. Nothing is raised: no image waits
        because its report can't be made.
        """
        if len(outcomes) > MAX_IMAGES:
            return _none(arrival, f"a report tells of {MAX_IMAGES} images at most, these are {len(outcomes)}")
        try:
            made = _within(self.limit_s, lambda: self._build(arrival, outcomes, strength, series_at))
            stored = self.store.save(made)
        except TimeoutError:
            return _none(arrival, f"the report was not ready after {self.limit_s:g} s")
        except OutOfResources as error:
            return _none(arrival, str(error))
        except Exception as error:
            # The top of this report: whatever highdicom finds wrong must not hold up the images.
            log.exception("Report failed by an unforeseen error", extra={"arrival": arrival.arrival_id})
            return _none(arrival, f"unforeseen {describe(error)}")
        return DerivedInstance(
            sop_class_uid=str(made.SOPClassUID),
            sop_instance_uid=str(made.SOPInstanceUID),
            study_instance_uid=str(made.StudyInstanceUID),
            series_instance_uid=str(made.SeriesInstanceUID),
            transfer_syntax_uid=str(made.file_meta.TransferSyntaxUID),
            key=stored.key,
            size=stored.size,
            dataset_offset=stored.dataset_offset,
            digest=stored.digest,
        )

    def discard(self, report: DerivedInstance) -> None:
        """Delete a report that came too late."""
        self.store.delete(report.key)

    def _build(self, arrival: Arrival, outcomes: Sequence[ImageOutcome], strength: float, series_at: float) -> Dataset:
        # highdicom takes half a second and 17 MB to import: only a worker that makes reports pays for it.
        from dicom_node.quality_report import ReportContext, build_report

        first = next(outcome.source for outcome in outcomes if outcome.derived is not None)
        denoiser = self.model.denoiser if isinstance(self.model, LoadedModel) else None
        context = ReportContext(
            node_name=self.node_name,
            node_version=__version__,
            model_name=denoiser.name if denoiser else "",
            model_digest=denoiser.digest if denoiser else "",
            strength=strength,
            generation=arrival.generation,
            series_number_offset=self.derivation.series_number_offset + self.derivation.report_number_offset,
            now=datetime.fromtimestamp(max(outcome.decided_at for outcome in outcomes), UTC),
            series_time=datetime.fromtimestamp(series_at, UTC),
        )
        with open_part10(self.store.path(first.key), folder=self.store.scratch) as part10:
            return build_report(part10.header, outcomes, context)


def _none(arrival: Arrival, reason: str) -> str:
    log.warning("Series goes on without its report", extra={"arrival": arrival.arrival_id, "reason": reason})
    return reason


def _within(limit_s: float, build: Callable[[], Dataset]) -> Dataset:
    """Return what `build` returns; TimeoutError where it takes longer, and what it returns then is dropped."""
    # An executor for each: a report that hangs must not hold up the next one.
    executor = ThreadPoolExecutor(1, thread_name_prefix="report")
    try:
        return executor.submit(build).result(limit_s)
    finally:
        executor.shutdown(wait=False)
