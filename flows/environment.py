"""Prefect's environment before its import, and the destination of log messages."""

import logging
import os
import tomllib
import warnings
from pathlib import Path
from typing import Any

from flows.terminal import StderrHandler
from tasks.context.software import LOGGERS


def _variables(name: str, value: Any) -> dict[str, str]:
    """Return a table of settings as Prefect's environment variables."""
    if not isinstance(value, dict):
        return {name: str(value)}
    variables: dict[str, str] = {}
    for key, inner in value.items():
        variables |= _variables(f"{name}_{key.upper()}", inner)
    return variables


PREFECT_QUEUES = ("APILogWorker", "EventsWorker")
"""Loggers of Prefect's queues: as a process ends they count what is left to send, after the command's last word."""

_SETTINGS = tomllib.loads((Path(__file__).parent / "prefect.toml").read_text())
PREFECT_DEFAULTS = _variables("PREFECT", _SETTINGS) | {"DO_NOT_TRACK": "1"}
"""Environment variables. Where a command starts in the checkout, Prefect reads the file itself."""


def quiet_prefect() -> None:
    """Set Prefect's environment, as far as the caller has not; call it before Prefect is imported."""
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)


def log_to_prefect() -> None:
    """Send the program's own messages to the log of the current flow run; no progress bars of libraries."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    prefect = logging.getLogger("prefect.extra")
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for handler in prefect.handlers:
            if handler not in logger.handlers:
                logger.addHandler(handler)
        logger.setLevel(min(logger.level or logging.INFO, logging.INFO))


def log_to_stderr() -> None:
    """Send the program's own messages, and warnings of all others, to standard error; no bars of libraries."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress goes through the log; bars only tear it
    logging.basicConfig(handlers=[StderrHandler()], level=logging.WARNING)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    for name in PREFECT_QUEUES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="huggingface_hub")  # of arguments that diffusers and transformers give it
