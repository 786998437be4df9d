"""Options that every command spells the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="Settings file.", metavar="FILE")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")]
