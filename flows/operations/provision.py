"""Create the work pool, limit and automations that deployments need.

`python -m flows.operations.provision` does it, and may be repeated.
"""

import sys
import time
from pathlib import Path

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from tasks.config.settings import Settings

WORK_POOL = "lightgen"
AUTOMATIONS = Path(__file__).parents[1] / "automations"
STARTING = 60.0
"""Seconds that a server may take to answer after its start, on a busy machine."""


def provision(client: SyncPrefectClient, device_limit: str | None) -> list[str]:
    """Create the work pool, the device's concurrency limit and the automations, if missing; return a message for each.

    A paused pool and a raised limit stay as they are. Automations are updated from their files by name; a disabled one
    stays disabled.
    """
    messages = [_work_pool(client)]
    if device_limit is not None:
        messages.append(_concurrency_limit(client, device_limit))
    return messages + [_automation(client, path) for path in sorted(AUTOMATIONS.glob("*.yaml"))]


def _work_pool(client: SyncPrefectClient) -> str:
    try:
        client.read_work_pool(WORK_POOL)
        return f"work pool {WORK_POOL} is there"
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process", base_job_template=template))
        return f"work pool {WORK_POOL} made"


def _concurrency_limit(client: SyncPrefectClient, name: str) -> str:
    try:
        limit = client.read_global_concurrency_limit_by_name(name).limit
        return f"concurrency limit {name} is there: {limit} at once"
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        return f"concurrency limit {name} made: 1 at once"


def _automation(client: SyncPrefectClient, path: Path) -> str:
    automation = AutomationCore.model_validate(yaml.safe_load(path.read_text()))
    existing = client.find_automation(automation.name)
    if existing is None:
        client.create_automation(automation)
        return f"automation {automation.name} made"
    client.update_automation(existing.id, automation.model_copy(update={"enabled": existing.enabled}))
    return f"automation {automation.name} made to say what {path.name} says"


def wait_for_server(client: SyncPrefectClient, seconds: float) -> None:
    """Wait for a server that was started a moment ago.

    Raises:
        httpx.ConnectError: none answers in this time.
    """
    end = time.monotonic() + seconds
    while error := client.api_healthcheck():
        if time.monotonic() > end or not isinstance(error, httpx.ConnectError):
            raise error
        time.sleep(0.5)


def main() -> None:
    """Provision the server that is configured; exit with 2 if none answers."""
    with get_client(sync_client=True) as client:
        try:
            wait_for_server(client, STARTING)
            print(*provision(client, Settings().device_limit), sep="\n")
        except httpx.ConnectError as error:
            print(
                f"no Prefect server answers at {client.api_url} ({error}), after {STARTING:.0f} seconds.\n"
                "Start it (`prefect server start --background`), or name another in PREFECT_API_URL.",
                file=sys.stderr,
            )
            sys.exit(2)


if __name__ == "__main__":
    main()
