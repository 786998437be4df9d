"""A data folder that can't be used: what is said fits what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.settings import Settings
from dicom_node.state import EXIT_DATA_DIR, StartRefused, open_state


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda path: path.write_text("a file"), "what lies there is no folder; name another node.data_dir"),
        (
            lambda path: path.symlink_to(path.parent / "gone" / "away"),
            "what lies there is no folder; name another node.data_dir",
        ),
    ],
    ids=["a file", "a link to nowhere"],
)
def test_what_is_wrong_with_the_data_folder_is_said(tmp_path: Path, make: object, advice: str) -> None:
    folder = tmp_path / "data"
    make(folder)  # type: ignore[operator]
    settings = Settings.model_validate({"node": {"data_dir": str(folder)}})
    with pytest.raises(StartRefused, match=advice) as caught, open_state(settings):
        pass
    assert caught.value.exit_code == EXIT_DATA_DIR
