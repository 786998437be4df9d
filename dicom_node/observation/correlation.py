"""The id that a study has along its whole way: in every log record, and as the trace of OpenTelemetry.

It is computed from the Study Instance UID, so that the receiver, every worker, every machine and a node that was
restarted use the same one, and nothing has to be handed on or stored.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

TRACE_ID = "trace_id"
"""The key in a log record."""

_current: ContextVar[str] = ContextVar("trace_id", default="")


def trace_id_of(study_instance_uid: str) -> str:
    """Return the id of a study: 32 hexadecimal digits, as a trace has (W3C Trace Context); empty for no study.

    `printf %s UID | sha256sum | cut -c1-32` gives the same.
    """
    if not study_instance_uid:
        return ""
    return hashlib.sha256(study_instance_uid.encode(errors="replace")).hexdigest()[:32]


def current_trace_id() -> str:
    """Return the id of the study that is being worked on; empty where it is none."""
    return _current.get()


def follow(study_instance_uid: str) -> None:
    """Be about a study from now on, in this thread, up to the end of the `correlated` or `fresh` around it."""
    _current.set(trace_id_of(study_instance_uid))


@contextmanager
def correlated(study_instance_uid: str) -> Iterator[None]:
    """Be about a study within the block."""
    token = _current.set(trace_id_of(study_instance_uid))
    try:
        yield
    finally:
        _current.reset(token)


def fresh(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function begin about nothing, and forget what it came to be about when it ends: threads are used again."""

    @functools.wraps(function)
    def began(*arguments: P.args, **options: P.kwargs) -> T:
        token = _current.set("")
        try:
            return function(*arguments, **options)
        finally:
            _current.reset(token)

    return began
