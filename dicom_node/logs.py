"""Log lines: a constant sentence and its facts, as text for people or as JSON for machines.

Facts are UIDs, AE titles, numbers and reasons. Patient attributes and pixels are never logged.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
import warnings
from datetime import UTC, datetime
from types import TracebackType

from config.settings import LoggingSettings
from dicom_node.errors import describe
from dicom_node.observation.correlation import TRACE_ID, current_trace_id

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Libraries whose information is not the operator's: their warnings still come through. pynetdicom and DBOS log
# errors of peers and of retries that the node turns into outcomes of its own.
_QUIET = {
    "pynetdicom": logging.CRITICAL,
    "pydicom": logging.CRITICAL,
    "dbos": logging.ERROR,
    "apscheduler": logging.ERROR,
    "openjpeg": logging.CRITICAL,
    "highdicom": logging.CRITICAL,
    "httpx": logging.ERROR,
    "httpcore": logging.ERROR,
    # A collector that is away is no fault of the node's; its spans are dropped.
    "opentelemetry": logging.CRITICAL,
}


def facts(record: logging.LogRecord) -> dict[str, object]:
    """Return what was given as `extra`, and the id of the study that it is about."""
    given = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
    if not given.get(TRACE_ID):
        given.pop(TRACE_ID, None)
        if trace_id := current_trace_id():
            given[TRACE_ID] = trace_id
    return given


_OURS = ("dicom_node", "model", "__main__")


def _sentence(record: logging.LogRecord) -> str:
    """Return the message; of a library's no more than its beginning, as what it ends with may quote a value."""
    message = record.getMessage()
    return message if record.name.split(".")[0] in _OURS else message.split(":")[0]


ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def where(error: BaseException | None) -> str:
    """Return the traceback of an error and of what led to it, each with no more than `describe` tells.

    Messages of libraries quote the values that they stumble over, and a traceback would print them all.
    """
    lines: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = traceback.extract_tb(error.__traceback__)
        lines[:0] = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames] + [
            f"{type(error).__name__}: {describe(error)}"
        ]
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None:
            lines.insert(0, "which led to:")
        error = cause
    return "\n".join(lines)


def hook_exceptions() -> None:
    """Let what nobody catches end with `where` on standard error, not with the traceback that Python would print."""

    def tell(error: BaseException | None, thread: str) -> None:
        if not isinstance(error, KeyboardInterrupt | SystemExit | None):
            print(f"Unforeseen error{thread}:\n{where(error)}", file=sys.stderr, flush=True)

    sys.excepthook = lambda _kind, error, _trace: tell(error, "")
    threading.excepthook = lambda what: tell(what.exc_value, f" in thread {what.thread.name if what.thread else ''}")
    sys.unraisablehook = lambda what: tell(what.exc_value, " while something was disposed of")


class TextFormatter(logging.Formatter):
    """One line for people: time, severity, role, sentence, facts."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        pairs = " ".join(f"{key}={_printable(value)}" for key, value in facts(record).items() if value is not None)
        line = f"{at} {record.levelname:<7} {self._role}: {_sentence(record)}{' ' if pairs else ''}{pairs}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")

    def formatException(self, ei: ExceptionInfo) -> str:
        """Return where it happened, without what libraries say of it."""
        return where(ei[1])


class JsonFormatter(logging.Formatter):
    """One JSON object for each line."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self._role,
            "message": _sentence(record),
            **facts(record),
        }
        if record.exc_info:
            line["exception"] = where(record.exc_info[1])
        return json.dumps(line, default=str)


def speak_with_facts(role: str) -> None:
    """Let warnings of a process that sends its log nowhere, such as a command's, come with their facts."""
    # Python prints them by this handler, the sentence alone.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(TextFormatter(role))


def configure_logging(settings: LoggingSettings, role: str) -> None:
    """Send the log of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(role) if settings.format == "json" else TextFormatter(role))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    # pydicom's warnings quote attribute values, which may be a patient's.
    warnings.simplefilter("ignore")


def _printable(value: object) -> str:
    # What peers send may hold control characters; a log line stays one line.
    text = str(value)
    return json.dumps(text) if not text.isprintable() or " " in text or text == "" else text
