"""What of an evaluation travels with the weights."""

from __future__ import annotations

import itertools

from training.publish import pooled


def test_the_manifest_keeps_ours_and_bm3d_where_neither_was_trained() -> None:
    lines = [
        {"source": source, "kernel": kernel, "method": method}
        for source, kernel, method in itertools.product(
            ("unseen sources", "real sources", "phantom", "hip"),
            ("csi", "white"),
            ("noisy", "ours, blind", "bm3d", "bm3d psd", "nlm"),
        )
    ]
    kept = pooled({"summary": lines, "sha256": "a", "full_dose_quanta": 600.0, "seeds": 5})
    assert kept["sha256"] == "a"
    assert {(line["source"], line["kernel"], line["method"]) for line in kept["summary"]} == set(
        itertools.product(("unseen sources", "phantom"), ("csi",), ("ours, blind", "bm3d", "bm3d psd"))
    )
