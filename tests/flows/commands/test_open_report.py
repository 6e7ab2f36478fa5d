"""After a run: its report is opened, and the commands it prints are those that work."""

import shlex
import webbrowser

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


KEY = "0123456789abcdef0123"


@pytest.mark.parametrize("store", ["/my store", "s3://my bucket"])
@pytest.mark.parametrize(("changes", "student"), [([], "demo"), (["--set", "seed=3"], "report/01234567")])
def test_a_run_ends_with_commands_to_paste(store, changes, student):
    """A student that --set has changed is no longer the recipe's own, and goes by its key."""
    request, result = ["demo", *changes, "--store", store], RESULT | {"report": f"{store}/report/{KEY}/report.html"}
    report, head, *commands = describe_run(result, request, "a cat's eye").splitlines()[-5:]
    assert report in (f"report: file:///my%20store/report/{KEY}/report.html", f"report: {result['report']}")
    assert head == "next:"
    words = [shlex.split(command) for command in commands]
    assert words == [
        ["lightgen", "open", *request],
        ["lightgen", "sample", student, "a cat's eye", "--store", store, "-o", "out"],
        ["lightgen", "inpaint", student, "IMAGE.png", "MASK.png", "a cat's eye", "--store", store, "-o", "out.png"],
    ]
    for name, *given in (each[1:] for each in words):
        known = cli.commands[name].make_context(name, given, resilient_parsing=True).params
        assert (known["store_uri"], str(known.get("what") or known["checkpoint"])) == (
            store,
            "demo" if name == "open" else student,
        )


def test_a_run_without_a_report_offers_no_student():
    assert "lightgen" not in describe_run(RESULT | {"report": None}, ["demo"])
