"""Where real sample data may lie beside the repository; it is never part of it, and tests without it are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

SAMPLE_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
DICOM_SAMPLES = SAMPLE_DATA / "dicom"

requires_dicom_samples = pytest.mark.skipif(
    not DICOM_SAMPLES.is_dir(), reason="the sample objects are not here (../shared/data/dicom beside the repository)"
)
