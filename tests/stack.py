"""The installation that docker-compose.yml describes, without Docker: started, used, checked, ended (`make stack`)."""

import argparse
import asyncio
import os
import signal
import sys
from typing import Any

import asyncpg
import httpx
import redis
import yaml
from compose_file import filled, services
from databases import NotInstalled
from processes import ProcessFailed
from stack_services import Stack, running_stack, step

from flows.distill import NAMES
from flows.load import load_recipe
from flows.plan import plan
from flows.provision import AUTOMATIONS
from storage.store import Store

RECIPE = "smoke"
RUN_WITHIN_SECONDS = 900


def run_recipe(stack: Stack) -> dict[str, str]:
    """Run the recipe's deployment through the worker; return the states of the task runs by stage."""
    worker = stack.started["worker"]
    with stack.api() as api:
        deployment = api.get(f"/deployments/name/lightgen/{RECIPE}").raise_for_status().json()
        run = api.post(f"/deployments/{deployment['id']}/create_flow_run", json={}).raise_for_status().json()
        state: dict[str, Any] = {}

        def ended() -> bool:
            state.update(api.get(f"/flow_runs/{run['id']}").raise_for_status().json()["state"])
            return state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

        worker.wait_until(ended, RUN_WITHIN_SECONDS)
        if state["type"] != "COMPLETED":
            raise worker.failed(f"had a flow run that is {state['name']}: {state['message']}")
        # A task's states reach the database by way of Redis, so a moment after the flow's own.
        states: dict[str, str] = {}

        def all_told() -> bool:
            tasks = api.post("/task_runs/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}}).raise_for_status()
            states.update({task["name"].partition(" ")[0]: task["state_name"] for task in tasks.json()})
            return states.keys() == set(NAMES) and not {"Pending", "Running"} & set(states.values())

        stack.started["server"].wait_until(all_told, 60)
        return states


def check_first_run(stack: Stack) -> None:
    """Assert that the recipe ran: every stage, its artifacts whole in the store, with scores."""
    states = run_recipe(stack)
    assert states == dict.fromkeys(NAMES, "Completed"), states
    made = plan(load_recipe(RECIPE), Store(stack.variables["LIGHTGEN_STORE"]))
    assert {name: check.state for name, (_, check) in made.found.items()} == dict.fromkeys(NAMES, "done")
    assert made.scores().keys() == {"pretrain", "dpo", "shuffled"}
    assert all(score["n"] > 0 for scores in made.scores().values() for score in scores.values())


def check_second_run(stack: Stack) -> None:
    """Assert that nothing is made again."""
    states = run_recipe(stack)
    assert states == dict.fromkeys(NAMES, "Cached"), states


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
    stack.processes.run("provision", [sys.executable, "-m", "flows.provision"], environment=environment)
    with stack.api() as api:
        limits = api.post("/v2/concurrency_limits/filter", json={}).raise_for_status().json()
        named = [limit for limit in limits if limit["name"] == environment["LIGHTGEN_DEVICE_LIMIT"]]
        assert [(limit["limit"], limit["active"]) for limit in named] == [(1, True)], limits
        automations = api.post("/automations/filter", json={}).raise_for_status().json()
        wanted = [yaml.safe_load(path.read_text())["name"] for path in AUTOMATIONS.glob("*.yaml")]
        assert sorted(automation["name"] for automation in automations) == sorted(wanted)


async def runs_in_postgres(stack: Stack) -> int:
    """Return how many completed flow runs the database knows."""
    url = filled(services()["server"]["environment"], stack.variables)["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    connection = await asyncpg.connect(stack.here(url).replace("postgresql+asyncpg", "postgresql"))
    try:
        return await connection.fetchval("select count(*) from flow_run where state_type = 'COMPLETED'")
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
