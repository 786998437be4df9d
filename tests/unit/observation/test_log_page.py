"""The page on the log names every key that a record can have."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator

import pytest

from tests.support.node import REPOSITORY

PAGE = (REPOSITORY / "docs" / "logs.md").read_text()


def keys_in(tree: ast.AST) -> Iterator[str]:
    """Yield the keys that code gives to the log: in `extra`, and in what it calls facts."""
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _name(node.func.value) == "log":
            values = [keyword.value for keyword in node.keywords if keyword.arg == "extra"]
        elif isinstance(node, ast.Assign) and {_name(target) for target in node.targets} & {"facts", "extra", "_facts"}:
            values = [node.value]
        for value in values:
            for inner in ast.walk(value):
                if isinstance(inner, ast.Dict):
                    yield from (key.value for key in inner.keys if isinstance(key, ast.Constant))


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def all_keys() -> set[str]:
    files = (REPOSITORY / "dicom_node").rglob("*.py")
    return {key for file in files for key in keys_in(ast.parse(file.read_text()))}


def test_every_key_is_on_the_page() -> None:
    found = all_keys()
    assert {"delivery", "trace_id", "alarm", "calling_ae_title"} <= found
    assert found <= set(re.findall(r"`(\w+)`", PAGE)), found - set(re.findall(r"`(\w+)`", PAGE))


@pytest.mark.parametrize("key", sorted(all_keys()))
def test_no_key_is_one_that_a_record_has_already(key: str) -> None:
    # logging raises where a fact has the name of an attribute of its own, in the middle of the work.
    made = logging.makeLogRecord({})
    assert key not in made.__dict__
    assert key not in {"message", "asctime", "at", "level", "role"}
