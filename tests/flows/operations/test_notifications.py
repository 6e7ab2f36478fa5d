"""Notifications: Prefect's automations send by a block of the user's, here to a webhook of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.commands.notify import notify
from flows.errors import UserError
from flows.operations.notifications import OCCASIONS, switch_off, switch_on
from tests.support.local_endpoint import Asked, Reply, serving
from tests.support.paths import TWO_STAGES
from tests.support.prefect_server import PrefectServer, prefect_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow(rank=40)

SHORTEST = 10 / 3600
"""Hours; Prefect waits for an event that should have come at least ten seconds."""
BLOCKS = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.webhook import Webhook
message = {"subject": "{{subject}}", "body": "{{body}}"}
CustomWebhookNotificationBlock(name="mine", url=sys.argv[1], json_data=message).save("mine")
Webhook(url=sys.argv[1]).save("bare")
"""


@pytest.fixture(scope="module")
def webhook() -> Iterator[Asked]:
    with serving([Reply()]) as asked:
        yield asked


@pytest.fixture(scope="module")
def server(tmp_path_factory, webhook) -> Iterator[PrefectServer]:
    """A server with a notification block, and a block that is none."""
    home = tmp_path_factory.mktemp("server")
    with prefect_server(home, LIGHTGEN_RETRIES="0") as running:
        done = running.run("-c", BLOCKS, webhook.url)
        assert done.returncode == 0, done.stderr
        yield running


@pytest.fixture
def client(server, webhook) -> Iterator[SyncPrefectClient]:
    """A client of the server, which sends nothing any more when a test ends."""
    webhook.bodies.clear()
    with (
        temporary_settings({PREFECT_API_URL: f"{server.url}/api"}),
        get_client(sync_client=True) as client,
    ):
        yield client
        switch_off(client, OCCASIONS)


def run_two_stages(server: PrefectServer, folder: Path, trouble: str) -> dict:
    """Run a flow with this trouble to its end; return the run."""
    folder.mkdir()
    (folder / "trouble").write_text(trouble)
    server.run(TWO_STAGES, str(folder))
    return server.api.newest_run(folder)


def messages_by_subject(webhook: Asked, number: int) -> dict[str, str]:
    """Wait for messages of so many subjects; return their bodies.

    A server on a busy machine may send a message again whose sending it could not note down: Prefect delivers at least
    once.
    """
    return wait_until(
        lambda: sent if len(sent := {each["subject"]: each["body"] for each in webhook.bodies}) >= number else None,
        said=lambda: f"sent: {webhook.bodies}",
    )


def only_message(webhook: Asked) -> tuple[str, str]:
    (message,) = messages_by_subject(webhook, 1).items()
    return message


def test_all_are_off_until_one_command_and_off_again(server, client):
    assert server.api.post("automations/filter") == []
    on = server.run("-m", "flows", "notify", "custom-webhook/mine")
    assert on.stdout.splitlines() == [f"{occasion}: sent by custom-webhook/mine" for occasion in OCCASIONS], on.stderr
    assert switch_on(client, "custom-webhook/mine", ["done"]) == ["done: sent by custom-webhook/mine"]
    assert len(server.api.post("automations/filter")) == 4
    assert switch_off(client, OCCASIONS) == [f"{occasion}: off" for occasion in OCCASIONS]
    assert server.api.post("automations/filter") == []


def test_a_guarded_stage_and_the_end_are_each_reported(server, client, webhook, tmp_path):
    switch_on(client, "custom-webhook/mine", OCCASIONS)
    run = run_two_stages(server, tmp_path / "store", "guard")
    (done, done_body), (guarded, guarded_body) = sorted(
        messages_by_subject(webhook, 2).items(), key=lambda message: len(message[0])
    )
    assert done == f"LightGen: {run['name']} is done"
    assert f"{server.url}/runs/flow-run/{run['id']}" in done_body
    assert guarded.startswith(f"LightGen: {run['name']} was stopped by a guard in synthesis ")
    assert "stopped early: the winner's error rose" in guarded_body


def test_a_failed_run_is_reported_with_its_message(server, client, webhook, tmp_path):
    switch_on(client, "custom-webhook/mine", OCCASIONS)
    run = run_two_stages(server, tmp_path / "store", "ValueError")
    subject, body = only_message(webhook)
    assert subject == f"LightGen: {run['name']} failed"
    assert "found trouble, expected none" in body


def test_a_run_over_its_budget_of_time_is_reported(server, client, webhook, tmp_path):
    switch_on(client, "custom-webhook/mine", ["over-budget"], SHORTEST)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "trouble").write_text("wait")
    process = server.start(TWO_STAGES, str(tmp_path / "store"), log=tmp_path / "log")
    subject, _ = only_message(webhook)
    (tmp_path / "store" / "trouble").unlink()
    assert process.wait(60) == 0
    run = server.api.newest_run(tmp_path / "store")
    assert subject == f"LightGen: {run['name']} has passed its budget of time"


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("custom-webhook/yours", "found no block custom-webhook/yours; give TYPE/NAME"),
        ("webhook/bare", "the block webhook/bare sends no notifications; give one that does; those of this server: "),
    ],
)
def test_a_block_that_cannot_send_is_refused_with_those_that_can(client, block, said):
    with pytest.raises(UserError, match=said) as refused:
        switch_on(client, block, OCCASIONS)
    assert "custom-webhook/mine" in str(refused.value)


def test_notifications_without_a_server_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(notify, ["custom-webhook/mine"])
    assert isinstance(result.exception, UserError)
    assert "none is configured" in str(result.exception)
