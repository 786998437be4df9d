"""Measures a pair of images again, from their stored values: the noise, and the numbers that the guard judges by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicom_node.console.images import open_image
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.image_pairs import ImagePair, KeptImage
from dicom_node.pixels import PixelSpec, StoredFrame, domain_of, read_frame, read_spec, to_exposure
from model import guard
from model.estimation import NoEstimate, NoiseEstimate, changeable_pixels, estimate_noise, noise_ratio

_LEAST_SIGMA = 1e-6


@dataclass(frozen=True, kw_only=True)
class GuardNumber:
    """One of the numbers that the guard looks at.

    Attributes
    ----------
    mild, refused
        From there the strength is lowered, or the image passed through; None where there is no such limit.
    low_is_bad
        The limits are lower ones.
    """

    name: str
    value: float
    mild: float | None
    refused: float | None
    low_is_bad: bool = False
    as_percent: bool = False

    @property
    def verdict(self) -> str:
        """``good``, ``mild`` or ``refused``."""
        sign = -1 if self.low_is_bad else 1
        for limit, verdict in ((self.refused, "refused"), (self.mild, "mild")):
            if limit is not None and sign * self.value > sign * limit:
                return verdict
        return "good"


def measure_pair(store: InstanceStore, pair: ImagePair, number: int) -> dict[str, Any]:
    """Return what one frame, from 1, says now, as it is sent to the browser.

    Returns
    -------
    ``noise_before`` and ``noise_after``, standard deviation at the median value in stored values, None without an
    estimate, which ``reason`` explains; ``removed``, statistics of what was taken away; ``numbers``, the guard's.

    Raises
    ------
    NoImage
        If the image before can't be read.
    """
    spec, frame = _read(store, pair.source, number)
    of_frame = spec.of_frame(frame.index)
    before = to_exposure(frame.values, of_frame)
    mask = None if frame.native.all() else frame.native
    estimate = estimate_noise(before, domain=domain_of(of_frame), mask=mask)
    found: dict[str, Any] = {
        "frame": number,
        "noise_before": None,
        "noise_after": None,
        "reason": "",
        "removed": None,
        "numbers": [],
    }
    if isinstance(estimate, NoEstimate):
        found["reason"] = estimate.reason
        return found
    found["noise_before"] = estimate.median_sigma
    numbers = _of_noise(estimate)
    if pair.derived is not None:
        _, made = _read(store, pair.derived, number)
        after = to_exposure(made.values, of_frame)
        valid = changeable_pixels(before, mask)
        found["noise_after"] = estimate.median_sigma * noise_ratio(before, after, estimate.flat_blocks)
        found["removed"] = _removed(before - after, valid)
        numbers += _of_removed(before, after, valid, estimate, pair.strength or 1.0)
    found["numbers"] = [{**asdict(n), "verdict": n.verdict} for n in numbers]
    return found


def _read(store: InstanceStore, image: KeptImage, number: int) -> tuple[PixelSpec, StoredFrame]:
    with open_image(store, image) as part10:
        spec = read_spec(part10.header)
        return spec, read_frame(part10, spec, number - 1)


def _removed(removed: NDArray[np.float32], valid: NDArray[np.bool_]) -> dict[str, float]:
    values = removed[valid]
    if not values.size:
        return {"mean": 0.0, "deviation": 0.0, "largest": 0.0, "changed": 0.0}
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "deviation": float(values.std(dtype=np.float64)),
        "largest": float(np.abs(values).max()),
        "changed": float(np.count_nonzero(values) / values.size),
    }


def _of_noise(estimate: NoiseEstimate) -> list[GuardNumber]:
    far = max(estimate.correlation_x[-1], estimate.correlation_y[-1])
    return [
        GuardNumber(
            name="Deviation of the noise from its curve",
            value=estimate.misfit,
            mild=guard.WEAK_MISFIT,
            refused=guard.POOR_MISFIT,
        ),
        GuardNumber(
            name="Correlation of the noise over 4 px",
            value=far,
            mild=guard.WIDE_CORRELATION,
            refused=guard.COARSE_CORRELATION,
        ),
        GuardNumber(
            name="Share of it that grows like anatomy",
            value=estimate.anatomy,
            mild=guard.MUCH_ANATOMY,
            refused=None,
            as_percent=True,
        ),
        GuardNumber(
            name="Pixels that the estimate covers",
            value=estimate.coverage,
            mild=guard.LEAST_COVERAGE,
            refused=None,
            low_is_bad=True,
            as_percent=True,
        ),
    ]


def _of_removed(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    valid: NDArray[np.bool_],
    estimate: NoiseEstimate,
    strength: float,
) -> list[GuardNumber]:
    """Return the numbers of what was taken away, scaled back to full strength, in sigma at each value.

    The guard saw them before the removal was limited and its low band given back: rounding to stored values aside,
    what it saw was a little more.
    """
    sigma = np.maximum(estimate.curve.sigma(after), _LEAST_SIGMA)
    z = np.where(valid, (before - after) / (np.float32(max(strength, 0.01)) * sigma), 0.0).astype(np.float32)
    beyond = float(np.mean(np.abs(z[valid]) > guard.SIGMA_LIMIT)) if valid.any() else 0.0
    flat, edges = guard.flat_and_edge_power(z, after, valid, estimate.flat_blocks)
    return [
        GuardNumber(
            name="Pixels changed by more than 3.5 sigma", value=beyond, mild=0.01, refused=0.05, as_percent=True
        ),
        GuardNumber(
            name="Noise power found in flat areas, sigma²",
            value=flat,
            mild=guard.RECOGNISED_POWER,
            refused=guard.LEAST_POWER,
            low_is_bad=True,
        ),
        GuardNumber(name="The same at edges", value=edges, mild=2.0 * max(flat, 0.25), refused=None),
        GuardNumber(
            name="Correlation of what was removed over 6 px",
            value=abs(guard.far_correlation(z, valid, estimate.flat_blocks)),
            mild=guard.FAR_GRAIN,
            refused=None,
        ),
    ]
