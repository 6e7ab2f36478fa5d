"""Provisioning waits for a server that was started a moment ago, and gives up on one that was not."""

import httpx
import pytest

from flows.operations import provision


class Starting:
    """A client of a server that answers at the nth question."""

    api_url = "http://127.0.0.1:4200/api"

    def __init__(self, answers_at: float, error: Exception) -> None:
        self.asked, self._answers_at, self._error = 0, answers_at, error

    def api_healthcheck(self) -> Exception | None:
        self.asked += 1
        return None if self.asked >= self._answers_at else self._error


REFUSED = httpx.ConnectError("[Errno 111] Connection refused")


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    monkeypatch.setattr(provision.time, "sleep", lambda seconds: None)


def test_a_server_that_is_starting_is_waited_for():
    client = Starting(4, REFUSED)
    provision.wait_for_server(client, seconds=60)
    assert client.asked == 4


def test_a_server_that_does_not_come_is_given_up():
    with pytest.raises(httpx.ConnectError):
        provision.wait_for_server(Starting(float("inf"), REFUSED), seconds=0)


def test_a_server_that_refuses_the_password_is_not_waited_for():
    request = httpx.Request("GET", "http://127.0.0.1:4200/api/health")
    denied = httpx.HTTPStatusError("401", request=request, response=httpx.Response(401))
    client = Starting(float("inf"), denied)
    with pytest.raises(httpx.HTTPStatusError):
        provision.wait_for_server(client, seconds=60)
    assert client.asked == 1
