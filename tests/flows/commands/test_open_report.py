"""After a run: its report is opened, and the commands it prints are those that work."""

import shlex
import webbrowser
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.commands.console import describe_run
from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan
from storage.open_store import open_store
from tests.support.stores import commit


def test_the_report_of_a_recipe_is_opened_once_it_is_done(tmp_path, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    arguments = ["open", "smoke", "--store", str(tmp_path), "--set", "seed=3"]
    refused = CliRunner().invoke(cli, arguments).exception
    assert isinstance(refused, UserError) and "the report of smoke is missing" in str(refused)
    report = plan(load_recipe("smoke", ["seed=3"]), open_store(str(tmp_path))).artifacts["report"]
    report.add("report.html", b"<html></html>", 0, {})
    commit(report)
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.output.strip() == f"file://{tmp_path}/{report.path}/report.html"
    assert opened == [done.output.strip()]
    by_key = ["open", f"report/{report.key[:6]}", "--store", str(tmp_path)]
    assert CliRunner().invoke(cli, by_key, catch_exceptions=False).output == done.output


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (["report/ffff"], "names no artifacts of"),
        (["report/", "--set", "seed=3"], "is a report: leave it out"),
        (["evaluation/be2e"], "evaluation/be2e"),
    ],
)
def test_what_is_no_report_is_not_opened(tmp_path, what, message):
    error = CliRunner().invoke(cli, ["open", *what, "--store", str(tmp_path)]).exception
    assert isinstance(error, UserError) and message in str(error)


RESULT = {"stages": [], "scores": {}, "seconds": 1.0, "store": "here"}


def test_a_run_ends_with_commands_to_paste():
    text = describe_run(
        RESULT | {"report": "/my store/report/ab/report.html"}, ["demo", "--store", "my store"], "a cat's eye"
    )
    report, head, *commands = text.splitlines()[-5:]
    assert (report, head) == ("report: file:///my%20store/report/ab/report.html", "next:")
    words = [shlex.split(command) for command in commands]
    assert words[0] == ["lightgen", "open", "demo", "--store", "my store"]
    assert [each[1:3] for each in words[1:]] == [[name, "/my store/report/ab/model"] for name in ("sample", "inpaint")]
    assert words[1][3] == words[2][5] == "a cat's eye"
    for name, *given in (each[1:] for each in words):
        known = cli.commands[name].make_context(name, given, resilient_parsing=True).params
        assert known.get("what", "demo") == "demo"
        assert known.get("checkpoint") in (None, Path("/my store/report/ab/model"), "/my store/report/ab/model")


@pytest.mark.parametrize("report", [None, "s3://bucket/report/ab/report.html"])
def test_a_student_in_a_remote_store_or_none_is_not_offered(report):
    text = describe_run(RESULT | {"report": report}, ["demo"])
    assert ("lightgen sample" in text, "lightgen open demo" in text) == (False, report is not None)
