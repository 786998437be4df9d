"""Fixtures that many tests share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Examples are the same in each run, and how long one takes on a busy machine is no property of the code.
# differing_executors: one test per codec is one test function with several parameters.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("suite")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _usual_floats() -> Iterator[None]:
    """Undo what training does to the processor (denormals become zero), which tests after it would not expect."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real DICOM samples; tests that ask for it are skipped where it is absent."""
    folder = Path(os.environ.get("LOWDOSE_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "dicom").is_dir():
        pytest.skip(f"no real samples in {folder}; name their folder in LOWDOSE_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[object]:
    """Return a running `tests.support.postgres.PostgresCluster`."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (extra cluster)")
    from tests.support.postgres import PostgresCluster, requires_postgres

    if requires_postgres.args[0]:
        pytest.skip(requires_postgres.kwargs["reason"])
    # Not below pytest's own folder: that is closed to the server's user.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        with PostgresCluster(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)
