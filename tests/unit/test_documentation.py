"""The documentation: what it tells people to type exists, and the site builds without asking the internet."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from dicom_node.cli import commands
from dicom_node.command_reference import render_reference

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def typed(text: str) -> Iterator[list[str]]:
    """Yield the words behind each `dicom-node` of a page's code, up to a comment, a pipe or the next command."""
    blocks = re.findall(r"```.*?```|`[^`\n]+`|^ {4,}\S.*$", text, re.DOTALL | re.MULTILINE)
    for block in blocks:
        for line in re.findall(r"dicom-node +([a-z][^\n`]*)", block.replace("\\|", "/")):
            yield re.split(r"\s#|\s*[|;&)>]|\s--\s", line)[0].replace("...", "").split()


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the words name, and the words that are left."""
    command: Any = typer.main.get_command(commands)
    while words and hasattr(command, "commands"):
        # A page may name several at once: list/hold/release.
        names = words[0].split("/")
        unknown = [name for name in names if name not in command.commands]
        assert not unknown, f"no such command: {unknown}"
        command, words = command.commands[names[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    for words in typed(page.read_text(encoding="utf-8")):
        try:
            words = shlex.split(" ".join(words))
        except ValueError:
            # A quotation that goes on behind what was cut off.
            words = [word for word in words if '"' not in word]
        if not words:
            continue
        command, rest = command_of(words)
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
        for word in rest:
            name = word.strip("[]").split("=")[0]
            if re.fullmatch(r"--?[a-z][a-z0-9-]*", name):
                assert name in known, f"{page.name}: dicom-node {' '.join(words)}: no option {name}"


def test_a_command_that_does_not_exist_would_be_seen() -> None:
    [words] = typed("Try `dicom-node queue relaese --all -c FILE` now")
    with pytest.raises(AssertionError, match="relaese"):
        command_of(words)


def test_the_command_reference_is_that_of_the_commands() -> None:
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == render_reference(), (
        "write it again: python -m dicom_node.command_reference > docs/commands.md"
    )


def test_every_decision_is_in_the_list() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((\d{4}-[^)]+\.md)\)", (folder / "index.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


def test_the_site_builds_without_a_broken_link_and_asks_nobody(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra docs)")
    # Strict: a link or an anchor that leads nowhere is an error.
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", ROOT / ".mkdocs.yml"]
    result = subprocess.run(
        [*command, "--site-dir", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert result.returncode == 0, result.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|link)[^>]+(?:src|href)="?https?:', text), page.name
