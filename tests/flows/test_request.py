"""Requests: command line, Prefect UI and schedule refuse the same ones, in the same words, at once."""

import logging
from types import SimpleNamespace
from uuid import uuid4

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.errors import USER_ERRORS
from flows.pages import run_page
from flows.plan import plan
from flows.request import validate_request
from flows.run import run


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
