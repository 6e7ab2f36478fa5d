"""`lightgen serve`: run a recipe on a schedule."""

import asyncio
import contextlib
import datetime
import logging
import signal
import zoneinfo
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from prefect.client.orchestration import get_client
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.server.schemas.schedules import CronSchedule

from flows.did_you_mean import did_you_mean
from flows.errors import UserError
from flows.load import load_recipe, recipe_names
from flows.operations.server import running_server
from flows.run import run
from storage.open_store import open_store
from tasks.config.settings import Settings


def serve(
    recipe: str,
    cron: str,
    *,
    store: str | None = None,
    overrides: Sequence[str] = (),
    timezone: str = "UTC",
    limit: int = 1,
    name: str | None = None,
) -> None:
    """Deploy a recipe with a cron schedule and run it until interrupted.

    Ctrl-C or SIGTERM ends it and pauses the schedule.

    Args:
        limit: maximum number of concurrent runs; others wait.
        name: name of the deployment; default: the recipe's.

    Raises:
        UserError: invalid recipe, override, schedule or time zone, or no server.
        StoreError: the store cannot be opened.
    """
    loaded, uri = load_recipe(recipe, overrides), open_store(store or Settings().store).uri
    path = recipe if recipe in recipe_names() else str(Path(recipe).resolve())
    first, name = _first_run(cron, timezone), name or loaded.name
    with running_server() as address:
        _require_free(name)
        click.echo(
            f"serving lightgen/{name} at {cron!r}, next {first:%Y-%m-%d %H:%M} {timezone}; store {uri}\n"
            f"watch it at {address}/deployments; Ctrl-C ends it",
            err=True,
        )
        deployment = RunnerDeployment.from_flow(
            run,
            name,
            schedule=Cron(cron, timezone=timezone),
            paused=False,  # it was, when it was last served
            parameters={"recipe": path, "store": uri, "overrides": list(overrides)},
            description=loaded.purpose,
            tags=["served"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        logging.getLogger("prefect.runner").setLevel(logging.WARNING)  # else a line every ten seconds per waiting run
        runner = _Runner(name=deployment.name, limit=limit)
        runner.add_deployment(deployment)
        signal.signal(signal.SIGINT, runner.handle_sigterm)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(runner.start())
        click.echo(f"stopped: the schedule of lightgen/{name} is paused until it is served again", err=True)


def _first_run(cron: str, timezone: str) -> datetime.datetime:
    """Return the first time that a schedule comes due."""
    if timezone not in zoneinfo.available_timezones():
        hint = did_you_mean(timezone, zoneinfo.available_timezones())
        raise UserError(f"--timezone {timezone!r} is none.{hint} Give an IANA name such as Europe/Berlin.")
    try:
        (first,) = asyncio.run(CronSchedule(cron=cron, timezone=timezone).get_dates(1))
    except ValueError as error:
        raise UserError(
            f"--cron {cron!r} is no schedule that ever comes due; expected minute, hour, day of the month, month and "
            "day of the week, for example '0 3 * * *' for every night at three"
        ) from error
    return first


def _require_free(deployment: str) -> None:
    """Raise UserError if a work pool owns the deployment already."""
    try:
        with get_client(sync_client=True) as client:
            existing = client.read_deployment_by_name(f"lightgen/{deployment}")
    except ObjectNotFound:
        return
    if existing.work_pool_name:
        raise UserError(
            f"lightgen/{deployment} is deployed already, to the workers of pool {existing.work_pool_name}.\n"
            "Give it a schedule there (its page in the UI, or prefect.yaml), or serve under another name: --name."
        )


class _Runner(Runner):
    """Prefect's runner with a graceful end: cancel the run in progress, then pause the schedule."""

    def handle_sigterm(self, *_: Any, **__: Any) -> None:
        if self.stopping or not self.started:
            raise KeyboardInterrupt  # the second time, or before there is anything to end
        self.execute_in_background(self.astop)
