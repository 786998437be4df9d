"""Faint details are laid over a share of the crops, with the contrast and the sizes that are promised."""

from __future__ import annotations

import pytest
import torch

from training.details import CONTRAST_NEPERS, PER_CROP, with_details


def drawn(count: int = 400, *, share: float = 1.0, seed: int = 0) -> torch.Tensor:
    return with_details(torch.zeros(count, 1, 64, 64), torch.Generator().manual_seed(seed), share=share)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_the_share_of_crops_with_details_is_the_one_asked_for(share: float) -> None:
    touched = (drawn(share=share).abs().amax(dim=(1, 2, 3)) > 0).float().mean()
    # A few objects lie outside their crop, and all four slots of a crop are empty with a chance of 0.4^4.
    assert 0.8 * share < float(touched) <= share + 0.06


def test_nothing_is_added_where_nothing_is_asked_for() -> None:
    crops = torch.rand(3, 1, 32, 32)
    assert with_details(crops, torch.Generator(), share=0.0) is crops


def test_contrast_is_bounded_of_both_signs_and_mostly_faint() -> None:
    details = drawn()
    strongest = details.abs().amax(dim=(1, 2, 3))
    assert float(strongest.max()) <= PER_CROP * CONTRAST_NEPERS[1]
    assert float((strongest[strongest > 0] < 0.1).float().mean()) > 0.3
    positive, negative = float((details > 0).float().mean()), float((details < 0).float().mean())
    assert 0.5 < positive / negative < 2.0


def test_details_are_added_to_the_crop_and_follow_the_seed() -> None:
    crops = torch.rand(8, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    added = with_details(crops, torch.Generator().manual_seed(7), share=1.0)
    torch.testing.assert_close(added - crops, drawn(8, seed=7), atol=1e-6, rtol=0.0)
    assert not torch.equal(drawn(8, seed=7), drawn(8, seed=8))


def test_edges_are_soft_over_a_pixel_or_two_and_flat_beside_them() -> None:
    details = drawn()[:, 0]
    steps = details.diff(dim=-1).abs()
    height = (details.amax(dim=(1, 2)) - details.amin(dim=(1, 2)))[:, None, None]
    # No single step takes the whole contrast, and most of a crop is flat.
    assert float((steps / height.clamp(min=1e-9)).amax()) <= 1.0
    assert float((steps < 1e-7).float().mean()) > 0.8
