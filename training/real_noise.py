"""Checks on real X-ray noise: scenes taken many times, and open fields whose noise the simulator must reproduce."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

from model.denoiser import Denoiser
from model.domain import Domain
from model.estimation import NoEstimate, estimate_noise
from model.noise import NoiseLaw
from training.lowdose import Detector, expose, unit_energy

FloatArray = NDArray[np.float32]
Curve = NDArray[np.float64]

STRENGTHS = (0.7, 1.0)
_REPEATS = "radiographs/real_repeat_exposures"
_FLUOROSCOPY = "more/fluoroscopy_static_phantom"
_SYNCHROTRON = "more/synchrotron_flat_dark"
_OPEN_FIELDS = "more/flat_panel_phantoms"
_BINS = 24
_ROI = 64
_KERNEL_REACH = 12
_FIELD_REACH = 160


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One object at rest, taken many times.

    Parameters
    ----------
    name, condition
        What it is, and how it was taken.
    frames
        Shape ``(frames, rows, columns)``.
    domain
        How the values relate to exposure.
    apart
        Distance in frames from which on the noise of two frames is independent.
    note
        What limits the comparison.
    """

    name: str
    condition: str
    frames: FloatArray
    domain: Domain
    apart: int = 1
    note: str = ""


def noise_by_repetition(scene: Scene) -> tuple[Curve, Curve]:
    """Return values and the standard deviation at each: differences of independent frames, binned by their mean.

    What drifts between two frames counts as noise, so a pair is as near in time as its noise is independent.
    """
    frames = scene.frames.astype(np.float64)
    halved = (frames[scene.apart :] - frames[: -scene.apart]) ** 2 / 2.0
    # The mean of a whole frame may breathe with the tube's output: that is no noise of a pixel.
    power = np.mean(halved, axis=0) - np.mean(np.diff(frames.mean(axis=(1, 2))) ** 2) / 2.0
    mean = frames.mean(axis=0)
    edges = np.quantile(mean, np.linspace(0.0, 1.0, _BINS + 1))
    index = np.clip(np.searchsorted(edges, mean, side="right") - 1, 0, _BINS - 1)
    counts = np.maximum(np.bincount(index.ravel(), minlength=_BINS), 1)
    values = np.bincount(index.ravel(), weights=mean.ravel(), minlength=_BINS) / counts
    variances = np.bincount(index.ravel(), weights=power.ravel(), minlength=_BINS) / counts
    return values, np.sqrt(np.maximum(variances, 0.0))


def references_of(scene: Scene, at: int) -> tuple[FloatArray, FloatArray] | None:
    """Return two references for one frame whose noise is independent of the frame's and of each other's.

    Where the noise of near frames is shared, these are the means of the earlier and of the later frames; None where
    the frame has not both.
    """
    others = [i for i in range(len(scene.frames)) if abs(i - at) >= scene.apart]
    if scene.apart > 1:
        first, second = [i for i in others if i < at], [i for i in others if i > at]
    else:
        first, second = others[::2], others[1::2]
    if not first or not second:
        return None
    return _level(scene.frames[first].mean(axis=0)), _level(scene.frames[second].mean(axis=0))


def _level(image: FloatArray) -> FloatArray:
    """Return an image less its mean: the level of a whole frame may breathe with the tube's output."""
    return np.asarray(image - np.float32(image.mean(dtype=np.float64)), dtype=np.float32)


def squared_error(image: FloatArray, references: tuple[FloatArray, FloatArray]) -> float:
    """Return the mean squared distance to the truth, level apart, unbiased by the noise of either reference.

    The product of the distances to two references with independent noise has the squared distance to the truth as
    its expectation.
    """
    level = _level(image)
    return float(np.mean((level - references[0]) * (level - references[1]), dtype=np.float64))


def gain_db(noisy: FloatArray, result: FloatArray, references: tuple[FloatArray, FloatArray]) -> float:
    """Return how much nearer a result is to the truth than its input."""
    before, after = squared_error(noisy, references), squared_error(result, references)
    return 10.0 * float(np.log10(before / max(after, 1e-3 * before)))


def measure_scene(denoiser: Denoiser, scene: Scene, *, frames: int) -> dict[str, Any]:
    """Return noise by repetition and by the blind estimate of single frames, and what denoising gains.

    Parameters
    ----------
    denoiser
        Used as the product does: blind, with guards.
    scene
        At least ``2 * apart + 1`` frames.
    frames
        How many of them are estimated and denoised, evenly spaced.
    """
    values, measured = noise_by_repetition(scene)
    at_median = float(np.median(scene.frames))
    sigma = float(np.interp(at_median, values, measured))
    row: dict[str, Any] = {
        "name": scene.name,
        "condition": scene.condition,
        "frames": len(scene.frames),
        "noise_sigma_measured": sigma,
    }
    chosen = np.unique(np.linspace(0, len(scene.frames) - 1, frames + 2).astype(int)[1:-1])
    estimates, errors, near = [], [], []
    gains: dict[float, list[float]] = {strength: [] for strength in STRENGTHS}
    applied: list[float] = []
    reasons: dict[str, None] = {}
    for i in chosen:
        frame = scene.frames[i]
        found = estimate_noise(frame, domain=scene.domain)
        if isinstance(found, NoEstimate):
            reasons[found.reason] = None
            continue
        estimates.append(found.median_sigma)
        errors.append(float(np.median(found.curve.sigma(values) / np.maximum(measured, 1e-9))) - 1.0)
        near.append(0.5 * (found.correlation_x[0] + found.correlation_y[0]))
        references = references_of(scene, int(i))
        for strength in STRENGTHS:
            result = denoiser.denoise(frame[None], domain=scene.domain, strength=strength)
            if references is not None:
                gains[strength].append(gain_db(frame, result.frames[0], references))
            reasons.update(dict.fromkeys(result.reasons))
            if strength == max(STRENGTHS):
                applied.append(result.strength)
    if estimates:
        row["noise_sigma_estimated"] = float(np.median(estimates))
        row["error_at_median"] = float(np.median(estimates)) / sigma - 1.0
        row["error_over_values"] = float(np.median(errors))
        row["correlation_1px"] = float(np.median(near))
        for strength in STRENGTHS:
            row[f"gain_db_{strength:g}"] = float(np.mean(gains[strength])) if gains[strength] else None
        row["gain_db"] = row[f"gain_db_{max(STRENGTHS):g}"]
        row["least_strength_left"] = min(applied)
    row["guard"] = "; ".join(reasons)
    row["how"] = f"pairs {scene.apart} frames apart; gain over the input against two independent references"
    row["note"] = scene.note
    return row


def scenes(data: Path) -> Iterator[Scene]:
    """Yield the scenes that are there; `data` holds ``radiographs`` and ``more``."""
    files = sorted((data / _REPEATS).glob("frame_*.png"))
    if files:
        yield Scene(
            name="repeat exposures",
            condition="synchrotron radiograph, 16 bit",
            frames=np.stack([_picture(file) for file in files]),
            domain=Domain.LINEAR,
            note="the scene drifts by 0.2 % over the run, which limits the gain that can be seen",
        )
    for name, dose, apart, skipped in (
        ("IM1", "6 mA", 4, 2),
        ("IM3", "6 mA", 4, 2),
        ("IM4", "7 mA", 4, 2),
        ("IM5", "29 mA", 1, 0),
        ("IM7", "32 mA", 1, 0),
    ):
        file = data / _FLUOROSCOPY / f"{name}.dcm"
        if file.is_file():
            yield Scene(
                name=f"phantom at rest {name}",
                condition=f"fluoroscopy {dose}, 60 kV, 8 bit, display values",
                frames=_dicom(file)[skipped:],
                domain=Domain.DISPLAY,
                apart=apart,
                note="recursive time filter" if skipped else "",
            )
    raw = data / _SYNCHROTRON / "radiographs_10.tif"
    if raw.is_file():
        dark, flat = (_picture(data / _SYNCHROTRON / f"{name}_mean.tif") for name in ("dark", "flat"))
        gain = np.maximum(flat - dark, 1.0) / float(np.mean(flat - dark))
        stack = np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(raw))), dtype=np.float32)
        yield Scene(
            name="turning sample",
            condition="synchrotron, about 60 counts of signal, flat-field corrected",
            frames=np.asarray((stack - dark) / gain, dtype=np.float32),
            domain=Domain.LINEAR,
            note="the sample turns, which limits the gain that can be seen; single hits far above the noise",
        )


def _picture(file: Path) -> FloatArray:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(file))), dtype=np.float32)


def _dicom(file: Path) -> FloatArray:
    ds = pydicom.dcmread(file, force=True)
    if "TransferSyntaxUID" not in ds.file_meta:
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    pixels = np.asarray(ds.pixel_array, dtype=np.float32)
    return pixels.reshape(-1, *pixels.shape[-2:])


@dataclass(frozen=True, kw_only=True)
class OpenField:
    """The noise of a uniform exposure: mean value, variance, and the NPS of regions of 64 px.

    ``nps`` ``(64, 64)`` as `numpy.fft.fft2` orders frequencies, mean = variance.
    """

    mean: float
    variance: float
    nps: Curve


def open_field(image: NDArray[np.floating], *, reach: int | None = None) -> OpenField:
    """Measure a uniform image in regions of 64 px, a second-order surface removed from each (IEC 62220-1).

    Parameters
    ----------
    image
        Shape ``(rows, columns)``; its centre is used.
    reach
        Half side of the used square in pixels; None: the whole image.
    """
    if reach is not None:
        y, x = image.shape[0] // 2, image.shape[1] // 2
        image = image[y - reach : y + reach, x - reach : x + reach]
    at = np.linspace(-1.0, 1.0, _ROI)
    yy, xx = np.meshgrid(at, at, indexing="ij")
    basis = np.stack([np.ones_like(xx), xx, yy, xx * yy, xx**2, yy**2], axis=-1).reshape(-1, 6)
    orthonormal, _ = np.linalg.qr(basis)
    spectra, variances = [], []
    for i in range(image.shape[0] // _ROI):
        for j in range(image.shape[1] // _ROI):
            region = image[i * _ROI : (i + 1) * _ROI, j * _ROI : (j + 1) * _ROI].astype(np.float64).ravel()
            rest = (region - orthonormal @ (orthonormal.T @ region)).reshape(_ROI, _ROI)
            variances.append(float(rest.var()))
            spectra.append(np.abs(np.fft.fft2(rest)) ** 2 / _ROI**2)
    return OpenField(mean=float(np.mean(image)), variance=float(np.mean(variances)), nps=np.mean(spectra, axis=0))


def radial(nps: Curve, *, bins: int = 8) -> Curve:
    """Return the mean NPS in rings up to the Nyquist frequency; the axes, where line noise sits, are left out."""
    f = np.fft.fftfreq(nps.shape[0])
    distance = np.hypot(f[:, None], f[None, :])
    off_axis = (np.abs(f)[:, None] > 1.5 / _ROI) & (np.abs(f)[None, :] > 1.5 / _ROI)
    edges = np.linspace(0.06, 0.5, bins + 1)
    rings = [off_axis & (distance >= low) & (distance < high) for low, high in pairwise(edges)]
    return np.array([nps[ring].mean() for ring in rings])


def detector_of(field: OpenField) -> Detector:
    """Return a simulated detector with the variance and the correlation of a real open field.

    One exposure level can't part quantum from electronic noise: all of it is called quantum. The kernel is the
    zero-phase root of the NPS, cut at 12 pixels.
    """
    root = np.fft.ifft2(np.sqrt(np.maximum(_off_axis(field.nps), 0.0))).real
    kernel = np.fft.fftshift(root)
    centre, reach = _ROI // 2, _KERNEL_REACH
    cut = kernel[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1]
    law = NoiseLaw(structure=0.0, quantum=field.variance / field.mean, electronic=0.0)
    return Detector(law=law, kernel=unit_energy(cut), bits_stored=16)


def _off_axis(nps: Curve) -> Curve:
    """Return the spectrum with its axes, where line noise sits, taken from their neighbours."""
    cleaned = nps.copy()
    for k in (0, 1, -1):
        cleaned[k] = 0.5 * (cleaned[2] + cleaned[-2])
    for k in (0, 1, -1):
        cleaned[:, k] = 0.5 * (cleaned[:, 2] + cleaned[:, -2])
    return cleaned


def simulator_against(image: NDArray[np.floating], *, reach: int = _FIELD_REACH) -> dict[str, float]:
    """Return how far the simulator is from a real open field when law and kernel are taken from that field, relative.

    ``nps_error`` is the greatest over the rings of `radial`, ``nps_error_median`` their median.
    """
    real = open_field(image, reach=reach)
    flat = np.full((1024, 1024), real.mean, dtype=np.float32)  # many regions: its own scatter shall not count
    simulated = open_field(expose(flat, detector_of(real), np.random.default_rng(7)))
    off = np.abs(radial(simulated.nps) / radial(real.nps) - 1.0)
    return {
        "mean": real.mean,
        "sigma": float(np.sqrt(real.variance)),
        "correlation_1px": _correlation(real.nps),
        "variance_error": simulated.variance / real.variance - 1.0,
        "nps_error": float(off.max()),
        "nps_error_median": float(np.median(off)),
    }


def _correlation(nps: Curve) -> float:
    covariance = np.fft.ifft2(nps).real
    return float(0.5 * (covariance[0, 1] + covariance[1, 0]) / covariance[0, 0])


OPEN_FIELDS = {"open field 6 MV": "flatfield_6mv.dcm", "open field 18 MV": "flatfield_18mv.dcm"}


def open_fields(data: Path) -> Iterator[tuple[str, FloatArray]]:
    """Yield name and detector values of the open fields that are there."""
    for name, file in OPEN_FIELDS.items():
        path = data / _OPEN_FIELDS / file
        if path.is_file():
            yield name, _dicom(path)[0]


def real_noise_report(denoiser: Denoiser, data: Path, *, quick: bool) -> dict[str, Any]:
    """Return the figures of every scene and open field under `data`; empty lists where there are none.

    Parameters
    ----------
    denoiser
        Weights to check.
    data
        Folder with ``radiographs`` and ``more``.
    quick
        One frame of each scene instead of five.
    """
    rows = [measure_scene(denoiser, scene, frames=1 if quick else 5) for scene in scenes(data)]
    fields = [{"name": name, **simulator_against(image)} for name, image in open_fields(data)]
    return {"scenes": rows, "open_fields": fields}
