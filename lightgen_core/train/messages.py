"""What training processes tell their launcher: one line of standard output each, among whatever libraries print."""

import json
import logging
import os
from typing import Any, NamedTuple

MARK = "lightgen-training "
LONGEST_ERROR = 3000
"""Characters of an error's text that are sent."""


class Message(NamedTuple):
    """kind: `row` (of the log, with its timing), `log` (level, text) or `error` (kind, text)."""

    kind: str
    content: dict[str, Any]


def send(kind: str, content: dict[str, Any]) -> None:
    """Writes a message in one piece: processes share the pipe, and a line of up to 4 KB is not torn."""
    line = MARK + json.dumps([kind, content])
    os.write(1, f"\n{line}\n".encode())


def read(line: str) -> Message | None:
    """The message of a line, None for any other line."""
    return Message(*json.loads(line.removeprefix(MARK))) if line.startswith(MARK) else None


class LogMessages(logging.Handler):
    """Sends what the program logs to the launcher."""

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record."""
        send("log", {"level": record.levelno, "text": record.getMessage()})
