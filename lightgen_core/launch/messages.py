"""Messages from training processes to their launcher.

Under torchrun a message is a line of standard output, among whatever libraries print.
"""

import json
import logging
import os
import select
from collections.abc import Callable
from typing import Any, NamedTuple

from lightgen_core.data.batches import DataError
from lightgen_core.model.save import StudentError
from lightgen_core.train.checkpoint import CheckpointError
from lightgen_core.train.train_step import NonFiniteLossError

logger = logging.getLogger(__name__)

MARK = "lightgen-training "

USER_ERRORS = {
    error.__name__: error for error in (NonFiniteLossError, CheckpointError, DataError, StudentError, ValueError)
}
"""Errors of the run itself, which would come again; others may be a lost process or machine."""


class LaunchError(RuntimeError):
    """A training process ended without a message, or with an unexpected error."""


class Message(NamedTuple):
    """kind: `row` (of the log, with its timing), `log` (level, text) or `error` (kind, text)."""

    kind: str
    content: dict[str, Any]


def send(kind: str, content: dict[str, Any]) -> None:
    """Write a message of at most PIPE_BUF bytes, which a shared pipe does not tear; cut a long text."""
    while len(line := f"\n{MARK}{json.dumps([kind, content])}\n".encode()) > select.PIPE_BUF:
        text = content["text"]
        content = content | {"text": text[: min(select.PIPE_BUF, len(text) * 9 // 10)]}
    os.write(1, line)


def read(line: str) -> Message | None:
    """Parse the message of a line; None for other lines, and for one that a library has printed into."""
    if not line.startswith(MARK):
        return None
    try:
        return Message(*json.loads(line.removeprefix(MARK)))
    except json.JSONDecodeError:
        return None


class LauncherLogHandler(logging.Handler):
    """Sends what the program logs to the launcher."""

    def __init__(self, send: Callable[[str, dict[str, Any]], None] = send):
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._send("log", {"level": record.levelno, "text": record.getMessage()})


def error_message(error: BaseException) -> dict[str, str]:
    """Describe an error for the launcher."""
    return {"kind": type(error).__name__, "text": str(error)}


class MessageRelay:
    """The launcher's end: relays rows of the log, each `step` once, and log lines, and keeps the first error."""

    def __init__(self, on_log: Callable[[dict[str, Any]], None] | None):
        self._on_log = on_log
        self.step = 0
        self.error: dict[str, str] | None = None

    def handle(self, message: Message) -> None:
        """Relay a message."""
        if message.kind == "log":
            logger.log(message.content["level"], "%s", message.content["text"])
        elif message.kind == "error":
            self.error = self.error or message.content
        elif message.content["step"] > self.step:
            self.step = message.content["step"]
            if self._on_log:
                self._on_log(message.content)

    def raise_known(self) -> None:
        """Raise any received error of a known class as that class."""
        if self.error is not None and self.error["kind"] in USER_ERRORS:
            raise USER_ERRORS[self.error["kind"]](self.error["text"])
