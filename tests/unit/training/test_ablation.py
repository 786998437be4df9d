"""The ablation compares networks under one budget: same samples, same schedule, sizes as stated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.resnet_unet import ResnetUnet
from training.ablation import NETWORKS, VARIANTS, gmac_per_megapixel, main, rate
from training.settings import NoiseRange, TrainingSettings
from training.stock_networks import StockUnet, with_batch_norm


def noisy(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(2, 1, 64, 96, generator=torch.Generator().manual_seed(seed))
    return z, torch.ones_like(z)


def test_the_stock_network_has_the_size_of_the_one_in_segmentation_libraries() -> None:
    network = StockUnet(width=64, residual=True)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(14.33, abs=0.02)
    assert gmac_per_megapixel(network) == pytest.approx(80.8, rel=0.03)


def test_networks_of_the_ablation_are_of_one_size() -> None:
    sizes = {name: sum(p.numel() for p in one.network(32).parameters()) / 1e6 for name, one in NETWORKS.items()}
    assert all(3.4 < size < 3.6 for size in sizes.values()), sizes


@pytest.mark.parametrize("variant", list(NETWORKS))
def test_each_variant_learns_to_estimate_noise(variant: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[variant].network(8).train()
    z, sigma = noisy()
    smooth = torch.nn.functional.interpolate(torch.randn(2, 1, 4, 6), size=(64, 96), mode="bilinear")
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = (network(smooth + z / 8, sigma) - z / 8).square().mean() * 64
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    idle = [name for name, p in network.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0]
    assert not idle, "every layer takes part"


def test_direct_and_residual_output_differ_only_in_what_the_output_means() -> None:
    torch.manual_seed(1)
    direct, residual = StockUnet(width=8, residual=False).eval(), StockUnet(width=8, residual=True).eval()
    residual.load_state_dict(direct.state_dict())
    z, sigma = noisy()
    with torch.inference_mode():
        torch.testing.assert_close(direct(z, sigma), z - residual(z, sigma))


def test_batch_normalisation_undoes_homogeneity() -> None:
    z, sigma = noisy()
    for network, homogeneous in ((ResnetUnet(width=8), True), (with_batch_norm(ResnetUnet(width=8)), False)):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        network.eval()
        with torch.inference_mode():
            once, twice = network(z, sigma), network(2 * z, 2 * sigma)
        assert torch.allclose(twice, 2 * once, rtol=1e-3, atol=1e-4) is homogeneous


def test_the_rate_is_a_warm_up_and_a_cosine_by_steps() -> None:
    assert rate(0, 1000, 1e-3) == pytest.approx(2e-5, rel=0.01)
    assert rate(49, 1000, 1e-3) == pytest.approx(1e-3, rel=0.01)
    assert rate(500, 1000, 1e-3) == pytest.approx(5e-4, rel=0.01)
    assert rate(999, 1000, 1e-3) == pytest.approx(5e-6, rel=0.01)


def test_runs_are_reproducible_resumed_and_tabulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "small.toml"
    config.write_text("width = 8\nphantoms = 1\ndead_leaves = 1\nvalidation_phantoms = 1\n")
    budget = ["--config", str(config), "--data", str(tmp_path), "--steps", "2", "--batch", "2", "--patch", "32"]
    arguments = [*budget, "--seeds", "2", "--variants", "ours"]
    assert main([*arguments, "--output", str(tmp_path / "first")]) == 0
    assert main([*arguments, "--output", str(tmp_path / "second")]) == 0
    first, second = (
        [json.loads(line) for line in (tmp_path / name / "runs.jsonl").read_text().splitlines()]
        for name in ("first", "second")
    )
    assert [row["gain_db"] for row in first] == [row["gain_db"] for row in second]
    assert first[0]["gain_db"] != first[1]["gain_db"], "another seed is another run"
    # A result that is there is not made again, one of another budget is not taken for it.
    (tmp_path / "first" / "runs.jsonl").write_text(json.dumps(first[0]) + "\n" + json.dumps({**first[1], "steps": 3}))
    capsys.readouterr()
    (tmp_path / "first" / "runs.jsonl").open("a").write("\n")
    assert main([*arguments, "--output", str(tmp_path / "first")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "first" / "runs.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["steps"]) for row in rows] == [(1, 2), (2, 3), (2, 2)]
    table = (tmp_path / "first" / "table.md").read_text()
    mean = (first[0]["gain_db"] + first[1]["gain_db"]) / 2
    assert f"| ours | 2 | {mean:.2f} ± " in table


def test_a_variant_changes_what_it_names_and_nothing_else() -> None:
    settings = TrainingSettings(share_radiographs=0.45, share_details=0.4, noise=NoiseRange(white_share=0.1))
    changed = VARIANTS["white noise alone"].of(settings)
    assert changed == replace(settings, noise=replace(settings.noise, white_share=1.0))
    assert VARIANTS["phantoms alone"].of(settings) == replace(settings, share_radiographs=0.0, share_phantoms=1.0)
    assert VARIANTS["ours"].of(settings) == settings


def test_a_mixture_decides_what_is_learned_from_and_all_are_judged_by_the_same(tmp_path: Path) -> None:
    config = tmp_path / "small.toml"
    config.write_text("width = 8\nphantoms = 2\ndead_leaves = 2\nvalidation_phantoms = 1\n")
    budget = ["--config", str(config), "--data", str(tmp_path), "--steps", "4", "--batch", "2", "--patch", "32"]
    mixtures = ["phantoms alone", "dead leaves alone", "faint details everywhere"]
    variants = ["--variants", "phantoms alone", "dead leaves alone", "faint details everywhere"]
    assert main([*budget, "--seeds", "1", *variants, "--output", str(tmp_path / "out")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert [row["variant"] for row in rows] == mixtures
    assert len({row["gain_db"] for row in rows}) == 3, "each learned from something else"
    assert {tuple(row["gains_db"]) for row in rows} == {tuple(rows[0]["gains_db"])}
    assert [step for step, _ in rows[0]["curve_db"]] == [1, 2, 4]
    assert rows[0]["curve_db"][-1][1] == rows[0]["gain_db"]
