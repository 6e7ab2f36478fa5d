"""The command line: exit codes, where output goes, and what is not loaded."""

import json
import subprocess
import sys

import pytest
from click.shell_completion import BashComplete

from flows.cli import cli
from flows.commands.sample import read_overrides
from flows.errors import UserError
from flows.student import changed_sampler
from lightgen_core.config import SamplerConfig
from storage.artifact import Artifact
from storage.open_store import open_store
from tests.factories.tiny_checkpoint import save_tiny_checkpoint
from tests.support.stores import commit


def lightgen(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "flows", *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("module", ["flows.cli", "flows.run", "flows.distill", "tasks.stage"])
def test_importing_the_flows_loads_no_torch_scipy_or_faiss(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'scipy', 'faiss', 'openai'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_and_plan_load_neither_torch_nor_prefect(tmp_path):
    code = (
        "import sys; from flows.cli import cli; sys.argv = ['lightgen']\n"
        f"cli(['plan', 'smoke', '--store', {str(tmp_path)!r}], standalone_mode=False)\n"
        "sys.exit(bool({'torch', 'prefect'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


BAR = """
import sys, {module} as module
def bar(name):
    sys.exit(f"{{name}} {{sorted({{'torch', 'prefect'}} & set(sys.modules))}}")
module.{bar} = bar
from flows.cli import cli
cli({arguments})
"""


@pytest.mark.parametrize(
    ("module", "bar", "arguments", "name"),
    [
        ("flows.start", "waiting_bar", ["run", "smoke"], "server"),
        ("flows.commands.ablate", "waiting_bar", ["ablate", "smoke", "--axis", "captions"], "server"),
        ("flows.commands.sample", "stage_bar", ["sample", "STUDENT", "a red circle"], "student"),
        ("flows.commands.serve_model", "stage_bar", ["gallery", "STUDENT"], "student"),
        ("flows.commands.export", "stage_bar", ["export", "STUDENT", "STORE/exported"], "export"),
    ],
)
def test_a_bar_moves_while_large_libraries_load(tmp_path, module, bar, arguments, name):
    """It is shown before they are: to load torch or Prefect takes seconds."""
    student = save_tiny_checkpoint(tmp_path / "student")
    given = [word.replace("STUDENT", str(student)).replace("STORE", str(tmp_path)) for word in arguments]
    given += [] if "export" in given else ["--store", str(tmp_path / "store")]
    code = BAR.format(module=module, bar=bar, arguments=given)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"{name} []"


def test_a_command_ends_without_a_search_through_all_objects():
    """With torch loaded that takes Python seconds after the command's last word."""
    code = (
        "import atexit, gc, sys; from flows.cli import main; sys.argv = ['lightgen', 'recipes']\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0)); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_loads_no_large_library(arguments):
    """So that it answers at once; completion, which asks for the same, too."""
    large = {"torch", "prefect", "numpy", "pydantic", "pyarrow", "yaml", "httpx"}
    code = (
        "import sys; from flows.cli import cli\n"
        f"try: cli({arguments}, prog_name='lightgen')\n"
        f"except SystemExit: print(sorted({large} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    ("words", "typed", "found"),
    [
        (["run"], "de", ["demo"]),
        (["sample"], "smo", ["smoke"]),
        (["compare", "demo"], "scene", ["scene-64", "scene-preference"]),
        (["init", "--from"], "pic", ["pictures"]),
        (["run", "demo", "--only"], "d", ["dedup", "dpo", "distil_head"]),
        (["run", "demo", "--refresh"], "a", ["all", "average"]),
        (["run", "demo", "--until"], "a", ["average"]),
        (["eval", "out", "--recipe"], "smo", ["smoke"]),
        (["store", "gc", "--keep"], "de", ["demo"]),
        (["table", "2"], "smo", ["smoke"]),
        (["fields"], "pre", ["pretrain"]),
        (["ablate", "demo", "--axis"], "pre", ["preference", "pretrain"]),
        (["ablate", "demo", "--axis"], "dpo.be", ["dpo.beta"]),
        (["fields"], "pretrain.he", ["pretrain.head"]),
    ],
)
def test_recipes_and_stages_are_completed(words, typed, found):
    shell = BashComplete(cli, {}, "lightgen", "_LIGHTGEN_COMPLETE")
    assert sorted(item.value for item in shell.get_completions(words, typed)) == sorted(found)


def test_where_no_recipe_begins_so_files_are_completed():
    (item,) = BashComplete(cli, {}, "lightgen", "_LIGHTGEN_COMPLETE").get_completions(["run"], "mine.y")
    assert (item.type, item.value) == ("file", "mine.y")


def test_queues_of_prefect_say_nothing_after_the_error():
    """They warn while the process ends, so the last line on standard error would not be the command's own."""
    code = (
        "import logging, flows.environment as environment; environment.log_to_stderr()\n"
        "from prefect._internal.concurrency.services import _QueueServiceBase as Base\n"
        "from prefect.events.worker import EventsWorker; from prefect.logging.handlers import APILogWorker\n"
        "for queue in (EventsWorker, APILogWorker):\n"
        "    assert issubclass(queue, Base); logging.getLogger(queue.__name__).warning('still 1 items')\n"
        "logging.getLogger('EventsWorker').error('lost')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("still"), done.stderr.count("lost")) == (0, 0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nosuch"], "there is no recipe 'nosuch'"),
        (["plan", "nosuch.yaml"], "there is no file 'nosuch.yaml'"),
        (["plan", "smoke", "--set", "pretrain=3"], "a section takes its fields, as in pretrain.field=value"),
        (["run", "smoke", "--set", "pretrain.stepz=1"], "Did you mean 'steps'?"),
        (["run", "smoke", "--set", "captions.count=-1"], "captions.count: found -1"),
        (["run", "smoke", "--only", "tokns"], "there is no stage 'tokns'"),
        (["run", "smoke", "--refresh", "nosuch"], "there is no stage 'nosuch'"),
        (["run", "smoke", "--engine", "spark"], "'spark' is not"),
        (["plan", "smoke", "--store", "nosuch://x"], "cannot be opened"),
        (["serve", "smoke", "--cron", "nonsense"], "is no schedule that ever comes due"),
        (["nosuch"], "No such command"),
        (["rnu", "smoke"], "Did you mean 'run'?"),
        (["estimate", "smoke", "--throughput", "pretain=3"], "Did you mean 'pretrain'?"),
        (["store", "show", "cations/0"], "Did you mean 'captions'?"),
        (["sample", "/nosuch/folder", "a red circle"], "holds no student"),
        (["sample", "/nosuch/folder", " "], "a prompt is empty"),
        (["store", "show", "captions/zzz", "--store", "flows"], "names no artifacts"),
        (["store", "ls", "--store", "/nonexistent/store"], "no folder /nonexistent/store"),
        (["store", "gc", "--keep", "smoke", "--store", "/nonexistent/store"], "--store or LIGHTGEN_STORE"),
        (["run", "smoke", "--store", "/proc/nope"], "/proc/nope cannot be written to"),
        (["run", "smoke", "--store", "README.md/below"], "README.md is a file"),
    ],
)
def test_a_mistake_exits_with_2_and_a_few_lines_on_stderr(arguments, message):
    done = lightgen(*arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [("--debug", "run", "nosuch"), ("run", "nosuch", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(arguments):
    done = lightgen(*arguments)
    assert "Traceback" in done.stderr
    assert done.returncode == 2


def test_a_plan_of_an_empty_store_is_json_of_ten_missing_stages(tmp_path):
    done = lightgen("plan", "smoke", "--store", str(tmp_path), "--json")
    result = json.loads(done.stdout)
    assert result.keys() == {"recipe", "store", "stages"}
    assert [stage["state"] for stage in result["stages"]] == ["missing"] * 10


def test_doctor_finds_this_machine_ready_and_says_so_as_json():
    done = lightgen("doctor", "demo", "--json")
    checks = {row["check"]: row["state"] for row in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0
    assert checks["torch"] == checks["store"] == checks["zoo:clip"] == "ok"


def test_set_changes_any_field_of_the_sampler():
    overrides = ("head_steps_last=4", "guidance_schedule=interval", "guidance_interval=[0, 0.7]")
    changed = changed_sampler(SamplerConfig(head_steps=12), {"iterations": 6} | read_overrides(overrides))
    assert changed == SamplerConfig(
        iterations=6, head_steps=12, head_steps_last=4, guidance_schedule="interval", guidance_interval=(0, 0.7)
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("head_stepz=4", "one of iterations, head_steps.*Did you mean 'head_steps'"),
        ("head_steps", "expected FIELD=VALUE"),
        ("head_steps=-1", "head_steps: Input should be greater"),
        ("head_steps_last=101", "exceeds head_steps 100; lower it"),
        ("head_steps=[", "is not a YAML value"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(override, message):
    with pytest.raises(UserError, match=message):
        changed_sampler(SamplerConfig(), read_overrides((override,)))


def test_verify_exits_with_1_where_something_is_damaged(tmp_path):
    store = open_store(str(tmp_path))
    artifact = Artifact(store, "captions", "0" * 20)
    artifact.add("part.parquet", b"whole", 1, {})
    commit(artifact)
    assert lightgen("store", "verify", "--store", str(tmp_path)).returncode == 0
    store.write(f"{artifact.path}/part.parquet", b"spoil")
    found = lightgen("store", "verify", "--store", str(tmp_path))
    assert found.returncode == 1 and "the content of part.parquet" in found.stdout


def test_sigterm_ends_a_command_with_a_word_as_ctrl_c_does(tmp_path):
    told = "cli.cli = lambda *_, **__: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(60))"
    code = f"import os, signal, time\nfrom flows import cli\n{told}\ncli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "stopped; what is finished is kept, and the same command goes on from there\n"
