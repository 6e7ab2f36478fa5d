"""Message of a failed stage, and the decision to retry it.

Transient errors are retried: a broken connection, a server that is down or overloaded, a device that another process
holds. Bad input, corrupt data or a loss that is not finite fail the second time as the first. Errors are recognized by
the names of their types, so none of the libraries that raise them is imported here.
"""

import errno
import functools
import logging
import re
import ssl
import traceback
from collections.abc import Callable
from typing import Any

from prefect.states import Failed, State

from flows.errors import StageFailed, format_error, is_own
from tasks.executors.worker import causes

TRANSIENT_TYPES = {
    "builtins": {"ConnectionError", "TimeoutError"},
    "socket": {"gaierror"},
    "http": {"IncompleteRead", "RemoteDisconnected"},
    "httpx": {"NetworkError", "ProxyError", "RemoteProtocolError", "TimeoutException"},
    "httpx2": {"NetworkError", "ProxyError", "RemoteProtocolError", "TimeoutException"},
    "requests": {"ChunkedEncodingError", "ConnectionError", "Timeout"},
    "aiohttp": {"ClientConnectionError", "ClientPayloadError"},
    "botocore": {"ConnectionError", "HTTPClientError", "IncompleteReadError"},
    "ray": {"NodeDiedError", "WorkerCrashedError", "ObjectLostError", "ActorDiedError"},
    "flows": {"LeaseExpired"},
    "lightgen_core": {"EndpointUnreachable"},
    "storage": {"StoreUnavailable"},
}
"""Transient error classes by top-level module; subclasses count too."""

TRANSIENT_ERRNO = {
    getattr(errno, name)
    for name in ("EAGAIN", "EBUSY", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO", "ESTALE", "ETIMEDOUT")
    if hasattr(errno, name)
}
"""Codes of a transient `OSError`; s3fs maps "slow down" to EBUSY and an internal error of S3 to EREMOTEIO."""

TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
"""Status codes of a transient HTTP error."""

OTHER_PROCESS_GIB = 2
"""GiB on the device outside this process, above which another one is assumed to use it."""


def fail_with_message(body: Callable[[], State[Any]]) -> Callable[[], State[Any]]:
    """Make a task's body return a failed state with a message instead of raising."""

    @functools.wraps(body)
    def run() -> State[Any]:
        try:
            return body()
        except Exception as error:  # whatever it is: the run ends here, and its cause is kept with the state
            for cause in causes(error):
                traceback.clear_frames(cause.__traceback__)  # else their tensors hold the device in the next try
            return Failed(message=format_error(error), data=error)

    return run


def without_traceback(record: logging.LogRecord) -> bool:
    """Log an error of this project by its message alone (a filter for Prefect's loggers)."""
    error = record.exc_info[1] if record.exc_info else None
    cause = error.__cause__ if isinstance(error, StageFailed) else error
    if cause is not None and is_own(cause):
        record.msg, record.args, record.exc_info = str(error), (), None
    return True


def should_retry(task: object, run: object, state: State[Any]) -> bool:
    """Return True if a task that ended in this state should be retried (a `retry_condition_fn`)."""
    error = getattr(state.data, "result", state.data)
    return isinstance(error, BaseException) and is_transient(error)


def is_transient(error: BaseException) -> bool:
    """Return True if an error or one of its causes is transient."""
    chain = list(causes(error))
    for cause in chain:  # clients wrap the former in the error of a broken connection; the latter was waited for
        if isinstance(cause, ssl.SSLCertVerificationError) or type(cause).__name__ == "ClusterError":
            return False
    return any(_is_transient_alone(cause) for cause in chain)


def _is_transient_alone(error: BaseException) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return (
        any(kind.__name__ in TRANSIENT_TYPES.get(kind.__module__.partition(".")[0], ()) for kind in type(error).__mro__)
        or (isinstance(error, OSError) and error.errno in TRANSIENT_ERRNO)
        or status in TRANSIENT_STATUS
        or _is_device_taken(str(error))
    )


def _is_device_taken(text: str) -> bool:
    """Return True if the message shows that another process holds the device or its memory."""
    if "CUDA-capable device" in text and "busy or unavailable" in text:
        return True
    total, free = _gibibytes("total capacity of", text), _gibibytes("of which", text)
    if "CUDA out of memory" not in text or total is None or free is None:
        return False
    ours = _gibibytes("this process has", text)
    if ours is None:  # in a container the driver does not tell which process is this one
        ours = (_gibibytes("Of the allocated memory", text) or 0) + (_gibibytes(r"PyTorch(?: [^.]*)?, and", text) or 0)
    return total - free - ours > OTHER_PROCESS_GIB


def _gibibytes(after: str, text: str) -> float | None:
    found = re.search(rf"{after} ([\d.]+) (GiB|MiB|KiB|bytes)", text)
    return float(found[1]) * {"GiB": 1, "MiB": 2**-10, "KiB": 2**-20, "bytes": 2**-30}[found[2]] if found else None
