"""Real radiographs at a quarter of the dose through the running node: the object at the PACS is nearer to the truth."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from model.noise import NoiseLaw
from tests.support.node import running_node
from tests.support.objects import dx_dataset, save
from tests.support.peers import MockScp
from training.images import read_grey, reduce, to_attenuation
from training.lowdose import Detector, low_dose_stored
from training.metrics import psnr

# One picture of each source, the first of its folder by name.
SOURCES = {
    "chest": "radiographs/chest_hannover/*.jpg",
    "chest of a child": "more/chest_child_guangzhou/*.jp*g",
    "hip": "radiographs/highbit_dicom/hip_*.dcm",
    "chest, 12 bit": "radiographs/highbit_dicom/chest_*.dcm",
}
SPAN_NEPERS = 3.0
LAW = NoiseLaw(structure=0.005, quantum=3.0, electronic=8.0)


def low_dose(path: Path) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Return stored values at a quarter of the dose and their truth; the picture is reduced until it is clean."""
    grey, inverted = read_grey(path)
    attenuation = to_attenuation(reduce(grey, 3), inverted=inverted, relation="display", span=SPAN_NEPERS)
    rng = np.random.default_rng(1)
    return low_dose_stored(np.exp(-attenuation), dose=0.25, detector=Detector(law=LAW), open_field=12_000.0, rng=rng)


def test_real_radiographs_arrive_nearer_to_the_truth(test_data: Path, tmp_path: Path) -> None:
    made = {}
    paths = []
    for name, pattern in SOURCES.items():
        found = sorted(test_data.glob(pattern))
        if not found:
            pytest.skip(f"no {pattern} in {test_data}")
        stored, truth = low_dose(found[0])
        ds = dx_dataset(stored)
        made[str(ds.SOPInstanceUID)] = (name, stored, truth)
        paths.append(save(ds, tmp_path / f"{len(paths)}.dcm"))
    with (
        MockScp(ae_title="PACS") as pacs,
        running_node(tmp_path / "node", pacs.port) as node,
    ):
        node.send(*paths)
        node.wait_balanced(len(paths))
        decisions = node.rows("SELECT decision, reason FROM enhancement")
    assert [row.decision for row in decisions] == ["enhanced"] * len(paths), decisions
    for received in pacs.objects:
        derived = received.dataset()
        name, stored, truth = made[derived.SourceImageSequence[0].ReferencedSOPInstanceUID]
        before, after = stored.astype(np.float32), derived.pixel_array.astype(np.float32)
        exposed = truth > 0.02 * truth.max()
        gain = psnr(after, truth, mask=exposed) - psnr(before, truth, mask=exposed)
        _keep_picture(name, before, after, truth)
        print(f"{name}: PSNR {gain:+.2f} dB")
        assert gain > 1.0, (name, gain)
        # What is larger than 64 pixels is not the denoiser's: the local mean stays.
        smooth = [ndimage.gaussian_filter(image, 32) for image in (before, after)]
        assert np.abs(smooth[1] - smooth[0]).max() < 0.01 * truth.max(), name


def _keep_picture(
    name: str, before: NDArray[np.float32], after: NDArray[np.float32], truth: NDArray[np.float32]
) -> None:
    """Write what a person should look at, where LOWDOSE_TEST_PICTURES names a folder."""
    folder = os.environ.get("LOWDOSE_TEST_PICTURES")
    if not folder:
        return
    from matplotlib import pyplot as plt

    middle = (
        slice(truth.shape[0] // 3, truth.shape[0] // 3 + 256),
        slice(truth.shape[1] // 3, truth.shape[1] // 3 + 256),
    )
    figure, axes = plt.subplots(1, 4, figsize=(18, 5), layout="constrained")
    seen = [-np.log(np.maximum(image, 1.0))[middle] for image in (before, after, truth)]
    low, high = np.percentile(seen[2], (0.5, 99.5))
    for axis, image, title in zip(axes, seen, ("low dose", "enhanced", "truth"), strict=False):
        axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(f"{name}: {title}")
    axes[3].imshow((before - after)[middle], cmap="gray", interpolation="nearest")
    axes[3].set_title("removed")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(Path(folder) / f"{name.replace(' ', '-')}.png", dpi=70)
    plt.close(figure)
