"""The cases of the protocol: noise as its law says, images chosen by rule, no patient on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from training.cases import make_case, noise_autocovariance, own_noise_power, protocol_images, stabiliser_of
from training.clean import CleanImage
from training.phantom import phantom

CONFIG = """
[[images]]
name = "clinic"
folder = "clinic"
reduce = 1
max_noise = 0.5
held_out = true

[[images]]
name = "single"
folder = "single"
reduce = 1
max_noise = 0.5
held_out = true
"""


def _flat(level: float = 1.0, *, own_noise: float = 0.0, side: int = 256) -> CleanImage:
    rng = np.random.default_rng(5)
    attenuation = (level + own_noise * rng.standard_normal((side, side))).astype(np.float32)
    return CleanImage(attenuation=attenuation, own_noise=own_noise, patient="flat", source="test")


@pytest.mark.parametrize("kernel", ["csi", "soft", "white"])
def test_autocovariance_is_that_of_the_stabilised_noise(kernel: str) -> None:
    image = _flat()
    case = make_case(image, dose="1/4", kernel=kernel, seed=0)
    noise = stabiliser_of(case).forward(case.noisy)
    noise -= noise.mean()
    expected = noise_autocovariance(case)
    middle = expected.shape[0] // 2
    assert expected[middle, middle] == pytest.approx(1.0)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2)):
        measured = float(np.mean(noise[dy:, dx:] * noise[: noise.shape[0] - dy, : noise.shape[1] - dx]))
        known = expected[middle + dy, middle + dx] if max(dy, dx) <= middle else 0.0
        assert measured == pytest.approx(known, abs=0.03)


def test_own_noise_is_given_in_the_power_of_the_simulated_noise() -> None:
    noisy_truth, flat = _flat(own_noise=0.02), _flat()
    truth, clean = (make_case(image, dose="1/4", kernel="csi", seed=0) for image in (noisy_truth, flat))
    # Their transmissions are relative to the brightest pixel: bring both to one level before comparing.
    error = truth.truth / truth.truth.mean() - clean.truth / clean.truth.mean()
    relative_sigma = truth.law.sigma(truth.truth) / truth.truth
    measured = float(np.mean(np.square(error / relative_sigma)))
    assert own_noise_power(noisy_truth, dose="1/4") == pytest.approx(measured, rel=0.05)
    assert own_noise_power(noisy_truth, dose="1/2") > 1.5 * own_noise_power(noisy_truth, dose="1/4")


def _write(path: Path, seed: int, noise: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    body = -np.log(phantom(200, 200, seed, anatomy="chest", inserts=False))
    noisy = body + noise * np.random.default_rng(seed).standard_normal(body.shape)
    grey = np.clip(np.rint(noisy / 6.0 * 60000), 0, 65535).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(grey), str(path))


def test_images_are_chosen_clean_and_tuned_on_other_patients(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    for i, noise in enumerate((0.002, 0.003, 0.004, 0.2)):
        _write(tmp_path / "clinic" / f"patient{i}.png", i, noise)
    _write(tmp_path / "single" / "only.png", 9, 0.002)
    chosen = protocol_images(tmp_path, tmp_path / "config.toml", most_per_source=2)
    reported = {image.patient for image in chosen.reported}
    assert {p for p in reported if p.startswith("clinic")} == {"clinic:patient0", "clinic:patient1"}
    assert "single:only" in reported
    tuned_on = {image.patient: image for image in chosen.tuning}
    assert "clinic:patient2" in tuned_on
    assert not {p for p in tuned_on if p.startswith("clinic")} & reported
    # The only image of a source gives another crop.
    assert tuned_on["single:only"].attenuation.shape == (100, 200)
    assert chosen.unseen_sources == {"clinic", "single"}
    everything = protocol_images(tmp_path, tmp_path / "config.toml", most_per_source=4)
    assert "clinic:patient3" not in {image.patient for image in everything.reported}


def test_phantoms_of_tuning_are_not_those_of_the_report() -> None:
    chosen = protocol_images(None, Path("none.toml"), most_per_source=2)
    assert len(chosen.reported) == len(chosen.tuning) == 2
    for reported, tuning in zip(chosen.reported, chosen.tuning, strict=True):
        assert reported.patient == tuning.patient
        assert not np.array_equal(reported.attenuation, tuning.attenuation)
