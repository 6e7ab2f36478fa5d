"""Errors for which a stage is tried again, and their messages."""

import errno
import ssl
import weakref

import httpx
import pytest
from prefect.states import State

from flows.errors import format_error
from flows.operations.retries import TRANSIENT_TYPES, fail_with_message, is_transient, should_retry
from lightgen_core.endpoint import EndpointError, EndpointUnreachable
from lightgen_core.launch.ray_cluster import ClusterError
from lightgen_core.train.train_step import NonFiniteLossError
from storage.store import StoreError


def certificate_refused() -> httpx.ConnectError:
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    return error


def no_cluster() -> Exception:
    try:
        raise ClusterError("no Ray cluster answers") from ConnectionRefusedError(111, "Connection refused")
    except ClusterError as error:
        return error


def wrapped(error: Exception) -> StoreError:
    outer = StoreError("the store does not answer")
    outer.__cause__ = error
    return outer


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://localhost")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def out_of_memory(taken: str, allocated: str) -> RuntimeError:
    return RuntimeError(
        f"CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 8.25 MiB is "
        f"free. {taken}Of the allocated memory {allocated} is allocated by PyTorch, with 1.00 GiB allocated in private "
        "pools (e.g., CUDA Graphs), and 330.42 MiB is reserved by PyTorch but unallocated. If reserved but unallocated "
        "memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
    )


TRANSIENT = {
    "reset": ConnectionResetError("reset by peer"),
    "timeout": TimeoutError("timed out"),
    "no route": OSError(errno.EHOSTUNREACH, "no route to host"),
    "S3 slow down": OSError(errno.EBUSY, "Please reduce your request rate."),
    "S3 inside error": OSError(errno.EREMOTEIO, "We encountered an internal error."),
    "http": httpx.ReadTimeout("timed out"),
    "status 503": answered(503),
    "wrapped": wrapped(httpx.ConnectError("refused")),
    "endpoint": EndpointUnreachable("endpoint failed 6 times"),
    "device busy": RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    "another's memory": out_of_memory(
        "Including non-PyTorch memory, this process has 18.90 GiB memory in use. ", "18 GiB"
    ),
    "another's memory, in a container": out_of_memory("Process 2154 has 60.20 GiB memory in use. ", "18.00 GiB"),
    "a process's out of memory": wrapped(out_of_memory("", "18.00 GiB")),
}
PERMANENT = {
    "value": ValueError("found 3, expected 4"),
    "missing": FileNotFoundError(errno.ENOENT, "no such file"),
    "disk full": OSError(errno.ENOSPC, "no space left on device"),
    "permission": PermissionError(errno.EACCES, "denied"),
    "loss": NonFiniteLossError("loss is nan at step 3"),
    "key": EndpointError("endpoint answers 401"),
    "no cluster": no_cluster(),
    "status 404": answered(404),
    "certificate": certificate_refused(),
    "own memory": out_of_memory("Including non-PyTorch memory, this process has 78.90 GiB memory in use. ", "77 GiB"),
    "own memory, in a container": out_of_memory("Process 2154 has 79.10 GiB memory in use. ", "77.50 GiB"),
}


@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT)
def test_what_passes_by_itself_is_tried_again(error):
    assert is_transient(error)


@pytest.mark.parametrize("error", PERMANENT.values(), ids=PERMANENT)
def test_what_fails_again_is_not_tried_again(error):
    assert not is_transient(error)


def test_errors_of_other_libraries_are_reported_with_their_type():
    assert format_error(StoreError("the store is gone")) == "the store is gone"
    assert [format_error(KeyError("a")), format_error(TimeoutError())] == ["KeyError: 'a'", "TimeoutError"]


def test_a_failed_stage_holds_nothing_until_the_next_try():
    class Tensor:
        pass

    held: list[weakref.ref[Tensor]] = []

    def body() -> State[None]:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise ConnectionError("reset by peer")

    state = fail_with_message(body)()
    assert state.message == "ConnectionError: reset by peer" and should_retry(None, None, state)
    assert held[0]() is None


LIBRARIES = {
    "builtins": "builtins",
    "socket": "socket",
    "http": "http.client",
    "httpx": "httpx",
    "requests": "requests.exceptions",
    "aiohttp": "aiohttp",
    "botocore": "botocore.exceptions",
    "ray": "ray.exceptions",
    "lightgen_core": "lightgen_core.endpoint",
    "storage": "storage.base",
    "flows": "flows.operations.device_limit",
}


@pytest.mark.parametrize("library", sorted(set(TRANSIENT_TYPES) - {"httpx2"}))
def test_every_listed_error_is_one_of_its_library(library):
    module = pytest.importorskip(LIBRARIES[library])
    for name in TRANSIENT_TYPES[library]:
        assert getattr(module, name).__module__.partition(".")[0] == library
