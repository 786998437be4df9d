"""Where the weights lie that come with the program; read without PyTorch."""

from __future__ import annotations

from pathlib import Path

from model.errors import WeightsError

PUBLISHED = Path(__file__).parent / "weights"


def find_manifest(name_or_path: str) -> Path:
    """Return the manifest of published weights by name, or of a weights file of your own by path.

    Raises
    ------
    WeightsError
        If there is none.
    """
    path = Path(name_or_path)
    is_file = path.suffix in {".json", ".safetensors"}
    path = path.with_suffix(".json") if is_file else PUBLISHED / f"{name_or_path}.json"
    if not path.is_file():
        published = ", ".join(sorted(p.stem for p in PUBLISHED.glob("*.json"))) or "none"
        raise WeightsError(f"No weights manifest {path}. Published weights: {published}.")
    return path
