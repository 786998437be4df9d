"""The protocol in small: figures add up, baselines are reused only where they are the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from model.denoiser import Denoiser
from training import evaluate
from training.baselines import BASELINES
from training.cases import ProtocolImages, make_case
from training.clean import CleanImage
from training.evaluate import OtherProtocol, Plan, own_noise, reused, run_protocol
from training.phantom import phantom
from training.protocol import Row, Task, TuningTask, evaluate_case, measure, tune
from training.summary import bootstrap, differences, summarise

IMAGE = CleanImage(
    attenuation=-np.log(phantom(176, 176, 2, anatomy="chest")), own_noise=0.0, patient="phantom:2", source="phantom"
)
IMAGES = ProtocolImages(reported=[IMAGE], tuning=[IMAGE], unseen_sources=frozenset({"hip"}))
PLAN = Plan(weights="lite", images=IMAGES, seeds={"csi": 1}, baselines=("gaussian",), processes=1)


def _row(**changes: object) -> Row:
    case = make_case(IMAGE, dose="1/4", kernel="csi", seed=0)
    return replace(measure(case, "noisy", case.noisy, track="input"), **changes)  # type: ignore[arg-type]


def test_a_case_repeats_by_seed_and_its_noise_is_that_of_its_law() -> None:
    first, second = (make_case(IMAGE, dose="1/4", kernel="csi", seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.noisy, second.noisy)
    assert measure(first, "noisy", first.noisy).mse_sigma2 == pytest.approx(1.0, abs=0.06)
    assert measure(first, "noisy", first.noisy).gain_stabilised_db == 0.0


def test_gain_is_the_ratio_of_the_errors_in_the_field_in_each_domain() -> None:
    case = make_case(IMAGE, dose="1/2", kernel="white", seed=1)
    halfway = (case.truth + 0.5 * (case.noisy - case.truth)).astype(np.float32)
    row = measure(case, "half", halfway)
    assert row.gain_stabilised_db == pytest.approx(20 * np.log10(2), abs=1e-3)
    assert row.gain_linear_db == pytest.approx(20 * np.log10(2), abs=1e-3)
    between = np.sqrt(np.maximum(case.noisy, 1) * np.maximum(case.truth, 1)).astype(np.float32)
    assert measure(case, "half of the log", between).gain_log_db == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_the_interval_covers_the_mean_of_patients_not_of_images() -> None:
    mean, low, high = bootstrap({"a": [1.0] * 99, "b": [3.0]})
    assert mean == 2.0
    assert low <= mean <= high


def test_rows_count_for_their_source_its_pools_and_the_anatomy_of_a_phantom() -> None:
    rows = [_row(patient="phantom:limb"), _row(source="hip"), _row(source="chest")]
    by_source = {line["source"]: line for line in summarise(rows, frozenset({"hip"}))}
    assert set(by_source) == {"phantom", "phantom limb", "hip", "chest", "real sources", "unseen sources"}
    summarised = summarise([_row(source="hip", patient=p, seed=s) for p in "ab" for s in (0, 1)], frozenset())
    assert {line["patients"] for line in summarised} == {2}


def test_a_difference_is_paired_by_case_and_within_its_track() -> None:
    ours = [_row(source="hip", seed=s, method="ours, law known", gain_stabilised_db=6.0 + s) for s in range(3)]
    theirs = [_row(source="hip", seed=s, method="bm3d", track="oracle", gain_stabilised_db=5.0 + s) for s in range(2)]
    blind = [_row(source="hip", seed=0, method="bm3d, blind", track="blind", gain_stabilised_db=5.5)]
    found = differences([*ours, *theirs, *blind, _row(source="hip")])
    # Seed 2 has no partner; the blind filter is no match for ours with the law known.
    assert {(line["source"], line["baseline"]) for line in found} == {("hip", "bm3d"), ("real sources", "bm3d")}
    assert {line["difference_db"] for line in found} == {1.0}
    own_blind = [replace(row, method="ours, blind", track="blind") for row in ours]
    assert {line["baseline"] for line in differences([*own_blind, *theirs, *blind])} == {"bm3d", "bm3d, blind"}


def test_tuning_takes_the_best_parameter_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TuningTask(images=(IMAGE,), name="gaussian", kernel="csi", dose="1/10")
    best = tune(task)
    filter_, values = BASELINES["gaussian"]
    assert min(values) < best < max(values)
    monkeypatch.setitem(BASELINES, "gaussian", (filter_, (0.5, best, 3.3)))
    assert tune(task) == best


def test_blind_bm3d_runs_with_our_estimate_and_comes_near_the_one_that_knows() -> None:
    larger = replace(IMAGE, attenuation=-np.log(phantom(320, 320, 2, anatomy="limb")))
    parameters = {"bm3d psd": {"1/4": 1.0}}
    task = Task(image=larger, dose="1/4", kernel="csi", seed=0, weights=None, tuned={"csi": parameters})
    by_track = {row.track: row for row in evaluate_case(task)}
    assert by_track["blind"].method == "bm3d psd, blind"
    assert by_track["oracle"].gain_stabilised_db > 5.0
    lost_db = by_track["oracle"].gain_stabilised_db - by_track["blind"].gain_stabilised_db
    assert 0.001 < abs(lost_db) < 1.0


def test_own_noise_is_reported_per_source_and_dose() -> None:
    noisy = replace(IMAGE, own_noise=0.02, source="hip")
    by_key = {(line["source"], line["dose"]): line["own_noise_sigma2"] for line in own_noise([IMAGE, noisy])}
    assert by_key["phantom", "1/4"] == 0.0
    assert by_key["hip", "1/2"] > by_key["hip", "1/4"] > by_key["hip", "1/10"] > 0.0


def test_report_states_what_was_measured_and_its_baselines_are_reused_only_where_they_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "protocol_images", lambda *_args, **_options: IMAGES)
    first, again = tmp_path / "first", tmp_path / "again"
    common = ["--seeds", "1", "--kernels", "csi", "--baselines", "gaussian", "--parts", "protocol", "--processes", "1"]
    assert evaluate.main([*common, "--output", str(first)]) == 0
    written = json.loads((first / "evaluation.json").read_text())
    assert written["sha256"] == Denoiser.load("lite", device="cpu").digest
    by_method = {(li["method"], li["dose"]): li["gain_stabilised_db"] for li in written["summary"]}
    assert by_method["ours, law known", "1/4"] > by_method["gaussian", "1/4"] > 1.0
    assert (first / written["strips"][0]["file"]).is_file()
    assert (first / "report.html").is_file()

    earlier = first / "evaluation.json"
    reuse = [*common, "--output", str(again), "--baselines-from", str(earlier)]
    assert evaluate.main(reuse) == 0
    repeated = json.loads((again / "evaluation.json").read_text())
    for part in ("summary", "against", "tuned_by_kernel"):
        assert repeated[part] == written[part]

    with pytest.raises(OtherProtocol, match="seeds differ"):
        reused(replace(PLAN, seeds={"csi": 2}), earlier)
    changed = replace(IMAGES, reported=[replace(IMAGE, attenuation=IMAGE.attenuation * np.float32(1.1))])
    with pytest.raises(OtherProtocol, match="images differ"):
        reused(replace(PLAN, images=changed), earlier)
    monkeypatch.setitem(BASELINES, "gaussian", (lambda image, _value, _known: image, (1.0,)))
    with pytest.raises(OtherProtocol, match="gaussian gives another result"):
        reused(PLAN, earlier)
    assert evaluate.main(reuse) == 2


def test_two_processes_give_the_same_rows_as_one(tmp_path: Path) -> None:
    small = replace(PLAN, baselines=())
    one, two = (
        run_protocol(replace(small, processes=n), tmp_path, baselines_from=None, console=Console(quiet=True))
        for n in (1, 2)
    )
    assert one["rows"] == two["rows"]
    assert len(one["rows"]) == 12
