"""The page on deadlines: its examples are valid as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from config.loading import load_settings
from config.settings import Late

PAGE = (Path(__file__).parents[2] / "docs" / "deadlines.md").read_text()
OTHERS = """
[[sources]]
name = "all"
ae_titles = ["XRAY1"]
[[destinations]]
name = "pacs"
ae_title = "P"
host = "p"
port = 104
"""


def test_the_examples_are_settings(tmp_path: Path) -> None:
    found = []
    for number, example in enumerate(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(OTHERS + example)
        found += load_settings(file).routes
    assert [(route.late, route.shadow) for route in found] == [(Late.FOLLOW, False), (Late.ORIGINAL_ONLY, True)]
