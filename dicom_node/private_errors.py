"""Keeps what libraries say of their errors out of the workflow engine's database, where it would stay for good."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from dicom_node.errors import NodeError, describe

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Unforeseen(NodeError):
    """An error that nobody foresaw, of which the log has told where it came from; its words may quote an attribute."""


def without_values(function: Callable[P, T]) -> Callable[P, T]:
    """Let a step of a workflow fail with our own errors alone: the engine stores what it is given, words and all."""

    @functools.wraps(function)
    def guarded(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return function(*arguments, **options)
        except NodeError:
            raise
        except Exception as error:
            log.exception("A step failed by an unforeseen error", extra={"step": function.__name__})
            failure = Unforeseen(describe(error))
        raise failure

    return guarded
