"""The installation that docker-compose.yml describes, without Docker: started, used, checked, ended (`make stack`)."""

import argparse
import asyncio
import os
import signal
import sys

import asyncpg
import httpx
import redis
import yaml

from flows.distill import NAMES
from flows.load import load_recipe
from flows.operations.provision import AUTOMATIONS
from flows.plan import plan
from storage.open_store import open_store
from tests.support.compose_file import filled, services
from tests.support.databases import NotInstalled
from tests.support.prefect_api import ENDED
from tests.support.processes import ProcessFailed
from tests.support.stack_services import Stack, running_stack, step

RECIPE = "smoke"
RUN_WITHIN_SECONDS = 900


def run_recipe(stack: Stack, stages: str) -> None:
    """Run the recipe's deployment through the worker, and assert that every stage ends in this state."""
    worker, api = stack.started["worker"], stack.api
    run = api.start(api.deployment(RECIPE))
    worker.wait_until(lambda: api.flow_run(run)["state_type"] in ENDED, RUN_WITHIN_SECONDS)
    state = api.flow_run(run)["state"]
    if state["type"] != "COMPLETED":
        raise worker.failed(f"had a flow run that is {state['name']}: {state['message']}")
    api.wait_for_states(run, **dict.fromkeys(NAMES, stages))  # they reach the database by way of Redis, after the run's


def check_first_run(stack: Stack) -> None:
    """Assert that the recipe ran: every stage, its artifacts whole in the store, with scores."""
    run_recipe(stack, "Completed")
    made = plan(load_recipe(RECIPE), open_store(stack.variables["LIGHTGEN_STORE"]))
    assert {name: check.state for name, (_, check) in made.statuses.items()} == dict.fromkeys(NAMES, "done")
    tables = made.scores()
    assert tables.keys() == {"pretrain", "sft", "dpo", "shuffled"} and tables.pop("sft") is None
    assert all(score["n"] > 0 for scores in tables.values() for score in scores.values())


def check_second_run(stack: Stack) -> None:
    """Assert that nothing is made again."""
    run_recipe(stack, "Cached")


def check_server(stack: Stack) -> None:
    """Assert that the server asks for the password, and keeps its runs in PostgreSQL and its events in Redis."""
    url = f"http://127.0.0.1:{stack.ports['server']}"
    assert httpx.post(f"{url}/api/flow_runs/filter", json={}, trust_env=False).status_code == 401
    assert httpx.get(url, trust_env=False, follow_redirects=True).status_code == 200
    assert asyncio.run(runs_in_postgres(stack)) == 2
    events = redis.Redis(port=stack.ports["redis"], password=stack.variables["REDIS_PASSWORD"])
    assert events.exists("events"), events.keys()
    log = stack.started["server"].log.read_text()
    assert "ConnectionError" not in log, log  # every part of it that uses Redis knows where that is


def check_set_up(stack: Stack) -> None:
    """Assert that the set-up made a limit of one and every automation, each once, though it is done again."""
    environment = stack.environment("setup")
    stack.processes.run("provision", [sys.executable, "-m", "flows.operations.provision"], environment=environment)
    limits = stack.api.post("v2/concurrency_limits/filter")
    named = [limit for limit in limits if limit["name"] == environment["LIGHTGEN_DEVICE_LIMIT"]]
    assert [(limit["limit"], limit["active"]) for limit in named] == [(1, True)], limits
    automations = stack.api.post("automations/filter")
    wanted = [yaml.safe_load(path.read_text())["name"] for path in AUTOMATIONS.glob("*.yaml")]
    assert sorted(automation["name"] for automation in automations) == sorted(wanted)


async def runs_in_postgres(stack: Stack) -> int:
    """Return how many completed flow runs the database knows that somebody asked for, not the schedule."""
    url = filled(services()["server"]["environment"], stack.variables)["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    connection = await asyncpg.connect(stack.here(url).replace("postgresql+asyncpg", "postgresql"))
    try:
        return await connection.fetchval(
            "select count(*) from flow_run where state_type = 'COMPLETED' and not auto_scheduled"
        )
    finally:
        await connection.close()


def main() -> int:
    """Run the stack; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C, and say where to look")
    keep = parser.parse_args().keep
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script may have started this with it ignored
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every process is ended then too
    try:
        with running_stack() as stack:
            with step(f"the recipe {RECIPE} through the worker: ten stages done in the store, scores there"):
                check_first_run(stack)
            with step("once more: every stage is cached"):
                check_second_run(stack)
            with step("no password, no answer; runs are in PostgreSQL, events in Redis"):
                check_server(stack)
            with step("the set-up once more: one pool, one limit, each automation once"):
                check_set_up(stack)
            print("all is well", flush=True)
            if keep:
                print(f"http://127.0.0.1:{stack.ports['server']}  Prefect, password {stack.variables['PREFECT_AUTH']}")
                print(f"{os.environ['AWS_ENDPOINT_URL']}  S3, key and secret test; {stack.variables['LIGHTGEN_STORE']}")
                print(f"{stack.folder}  logs; Ctrl-C ends everything", flush=True)
                signal.pause()
    except KeyboardInterrupt:
        return 0 if keep else 130
    except (NotInstalled, ProcessFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
