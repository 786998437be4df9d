"""The simulator against the closed forms: variance, dose scaling, noise power spectrum, all within 3 %."""

from __future__ import annotations

import numpy as np
import pytest

from model.noise import NoiseLaw
from training.lowdose import (
    WANG_2014_CSI,
    Detector,
    expose,
    gaussian_kernel,
    low_dose_stored,
    quantise,
    reduce_dose,
    unit_energy,
)

LAW = NoiseLaw(structure=0.01, quantum=5.0, electronic=20.0)
FLAT = np.full((1000, 1000), 2000.0, dtype=np.float32)


@pytest.mark.parametrize("kernel", [np.ones((1, 1)), WANG_2014_CSI, gaussian_kernel(2.0)])
@pytest.mark.parametrize("white_fraction", [0.0, 0.4])
def test_variance_of_an_exposure_is_that_of_the_law(kernel: np.ndarray, white_fraction: float) -> None:
    detector = Detector(law=LAW, kernel=kernel, white_fraction=white_fraction)
    noisy = expose(FLAT, detector, np.random.default_rng(1))
    assert noisy.mean() == pytest.approx(2000.0, rel=1e-3)
    assert noisy.var() == pytest.approx(float(LAW.variance(np.array([2000.0]))[0]), rel=0.03)


@pytest.mark.parametrize("dose", [0.5, 0.25, 0.1])
def test_reduced_dose_has_the_mean_and_the_variance_of_a_true_low_dose_exposure(dose: float) -> None:
    detector = Detector(law=LAW, kernel=WANG_2014_CSI)
    full = expose(FLAT, detector, np.random.default_rng(2))
    low = reduce_dose(full, dose, detector, np.random.default_rng(3))
    assert low.mean() == pytest.approx(2000.0 * dose, rel=2e-3)
    assert low.var() == pytest.approx(float(LAW.variance(np.array([2000.0 * dose]))[0]), rel=0.03)


def test_electronic_part_matters_at_low_dose() -> None:
    """Scaling without injecting electronic noise errs by more than 20 % (Svalkvist and Bath 2010)."""
    detector = Detector(law=NoiseLaw(structure=0.0, quantum=5.0, electronic=20.0))
    full = expose(FLAT, detector, np.random.default_rng(2))
    quantum_only = Detector(law=NoiseLaw(structure=0.0, quantum=5.0, electronic=0.0))
    low = reduce_dose(full, 0.02, quantum_only, np.random.default_rng(3))
    assert low.var() < 0.8 * float(detector.law.variance(np.array([2000.0 * 0.02]))[0])


@pytest.mark.parametrize("dose", [1.0, 0.25])
def test_noise_power_spectrum_is_that_of_kernel_and_electronics(dose: float) -> None:
    law = NoiseLaw(structure=0.0, quantum=5.0, electronic=20.0)
    detector = Detector(law=law, kernel=gaussian_kernel(2.0))
    power = np.zeros((512, 512))
    window = np.outer(np.hanning(512), np.hanning(512))  # the strong low frequencies would leak into the others
    window /= np.sqrt(np.mean(window**2))
    for seed in range(6):
        full = expose(FLAT[:512, :512], detector, np.random.default_rng(seed))
        image = reduce_dose(full, dose, detector, np.random.default_rng(100 + seed)) if dose < 1 else full
        power += np.abs(np.fft.fft2(window * (image - image.mean()))) ** 2 / image.size / 6
    kernel = np.zeros((512, 512))
    k = unit_energy(gaussian_kernel(2.0))
    kernel[: k.shape[0], : k.shape[1]] = k
    expected = law.quantum * 2000.0 * dose * np.abs(np.fft.fft2(kernel)) ** 2 + law.electronic**2
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512)))
    for low, high in ((0.02, 0.1), (0.1, 0.2), (0.2, 0.35), (0.35, 0.5)):
        ring = (f >= low) & (f < high)
        assert power[ring].mean() == pytest.approx(expected[ring].mean(), rel=0.03)


def test_kernels_keep_the_variance_of_white_noise() -> None:
    for kernel in (WANG_2014_CSI, gaussian_kernel(0.0), gaussian_kernel(3.5)):
        assert np.sum(unit_energy(kernel) ** 2) == pytest.approx(1.0)


def test_row_and_column_noise_has_its_share() -> None:
    law = NoiseLaw(structure=0.0, quantum=0.0, electronic=20.0)
    noisy = expose(FLAT, Detector(law=law, line_noise=0.1), np.random.default_rng(6))
    assert noisy.mean(axis=1).std() == pytest.approx(2.0, rel=0.15)
    assert noisy.mean(axis=0).std() == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("dose", [0.0, -0.1, 1.2])
def test_impossible_doses_are_refused(dose: float) -> None:
    with pytest.raises(ValueError, match="dose"):
        reduce_dose(FLAT, dose, Detector(law=LAW), np.random.default_rng(0))


def test_stored_values_are_whole_and_clipped() -> None:
    np.testing.assert_array_equal(quantise(np.array([-3.0, 1.4, 1.6, 9e9]), 10), [0, 1, 2, 1023])


def test_low_dose_radiograph_comes_with_its_truth_and_repeats_by_seed() -> None:
    transmission = np.full((200, 200), 0.5, dtype=np.float32)
    make = [
        low_dose_stored(
            transmission, dose=0.25, detector=Detector(law=LAW), open_field=8000.0, rng=np.random.default_rng(9)
        )
        for _ in range(2)
    ]
    stored, truth = make[0]
    assert stored.dtype == np.uint16
    assert truth == pytest.approx(1000.0)
    assert stored.mean() == pytest.approx(1000.0, rel=5e-3)
    np.testing.assert_array_equal(stored, make[1][0])
