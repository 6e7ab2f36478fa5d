"""A JSON endpoint that may be busy, slow or down: POST with a rate limit, retries, and a key that is never shown."""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock
from types import TracebackType
from typing import Any, Self

import httpx

_BUSY = (408, 409, 425, 429)
_UNUSABLE = (401, 402, 403, 404, 405)
_SAID = 300  # characters of a server's words that an error repeats


class EndpointError(Exception):
    """No request can succeed: the address, the key, the quota or the server itself. The run should stop."""


class EndpointUnreachable(EndpointError):
    """The server does not answer, or says that it is overloaded; it may answer later."""


class RequestFailed(Exception):
    """This request got no usable answer, others may: refused, or failed at every attempt."""


class RequestRefused(RequestFailed):
    """The server does not do what was asked, such as draw against its content policy; asking again is of no use."""


@dataclass(frozen=True)
class Patience:
    """How fast to ask and how long to go on asking.

    Attributes:
        requests_per_minute: most requests sent in a minute, evenly spaced, retries included; None: no limit.
        attempts: of one request, the first included.
        first_wait: seconds before the second attempt; doubled for each further one.
        longest_wait: seconds that a wait has at most. A server that asks for more has no quota left.
        timeout: seconds until a silent server is taken for dead.
    """

    requests_per_minute: float | None = None
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 120.0
    timeout: float = 300.0


@dataclass(frozen=True)
class _Trouble:
    """Why an attempt failed, when the server allows the next, and whether other requests would fail too."""

    why: str
    retry_after: float = 0.0
    everywhere: bool = False


class Endpoint:
    """Posts JSON and returns JSON; safe to use from several threads.

    Answers 408, 409, 425, 429 and 5xx, broken connections and bodies that are not JSON objects are tried again, with
    doubled waits; `Retry-After` holds all threads back. The key goes into the request's header and nowhere else.

    Args:
        url: base address such as "https://api.openai.com/v1".
        key: sent as a bearer token; None or empty: none.

    Raises:
        EndpointError: the address or the key cannot be used.
    """

    def __init__(self, url: str, key: str | None = None, patience: Patience | None = None) -> None:
        self.url = _checked_url(url)
        self.patience = patience or Patience()
        self._key = _checked_key(key)
        self._gate = _Gate(self.patience.requests_per_minute)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(headers=headers, timeout=self.patience.timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request.

        Args:
            path: below the base address, such as "chat/completions".
            body: sent as JSON.

        Raises:
            RequestFailed: this request was refused, or failed at every attempt.
            EndpointError: any other request would fail too; EndpointUnreachable where that may change.
        """
        trouble = _Trouble("not asked")
        for attempt in range(self.patience.attempts):
            if attempt:
                time.sleep(min(self.patience.first_wait * 2 ** (attempt - 1), self.patience.longest_wait))
            self._gate.pass_through()
            answer = self._attempt(path, body)
            if not isinstance(answer, _Trouble):
                return answer
            trouble = answer
            if trouble.retry_after > self.patience.longest_wait:
                raise EndpointError(
                    f"{self._name(path)} asks to wait {trouble.retry_after:.0f} s: {trouble.why}; run again then"
                )
            self._gate.hold(trouble.retry_after)
        said = f"{self._name(path)} failed {self.patience.attempts} times, the last time: {trouble.why}"
        if trouble.everywhere:
            raise EndpointUnreachable(
                f"{said}; check the address, and run again once it answers: what is finished is kept"
            )
        raise RequestFailed(said)

    def post_all(
        self, path: str, bodies: Iterable[Mapping[str, Any]], concurrency: int
    ) -> list[dict[str, Any] | RequestFailed]:
        """Return the answer to each request, or why it has none, in order; `concurrency` are under way at once.

        Raises:
            EndpointError: as `post`; requests that were not yet sent are not sent.
        """

        def ask(body: Mapping[str, Any]) -> dict[str, Any] | RequestFailed:
            try:
                return self.post(path, body)
            except RequestFailed as error:
                return error

        with ThreadPoolExecutor(concurrency) as pool:
            waiting = [pool.submit(ask, body) for body in bodies]
            try:
                return [answer.result() for answer in waiting]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _attempt(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | _Trouble:
        try:
            response = self._client.post(f"{self.url}/{path}", json=body)
        except httpx.ReadTimeout:
            return _Trouble(f"no answer within {self.patience.timeout:g} s")
        except httpx.RequestError as error:
            unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            return _Trouble(f"{type(error).__name__}: {self._hidden(str(error))}", everywhere=unreachable)
        status = response.status_code
        said = f"status {status}: {self._hidden(response.text)[:_SAID]!r}"
        if status in _BUSY or status >= 500:
            return _Trouble(said, _retry_after(response.headers), everywhere=status in (429, 503))
        if status in _UNUSABLE or 300 <= status < 400:
            raise EndpointError(f"{self._name(path)} answers {said}; check the address, the model's name and the key")
        if status >= 400:
            raise RequestRefused(f"refused with {said}")
        try:
            answer = response.json()
        except ValueError:
            return _Trouble(f"not JSON: {self._hidden(response.text)[:_SAID]!r}")
        return answer if isinstance(answer, dict) else _Trouble(f"found JSON {type(answer).__name__}, not an object")

    def _name(self, path: str) -> str:
        return f"endpoint {self.url}/{path}"

    def _hidden(self, text: str) -> str:
        """The text without the key, should a server or a library repeat it."""
        return text.replace(self._key, "***") if self._key else text


class _Gate:
    """Lets the requests of all threads through: evenly spaced, and none while the server asks to wait."""

    def __init__(self, per_minute: float | None) -> None:
        self._spacing = 60 / per_minute if per_minute else 0.0
        self._opens = 0.0
        self._lock = Lock()

    def hold(self, seconds: float) -> None:
        with self._lock:
            self._opens = max(self._opens, time.monotonic() + seconds)

    def pass_through(self) -> None:
        """Wait for this thread's turn."""
        while (wait := self._take_turn()) > 0:
            time.sleep(wait)

    def _take_turn(self) -> float:
        """Return 0 and close the gate behind the caller, or the seconds until it opens."""
        with self._lock:
            now = time.monotonic()
            if now < self._opens:
                return self._opens - now
            self._opens = now + self._spacing
            return 0.0


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds that a server asks to wait: a number, or a date (RFC 9110, 10.2.3); 0 where it says nothing readable."""
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
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
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
