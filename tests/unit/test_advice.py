"""Commands that messages advise can be typed as they stand: those that need a settings file say so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PRODUCT = Path(__file__).parents[2] / "dicom_node"
# The Conformance Statement is no message: it names commands in tables, and quotes the remedies of rejections.
MODULES = sorted(path for path in PRODUCT.rglob("*.py") if not {"conformance", "rejections.py"} & {*path.parts})
ADVICE = re.compile(r"dicom-node (status|verify|queue|commitment|shadow|doctor|run|check|route)\b[^;:,.()`]*")


def sentences(path: Path) -> Iterator[str]:
    """Return the texts of a module that are not documentation; what is filled in later stands as {}."""
    tree = ast.parse(path.read_text())
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside | documents:
            yield node.value


def test_every_command_that_is_advised_can_be_typed() -> None:
    found = [(path, match.group()) for path in MODULES for text in sentences(path) for match in ADVICE.finditer(text)]
    assert len(found) > 10
    assert [(path.name, said) for path, said in found if "-c " not in said] == []
