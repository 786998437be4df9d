"""The study of the guards: every case made for one sets it off, good images pass."""

from __future__ import annotations

import numpy as np
import pytest

from model.denoiser import Denoiser
from model.domain import Domain
from training.cases import SIDE
from training.clean import CleanImage
from training.guard_study import Alarm, alarms, false_alarms, in_domain, judge_alarm, low_dose, with_text
from training.phantom import phantom


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return Denoiser.load("lite", device="cpu")


def test_each_case_has_the_decision_that_it_was_made_for(denoiser: Denoiser) -> None:
    found = {alarm.case: judge_alarm(denoiser, alarm) for alarm in alarms(denoiser)}
    assert [case for case, row in found.items() if not row["as_expected"]] == []
    assert found["Exposure Index 40 times too high"]["strength"] == 0.7
    assert "declared dose and noise disagree" in found["Exposure Index 40 times too high"]["reasons"]
    for row in found.values():
        assert bool(row["reasons"]) == (row["decision"] != "enhanced")


def test_a_decision_that_was_not_expected_is_marked(denoiser: Denoiser) -> None:
    row = judge_alarm(denoiser, Alarm(case="good", expected="refused", image=low_dose()))
    assert not row["as_expected"]


def test_good_phantoms_raise_no_alarm_in_linear_values(denoiser: Denoiser) -> None:
    images = [
        CleanImage(attenuation=-np.log(phantom(SIDE, SIDE, i, anatomy=a)), own_noise=0.0, patient=a, source="phantom")
        for i, a in enumerate(("chest", "limb"))
    ]
    counted = false_alarms(denoiser, images, quick=True)
    assert counted["images"] == 2 * len(Domain)
    assert counted["by_domain"]["LINEAR"] == {"images": 2, "refused": 0, "lowered": 0}
    held_back = counted["refused"] + counted["lowered"]
    assert counted["rate"] == pytest.approx(held_back / counted["images"])


def test_an_image_that_is_held_back_is_counted(denoiser: Denoiser) -> None:
    flat = CleanImage(attenuation=np.zeros((30, 30), np.float32), own_noise=0.0, patient="p", source="s")
    counted = false_alarms(denoiser, [flat], quick=True)
    assert counted["refused"] == 3
    assert counted["rate"] == 1.0


def test_display_values_rise_with_attenuation_and_keep_twelve_bits() -> None:
    exposure = np.linspace(100.0, 12000.0, 1000, dtype=np.float32)[None]
    display = in_domain(exposure, Domain.DISPLAY)
    assert display[0, 0] > display[0, -1]
    assert display.min() >= 0
    assert display.max() <= 4095
    np.testing.assert_array_equal(in_domain(exposure, Domain.LINEAR), exposure)


def test_burned_in_strokes_are_in_the_image() -> None:
    assert np.count_nonzero(with_text(np.zeros((512, 512), np.float32)) == 12000.0) > 5000
