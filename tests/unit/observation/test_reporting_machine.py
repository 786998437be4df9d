"""What tells of the machine looks at the ledger and makes none."""

from __future__ import annotations

from pathlib import Path

from config.settings import MetricsSettings, NodeSettings, Settings
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.observation.machine import FIGURES_S
from dicom_node.observation.reporting import machine_reporting
from tests.support.peers import wait_until


def test_a_ledger_that_is_not_there_yet_is_not_made_and_is_found_when_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "with space and # and ü"
    folder.mkdir()
    settings = Settings(node=NodeSettings(data_dir=folder), metrics=MetricsSettings(port=0))
    with machine_reporting(settings) as view:
        assert view.facts().figures is None
        assert "unable to open" in view.facts().trouble
        assert list(folder.iterdir()) == []
        database = Database(ledger_url("", folder))
        database.create()
        database.close()
        wait_until(lambda: view.facts().figures is not None, timeout_s=FIGURES_S + 30)
