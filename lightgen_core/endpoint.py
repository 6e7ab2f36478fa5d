"""OpenAI-compatible servers: `openai` with a rate limit and clear errors.

Importing this module imports `openai` (more than a second), so callers import it where they need it.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import httpx2
import openai

_RETRIED = (408, 409, 429)  # and 5xx: the statuses that `openai` tries again
_UNUSABLE = (401, 402, 403, 404, 405)
_MODERATED = re.compile(r"moderat|flagged|content.?(policy|filter)|safety", re.I)
_MAX_RETRY_AFTER = 120.0  # seconds; `openai` does not wait any longer
_EXCERPT = 300  # characters of an answer that an error repeats


class EndpointError(Exception):
    """No request can succeed (address, key, quota, server); the run should stop."""


class EndpointUnreachable(EndpointError):
    """The server does not answer or is overloaded; it may answer later."""


class RequestFailed(Exception):
    """This request was refused or failed at every attempt; others may succeed."""


class RequestRefused(RequestFailed):
    """The server refuses this request, for instance by its content policy."""


class Endpoint:
    """Post JSON and return JSON; safe to use from several threads.

    `openai` retries 408, 409, 429, 5xx and broken connections, waits 0.5 s and doubles that up to 8 s, or waits as long
    as `Retry-After` asks, up to two minutes. Here a body that is no JSON object and an error inside a 200 are retried
    as well, and `Retry-After` holds all threads back. The key goes into the request's header and nowhere else.

    Args:
        key: sent as a bearer token; none is sent if None or empty.
        requests_per_minute: upper limit, evenly spaced, retries included.
        timeout: seconds after which a silent server counts as dead.

    Raises:
        EndpointError: the address or the key cannot be used.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        requests_per_minute: float | None = None,
        max_retries: int = 7,
        timeout: float = 300.0,
    ) -> None:
        self.url, self.timeout = _checked_url(url), timeout
        self._key = _checked_key(key)
        self._options: openai.RequestOptions = {} if self._key else {"headers": {"Authorization": openai.Omit()}}
        self._limiter = RateLimiter(requests_per_minute)
        self._client = openai.OpenAI(
            base_url=self.url,
            api_key=self._key or "none",
            admin_api_key="",  # not the one in the environment
            max_retries=max_retries,
            http_client=openai.DefaultHttpxClient(
                timeout=timeout,
                follow_redirects=False,
                event_hooks={"request": [lambda request: self._limiter.acquire()], "response": [self._check_response]},
            ),
        )
        # A server other than OpenAI's has no use for what the environment says of an account there.
        self._client.organization = self._client.project = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request, plain JSON: servers differ too much for the types of `openai`.

        Raises:
            RequestFailed: this request was refused, or failed at every attempt.
            EndpointError: any other request would fail too; EndpointUnreachable if that may change.
        """
        try:
            response = self._client.post(f"/{path}", cast_to=httpx2.Response, body=body, options=self._options)
        except openai.APIStatusError as error:
            raise self._status_error(f"endpoint {self.url}/{path}", error) from None  # its text may repeat the key
        except openai.APIConnectionError as error:
            raise self._connection_error(f"endpoint {self.url}/{path}", error) from None
        return response.json()

    def _check_response(self, response: httpx2.Response) -> None:
        """Make `openai` retry unusable answers; let `Retry-After` hold all threads back."""
        if response.status_code == 429 and b"insufficient_quota" in response.read():
            response.status_code = 402
        elif response.status_code in _RETRIED or response.status_code >= 500:
            wait = _retry_after(response.headers)
            self._limiter.hold(wait if wait <= _MAX_RETRY_AFTER else 0.0)
        elif response.is_success:
            response.read()
            try:
                answer = response.json()
            except ValueError:
                excerpt = self._redact(response.text)[:_EXCERPT]
                raise httpx2.DecodingError(f"not JSON: {excerpt!r}", request=response.request) from None
            if not isinstance(answer, dict):
                raise httpx2.DecodingError(f"JSON {type(answer).__name__}, not an object", request=response.request)
            if answer.get("error") and not (answer.get("data") or answer.get("choices")):
                response.status_code = _status_of(answer["error"])

    def _status_error(self, name: str, error: openai.APIStatusError) -> Exception:
        status, text = error.status_code, self._redact(error.response.text)
        message = f"status {status}: {text[:_EXCERPT]!r}"
        if status in _RETRIED or status >= 500:
            wait = _retry_after(error.response.headers)
            if wait > _MAX_RETRY_AFTER:
                return EndpointError(f"{name} asks to wait {wait:.0f} s: {message}; run again then")
            return _exhausted(name, error, message, server_wide=status in (429, 503))
        moderated = status == 403 and _MODERATED.search(text)  # OpenRouter's status of a flagged prompt
        if (status in _UNUSABLE and not moderated) or 300 <= status < 400:
            return EndpointError(f"{name} answers {message}; check the address, the model's name and the key")
        return RequestRefused(f"refused with {message}")

    def _connection_error(self, name: str, error: openai.APIConnectionError) -> Exception:
        cause = error.__cause__
        if isinstance(cause, httpx2.ReadTimeout):
            return _exhausted(name, error, f"no answer within {self.timeout:g} s", server_wide=False)
        unreachable = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)
        return _exhausted(name, error, f"{type(cause).__name__}: {self._redact(str(cause))}", server_wide=unreachable)

    def _redact(self, text: str) -> str:
        """Return a text without the key, which servers may repeat."""
        return text.replace(self._key, "***") if self._key else text


class AnswerCache:
    """Answers on disk until their batch is complete: a run that stops before does not pay for them again.

    Args:
        folder: of one artifact, since a key holds only what differs inside it; None keeps nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def get(self, key: tuple[str, int], request: Callable[[], bytes]) -> bytes:
        """Return the kept answer to a prompt with a seed, or request it and keep it."""
        if self._folder is None:
            return request()
        path = self._path(self._folder, key)
        if not path.exists():
            (part := path.with_suffix(".part")).write_bytes(request())
            part.replace(path)
        return path.read_bytes()

    def clear(self, keys: Iterable[tuple[str, int]]) -> None:
        """Forget the answers of a batch."""
        if self._folder is not None:
            for key in keys:
                self._path(self._folder, key).unlink(missing_ok=True)

    @staticmethod
    def _path(folder: Path, key: tuple[str, int]) -> Path:
        return folder / f"answer-{hashlib.sha256(json.dumps(key).encode()).hexdigest()}"


class RateLimiter:
    """A limit on the requests of all threads, evenly spaced."""

    def __init__(self, per_minute: float | None) -> None:
        self._spacing = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = Lock()

    def hold(self, seconds: float) -> None:
        """Let no request pass for some seconds."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def acquire(self) -> None:
        """Wait for this thread's turn."""
        while (wait := self._take_turn()) > 0:
            time.sleep(wait)

    def _take_turn(self) -> float:
        """Return 0 and book the turn, or the seconds until the next one."""
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return self._next - now
            self._next = now + self._spacing
            return 0.0


def _exhausted(name: str, error: openai.APIError, message: str, *, server_wide: bool) -> Exception:
    """Return the error of a request whose last attempt failed."""
    attempts = int(error.request.headers.get("x-stainless-retry-count", 0)) + 1
    text = f"{name} failed {attempts} times, the last time: {message}"
    if server_wide:
        return EndpointUnreachable(
            f"{text}; check the address, and run again once it answers: what is finished is kept"
        )
    return RequestFailed(text)


def _status_of(error: Any) -> int:
    """Return the status inside the error of a 200 (OpenRouter, LiteLLM), else 400 for a moderated prompt, or 500."""
    code = str(error.get("code")) if isinstance(error, dict) else ""
    if re.fullmatch(r"[45]\d\d", code):
        return int(code)
    return 400 if _MODERATED.search(str(error)) else 500


def _retry_after(headers: httpx2.Headers) -> float:
    """Return the seconds of `Retry-After`, a number or date (RFC 9110, 10.2.3), else 0."""
    text = headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _checked_url(url: str) -> str:
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise EndpointError(f"the endpoint's address cannot be read: {error}") from error
    if parts.userinfo or parts.query:
        # They would be shown in logs and errors.
        raise EndpointError(
            f"the address of the endpoint at {parts.host} holds a user or a query; give secrets as the key"
        )
    if parts.scheme not in ("http", "https") or not parts.host:
        raise EndpointError(f"found endpoint {url!r}; expected an address such as http://localhost:8000/v1")
    return str(parts).rstrip("/")


def _checked_key(key: str | None) -> str:
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        # The HTTP library's own error would repeat the key.
        raise EndpointError("the endpoint's key holds characters that a header cannot; was it copied whole?")
    return key
