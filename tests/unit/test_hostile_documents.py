"""The page on hostile input says what the corpus holds."""

from __future__ import annotations

from tests.conftest import REPOSITORY
from tests.support.hostile_documents import document


def test_the_page_is_that_of_the_corpus() -> None:
    page = (REPOSITORY / "docs" / "hostile-input.md").read_text(encoding="utf-8")
    assert page == document(), "python -m tests.support.hostile_documents > docs/hostile-input.md"
