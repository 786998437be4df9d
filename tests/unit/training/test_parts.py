"""A file survives being cut into parts, and a missing or altered part is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from training.parts import PartsError, join_parts, split_file


@pytest.mark.parametrize("size", [0, 1, 1000, 1024, 2500])
def test_parts_make_the_file_again(tmp_path: Path, size: int) -> None:
    whole = tmp_path / "w.safetensors"
    whole.write_bytes(np.random.default_rng(size).bytes(size))
    files = split_file(whole, tmp_path / "parts", part_bytes=1024)
    assert all(file.stat().st_size <= 1024 for file in files[:-1])
    joined = join_parts(files[-1], tmp_path / "joined")
    assert joined.name == whole.name
    assert joined.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        ("lost", "part02 can't be read"),
        ("altered", "part02 was altered"),
        ("order", "don't make the file"),
        ("index", "no index of parts"),
    ],
)
def test_a_part_that_is_not_what_was_cut_is_noticed(tmp_path: Path, harm: str, what: str) -> None:
    whole = tmp_path / "w.safetensors"
    whole.write_bytes(np.random.default_rng(0).bytes(3000))
    *parts, index = split_file(whole, tmp_path / "parts", part_bytes=1024)
    facts = json.loads(index.read_text())
    if harm == "lost":
        parts[2].unlink()
    elif harm == "altered":
        parts[2].write_bytes(parts[2].read_bytes()[:-1] + b"\0")
    elif harm == "order":
        index.write_text(json.dumps({**facts, "parts": dict(reversed(facts["parts"].items()))}))
    else:
        index.write_text("{}")
    with pytest.raises(PartsError, match=what):
        join_parts(index, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()
