"""A campaign goes on from stage to stage, a teacher is followed, and what is exported is what was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.manifest import load_network, read_manifest
from training import train
from training.campaign import PlannedRun, arguments_of, load_plan, main, minutes_done, next_run
from training.clean import CleanImage, Split
from training.pack import write_pack
from training.settings import NoiseRange, SettingsError, TrainingSettings
from training.synthesis import NoiseSynthesis

CONFIG = """
name = "small"
width = 8
batch = 2
patch = 32
phantoms = 2
dead_leaves = 2
validation_phantoms = 1
validate_every_s = 1000.0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = [
        CleanImage(
            attenuation=rng.uniform(0, 1, (80, 80)).astype(np.float32), own_noise=0.0, patient=f"p{i}", source="s"
        )
        for i in range(2)
    ]
    write_pack(Split(training=images[:1], validation=images[1:]), tmp_path / "images.npz")
    (tmp_path / "small.toml").write_text(CONFIG)
    return tmp_path


def write_plan(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text.replace("CONFIG", str(folder / "small.toml")))
    return path


def test_stages_go_on_until_every_run_is_done_and_parts_hold_the_weights(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = write_plan(
        folder,
        """
        stage_minutes = 0.02
        [[runs]]
        name = "first"
        config = "CONFIG"
        minutes = 0.06
        [[runs]]
        name = "second"
        config = "CONFIG"
        minutes = 0.01
        teacher = "first"
        """,
    )
    common = ["--plan", str(plan), "--folder", str(folder), "--device", "cpu"]
    done = []
    for _ in range(6):
        assert main(["stage", *common]) == 0
        done.append([minutes_done(folder / "first"), minutes_done(folder / "second")])
        if next_run(load_plan(plan), folder) is None:
            break
    assert 0.019 < done[0][0] < 0.06, "the first stage ended before its run did"
    assert done[-1][0] >= 0.0599
    assert done[-1][1] >= 0.0099
    steps = [json.loads(line)["step"] for line in (folder / "first" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] > steps[0] > 0
    assert main(["stage", *common]) == 0
    assert "every run is done" in capsys.readouterr().out

    assert main(["join", *common]) == 0
    for name in ("first", "second"):
        network = load_network(read_manifest(folder / "joined" / f"{name}.json"))
        trained = torch.load(folder / name / "best_model.pth", weights_only=True)["average"]
        for key, value in network.state_dict().items():
            torch.testing.assert_close(value, trained[key], atol=1e-3, rtol=1e-3)


def test_a_lost_part_is_exit_code_two(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write_plan(folder, 'stage_minutes = 0.005\n[[runs]]\nname = "one"\nconfig = "CONFIG"\nminutes = 0.005\n')
    common = ["--plan", str(plan), "--folder", str(folder), "--device", "cpu"]
    assert main(["stage", *common]) == 0
    (folder / "parts" / "one.safetensors.part00").unlink()
    assert main(["join", *common]) == 2
    assert "one.safetensors.part00" in capsys.readouterr().out


def test_without_a_pack_the_stage_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write_plan(folder, 'stage_minutes = 1\n[[runs]]\nname = "one"\nconfig = "CONFIG"\nminutes = 1\n')
    absent = str(folder / "absent.npz")
    assert main(["stage", "--plan", str(plan), "--folder", str(folder), "--pack", absent, "--device", "cpu"]) == 2
    assert "absent.npz" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("stage_minutes = 8\n", "runs: missing"),
        ("stage_minutes = 8\n[[runs]]\nname = 'a'\n", r"runs\[0\].config: missing; runs\[0\].minutes: missing"),
        ("stage_minutes = 8\n[[runs]]\nname='a'\nconfig='b'\nminutes=1\nwidth=3\n", r"runs\[0\].width: unknown"),
        ("stage_minutes = 8\n[[runs]]\nname='a'\nconfig='b'\nminutes=1\nteacher='c'\n", "'c' of 'a' is no earlier run"),
        ("stage_minutes = \n", "plan.toml"),
    ],
)
def test_a_wrong_plan_is_refused_with_its_faults(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=fault):
        load_plan(path)


def test_the_plan_that_is_shipped_has_settings_and_short_stages() -> None:
    import config

    shipped = Path(config.__file__).parent / "training"
    plan = load_plan(shipped / "campaign.toml")
    assert plan.stage_minutes < 9
    assert plan.ablation is not None
    for run in plan.runs:
        assert (shipped / f"{run.config}.toml").is_file()


def test_a_run_that_has_a_checkpoint_resumes_and_does_not_start_again(tmp_path: Path) -> None:
    run = PlannedRun(name="a", config="lite", minutes=3, start="lite", teacher="b")
    fresh = arguments_of(run, tmp_path, pack=tmp_path / "p", device="cpu", stage_minutes=1)
    assert fresh[fresh.index("--from") + 1] == "lite"
    assert "--resume" not in fresh
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "last.pth").touch()
    again = arguments_of(run, tmp_path, pack=tmp_path / "p", device="cpu", stage_minutes=1)
    assert "--resume" in again
    assert "--from" not in again
    assert again[again.index("--teacher") + 1] == str(tmp_path / "b" / "best_model.pth")


def test_a_teacher_draws_the_target_towards_its_own_output() -> None:
    settings = TrainingSettings(width=8, share_teacher=0.25, bfloat16=False)
    trainer = train.Trainer(settings, device="cpu", budget_s=1.0)
    batch = NoiseSynthesis(NoiseRange(), torch.Generator().manual_seed(0)).batch(
        torch.zeros(2, 1, 32, 32), torch.full((2, 1, 1, 1), 1e-6)
    )
    assert trainer._taught(batch) is batch
    teacher = train.Trainer(replace(settings, seed=5), device="cpu", budget_s=1.0).averaged()
    torch.nn.init.normal_(teacher.tail.weight)
    trainer.teacher = teacher
    with torch.no_grad():
        taught = batch.z - teacher(batch.z, batch.sigma_map)
    assert (taught - batch.target).abs().mean() > 0.01
    torch.testing.assert_close(trainer._taught(batch).target, 0.75 * batch.target + 0.25 * taught)
