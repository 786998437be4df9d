"""A run of training in small: learns, resumes to the same curve, publishes what the denoiser loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from model.denoiser import Denoiser
from model.noise import NoiseLaw, Stabiliser
from training.dataset import MixedSource, Split, split_by_patient
from training.images import CleanImage, clean_images, reduce, residual_noise
from training.lowdose import Detector, expose
from training.pairs import PairSource, load_pairs
from training.phantom import phantom
from training.publish import publish
from training.settings import ImageFolder, NoiseRange, PairFolder, SettingsError, TrainingSettings, load_settings
from training.synthesis import NoiseSynthesis, stabilise
from training.train import Trainer, main, next_batch, save_atomically

SMALL = TrainingSettings(width=8, batch=4, patch=64, phantoms=2, dead_leaves=2, bfloat16=False, warmup_steps=2)


def source() -> MixedSource:
    return MixedSource(SMALL, Split(training=[], validation=[]))


def run(trainer: Trainer, crops: MixedSource, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        attenuation, own_noise = crops.batch(4, 64, trainer.rng)
        losses.append(trainer.train_step(trainer.synthesis.batch(attenuation, own_noise)))
    return losses


def test_a_resumed_run_has_the_same_curve_as_one_that_was_never_stopped(tmp_path: Path) -> None:
    crops = source()
    whole = run(Trainer(SMALL, device="cpu", budget_s=1e6), crops, 6)
    first = Trainer(SMALL, device="cpu", budget_s=1e6)
    run(first, crops, 3)
    save_atomically(first.state(), tmp_path / "last.pth")
    second = Trainer(SMALL, device="cpu", budget_s=1e6)
    second.restore(torch.load(tmp_path / "last.pth", weights_only=True))
    assert run(second, crops, 3) == whole[3:]


def test_training_lowers_the_loss() -> None:
    crops = source()
    losses = run(Trainer(replace(SMALL, learning_rate=3e-3), device="cpu", budget_s=1e6), crops, 60)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_a_checkpoint_becomes_weights_that_the_denoiser_loads(tmp_path: Path) -> None:
    trainer = Trainer(SMALL, device="cpu", budget_s=1e6)
    run(trainer, source(), 1)
    save_atomically(trainer.state(), tmp_path / "best_model.pth")
    manifest = publish(tmp_path / "best_model.pth", tmp_path, name="small", results={}, half=True)
    denoiser = Denoiser.load(str(manifest), device="cpu")
    assert denoiser.name == "small"
    assert denoiser.trained_for.quanta == SMALL.noise.quanta


def test_one_command_trains_on_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "own").mkdir()
    for i in range(3):
        picture = np.cumsum(rng.normal(0, 3, (300, 300)), axis=1) + 500
        sitk.WriteImage(
            sitk.GetImageFromArray(np.clip(picture, 0, 4000).astype(np.uint16)), str(tmp_path / "own" / f"{i}.png")
        )
    (tmp_path / "own" / "broken.png").write_bytes(b"no picture")
    config = tmp_path / "small.toml"
    config.write_text("width = 8\nbatch = 2\npatch = 64\nphantoms = 1\ndead_leaves = 1\n")
    arguments = [
        "--config",
        str(config),
        "--images",
        str(tmp_path / "own"),
        "--minutes",
        "0.02",
        "--output",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    assert (tmp_path / "out" / "best_model.pth").exists()
    assert main([*arguments, "--resume"]) == 0
    assert "skipped broken.png" in capsys.readouterr().out


def test_no_patient_is_in_training_and_in_validation() -> None:
    images = [
        CleanImage(attenuation=np.zeros((64, 64), np.float32), own_noise=0.0, patient=f"p{i // 2}", source="a")
        for i in range(40)
    ]
    split = split_by_patient(images, 0.25, seed=1)
    training, validation = ({image.patient for image in part} for part in (split.training, split.validation))
    assert not training & validation
    assert len(validation) == 5
    assert len(split.training) + len(split.validation) == 40


def test_synthesis_makes_noise_of_standard_deviation_one_where_the_law_is_right() -> None:
    ranges = NoiseRange(sigma_error=0.0, presentation_share=0.0, gain_map=0.0, quanta=(50.0, 500.0))
    synthesis = NoiseSynthesis(ranges, torch.Generator().manual_seed(3))
    batch = synthesis.batch(torch.zeros(24, 1, 96, 96), torch.zeros(24, 1, 1, 1))
    sigma = (8 * (batch.z - batch.target) / batch.sigma_map).std(dim=(1, 2, 3))
    np.testing.assert_allclose(sigma.numpy(), 1.0, atol=0.08)


def test_target_of_the_synthesis_is_the_expectation_of_the_noisy_input() -> None:
    ranges = NoiseRange(
        sigma_error=0.0,
        presentation_share=0.0,
        gain_map=0.0,
        quanta=(12.0, 12.1),
        quantisation_sigma=(0.003, 0.01),
        kernel_fwhm_px=(0.0, 0.5),
        line_noise=(0.0, 0.0),
    )
    synthesis = NoiseSynthesis(ranges, torch.Generator().manual_seed(4))
    batch = synthesis.batch(torch.zeros(16, 1, 256, 256), torch.zeros(16, 1, 1, 1))
    # Without the term sigma'/2 the mean is off by 0.07 to 0.13 at 12 quanta.
    assert abs(float((8 * (batch.z - batch.target) / batch.sigma_map).mean())) < 0.02


def test_closed_and_tabulated_transform_agree() -> None:
    law = NoiseLaw(structure=0.01, quantum=1.0, electronic=3.0)
    tabulated = Stabiliser(law.curve(-20.0, 5000.0), low=-20.0, high=5000.0)
    at = np.linspace(-20.0, 5000.0, 301)
    one = [torch.tensor(v) for v in (0.01, 1.0, 3.0)]
    closed = stabilise(torch.tensor(at, dtype=torch.float64), *one).numpy()
    table = tabulated.forward64(at)
    np.testing.assert_allclose(table - table[0], closed - closed[0], atol=2e-3)


def test_own_noise_of_a_picture_caps_its_exposure() -> None:
    ranges = NoiseRange(quanta=(6.0, 3000.0), sigma_error=0.0, presentation_share=0.0, own_noise_ratio=3.0)
    synthesis = NoiseSynthesis(ranges, torch.Generator().manual_seed(5))
    batch = synthesis.batch(torch.full((64, 1, 32, 32), 0.0), torch.full((64, 1, 1, 1), 0.03))
    # 1/(3 * 0.03)² = 123 quanta: the stabilised median 2 sqrt(N) stays below 23 sigma.
    assert float(batch.z.abs().max()) * 8 < 23


def test_reducing_a_picture_averages_and_lowers_white_noise() -> None:
    noise = np.random.default_rng(0).standard_normal((400, 400)).astype(np.float32)
    assert reduce(noise, 4).std() == pytest.approx(0.25, rel=0.05)
    assert residual_noise(10 * noise) == pytest.approx(10.0, rel=0.15)


def test_settings_name_every_fault_at_once(tmp_path: Path) -> None:
    path = tmp_path / "faulty.toml"
    path.write_text('width = "wide"\npach = 3\n[noise]\nquanat = [1, 2]\n')
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    for word in ("width", "pach", "noise.quanat"):
        assert word in str(caught.value)


def test_the_published_settings_are_valid() -> None:
    settings = load_settings(Path(__file__).parents[3] / "config" / "training" / "lite.toml")
    assert settings.width == 32
    assert {folder.name for folder in settings.images if folder.held_out} == {"guangzhou", "hip", "canon_chest"}


def test_a_missing_folder_gives_no_images(tmp_path: Path) -> None:
    assert list(clean_images(tmp_path, ImageFolder(name="none", folder="absent"))) == []


def test_real_pairs_meet_the_network_as_simulated_ones_do(tmp_path: Path) -> None:
    law = NoiseLaw(structure=0.005, quantum=5.0, electronic=15.0)
    truth = (3000 * phantom(256, 256, 51, anatomy="pelvis")).astype(np.float32)
    noisy = expose(truth, Detector(law=law), np.random.default_rng(2))
    for name, image in (("low", noisy), ("high", 4 * truth)):
        (tmp_path / name).mkdir()
        picture = sitk.GetImageFromArray(np.clip(image, 0, 65535).astype(np.uint16))
        sitk.WriteImage(picture, str(tmp_path / name / "1.png"))
    sitk.WriteImage(sitk.GetImageFromArray(noisy.astype(np.uint16)), str(tmp_path / "low" / "alone.png"))
    pairs = load_pairs(tmp_path, (PairFolder(name="p", low="low", high="high"),))
    assert len(pairs) == 1
    noise = 8 * (pairs[0].z - pairs[0].target)
    assert noise.std() == pytest.approx(1.0, abs=0.12)
    assert abs(float(noise.mean())) < 0.05
    batch = PairSource(pairs).batch(3, 300, np.random.default_rng(0))
    assert batch.z.shape == batch.target.shape == (3, 1, 300, 300)
    trainer = Trainer(SMALL, device="cpu", budget_s=1e6)
    mixed = next_batch(trainer, source(), PairSource(pairs))
    assert mixed.z.shape[0] == SMALL.batch
    assert np.isfinite(trainer.train_step(mixed))
