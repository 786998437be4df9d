"""A pack of clean images holds what training needs, and no reader of image files is needed beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.clean import CleanImage, Split
from training.pack import PackError, read_pack, write_pack


def image(seed: int, *, own_noise: float = 0.01) -> CleanImage:
    attenuation = np.random.default_rng(seed).uniform(-0.3, 2.8, (40 + seed, 50)).astype(np.float32)
    return CleanImage(attenuation=attenuation, own_noise=own_noise, patient=f"s:{seed}", source="s")


def test_a_pack_keeps_both_sides_and_every_fact(tmp_path: Path) -> None:
    split = Split(training=[image(1), image(2, own_noise=0.02)], validation=[image(3)])
    write_pack(split, tmp_path / "deep" / "images.npz")
    back = read_pack(tmp_path / "deep" / "images.npz")
    assert [len(back.training), len(back.validation)] == [2, 1]
    for before, after in zip(split.training + split.validation, back.training + back.validation, strict=True):
        assert (after.own_noise, after.patient, after.source) == (before.own_noise, before.patient, before.source)
        np.testing.assert_allclose(after.attenuation, before.attenuation, atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"no pack", None], ids=["empty", "text", "absent"])
def test_what_is_no_pack_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "images.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PackError, match=r"images\.npz"):
        read_pack(path)


def test_another_archive_of_numpy_is_no_pack(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", other=np.zeros(3))
    with pytest.raises(PackError):
        read_pack(tmp_path / "images.npz")


def test_training_starts_without_the_readers_of_image_files() -> None:
    without = "import sys; sys.modules['SimpleITK'] = sys.modules['pydicom'] = None; import training.train"
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
