"""Noise law and variance-stabilising transform, on values."""

from __future__ import annotations

import numpy as np
import pytest

from model.noise import NoiseCurve, NoiseLaw, Stabiliser

LAWS = [
    NoiseLaw(structure=0.0, quantum=1.0, electronic=3.0),
    NoiseLaw(structure=0.01, quantum=4.0, electronic=10.0),
    NoiseLaw(structure=0.0, quantum=0.0, electronic=5.0),
]


def test_variance_is_structure_quantum_and_electronic_added_in_squares() -> None:
    law = NoiseLaw(structure=0.01, quantum=2.0, electronic=3.0)
    assert law.variance(np.array([1000.0])) == pytest.approx(0.01**2 * 1000**2 + 2 * 1000 + 9)
    assert law.sigma(np.array([-50.0])) == pytest.approx(3.0)


def test_curve_of_a_law_agrees_with_it_between_the_knots() -> None:
    law = LAWS[1]
    curve = law.curve(-100.0, 8000.0)
    at = np.linspace(-100.0, 8000.0, 4001)
    np.testing.assert_allclose(curve.sigma(at), law.sigma(at), rtol=2e-3)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("signal", [30.0, 300.0, 3000.0])
def test_stabilised_noise_has_standard_deviation_one(law: NoiseLaw, signal: float) -> None:
    noisy = signal + law.sigma(np.array([signal])) * np.random.default_rng(1).standard_normal(200_000)
    stabiliser = Stabiliser(law.curve(-50.0, 5000.0), low=-50.0, high=5000.0)
    tolerance = 0.02 if signal > 100 else 0.1  # at 30 quanta the root is visibly bent
    assert stabiliser.forward64(noisy).std() == pytest.approx(1.0, abs=tolerance)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("signal", [10.0, 100.0, 3000.0])
def test_inverse_of_the_mean_stabilised_value_is_unbiased(law: NoiseLaw, signal: float) -> None:
    sigma = float(law.sigma(np.array([signal]))[0])
    noisy = signal + sigma * np.random.default_rng(2).standard_normal(1_000_000)
    stabiliser = Stabiliser(law.curve(-100.0, 5000.0), low=-100.0, high=5000.0)
    mean = stabiliser.forward64(noisy).mean(keepdims=True)
    # Standard error is 0.001 sigma; the algebraic inverse is off by more than 0.05 sigma at 10.
    assert float(stabiliser.inverse(mean)[0]) == pytest.approx(signal, abs=0.01 * sigma + 1e-3)


def test_algebraic_inverse_would_be_biased_where_the_unbiased_one_is_not() -> None:
    law, signal = LAWS[0], 10.0
    noisy = signal + law.sigma(np.array([signal])) * np.random.default_rng(2).standard_normal(1_000_000)
    stabiliser = Stabiliser(law.curve(-100.0, 500.0), low=-100.0, high=500.0)
    values = np.linspace(-20.0, 100.0, 20_001)
    algebraic = np.interp(stabiliser.forward64(noisy).mean(), stabiliser.forward64(values), values)
    assert abs(algebraic - signal) > 0.1


def test_inverse_undoes_forward_where_the_noise_is_constant() -> None:
    curve = NoiseCurve(values=np.array([0.0, 1000.0]), sigmas=np.array([7.0, 7.0]))
    stabiliser = Stabiliser(curve, low=0.0, high=1000.0)
    at = np.linspace(-200.0, 1300.0, 101)  # beyond the tables too
    np.testing.assert_allclose(stabiliser.inverse(stabiliser.forward64(at)), at, atol=0.02)


def test_a_constant_image_has_a_transform() -> None:
    law = NoiseLaw(structure=0.0, quantum=0.0, electronic=1e-6)
    stabiliser = Stabiliser(law.curve(5.0, 5.0), low=5.0, high=5.0)
    assert np.isfinite(stabiliser.inverse(stabiliser.forward(np.array([5.0])))).all()
