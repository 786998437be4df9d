"""The protocol in small: figures add up, the card is of the weights that were measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.denoiser import Denoiser
from model.manifest import find_manifest
from training.evaluate import bootstrap, evaluate, make_case, measure, summarise
from training.images import CleanImage
from training.model_card import write_card
from training.phantom import phantom

IMAGE = CleanImage(
    attenuation=-np.log(phantom(176, 176, 2, anatomy="chest")), own_noise=0.0, patient="phantom:2", source="phantom"
)


def test_a_case_repeats_by_seed_and_its_noise_is_that_of_its_law() -> None:
    first, second = (make_case(IMAGE, dose="1/4", kernel="csi", seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.noisy, second.noisy)
    assert measure(first, "noisy", first.noisy).mse_sigma2 == pytest.approx(1.0, abs=0.06)
    assert measure(first, "noisy", first.noisy).gain_stabilised_db == 0.0


def test_gain_is_the_ratio_of_the_errors_in_the_field() -> None:
    case = make_case(IMAGE, dose="1/2", kernel="white", seed=1)
    halfway = (case.truth + 0.5 * (case.noisy - case.truth)).astype(np.float32)
    row = measure(case, "half", halfway)
    assert row.gain_stabilised_db == pytest.approx(20 * np.log10(2), abs=1e-3)
    assert row.gain_linear_db == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_the_interval_covers_the_mean_of_patients_not_of_images() -> None:
    mean, low, high = bootstrap({"a": [1.0] * 99, "b": [3.0]})
    assert mean == 2.0
    assert low <= mean <= high


def test_report_and_card_state_what_was_measured(tmp_path: Path) -> None:
    denoiser = Denoiser.load("lite", device="cpu")
    report = evaluate(denoiser, [IMAGE], seeds=1, kernels=("csi",), baselines=("gaussian",), output=tmp_path)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["sha256"] == denoiser.digest
    by_method = {(li["method"], li["dose"]): li["gain_stabilised_db"] for li in report["summary"]}
    assert by_method["ours, law known", "1/4"] > by_method["gaussian", "1/4"] > 1.0
    manifest = json.loads(find_manifest("lite").read_text())
    card = write_card(manifest, written)
    assert f"{by_method['gaussian', '1/4']:+.2f}" in card
    with pytest.raises(ValueError, match="other weights"):
        write_card(manifest, {**written, "sha256": "0"})


def test_real_sources_are_pooled_without_the_phantoms() -> None:
    case = make_case(IMAGE, dose="1/4", kernel="csi", seed=0)
    row = measure(case, "noisy", case.noisy)
    sources = {line["source"] for line in summarise([row, replace(row, source="hip")])}
    assert sources == {"phantom", "hip", "real sources"}
