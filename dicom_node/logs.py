"""Log lines: a constant sentence and its facts, as text for people or as JSON for machines.

Facts are UIDs, AE titles, numbers and reasons. Patient attributes and pixels are never logged.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from datetime import UTC, datetime

from config.settings import LoggingSettings

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Libraries whose information is not the operator's: their warnings still come through. pynetdicom and DBOS log
# errors of peers and of retries that the node turns into outcomes of its own.
_QUIET = {
    "pynetdicom": logging.CRITICAL,
    "pydicom": logging.ERROR,
    "dbos": logging.ERROR,
    "apscheduler": logging.ERROR,
    "openjpeg": logging.ERROR,
    "highdicom": logging.ERROR,
    "httpx": logging.ERROR,
    "httpcore": logging.ERROR,
}


def facts(record: logging.LogRecord) -> dict[str, object]:
    """Return what was given as `extra`."""
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


class TextFormatter(logging.Formatter):
    """One line for people: time, severity, role, sentence, facts."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        pairs = " ".join(f"{key}={_printable(value)}" for key, value in facts(record).items() if value is not None)
        line = f"{at} {record.levelname:<7} {self._role}: {record.getMessage()}{' ' if pairs else ''}{pairs}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


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
            "message": record.getMessage(),
            **facts(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


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
