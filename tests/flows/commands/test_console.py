"""Output of the command line for a person: nouns with their numbers, only what applies, in aligned columns."""

import subprocess
import sys

import click
import pytest
import yaml
from click.testing import CliRunner

from flows.cli import cli, main
from flows.commands.console import describe_checks, describe_estimate, describe_plan
from flows.commands.estimate import Rates, estimate
from flows.errors import UserError
from flows.load import load_recipe
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.plural import pluralize
from tests.support.stores import commit

RECIPES = ["init", "recipes", "show", "fields", "schema"]
VERBS = [
    "run",
    "plan",
    "serve",
    "estimate",
    "doctor",
    "ledger",
    "ablate",
    *RECIPES,
    "sample",
    "inpaint",
    "eval",
    "compare",
    "import-upstream",
    "export",
    "serve-model",
    "gallery",
    "table",
    "open",
    "browse",
    "notify",
    "store",
]


def test_what_is_named_by_recipe_is_looked_for_in_any_store():
    """`show` reads no store, and `fields`, which completes sections."""
    named = [
        name
        for name, command in cli.commands.items()
        if any(isinstance(each, click.Argument) and each._custom_shell_complete for each in command.params)
    ]
    assert {"run", "doctor", "sample", "inpaint", "open"} <= {*named}
    assert [name for name in named if "store_uri" not in {each.name for each in cli.commands[name].params}] == [
        "show",
        "fields",
    ]


@pytest.mark.parametrize(("count", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12000, "12,000 rows")])
def test_a_noun_follows_its_number(count, said):
    assert pluralize(count, "row") == said


def lightgen(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("group", [[], ["store"]])
def test_each_verb_says_in_one_whole_line_what_it_does(group):
    lines = lightgen(*group, "-h").partition("Commands:\n")[2].splitlines()
    assert group or [line.split()[0] for line in lines] == VERBS
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []


def test_a_plan_ends_with_how_much_there_is_to_do():
    stages = [
        {"stage": name, "state": state, "key": "k", "why": ""} for name, state in (("a", "done"), ("b", "partial"))
    ]
    assert describe_plan({"stages": stages, "store": "S"}).endswith("\n1 of 2 stages to make; artifacts in S")
    assert describe_plan({"stages": stages[:1], "store": "S"}).endswith(
        "\nnothing to do: every stage is done; artifacts in S"
    )


def test_money_is_a_column_where_there_is_a_price():
    with_price, without = (
        describe_estimate(estimate(load_recipe("smoke"), Rates(price=price))).splitlines()[2] for price in (2.5, None)
    )
    assert with_price.split() == [*without.split(), "money"]


def test_a_failed_check_has_a_word_of_its_own():
    """The last line says whether the machine is ready."""
    small = {"check": "disk", "state": "missing", "word": "too small", "found": "9 GB free"}
    fine = {"check": "torch", "state": "ok", "word": "ok", "found": "2.11"}
    assert describe_checks([fine, small]) == "torch  ok         2.11\ndisk   too small  9 GB free\nnot ready: disk"
    assert describe_checks([fine]).endswith("\nready")


def test_store_show_describes_an_artifact_and_json_its_manifest(tmp_path):
    store = open_store(str(tmp_path))
    artifact = Artifact(store, "captions", "0123456789")
    for number in range(23):
        artifact.add(f"part-{number:02d}", b"x" * 1000, number, {})
    commit(artifact)
    said = lightgen("store", "show", "captions/0123", "--store", store.uri)
    assert "made      2026-01-01 00:00 UTC in 1.0 s, 0.0 s of them with the device" in said
    assert "23 files, 23 kB\n  part-00  1 kB\n  part-01  1 kB  1 row\n  part-02  1 kB  2 rows\n" in said
    assert "  part-19  1 kB  19 rows\n  and 3 more\n" in said
    printed = lightgen("store", "show", "captions/0123", "--store", store.uri, "--json")
    assert yaml.safe_load(printed) == artifact.manifest().model_dump(mode="json")
    assert lightgen("store", "ls", "--store", store.uri).endswith(f"\n1 artifact in {store.uri}\n")
    assert lightgen("store", "verify", "--store", store.uri) == "1 artifact: 1 whole, 0 damaged\n"


def test_ctrl_c_ends_with_130(monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.plan.plan", interrupted)
    monkeypatch.setattr(sys, "argv", ["lightgen", "plan", "smoke"])
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, capsys.readouterr().err.strip().split(";")[0]) == (130, "stopped")


def mistakes(student: str, place: str) -> list[list[str]]:
    """Commands that nobody need load a model to refuse."""
    return [
        ["sample", "/nosuch/folder", "a star"],
        ["sample", student, "a star", "--set", "head_stps=3"],
        ["sample", student, "a star", "-o", place],
        ["inpaint", "/nosuch/folder", f"{student}/x.png", f"{student}/x.png", "a star"],
        ["inpaint", student, f"{student}/x.png", f"{student}/x.png", "a star", "-o", f"{place}/out.png"],
        ["eval", "/nosuch/folder"],
        ["eval", student, "-o", place],
        ["eval", "diffusers:/nosuch/folder"],
    ]


def test_mistakes_with_a_student_are_errors_before_torch_loads(tmp_path):
    from PIL import Image

    student = tmp_path / "artifact/model"
    student.mkdir(parents=True)
    (student / "config.json").write_text('{"mar": {}, "head": {}, "info": {}}')
    Image.new("RGB", (16, 16)).save(student / "x.png")
    code = (
        "import sys; from flows.cli import cli; from flows.errors import USER_ERRORS\n"
        f"for arguments in {mistakes(str(student), str(student / 'x.png/out'))!r}:\n"
        "    try: cli(arguments, standalone_mode=False)\n"
        "    except USER_ERRORS as error: print(error)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert (done.returncode, len(said)) == (0, 8), done.stderr
    assert sum("holds no student: there is no such folder" in line for line in said) == 3
    assert sum("nothing can be written to" in line for line in said) == 3
    assert "Did you mean 'head_steps'?" in said[1] and "there is nothing at /nosuch/folder" in said[7]


def test_a_folder_around_the_student_is_answered_with_its_path(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"mar": {}, "head": {}, "info": {}}')
    result = CliRunner().invoke(cli, ["sample", str(tmp_path), "a star"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).endswith(f"did you mean {tmp_path}/model?")
