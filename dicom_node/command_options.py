"""What every command spells the same way: its options, and its answer as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="Settings file.", metavar="FILE")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")]


def print_json(value: dict[str, Any]) -> None:
    """Print the one object that `--json` promises."""
    print(json.dumps(value, indent=2))
