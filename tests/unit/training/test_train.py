"""A run of training in small: learns, resumes to the same curve, publishes what the denoiser loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from model.denoiser import Denoiser
from model.noise import NoiseLaw, Stabiliser
from tests.support.radiographs import radiograph
from training.checkpoints import Training, save_atomically, starting_weights
from training.clean import CleanImage, Split
from training.crops import Planes
from training.dataset import VALIDATION_SEED, CropSource, made_by_code, phantoms_from, split_by_patient
from training.images import clean_images, reduce, residual_noise
from training.journal import forecast
from training.lowdose import Detector, expose
from training.material import Material, Sources, describe, load_material
from training.pairs import PairSource, load_pairs
from training.phantom import phantom
from training.publish import publish
from training.settings import ImageFolder, NoiseRange, PairFolder, SettingsError, TrainingSettings, load_settings
from training.synthesis import NoiseSynthesis, stabilise
from training.train import Trainer, loss_of, main
from training.validation import simulated_validation, validate

SMALL = TrainingSettings(width=8, batch=4, patch=64, phantoms=1, dead_leaves=1, bfloat16=False, warmup_steps=2)


NOTHING = Material(split=Split(training=[], validation=[]), pairs=[], pairs_held=[], noisy=[], noisy_held=[])


def run(trainer: Trainer, steps: int, material: Material = NOTHING) -> list[float]:
    sources = Sources(trainer.settings, material, trainer.generator)
    return [float(trainer.train_step(sources.batch(trainer.rng))) for _ in range(steps)]


def test_a_resumed_run_has_the_same_curve_as_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole = run(Trainer(SMALL, device="cpu", budget_s=1e6), 6)
    first = Trainer(SMALL, device="cpu", budget_s=1e6)
    run(first, 3)
    save_atomically(first.state(), tmp_path / "last.pth")
    second = Trainer(SMALL, device="cpu", budget_s=1e6)
    second.restore(torch.load(tmp_path / "last.pth", weights_only=True))
    assert run(second, 3) == whole[3:]


def test_a_checkpoint_of_an_earlier_version_is_taken_up() -> None:
    first = Trainer(SMALL, device="cpu", budget_s=1e6)
    run(first, 2)
    state = first.state()
    for later in ("best_gain_db", "start_gain_db", "judged_by"):
        del state[later]
    second = Trainer(SMALL, device="cpu", budget_s=1e6)
    second.restore(state)
    assert run(second, 1) == run(first, 1)


def test_training_lowers_the_loss() -> None:
    losses = run(Trainer(replace(SMALL, learning_rate=3e-3), device="cpu", budget_s=1e6), 60)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_the_average_follows_the_network() -> None:
    trainer = Trainer(SMALL, device="cpu", budget_s=1e6)
    initial = trainer.averaged()
    run(trainer, 12)

    def distance(weights: dict[str, torch.Tensor]) -> float:
        return sum(float((value - weights[name]).norm()) for name, value in trainer.network.state_dict().items())

    assert 0 < distance(trainer.average) < 0.5 * distance(initial.state_dict())


def test_a_checkpoint_becomes_weights_that_the_denoiser_loads(tmp_path: Path) -> None:
    trainer = Trainer(SMALL, device="cpu", budget_s=1e6)
    run(trainer, 1)
    save_atomically(trainer.state(), tmp_path / "best_model.pth")
    manifest = publish(tmp_path / "best_model.pth", tmp_path, name="small", results={}, half=True)
    denoiser = Denoiser.load(str(manifest), device="cpu")
    assert denoiser.name == "small"
    assert denoiser.trained_for.quanta == SMALL.noise.quanta


def test_own_weights_do_not_claim_the_published_data_nor_tell_folders(tmp_path: Path) -> None:
    own = ImageFolder(name="own", folder="/home/someone/patients")
    trainer = Trainer(replace(SMALL, name="own", images=(own,)), device="cpu", budget_s=1e6)
    save_atomically(trainer.state(), tmp_path / "best_model.pth")
    text = publish(tmp_path / "best_model.pth", tmp_path, name="own", results={}, half=True).read_text()
    assert "on own images: high-dose images" in text
    assert "Hannover" not in text
    assert "/home/someone" not in text


def own_folder(folder: Path, count: int = 5) -> Path:
    """Write smooth pictures of 300 x 300 pixels as 16-bit PNG."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        picture = np.clip(np.cumsum(rng.normal(0, 3, (300, 300)), axis=1) + 500, 0, 4000)
        sitk.WriteImage(sitk.GetImageFromArray(picture.astype(np.uint16)), str(folder / f"{i}.png"))
    return folder


def small_config(folder: Path, text: str = "") -> Path:
    path = folder / "small.toml"
    settings = "width = 8\nbatch = 2\npatch = 64\nphantoms = 1\ndead_leaves = 1\n"
    settings += "validation_patients = 0.2\nvalidation_phantoms = 0\n"
    path.write_text(settings + text)
    return path


def test_one_command_trains_on_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, out = own_folder(tmp_path / "own"), tmp_path / "out"
    (own / "broken.png").write_bytes(b"no picture")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((90, 90), np.uint16)), str(own / "tiny.png"))
    arguments = ["--config", str(small_config(tmp_path)), "--images", str(own), "--minutes", "0.02"]
    arguments += ["--output", str(out), "--device", "cpu"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "skipped broken.png" in said
    assert "skipped tiny.png: smaller than 128 pixels" in said
    assert "high-dose images: 4 to train on, 1 of other patients to validate on" in said
    assert {"best_model.pth", "last.pth", "log.jsonl", "samples", "tensorboard"} <= {p.name for p in out.iterdir()}
    line = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert set(line["validation_gains_db"]) == {"200 to 400 quanta", "80 to 160 quanta", "20 to 60 quanta"}
    sheet = sitk.GetArrayFromImage(sitk.ReadImage(str(sorted((out / "samples").iterdir())[-1])))
    assert sheet.shape == (3 * 128, 4 * 128)
    assert main(arguments) == 2, "a second run must not overwrite the first"
    assert main([*arguments, "--resume"]) == 0


def test_fine_tuning_starts_from_published_weights_and_tells_the_gain_over_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Trainer(SMALL, device="cpu", budget_s=1e6)
    run(start, 3)
    save_atomically(start.state(), tmp_path / "start.pth")
    manifest = publish(tmp_path / "start.pth", tmp_path, name="start", results={}, half=False)
    # Width 16 in the settings gives way to the 8 of the weights.
    config = small_config(tmp_path, "fine_tuning_rate = 1e-5\n")
    config.write_text(config.read_text().replace("width = 8", "width = 16"))
    own, out = own_folder(tmp_path / "own"), tmp_path / "out"
    arguments = ["--images", str(own), "--config", str(config), "--from", str(manifest), "--minutes", "0.01"]
    assert main([*arguments, "--output", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "with the starting weights" in said
    assert "dB against the starting weights" in said
    state = torch.load(out / "last.pth", weights_only=True)
    assert state["settings"]["width"] == 8
    assert state["settings"]["learning_rate"] == 1e-5
    for name, tensor in start.average.items():
        torch.testing.assert_close(state["network"][name], tensor, atol=2e-3, rtol=0)


def test_a_checkpoint_and_published_weights_are_starting_weights(tmp_path: Path) -> None:
    start = Trainer(SMALL, device="cpu", budget_s=1e6)
    run(start, 3)
    save_atomically(start.state(), tmp_path / "start.pth")
    weights = starting_weights(str(tmp_path / "start.pth"))
    assert weights.width == 8
    trainer = Trainer(SMALL, device="cpu", budget_s=1e6)
    trainer.warm_start(weights)
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(tensor, start.average[name])
    assert starting_weights("lite").width == 32


def test_weights_carry_the_history_of_every_run_that_made_them(tmp_path: Path) -> None:
    first = Trainer(SMALL, device="cpu", budget_s=1e6)
    run(first, 3)
    first.elapsed_s, first.cpu_s = 60.0, 90.0
    save_atomically(first.state(), tmp_path / "first.pth")
    second = Trainer(SMALL, device="cpu", budget_s=1e6)
    second.warm_start(starting_weights(str(tmp_path / "first.pth")))
    run(second, 2)
    save_atomically(second.state(), tmp_path / "second.pth")
    again = Trainer(SMALL, device="cpu", budget_s=1e6)
    again.restore(torch.load(tmp_path / "second.pth", weights_only=True))
    expected = Training(steps=3, gigapixels=round(first.pixels / 1e9, 3), elapsed_s=60.0, cpu_s=90.0)
    assert again.history == (expected,)
    # Published and started from once more: both runs are there, the earlier one first.
    publish(tmp_path / "second.pth", tmp_path, name="mine", results={}, half=True)
    history = starting_weights(str(tmp_path / "mine.json")).history
    assert [one.steps for one in history] == [3, 2]
    assert history[0] == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--images", "empty"], "no usable image in"),
        (["--images", "absent"], "no such folder"),
        (["--noisy", "empty"], "no usable image in"),
        (["--low", "empty"], "--low and --high belong together"),
        (["--images", "own", "--from", "unheard-of"], "No weights manifest"),
        (["--images", "own", "--from", "absent.pth"], "no checkpoint of training.train"),
        (["--images", "own", "--config", "absent.toml"], "absent.toml"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    own_folder(tmp_path / "own", count=1)
    assert main([*arguments, "--output", "out", "--device", "cpu"]) == 2
    assert said in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_forecast_says_how_long_and_how_much() -> None:
    text = forecast(steps=20, seconds=10.0, pixels=5_000_000, remaining_s=3900.0)
    assert "2.00 steps per second" in text
    assert "1 h 5 min" in text
    assert "7800 steps and 1.95 gigapixels" in text


@pytest.mark.parametrize(("kind", "expected"), [("l1", 1.2), ("mse", 2.765), ("charbonnier", 1.13642)])
def test_losses_of_clean_targets(kind: str, expected: float) -> None:
    error = torch.tensor([0.0, 0.1, -2.3, 2.4]).reshape(4, 1, 1, 1)
    assert float(loss_of(error, torch.zeros(4, 1, 1, 1), kind)) == pytest.approx(expected, rel=1e-4)


def test_a_noisy_target_is_scored_by_squared_error_whatever_the_loss() -> None:
    error = torch.tensor([3.0, -2.0]).reshape(2, 1, 1, 1)
    noise = torch.tensor([5.0, 0.0]).reshape(2, 1, 1, 1)
    assert float(loss_of(error, noise, "l1")) == pytest.approx((9.0 / 6.0 + 2.0) / 2)


def test_crops_lie_inside_their_image_and_small_images_are_mirrored() -> None:
    at = np.arange(40, dtype=np.float32)
    large, small = 100.0 * at[:, None] + at[None, :], -(100.0 * at[:20, None] + at[None, :30]) - 1
    planes = Planes([large[None], small[None]], device=torch.device("cpu"), dtype=torch.float32)
    windows, chosen = planes.windows(60, 36, np.random.default_rng(0))
    for window, image in zip(windows[:, 0].numpy(), chosen, strict=True):
        if image == 0:
            corners = np.array([window[0, 0], window[0, -1], window[-1, 0], window[-1, -1]])
            assert np.ptp(corners) == 3500 + 35, "a window is a square of neighbours"
            assert set(np.abs(np.diff(window, axis=1)).ravel()) in ({1.0}, {100.0})
        else:
            assert set(np.abs(np.diff(window, axis=1)).ravel()) in ({1.0}, {100.0}), "a mirrored border has no jump"
            assert window.max() < 0
    assert set(chosen) == {0, 1}


def test_the_same_seed_draws_the_same_samples() -> None:
    def samples() -> torch.Tensor:
        trainer = Trainer(SMALL, device="cpu", budget_s=1.0)
        return Sources(SMALL, NOTHING, trainer.generator).batch(trainer.rng).z

    assert torch.equal(samples(), samples())


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
    path.write_text('width = "wide"\npach = 3\nloss = "l3"\n[noise]\nquanat = [1, 2]\n[[images]]\nname = "a"\n')
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    for word in ("width", "pach", "'l3'", "noise.quanat", "images[0].folder: missing"):
        assert word in str(caught.value)


def test_the_published_settings_are_valid() -> None:
    folder = Path(__file__).parents[3] / "config" / "training"
    settings = load_settings(folder / "lite.toml")
    assert settings.width == 32
    assert load_settings(folder / "own.toml").noise == settings.noise
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
    mixed = Sources(SMALL, replace(NOTHING, pairs=pairs), trainer.generator).batch(trainer.rng)
    assert mixed.z.shape[0] == SMALL.batch
    assert np.isfinite(float(trainer.train_step(mixed)))


def write_dicom(path: Path, values: np.ndarray, *, patient: str = "") -> None:
    """Write a 16-bit FOR PROCESSING image whose values are linear in exposure."""
    ds = radiograph(1)
    ds.PatientID = patient
    ds.Rows, ds.Columns = values.shape
    ds.BitsStored, ds.HighBit = 16, 15
    ds.PixelData = np.clip(np.rint(values), 0, 65535).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".dcm"])
def test_pairs_of_each_kind_of_file_train_from_the_command_line(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    law = NoiseLaw(structure=0.005, quantum=5.0, electronic=15.0)
    for i in range(5):
        truth = (3000 * phantom(256, 256, 60 + i, anatomy="pelvis")).astype(np.float32)
        noisy = expose(truth, Detector(law=law), np.random.default_rng(i))
        for name, image in (("low", noisy), ("high", 4 * truth)):
            (tmp_path / name).mkdir(exist_ok=True)
            path = tmp_path / name / f"{i}{suffix}"
            if suffix == ".dcm":
                write_dicom(path, image, patient=f"p{i // 2}")
            else:
                picture = np.clip(image, 0, 65535).astype(np.uint16)
                sitk.WriteImage(sitk.GetImageFromArray(picture), str(path))
    folders = ["--low", str(tmp_path / "low"), "--high", str(tmp_path / "high")]
    arguments = ["--config", str(small_config(tmp_path)), "--minutes", "0.01", "--output", str(tmp_path / "out")]
    assert main([*folders, *arguments, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    # One of three patients is held back, with both images, or one of five.
    expected = "pairs: 3 to train on, 2 of other" if suffix == ".dcm" else "pairs: 4 to train on, 1 of other"
    assert expected in said
    assert "(real pairs " in said


def test_images_of_one_dicom_patient_stay_together_and_linear_values_become_attenuation(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    truth = 9000 * phantom(300, 300, 70, anatomy="pelvis")
    for i in range(8):
        write_dicom(tmp_path / "own" / f"{i}.dcm", truth, patient=f"Jane^{i // 2}")
    folder = ImageFolder(name="own", folder="own", relation="auto", reduce=2, max_noise=1.0)
    images = list(clean_images(tmp_path, folder))
    assert len(images) == 8
    assert len({image.patient for image in images}) == 4
    assert "Jane" not in "".join(image.patient for image in images), "no name leaves the file"
    expected = -np.log(reduce(truth.astype(np.float32), 2))
    difference = images[0].attenuation - expected
    assert np.std(difference[expected < 4]) < 0.01, "attenuation is the logarithm, up to a constant"
    settings = replace(SMALL, images=(folder,), validation_patients=0.25)
    material = load_material(tmp_path, settings)
    assert describe(material) == ["high-dose images: 6 to train on, 2 of other patients to validate on"]


def test_reduction_goes_on_until_an_image_is_clean(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    rng = np.random.default_rng(0)
    smooth = 2000 + 1500 * np.sin(np.linspace(0, 3, 1100))[:, None] * np.ones((1, 1100))
    for name, sigma in (("clean", 0.0), ("noisy", 120.0)):
        picture = np.clip(smooth + sigma * rng.standard_normal(smooth.shape), 0, 65535).astype(np.uint16)
        sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / "own" / f"{name}.png"))
    folder = ImageFolder(name="own", folder="own", reduce=0, max_noise=1.0)
    sizes = {image.patient: image.attenuation.shape[0] for image in clean_images(tmp_path, folder)}
    assert sizes == {"own:clean": 550, "own:noisy": 275}


def test_phantoms_of_validation_are_none_that_were_learned_from() -> None:
    settings = replace(SMALL, phantoms=8, validation_phantoms=4)
    learned, _ = made_by_code(settings, size=64)
    held = phantoms_from(VALIDATION_SEED, 4, size=64)
    assert not any(np.array_equal(a.attenuation, b.attenuation) for a in learned for b in held)


def test_details_are_laid_over_simulated_samples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(
        "training.material.with_details", lambda crops, generator, *, share: asked.append(share) or crops
    )
    run(Trainer(replace(SMALL, share_details=0.4), device="cpu", budget_s=1e6), 1)
    assert asked == [0.4]


def test_validation_is_the_same_each_time_and_tells_exposures_apart() -> None:
    network = Trainer(SMALL, device="cpu", budget_s=1.0).averaged()
    split = Split(training=[], validation=[])
    scores = [
        validate(network, simulated_validation(SMALL, split, patch=64, count=2), torch.device("cpu")) for _ in range(2)
    ]
    assert scores[0] == scores[1]
    assert len(set(scores[0].gains_db.values())) == 3


def test_magnified_images_keep_their_own_noise() -> None:
    image = CleanImage(attenuation=np.zeros((80, 80), np.float32), own_noise=0.02, patient="a", source="b")
    crops, own_noise = CropSource([image], magnify=True).batch(50, 64, np.random.default_rng(0))
    assert crops.shape == (50, 1, 64, 64)
    assert 0.009 < float(own_noise.min()) < float(own_noise.max()) < 0.033, "it follows the contrast"
