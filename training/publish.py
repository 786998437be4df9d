"""Turn a checkpoint into published weights: safetensors and manifest."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from model.manifest import ARCHITECTURE, PUBLISHED
from training.checkpoints import earlier_training, own_training

DATA_STATEMENT = (
    "Clean targets: chest radiographs of Hannover Medical School (COVID-19 Image Repository, CC BY 3.0, Winther et al. "
    "2020, doi:10.6084/m9.figshare.12275009), 8-bit, reduced 4x; one cerebral angiography and one digitised mammogram "
    "of the DICOM WG04 compression samples, reduced; procedural phantoms and dead leaves of this repository. Split by "
    "patient. Held out whole: chest radiographs of children (Kermany et al. 2018, CC BY 4.0), a hip CR, a chest DX. "
    "Low dose is simulated; there is no raw FOR PROCESSING data in training. Published images were not used with "
    "their own noise as truth: the exposure is capped so that it stays below a third of the simulated noise."
)


FOLDERS = ("images", "pairs", "noisy")
"""Settings that name folders of the machine that trained: they stay there."""


def data_statement(settings: dict[str, Any]) -> str:
    """Return what the weights were trained on: known for the published settings, counted for others."""
    if settings["name"] in ("lite", "base"):
        return DATA_STATEMENT
    kinds = {"images": "high-dose images", "pairs": "pairs", "noisy": "low-dose images without partner"}
    used = [text for key, text in kinds.items() if settings.get(key)]
    return f"Trained by its user with the settings {settings['name']!r} on own images: {', '.join(used) or 'none'}."


def publish(checkpoint: Path, folder: Path, *, name: str, results: dict[str, Any], half: bool) -> Path:
    """Write ``name.safetensors`` and ``name.json`` into a folder, weights first; returns the manifest's path."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    settings = state["settings"]
    kind = torch.float16 if half else torch.float32
    tensors = {key: value.to(kind).contiguous() for key, value in state["average"].items()}
    content = save_tensors(tensors, metadata={"architecture": ARCHITECTURE})
    noise = settings["noise"]
    manifest = {
        "format": 1,
        "name": name,
        "file": f"{name}.safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
        "architecture": ARCHITECTURE,
        "width": settings["width"],
        "parameters": sum(value.numel() for value in tensors.values()),
        "precision": "float16" if half else "float32",
        "trained_for": {key: noise[key] for key in ("quanta", "kernel_fwhm_px", "structure", "sigma_error")},
        "training": {
            **asdict(own_training(state)),
            "history": [asdict(run) for run in earlier_training(state)],
            "settings": {key: value for key, value in settings.items() if key not in FOLDERS},
        },
        "data": data_statement(settings),
        "results": results,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{name}.safetensors", content)
    path = folder / f"{name}.json"
    _write(path, (json.dumps(manifest, indent=2) + "\n").encode())
    return path


def pooled(report: dict[str, Any]) -> dict[str, Any]:
    """Return what of an evaluation travels with the weights: ours and BM3D, unseen sources and phantoms, CsI noise."""
    kept = [
        line
        for line in report["summary"]
        if line["source"] in ("unseen sources", "phantom")
        and line["kernel"] == "csi"
        and line["method"].startswith(("ours", "bm3d"))
    ]
    head = {key: report[key] for key in ("sha256", "full_dose_quanta", "seeds")}
    return {"note": "checkpoint chosen on images of the same validation sources", **head, "summary": kept}


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def main(arguments: list[str] | None = None) -> int:
    """Publish; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.publish", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("outputs/checkpoints/best_model.pth"))
    parser.add_argument("--name", default="lite")
    parser.add_argument("--folder", type=Path, default=PUBLISHED)
    parser.add_argument("--results", type=Path, default=None, help="JSON of training.evaluate to keep in the manifest")
    parser.add_argument("--float32", action="store_true", help="keep full precision")
    options = parser.parse_args(arguments)
    results = pooled(json.loads(options.results.read_text(encoding="utf-8"))) if options.results else {}
    path = publish(options.checkpoint, options.folder, name=options.name, results=results, half=not options.float32)
    print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
