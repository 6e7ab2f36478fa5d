"""Deployments, schedules and `lightgen serve` against a real Prefect server."""

import datetime
import importlib
import json
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import yaml
from prefect_server import ROOT, PrefectServer, free_port, prefect_server, stop

from flows.console import PREFECT_DEFAULTS
from flows.load import load_recipe, recipe_names
from flows.mistakes import MISTAKES
from flows.serve import serve

DECLARED = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
TINY = ["captions.count=40"]
TINY_FORM = {"captions": {"count": 40, "source": None, "llm": None}, "seed": None, "report": None}
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Api:
    """The server's REST interface."""

    http: httpx.Client

    def deployment(self, name: str) -> dict:
        return self.http.get(f"/deployments/name/lightgen/{name}").raise_for_status().json()

    def runs(self, deployment: dict, *states: str) -> list[dict]:
        wanted = {"deployments": {"id": {"any_": [deployment["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found = self.http.post("/flow_runs/filter", json=wanted).raise_for_status().json()
        return [run for run in found if run["state_type"] in states]

    def ask(self, deployment: dict, **parameters: object) -> httpx.Response:
        asked = {"parameters": parameters, "enforce_parameter_schema": True, "state": {"type": "SCHEDULED"}}
        return self.http.post(f"/deployments/{deployment['id']}/create_flow_run", json=asked)

    def run(self, deployment: dict, seconds: float = 400, **parameters: object) -> dict:
        """Start a flow run as the form does, wait until it has ended, and return it."""
        run = self.ask(deployment, **parameters).raise_for_status().json()["id"]
        until = time.monotonic() + seconds
        while (found := self.http.get(f"/flow_runs/{run}").raise_for_status().json())["state_type"] not in ENDED:
            assert time.monotonic() < until, f"{found['name']} is still {found['state_name']}"
            time.sleep(0.5)
        return found

    def stages(self, run: str) -> dict[str, str]:
        """Return the state's name of every stage of a flow run that has ended; they may arrive after it."""
        wanted, until = {"flow_runs": {"id": {"any_": [run]}}}, time.monotonic() + 60
        while not (found := self.http.post("/task_runs/filter", json=wanted).json()) or any(
            task["state_type"] not in ENDED for task in found
        ):
            assert time.monotonic() < until, f"the server knows of {found}"
            time.sleep(0.5)
        return {task["name"].partition(" ")[0]: task["state_name"] for task in found}


def connect(server: PrefectServer) -> Api:
    return Api(server.client())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def server(home):
    with prefect_server(home, LIGHTGEN_STORE=str(home / "store")) as started:
        yield started


@pytest.fixture(scope="module")
def api(server):
    """A server to which prefect.yaml is deployed."""
    for command in (("work-pool", "create", "lightgen", "--type", "process"), ("--no-prompt", "deploy", "--all")):
        done = server.run("-m", "prefect", *command, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return connect(server)


@pytest.fixture(scope="module")
def worker(server, api, home):
    """A worker that somebody started without the settings that the command line makes for itself."""
    bare = replace(server, environment={k: v for k, v in server.environment.items() if k not in PREFECT_DEFAULTS})
    process = bare.start("-m", "prefect", "worker", "start", "--pool", "lightgen", log=home / "worker.log")
    yield process
    stop(process)


def test_every_recipe_is_deployed_under_its_name_with_its_purpose_and_runs_wait_for_each_other():
    assert sorted(each["name"] for each in DECLARED) == recipe_names()
    for each in DECLARED:
        assert each["parameters"] == {"recipe": each["name"]}
        assert each["description"].startswith(load_recipe(each["name"]).purpose)
        assert each["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert each["work_pool"] == {"name": "lightgen"}
        module, _, function = each["entrypoint"].rpartition(".")
        assert getattr(importlib.import_module(module), function).name == "lightgen"


def test_only_the_cheapest_recipe_runs_unasked():
    assert [each["name"] for each in DECLARED if any(plan["active"] for plan in each["schedules"])] == ["smoke"]


def test_a_deployed_schedule_really_gets_scheduled_runs_at_its_times(api):
    until = time.monotonic() + 120
    while len(found := api.runs(api.deployment("smoke"), "SCHEDULED")) < 3:
        assert time.monotonic() < until, "no runs: is SQLAlchemy pinned below 2.1?"
        time.sleep(0.5)
    times = [datetime.datetime.fromisoformat(run["expected_start_time"]) for run in found[:3]]
    assert [(when.hour, when.minute) for when in times] == [(3, 0)] * 3
    assert times[1] - times[0] == times[2] - times[1] == datetime.timedelta(days=1)
    assert api.runs(api.deployment("demo"), "SCHEDULED") == []


def test_the_server_names_the_field_of_the_form_that_is_out_of_range(api):
    refused = api.ask(api.deployment("smoke"), overrides={"captions": {"count": -1}})
    assert refused.status_code == 409
    assert "'overrides.captions.count'. Failure reason: -1 is less than the minimum of 1" in refused.json()["detail"]


def test_form_lines_and_command_line_make_the_same_artifact(server, api, worker, home):
    smoke = api.deployment("smoke")
    command = ("deployment", "run", "lightgen/smoke", "--param", f"overrides={json.dumps(TINY)}")
    done = server.run("-m", "prefect", *command, "--param", "until=captions", "--watch", timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    (by_lines,) = api.runs(smoke, "COMPLETED")
    by_form = api.run(smoke, overrides=TINY_FORM, until="captions")
    assert by_form["name"] == by_lines["name"]
    assert (api.stages(by_lines["id"]), api.stages(by_form["id"])) == (
        {"captions": "Completed"},
        {"captions": "Cached"},
    )
    said = api.http.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [by_lines["id"]]}}}).json()
    assert "captions: started (never made)" in [each["message"] for each in said if each["name"] == "lightgen"]
    arguments = ["run", "smoke", "--until", "captions", "--json"]
    done = server.run("-m", "flows", *arguments, "--set", TINY[0], timeout=400)
    (stage,) = json.loads(done.stdout)["stages"]
    assert (stage["stage"], stage["state"]) == ("captions", "cached")
    assert by_form["name"] == f"smoke-captions-{stage['key'][:8]}"


def test_only_from_and_refresh_choose_the_same_stages_in_a_deployment_as_on_the_command_line(server, api, worker):
    smoke = api.deployment("smoke")
    again = api.run(smoke, overrides=TINY_FORM, only="captions", refresh=["captions"])
    assert api.stages(again["id"]) == {"captions": "Completed"}
    ranged = api.run(smoke, overrides=TINY, from_stage="captions", until="captions")
    assert api.stages(ranged["id"]) == {"captions": "Cached"}
    ahead = api.run(smoke, overrides=TINY_FORM, only="embeddings")
    told = server.run("-m", "flows", "run", "smoke", "--set", TINY[0], "--only", "embeddings", timeout=400)
    assert (ahead["state_type"], told.returncode) == ("FAILED", 2)
    assert told.stderr.startswith(f"lightgen: {ahead['state']['message']}\n")


def test_a_mistake_that_the_form_lets_through_fails_the_run_with_the_words_of_the_command_line(server, api, worker):
    form, line = {"pretrain": {"model": {"heads": 5}}}, "pretrain.model.heads=5"
    failed = api.run(api.deployment("smoke"), overrides=form)
    told = server.run("-m", "flows", "run", "smoke", "--set", line)
    assert (failed["state_type"], failed["name"]) == ("FAILED", "smoke")
    assert told.stderr.startswith(f"lightgen: {failed['state']['message']}\n")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"recipe": "nosuch"}, "there is no recipe 'nosuch'"),
        ({"overrides": ["captions.count=-1"]}, "captions.count: found -1"),
        ({"cron": "nonsense"}, "is no schedule that ever comes due"),
        ({"cron": "0 0 30 2 *"}, "is no schedule that ever comes due"),
        ({"timezone": "Europe/Berln"}, r"Did you mean 'Europe/Berlin'\?"),
        ({"store": "nosuch://x"}, "cannot be opened"),
    ],
)
def test_serve_refuses_a_wrong_request_before_it_looks_for_a_server(monkeypatch, wrong, message):
    monkeypatch.setattr("flows.serve.running_server", lambda: pytest.fail("a server was looked for"))
    with pytest.raises(MISTAKES, match=message):
        serve(**({"recipe": "smoke", "cron": "0 3 * * *"} | wrong))


def test_serve_does_not_take_a_deployment_from_its_workers(server, api):
    done = server.run("-m", "flows", "serve", "smoke", "--cron", "0 3 * * *")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is deployed already, to the workers of pool lightgen" in done.stderr


def test_serve_says_how_to_start_the_server_that_does_not_answer(server):
    elsewhere = server.environment | {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    done = server.run("-m", "flows", "serve", "smoke", "--cron", "0 3 * * *", env=elsewhere)
    assert done.returncode == 2
    assert "Start it (`prefect server start`" in done.stderr


def test_serve_brings_a_server_schedules_runs_takes_one_and_ends_with_its_server(tmp_path, server):
    port = str(free_port())
    own = {name: value for name, value in server.environment.items() if name != "PREFECT_API_URL"}
    own |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_API_PORT": port}
    log = tmp_path / "serve.log"
    serving = PrefectServer(f"http://127.0.0.1:{port}/api", f"http://127.0.0.1:{port}", own)
    command = ("-m", "flows", "serve", "smoke", "--cron", "30 2 * * *", "--timezone", "Asia/Kolkata", "--set", TINY[0])
    process, api = serving.start(*command, log=log), connect(serving)
    try:
        until = time.monotonic() + 400
        while "Ctrl-C ends it" not in log.read_text() or not api.http.post("/deployments/filter", json={}).json():
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.5)
        smoke = api.deployment("smoke")
        (schedule,) = smoke["schedules"]
        assert schedule["active"] and schedule["schedule"]["cron"] == "30 2 * * *"
        while not (waiting := api.runs(smoke, "SCHEDULED")):
            assert time.monotonic() < until
            time.sleep(0.5)
        assert {run["expected_start_time"][10:16] for run in waiting} == {"T21:00"}  # half past two in Kolkata
        ran = api.run(smoke, until="captions")
        assert (ran["state_type"], [*api.stages(ran["id"])]) == ("COMPLETED", ["captions"])
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    finally:
        stop(process)
    assert log.read_text().endswith("stopped: the schedule of lightgen/smoke is paused until it is served again\n")
    with pytest.raises(httpx.ConnectError):
        api.deployment("smoke")
