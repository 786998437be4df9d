"""One image: read its pixels, denoise, derive a new object, store it; or say why the original goes on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from config.settings import DerivationSettings, RouteSettings
from dicom_node import __version__
from dicom_node.derivation import DerivationContext, derive
from dicom_node.enhancement_decision import decide
from dicom_node.errors import DerivationError, OutOfResources, UnsupportedPixels, describe
from dicom_node.instance_store import InstanceStore
from dicom_node.lateness import LATE
from dicom_node.ledger.arrivals import (
    Cause,
    DerivedInstance,
    EnhancementDecision,
    EnhancementRecord,
    StoredInstance,
)
from dicom_node.object_keeping import StoreUnavailable
from dicom_node.part10 import UNREADABLE, Part10File, open_part10
from dicom_node.pixel_encoding import FrameWriter, frame_writer
from dicom_node.pixels import PixelSpec, StoredFrame, domain_of, from_exposure, iter_frames, read_spec, to_exposure
from dicom_node.precedence import GaveUp, Precedence
from dicom_node.routing import PASSES_THROUGH
from model.errors import ModelError
from model.exposure import DeclaredDose
from model.memory import return_freed_memory

if TYPE_CHECKING:
    # It takes PyTorch along, and a worker without one still delivers.
    from model.denoiser import Denoiser

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NoModel:
    """There are no usable weights: every image is passed through for this reason."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """The denoiser of this worker; one image at a time, so that memory stays bounded, and those in time first."""

    denoiser: Denoiser
    precedence: Precedence = field(default_factory=Precedence)


ModelAtHand = LoadedModel | NoModel


@dataclass(frozen=True, kw_only=True)
class Times:
    """Times of a series, in seconds since the epoch.

    Attributes
    ----------
    series_at
        When the derived series came to be; the same for all its images.
    give_up_at
        When its originals go on and enhancing an image of it has no use any more.
    in_background
        Whether the originals have gone before, so that images in time are enhanced first.
    """

    series_at: float
    give_up_at: float = math.inf
    in_background: bool = False


@dataclass(kw_only=True)
class _Denoised:
    """What denoising the frames of one image gave."""

    inference_s: float = 0.0
    strengths: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    reasons: dict[str, None] = field(default_factory=dict)

    @property
    def reason(self) -> str | None:
        return "; ".join(self.reasons) or None


@dataclass(frozen=True, kw_only=True)
class _Identity:
    """The UIDs that the ledger knows a derived object by."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str

    @classmethod
    def of(cls, derived: Dataset) -> _Identity:
        """Read them."""
        return cls(
            sop_class_uid=str(derived.SOPClassUID),
            sop_instance_uid=str(derived.SOPInstanceUID),
            study_instance_uid=str(derived.StudyInstanceUID),
            series_instance_uid=str(derived.SeriesInstanceUID),
        )


class ImageEnhancer:
    """Makes derived objects.

    Parameters
    ----------
    store
        Where the received object lies and the derived one goes.
    model
        The denoiser, or why there is none.
    derivation
        How derived objects describe themselves.
    node_name
        As derived objects name the equipment that made them.
    clock
        Seconds since the epoch.
    no_room
        Says why a derived object should not be written now; None if there is room.
    """

    def __init__(
        self,
        *,
        store: InstanceStore,
        model: ModelAtHand,
        derivation: DerivationSettings,
        node_name: str,
        clock: Callable[[], float] = time.time,
        no_room: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._no_room = no_room
        self._store = store
        self._model = model
        self._derivation = derivation
        self._node_name = node_name
        self._clock = clock

    def enhance(
        self, stored: StoredInstance, route: RouteSettings | None, times: Times
    ) -> tuple[EnhancementRecord, DerivedInstance | None]:
        """Derive a denoised object from `stored`.

        Parameters
        ----------
        stored
            The received object.
        route
            Says whether, which classes and how strongly.
        times
            Of its series.

        Returns
        -------
        What was decided, and the derived object where the image was enhanced. Whatever goes wrong is a decision to
        pass the original through, with the reason.
        """
        begin = time.perf_counter()
        if route is None or not route.enhance:
            return _passed(PASSES_THROUGH, begin, Cause.ROUTE), None
        if isinstance(self._model, NoModel):
            return _passed(self._model.reason, begin, Cause.NO_MODEL), None
        no_room = self._no_room()
        if no_room is not None:
            log.warning("Image passed through", extra={"instance": stored.instance_id, "reason": no_room})
            return _passed(no_room, begin, Cause.DISK), None
        with self._store.held() as locate:
            path, examined = self._store.examine(stored.key, stored, locate=locate)
            if not examined.is_sound:
                # What a damaged file shows must not become an image that says it was made from the original.
                extra = {"instance": stored.instance_id, "reason": examined.reason}
                log.error("Original is not what it was", extra=extra)
                reason = f"the original is not what was received: {examined.reason}"
                return _passed(reason, begin, Cause.DAMAGED), None
            return self._enhance(stored, path, route, self._model, times, begin)

    def _enhance(
        self,
        stored: StoredInstance,
        path: Path,
        route: RouteSettings,
        model: LoadedModel,
        times: Times,
        begin: float,
    ) -> tuple[EnhancementRecord, DerivedInstance | None]:
        try:
            with open_part10(path, folder=self._store.scratch) as part10:
                decision = decide(route, part10.header)
                if not decision.enhance:
                    return _passed(decision.reason, begin, Cause.UNSUITABLE), None
                return self._derive(stored, part10, model, route, times, begin)
        except GaveUp:
            return _passed(LATE, begin, Cause.LATE), None
        except StoreUnavailable:
            # A passing state of a place that is not on this machine: tried again, until the route's deadline.
            raise
        except (UnsupportedPixels, DerivationError, ModelError, OutOfResources, OSError) as error:
            log.warning("Image passed through", extra={"instance": stored.instance_id, "reason": str(error)})
            cause = Cause.UNSUITABLE if isinstance(error, UnsupportedPixels) else Cause.ERROR
            return _passed(str(error), begin, cause), None
        except Exception as error:
            # The top of this image: an error that nobody foresaw must not hold up its series.
            log.exception("Image passed through after an unforeseen error", extra={"instance": stored.instance_id})
            return _passed(f"unforeseen {describe(error)}", begin, Cause.ERROR), None

    def discard(self, derived: DerivedInstance) -> None:
        """Delete a derived object that came too late."""
        self._store.delete(derived.key)

    def _derive(
        self,
        received: StoredInstance,
        part10: Part10File,
        model: LoadedModel,
        route: RouteSettings,
        times: Times,
        begin: float,
    ) -> tuple[EnhancementRecord, DerivedInstance | None]:
        spec = read_spec(part10.header)
        with frame_writer(spec, folder=self._store.scratch) as writer:
            with model.precedence.hold(in_background=times.in_background, is_over=lambda: self._is_late(times)):
                frames = self._frames_in_time(part10, spec, model.precedence, times)
                dose = declared_dose(part10.header)
                denoised = _denoise(frames, dose, model.denoiser, route.strength_value, writer)
            return_freed_memory()
            if not denoised.strengths:
                return _passed(denoised.reason or "the guard refused it", begin, Cause.GUARD, denoised), None
            derived = derive(
                part10.header,
                writer.finish(),
                DerivationContext(
                    model_name=model.denoiser.name,
                    model_digest=model.denoiser.digest,
                    strength=route.strength_value,
                    revision_digest=received.digest if received.revision else "",
                    applied_strength=min(denoised.strengths),
                    noise_before=_median(denoised.before),
                    noise_after=_median(denoised.after),
                    node_name=self._node_name,
                    node_version=__version__,
                    now=datetime.fromtimestamp(self._clock(), UTC),
                    series_time=datetime.fromtimestamp(times.series_at, UTC),
                    settings=self._derivation,
                ),
            )
            # Before the writer closes: large pixel data is a temporary file of its own.
            try:
                # Before it is stored: a UID whose VR nobody knows must not leave a file behind that no row names.
                identity = _Identity.of(derived)
                stored = self._store.save(derived)
            except UNREADABLE as error:
                # pydicom refuses to write some of what it reads, such as elements of a command set.
                raise DerivationError(f"the derived object can't be written: {type(error).__name__}") from error
        record = EnhancementRecord(
            decision=EnhancementDecision.ENHANCED,
            reason=denoised.reason,
            strength=min(denoised.strengths),
            noise_before=_median(denoised.before),
            noise_after=_median(denoised.after),
            inference_s=denoised.inference_s,
            total_s=time.perf_counter() - begin,
            model_digest=model.denoiser.digest,
            cause=Cause.GUARD if denoised.reason else Cause.NONE,
        )
        return record, DerivedInstance(
            sop_class_uid=identity.sop_class_uid,
            sop_instance_uid=identity.sop_instance_uid,
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            transfer_syntax_uid=str(derived.file_meta.TransferSyntaxUID),
            key=stored.key,
            size=stored.size,
            dataset_offset=stored.dataset_offset,
            digest=stored.digest,
        )

    def _is_late(self, times: Times) -> bool:
        return self._clock() >= times.give_up_at

    def _frames_in_time(
        self, part10: Part10File, spec: PixelSpec, precedence: Precedence, times: Times
    ) -> Iterator[tuple[StoredFrame, PixelSpec]]:
        """Yield each frame with what holds for it, until nobody waits for them any more.

        A cine may take hours, in which no other image of this worker is enhanced, unless it runs in the background.
        """
        for frame in iter_frames(part10, spec):
            if self._is_late(times):
                raise GaveUp
            if times.in_background:
                precedence.give_way(is_over=lambda: self._is_late(times))
            yield frame, spec.of_frame(frame.index)


def _denoise(
    frames: Iterable[tuple[StoredFrame, PixelSpec]],
    declared: DeclaredDose,
    denoiser: Denoiser,
    strength: float,
    writer: FrameWriter,
) -> _Denoised:
    """Denoise frame by frame into `writer`; a frame that the guard refuses stays as it was."""
    found = _Denoised()
    for frame, of_frame in frames:
        exposure = to_exposure(frame.values, of_frame)
        begin = time.perf_counter()
        result = denoiser.denoise(
            exposure[None],
            domain=domain_of(of_frame),
            strength=strength,
            mask=None if frame.native.all() else frame.native,
            declared=declared,
        )
        found.inference_s += time.perf_counter() - begin
        if result.enhanced:
            found.strengths.append(result.strength)
        if result.enhanced and result.noise_before is not None and result.noise_after is not None:
            found.before.append(result.noise_before)
            found.after.append(result.noise_after)
        found.reasons.update(dict.fromkeys(result.reasons))
        writer.add(frame, from_exposure(result.frames[0], frame, of_frame))
    return found


def declared_dose(ds: Dataset) -> DeclaredDose:
    """Return what a header says of the dose; an attribute that can't be read says nothing (PS3.3 C.8.7.2, C.8.11.3)."""
    spacing = _numbers(ds, "ImagerPixelSpacing")
    return DeclaredDose(
        exposure_index=_number(ds, "ExposureIndex"),
        target_exposure_index=_number(ds, "TargetExposureIndex"),
        deviation_index=_number(ds, "DeviationIndex"),
        exposure_mas=_number(ds, "Exposure"),
        exposure_uas=_number(ds, "ExposureInuAs"),
        kvp=_number(ds, "KVP"),
        ctdi_vol_mgy=_number(ds, "CTDIvol"),
        pixel_mm2=spacing[0] * spacing[1] if len(spacing) == 2 and min(spacing) > 0 else None,
    )


def _number(ds: Dataset, keyword: str) -> float | None:
    values = _numbers(ds, keyword)
    return values[0] if len(values) == 1 else None


def _numbers(ds: Dataset, keyword: str) -> list[float]:
    """Return the values of a numeric attribute, empty where one of them is none."""
    try:
        value = ds.get(keyword)
        values = [value] if isinstance(value, str | int | float) else list(value or [])
        numbers = [float(v) for v in values]
    except UNREADABLE:
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _passed(reason: str, begin: float, cause: Cause, denoised: _Denoised | None = None) -> EnhancementRecord:
    return EnhancementRecord(
        decision=EnhancementDecision.PASSED_THROUGH,
        reason=reason,
        inference_s=denoised.inference_s if denoised else None,
        total_s=time.perf_counter() - begin,
        cause=cause,
    )
