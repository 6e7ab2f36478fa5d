"""A client of the API of a Prefect server, the one that its UI uses: asks for runs, and reads what became of them."""

import re
import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.waiting import wait_until

ENDED = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
Run = dict[str, Any]
"""A flow run, or a task run, as the server tells it."""


class PrefectApi:
    """Args:
    url: of the API, for example http://127.0.0.1:41327/api.
    auth: user and password, where the server asks for them.
    """

    def __init__(self, url: str, auth: tuple[str, str] | None = None) -> None:
        # Each request has a connection of its own: one that the server closes in that moment cannot be met.
        transport = _Patient(limits=httpx.Limits(max_keepalive_connections=0))
        self.http = httpx.Client(base_url=url, auth=auth, timeout=300, transport=transport)

    def get(self, path: str) -> Any:
        """Return the answer. Raises httpx.HTTPStatusError where it is an error."""
        return self.http.get(path).raise_for_status().json()

    def post(self, path: str, **body: Any) -> Any:
        """Return the answer. Raises httpx.HTTPStatusError where it is an error."""
        return self.http.post(path, json=body).raise_for_status().json()

    def deployment(self, name: str) -> dict[str, Any]:
        """Return the deployment of the flow `lightgen` with this name."""
        return self.get(f"deployments/name/lightgen/{name}")

    def start(self, deployment: dict[str, Any], **parameters: Any) -> Run:
        """Ask for a flow run, as the form of the UI does."""
        return self.ask(deployment, **parameters).raise_for_status().json()

    def ask(self, deployment: dict[str, Any], **parameters: Any) -> httpx.Response:
        """Return the answer to that wish, whether it is granted or not."""
        wish = {"parameters": parameters, "enforce_parameter_schema": True, "state": {"type": "SCHEDULED"}}
        return self.http.post(f"deployments/{deployment['id']}/create_flow_run", json=wish)

    def flow_run(self, run: Run) -> Run:
        """Return what is known of a flow run now."""
        return self.get(f"flow_runs/{run['id']}")

    def flow_runs(self, **filters: Any) -> list[Run]:
        """Return flow runs in the order in which they were to start."""
        return self.post("flow_runs/filter", sort="EXPECTED_START_TIME_ASC", **filters)

    def runs_in(self, store: Path) -> list[Run]:
        """Return the flow runs of a store; the server may have others, which work at the same time."""
        return [run for run in self.flow_runs() if run["parameters"].get("store") == str(store)]

    def newest_run(self, store: Path) -> Run:
        """Return the flow run of a store that was to start last."""
        return self.runs_in(store)[-1]

    def wait_for_state(self, run: Run, *types: str) -> Run:
        """Wait until a flow run is in a state of one of these types, for example `CRASHED`; return it."""
        return wait_until(
            lambda: found if (found := self.flow_run(run))["state_type"] in types else None,
            said=lambda: f"the run is {self.flow_run(run)['state']}",
        )

    def task_runs(self, run: Run) -> dict[str, Run]:
        """Return the newest task run of each stage. The server learns of them by events, later than they happen."""
        found = self.post("task_runs/filter", flow_runs=_only(run), sort="EXPECTED_START_TIME_ASC")
        return {re.match(r"\w+", task_run["name"])[0]: task_run for task_run in found}

    def wait_for_states(self, run: Run, **states: str) -> None:
        """Wait until the run's stages, and no others, are in these states, for example `captions="Cached"`."""

        def seen() -> dict[str, str]:
            return {stage: task_run["state_name"] for stage, task_run in self.task_runs(run).items()}

        wait_until(lambda: seen() == states, said=lambda: f"expected {states}, found {seen()}")

    def history(self, task_run: Run) -> list[str]:
        """Return the names of the states that a task run has had so far."""
        return [state["name"] for state in self.get(f"task_run_states/?task_run_id={task_run['id']}")]

    def logs(self, run: Run) -> list[dict[str, Any]]:
        """Return the lines of a flow run's log, the first 200."""
        return self.post("logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}}, limit=200)

    def artifacts(self, run: Run) -> list[dict[str, Any]]:
        """Return the pages and progress bars of a flow run."""
        return self.post("artifacts/filter", flow_runs=_only(run))

    def events(self, name: str, run: Run | None = None) -> list[dict[str, Any]]:
        """Return the newest events of this name, up to 50, of one flow run or of all."""
        wanted = {"event": {"name": [name]}} | ({"resource": {"id": [f"prefect.flow-run.{run['id']}"]}} if run else {})
        return self.post("events/filter", limit=50, filter=wanted)["events"]


def _only(run: Run) -> dict[str, Any]:
    return {"id": {"any_": [run["id"]]}}


class _Patient(httpx.HTTPTransport):
    """Asks again, as Prefect's own client does, when SQLite was locked: the server then answers 503."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for seconds in (0.5, 1, 2, 4, 8, 16):
            response = super().handle_request(request)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return response
            response.close()
            time.sleep(seconds)
        return super().handle_request(request)
