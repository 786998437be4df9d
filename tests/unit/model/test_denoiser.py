"""The denoiser as the node uses it: verified weights, any size, honest results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.denoiser import Denoiser
from model.domain import Domain
from model.errors import UnsupportedInput, WeightsError
from model.manifest import PUBLISHED
from model.noise import NoiseLaw
from model.strength import parse_strength
from training.lowdose import WANG_2014_CSI, Detector, expose, gaussian_kernel, quantise
from training.phantom import phantom


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return Denoiser.load("lite", device="cpu")


def pair(*, quanta: float = 150.0, kernel: np.ndarray = WANG_2014_CSI) -> tuple[np.ndarray, np.ndarray, NoiseLaw]:
    truth = (6000.0 * phantom(448, 416, 31, anatomy="chest")).astype(np.float32)
    q = float(np.median(truth)) / quanta
    law = NoiseLaw(structure=0.005, quantum=q, electronic=3 * q)
    noisy = quantise(expose(truth, Detector(law=law, kernel=kernel), np.random.default_rng(7)), 14)
    return noisy.astype(np.float32), truth, law


def gain_db(noisy: np.ndarray, result: np.ndarray, truth: np.ndarray, law: NoiseLaw) -> float:
    sigma = law.sigma(truth)
    return float(10 * np.log10(np.mean(((noisy - truth) / sigma) ** 2) / np.mean(((result - truth) / sigma) ** 2)))


@pytest.mark.parametrize(
    ("kernel", "least_db"),
    [(np.ones((1, 1)), 8.5), (WANG_2014_CSI, 8.0), (gaussian_kernel(2.5), 4.5)],
    ids=["white", "csi", "soft"],
)
def test_blind_denoising_brings_an_unseen_phantom_nearer_to_its_truth(
    denoiser: Denoiser, kernel: np.ndarray, least_db: float
) -> None:
    noisy, truth, law = pair(kernel=kernel)
    full = denoiser.denoise(noisy[None], domain=Domain.LINEAR, strength=1.0)
    assert full.enhanced
    assert gain_db(noisy, full.frames[0], truth, law) > least_db
    standard = denoiser.denoise(noisy[None], domain=Domain.LINEAR, strength=0.7)
    assert gain_db(noisy, standard.frames[0], truth, law) > 0.75 * least_db
    assert standard.noise_before is not None
    assert standard.noise_after is not None
    sigma = float(law.sigma(np.array([np.median(noisy)]))[0])
    assert standard.noise_before == pytest.approx(sigma, rel=0.15)
    assert 0.25 * sigma < standard.noise_after < 0.6 * sigma


def test_display_domain_works_on_the_logarithm(denoiser: Denoiser) -> None:
    noisy, truth, _ = pair()
    display, clean = (4000 - 400 * np.log(np.maximum(a, 1.0)) for a in (noisy, truth))
    result = denoiser.denoise(display[None], domain=Domain.DISPLAY, strength=0.7)
    assert result.enhanced
    middle = (truth > 100) & (truth < 5000)
    error = [float(np.mean((a - clean)[middle] ** 2)) for a in (display, result.frames[0])]
    assert error[1] < 0.4 * error[0]


def test_strength_zero_gives_the_input_back_and_refusal_equals_it_bit_by_bit(denoiser: Denoiser) -> None:
    noisy, _, _ = pair()
    none = denoiser.denoise(noisy[None], domain=Domain.LINEAR, strength=0.0)
    assert not none.enhanced
    np.testing.assert_array_equal(none.frames[0], noisy)
    flat = np.full((1, 300, 300), 77.0, dtype=np.float32)
    refused = denoiser.denoise(flat, domain=Domain.LINEAR)
    assert not refused.enhanced
    assert refused.reasons
    np.testing.assert_array_equal(refused.frames, flat)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (1, 200), (33, 31), (65, 100), (130, 257)])
def test_every_size_comes_back_finite_in_its_shape(denoiser: Denoiser, shape: tuple[int, int]) -> None:
    image = (1000 + 30 * np.random.default_rng(0).standard_normal((1, *shape))).astype(np.float32)
    for domain in Domain:
        result = denoiser.denoise(image, domain=domain)
        assert result.frames.shape == image.shape
        assert np.isfinite(result.frames).all()


def test_pixels_outside_the_mask_stay_and_do_not_touch_the_rest(denoiser: Denoiser) -> None:
    noisy, _, _ = pair()
    mask = np.ones(noisy.shape, dtype=np.bool_)
    mask[:96] = False
    results = []
    for padding in (0.0, 60000.0):
        image = noisy.copy()
        image[:96] = padding
        out = denoiser.denoise(image[None], domain=Domain.LINEAR, mask=mask).frames[0]
        np.testing.assert_array_equal(out[:96], image[:96])
        results.append(out[96 + 32 :])
    # What stands in the padding may be seen by the network only as the nearest value in range, within its reach.
    assert np.abs(results[0] - results[1]).mean() < 0.01 * noisy[96:].std()


def test_the_same_input_gives_the_same_bytes(denoiser: Denoiser) -> None:
    noisy, _, _ = pair()
    first, second = (denoiser.denoise(noisy[None], domain=Domain.LINEAR).frames.tobytes() for _ in range(2))
    assert first == second


def test_frames_are_independent_of_one_another(denoiser: Denoiser) -> None:
    noisy, _, _ = pair()
    flat = np.full_like(noisy, 5.0)
    both = denoiser.denoise(np.stack((noisy, flat)), domain=Domain.LINEAR)
    alone = denoiser.denoise(noisy[None], domain=Domain.LINEAR)
    np.testing.assert_array_equal(both.frames[0], alone.frames[0])
    np.testing.assert_array_equal(both.frames[1], flat)
    assert both.enhanced
    assert any(reason.startswith("frame 2: ") for reason in both.reasons)


def test_low_band_of_the_image_is_kept(denoiser: Denoiser) -> None:
    noisy, _, _ = pair()
    out = denoiser.denoise(noisy[None], domain=Domain.LINEAR, strength=1.0).frames[0]
    blocks = (noisy - out)[: 448 // 64 * 64, : 416 // 64 * 64].reshape(7, 64, 6, 64).mean(axis=(1, 3))
    assert np.abs(blocks).max() < 0.1 * (noisy - out).std()


@pytest.mark.parametrize(
    ("frames", "mask"),
    [
        (np.zeros((4, 4)), None),
        (np.zeros((0, 4, 4)), None),
        (np.full((1, 40, 40), np.nan), None),
        (np.zeros((1, 4, 4)), np.ones((3, 3), dtype=np.bool_)),
    ],
)
def test_what_is_no_image_is_refused(denoiser: Denoiser, frames: np.ndarray, mask: np.ndarray | None) -> None:
    with pytest.raises(UnsupportedInput):
        denoiser.denoise(frames, domain=Domain.LINEAR, mask=mask)


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    for name in ("lite.json", "lite.safetensors"):
        shutil.copy(PUBLISHED / name, tmp_path / name)
    assert Denoiser.load(str(tmp_path / "lite.safetensors"), device="cpu").name == "lite"
    content = bytearray((tmp_path / "lite.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "lite.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="SHA-256"):
        Denoiser.load(str(tmp_path / "lite.safetensors"), device="cpu")


def test_missing_or_foreign_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="lite"):
        Denoiser.load("heavy")
    manifest = json.loads((PUBLISHED / "lite.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({**manifest, "architecture": "dncnn"}))
    with pytest.raises(WeightsError, match="architecture"):
        Denoiser.load(str(tmp_path / "other.json"))
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(WeightsError, match="not a weights manifest"):
        Denoiser.load(str(tmp_path / "broken.json"))


@pytest.mark.parametrize(
    ("text", "value"), [("mild", 0.4), ("Standard", 0.7), ("strong", 0.9), ("0.55", 0.55), (1, 1.0)]
)
def test_strength_is_a_preset_or_a_number(text: str | float, value: float) -> None:
    assert parse_strength(text) == value


@pytest.mark.parametrize("text", ["", "max", "1.5", "-0.1", "nan"])
def test_other_strengths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="strength"):
        parse_strength(text)
