"""The Prefect server of a command: what counts as its answer."""

import pytest

from flows.errors import UserError
from flows.operations import server
from tests.support.local_endpoint import Reply, serving

JSON = {"Content-Type": "application/json"}
JSON_TRUE = Reply(True, 200, JSON)


@pytest.mark.parametrize(
    "reply",
    [JSON_TRUE, Reply({"exception_message": "Unauthorized"}, 401, JSON), Reply({"detail": "Not Found"}, 404, JSON)],
    ids=["healthy", "with a password", "without this route"],
)
def test_any_answer_in_json_is_an_api(reply):
    with serving([reply]) as asked:
        server._require_answer(f"{asked.url}/api")


@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_page_is_no_api(status):
    """Prefect's own UI answers with its page at every address outside of /api."""
    page = Reply(b"<html></html>", status, {"Content-Type": "text/html"})
    with serving([page]) as asked, pytest.raises(UserError) as error:
        server._require_answer(asked.url)
    assert str(error.value) == (
        f"{asked.url}, the address in PREFECT_API_URL or in a profile, answers, but is no Prefect API.\n"
        f"Prefect's addresses end in /api, as in {asked.url.removesuffix('/v1')}/api."
    )


def test_a_proxy_that_waits_for_the_server_is_waited_for():
    page = Reply(b"<html></html>", 502, {"Content-Type": "text/html"})
    with serving([page, page, JSON_TRUE]) as asked:
        server._require_answer(f"{asked.url}/api")


def test_a_proxy_without_a_server_is_no_answer(monkeypatch):
    monkeypatch.setattr(server, "STARTUP_TIMEOUT_SECONDS", 0)
    page = Reply(b"<html></html>", 503, {"Content-Type": "text/html"})
    with serving([page]) as asked, pytest.raises(UserError, match=r"no Prefect server answered at .*503"):
        server._require_answer(f"{asked.url}/api")
