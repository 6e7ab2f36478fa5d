"""Requests: command line, Prefect UI and schedule refuse the same ones, in the same words, at once."""

import contextlib
import logging
from types import SimpleNamespace
from uuid import uuid4

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.distill import distill
from flows.errors import USER_ERRORS
from flows.load import load_recipe
from flows.pages import run_page
from flows.plan import plan
from flows.request import hand_over, validate_request
from flows.run import run, run_name


@pytest.mark.parametrize(
    ("setting", "asked", "said"),
    [
        ({"LIGHTGEN_WORKERS": "2"}, {}, "memory://request is in the memory of this process"),
        ({"LIGHTGEN_DEVICE_LIMIT": "gpu0"}, {"only": "dedup"}, "dedup needs synthesis"),
        ({"LIGHTGEN_TRACKERS": "mlflow"}, {}, "LIGHTGEN_TRACKERS"),
        ({}, {"until": "token"}, "Did you mean 'tokens'"),
    ],
)
def test_the_flow_refuses_all_that_the_command_line_refuses(monkeypatch, setting, asked, said):
    """In the same words, before the first stage."""
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    options = [word for name, value in asked.items() for word in (f"--{name}", value)]
    refused = CliRunner().invoke(cli, ["run", "smoke", "--store", "memory://request", *options]).exception
    monkeypatch.setattr("flows.run.log_to_prefect", lambda: None)
    state = run.fn("smoke", "memory://request", **asked)
    assert isinstance(refused, USER_ERRORS) and said in str(refused)
    assert (state.type, state.message) == ("FAILED", str(refused))


def test_a_run_parses_its_recipe_and_walks_the_graph_once(monkeypatch, tmp_path):
    """Once on the command line, whose request the flow takes over; once in the flow of a schedule."""
    calls: list[str] = []

    def counted(name: str, function):
        return lambda *given, **named: (calls.append(name), function(*given, **named))[1]

    monkeypatch.setattr("flows.request.load_recipe", counted("parse", load_recipe))
    monkeypatch.setattr("flows.plan.distill", counted("walk", distill))
    ran: list[str] = []
    runner = SimpleNamespace(rows=[], run=lambda planned: ran.append(planned.stage.name))
    for name, value in {
        "Runner": lambda request: runner,
        "log_to_prefect": lambda: None,
        "track_crashes": lambda: None,
        "cancel_if_requested": contextlib.nullcontext,
    }.items():
        monkeypatch.setattr(f"flows.run.{name}", value)
    monkeypatch.setattr(run_page, "show_run_page", lambda *given: None)
    parameters = {"recipe": "smoke", "store": str(tmp_path), "overrides": ("seed=3",), "only": None}
    parameters |= {"from_stage": None, "until": "tokens", "refresh": ()}
    context = SimpleNamespace(parameters=parameters | {"overrides": ["seed=3"]})  # Prefect makes lists of tuples
    monkeypatch.setattr("flows.run.FlowRunContext", SimpleNamespace(get=lambda: context))

    request = validate_request(**parameters)
    hand_over(request, parameters)
    assert run_name() == request.run_name
    run.fn(**parameters)
    assert (calls, ran) == (["parse", "walk"], ["captions", "synthesis", "embeddings", "dedup", "tokens"])
    calls.clear()
    run_name()
    run.fn(**parameters)
    assert calls == ["parse", "walk"]


def test_a_run_is_on_the_device_if_one_of_its_stages_is(tmp_path):
    store = str(tmp_path)
    assert [validate_request("smoke", store, until=last).on_device for last in ("captions", "embeddings")] == [
        False,
        True,
    ]


def test_an_undrawable_page_costs_a_finished_run_only_a_line(monkeypatch, tmp_path, caplog):
    request = validate_request("smoke", str(tmp_path))
    result = {"recipe": "smoke", "stages": [{"stage": "captions", "state": "ran"}], "seconds": 1.0, "report": None}
    monkeypatch.setattr(run_page, "runtime", SimpleNamespace(flow_run=SimpleNamespace(id=str(uuid4()))))
    monkeypatch.setattr(run_page, "_pages", lambda *_: {})
    with caplog.at_level(logging.ERROR, "lightgen"):
        run_page.show_run_page(result, plan(request.recipe, request.store))  # it lacks its scores, and the manifest
    assert "the page of the run in the Prefect UI could not be drawn" in caplog.text
