"""Deployments, schedules and `lightgen serve` against a real Prefect server."""

import datetime
import importlib
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flows.commands.serve import serve
from flows.environment import PREFECT_DEFAULTS
from flows.errors import USER_ERRORS
from flows.load import load_recipe, recipe_names
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.prefect_api import ENDED, PrefectApi
from tests.support.prefect_server import PrefectServer, prefect_server
from tests.support.processes import Process, stop
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow(rank=5)

DECLARED = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
TINY = ["captions.count=40"]
TINY_FORM = {"captions": {"count": 40, "source": None, "llm": {}}, "report": {}}


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
    return server.api


@pytest.fixture(scope="module")
def worker(server, api, home):
    """A worker that somebody started without the settings that the command line makes for itself."""
    bare = replace(server, environment={k: v for k, v in server.environment.items() if k not in PREFECT_DEFAULTS})
    process = bare.start("-m", "prefect", "worker", "start", "--pool", "lightgen", log=home / "worker.log")
    yield process
    stop(process)


def scheduled(api: PrefectApi, name: str, least: int, **options: Any) -> list[dict[str, Any]]:
    """Wait until a deployment has so many scheduled runs; return them, the next one first."""
    only = {"id": {"any_": [api.deployment(name)["id"]]}}

    def found() -> list[dict[str, Any]]:
        return [run for run in api.flow_runs(deployments=only) if run["state_type"] == "SCHEDULED"]

    wait_until(lambda: len(found()) >= least, **options)
    return found()


def ran(api: PrefectApi, name: str, **parameters: Any) -> dict[str, Any]:
    """Start a run of a deployment as the form does, wait until it has ended, and return it."""
    return api.wait_for_state(api.start(api.deployment(name), **parameters), *ENDED)


def test_every_recipe_is_deployed_with_its_name_and_purpose():
    """Its runs wait for each other."""
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


def test_a_deployed_schedule_gets_runs_at_its_times(api):
    found = scheduled(api, "smoke", 3, said=lambda: "is SQLAlchemy pinned below 2.1?")
    times = [datetime.datetime.fromisoformat(run["expected_start_time"]) for run in found[:3]]
    assert [(when.hour, when.minute) for when in times] == [(3, 0)] * 3
    assert times[1] - times[0] == times[2] - times[1] == datetime.timedelta(days=1)
    assert scheduled(api, "demo", 0) == []


def test_the_server_names_the_form_field_that_is_out_of_range(api):
    refused = api.ask(api.deployment("smoke"), overrides={"captions": {"count": -1}})
    assert refused.status_code == 409
    assert "'overrides.captions.count'. Failure reason: -1 is less than the minimum of 1" in refused.json()["detail"]


def test_form_lines_and_command_line_make_the_same_artifact(server, api, worker, tmp_path):
    place = {"until": "captions", "store": str(tmp_path)}
    given = {"overrides": json.dumps(TINY)} | place
    words = [word for name, value in given.items() for word in ("--param", f"{name}={value}")]
    done = server.run("-m", "prefect", "deployment", "run", "lightgen/smoke", *words, "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    (by_lines,) = api.runs_in(tmp_path)
    by_form = ran(api, "smoke", overrides=TINY_FORM, **place)
    assert by_form["name"] == by_lines["name"]
    api.wait_for_states(by_lines, captions="Completed")
    api.wait_for_states(by_form, captions="Cached")
    said = [line["message"] for line in api.logs(by_lines) if line["name"].startswith("tasks.")]
    assert said.count("captions: started (never made)") == 1
    arguments = ["run", "smoke", "--until", "captions", "--store", str(tmp_path), "--json"]
    done = server.run("-m", "flows", *arguments, "--set", TINY[0])
    (stage,) = json.loads(done.stdout)["stages"]
    assert (stage["stage"], stage["state"]) == ("captions", "cached")
    assert by_form["name"] == f"smoke-captions-{stage['key'][:8]}"


def test_a_deployment_selects_stages_like_the_command_line(server, api, worker):
    """With only, from_stage, until and refresh."""
    again = ran(api, "smoke", overrides=TINY_FORM, only="captions", refresh=["captions"])
    api.wait_for_states(again, captions="Completed")
    ranged = ran(api, "smoke", overrides=TINY, from_stage="captions", until="captions")
    api.wait_for_states(ranged, captions="Cached")
    ahead = ran(api, "smoke", overrides=TINY_FORM, only="embeddings")
    told = server.run("-m", "flows", "run", "smoke", "--set", TINY[0], "--only", "embeddings")
    assert (ahead["state_type"], told.returncode) == ("FAILED", 2)
    assert f"\nlightgen: {ahead['state']['message']}\n" in told.stderr


def test_a_mistake_that_passes_the_form_fails_the_run(server, api, worker):
    """With the words of the command line."""
    form, line = {"pretrain": {"model": {"heads": 5}}}, "pretrain.model.heads=5"
    failed = ran(api, "smoke", overrides=form)
    told = server.run("-m", "flows", "run", "smoke", "--set", line)
    assert (failed["state_type"], failed["name"]) == ("FAILED", "smoke")
    assert f"\nlightgen: {failed['state']['message']}\n" in told.stderr


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
def test_serve_refuses_a_wrong_request_before_any_server(monkeypatch, wrong, message):
    monkeypatch.setattr("flows.commands.serve.running_server", lambda: pytest.fail("a server was looked for"))
    with pytest.raises(USER_ERRORS, match=message):
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


def test_serve_starts_a_server_schedules_runs_and_takes_one(tmp_path, server):
    """It ends together with its server."""
    port, log = str(free_port()), tmp_path / "serve.log"
    own = {name: value for name, value in server.environment.items() if name != "PREFECT_API_URL"}
    own |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_API_PORT": port}
    own |= {"LIGHTGEN_STORE": str(tmp_path / "store")}
    serving = PrefectServer(f"http://127.0.0.1:{port}", own)
    utc = (datetime.datetime.now(datetime.UTC).hour + 12) % 24  # not while this test runs
    command = ("-m", "flows", "serve", "smoke", "--cron", f"30 {(utc + 5) % 24} * * *", "--timezone", "Asia/Kolkata")
    process, api = serving.start(*command, "--set", TINY[0], log=log), serving.api
    try:
        Process("serve", log, process).wait_until(
            lambda: "Ctrl-C ends it" in log.read_text() and api.post("deployments/filter")
        )
        (schedule,) = api.deployment("smoke")["schedules"]
        assert schedule["active"] and schedule["schedule"]["cron"] == command[5]
        waiting = scheduled(api, "smoke", 1)
        assert {run["expected_start_time"][10:16] for run in waiting} == {f"T{utc:02}:00"}
        done = ran(api, "smoke", until="captions")
        assert done["state_type"] == "COMPLETED"
        api.wait_for_states(done, captions="Completed")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        stop(process)
    assert log.read_text().endswith("stopped: the schedule of lightgen/smoke is paused until it is served again\n")
    with pytest.raises(httpx.ConnectError):
        api.deployment("smoke")
