"""`lightgen browse`: which store and run its argument names, what it refuses, and its end."""

import os
import re
import signal
import subprocess
import sys

import httpx
import pytest
from click.testing import CliRunner

from benchmarks.browse import write_store
from flows.browse.find import open_library
from flows.cli import cli
from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan
from storage.open_store import open_store
from tests.support.paths import ROOT
from tests.support.stores import commit
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    made = tmp_path_factory.mktemp("browse") / "store"
    write_store(made, ["one", "two", "three"], side=4, dimensions=8, without=["evaluation"])
    return str(made)


def test_a_folder_or_the_setting_names_the_store(folder, monkeypatch):
    monkeypatch.setenv("LIGHTGEN_STORE", folder)
    titles = [[run.title for run in open_library(what, None).refresh()] for what in (folder, None)]
    assert titles == [["up to pairs, 2026-01-01 00:00, pairs/pair0123"]] * 2


def test_the_run_of_an_artifact_comes_first(folder):
    alone = plan(load_recipe("smoke"), open_store(folder)).artifacts["captions"]
    alone.add("captions.parquet", b"", 0, {})
    commit(alone)
    runs = [open_library(what, folder).refresh()[0].id for what in ("synthesis/synt", alone.path[:16])]
    assert runs == ["pairs/pair0123456789", alone.path]


def test_of_a_recipe_all_stages_are_named_made_or_not(tmp_path):
    store = str(tmp_path / "store")
    made = plan(load_recipe("smoke"), open_store(store)).artifacts["captions"]
    made.add("captions.parquet", b"", 0, {})
    commit(made)
    run = open_library("smoke", store).refresh()[0]
    assert run.title == "smoke, as the recipe stands"
    assert [each["state"] for each in run.states] == ["done", *["missing"] * 9]
    assert run.why_not("pairs").startswith("pairs is missing: never made")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is nothing to look at"),
        (["--store", "/nowhere/store"], "there is no folder /nowhere/store"),
        (["pairs/ff"], "pairs/ff names no artifacts"),
        ([".", "--store", "s3://bucket/store"], "two stores are named"),
        (["--set", "seed=3"], "name the recipe first"),
        (["--host", "0.0.0.0"], "set LIGHTGEN_SERVE_KEY"),
    ],
)
def test_a_wrong_request_is_told_what_to_change(folder, monkeypatch, arguments, message):
    monkeypatch.setenv("LIGHTGEN_STORE", folder)
    monkeypatch.delenv("LIGHTGEN_SERVE_KEY", raising=False)
    refused = CliRunner().invoke(cli, ["browse", *arguments]).exception
    assert isinstance(refused, UserError) and message in str(refused)


def test_a_folder_without_artifacts_is_no_store(tmp_path):
    with pytest.raises(UserError, match="holds nothing that is finished"):
        open_library(str(tmp_path), None)


def test_it_says_its_address_and_ends_on_sigterm(folder, tmp_path):
    """In a process of its own, which loads no torch."""
    program = "import sys; from flows.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", program, "browse", folder, "--port", "0"]
    log = tmp_path / "log"
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, env=os.environ)
    address = wait_until(lambda: re.search(r"http://[\d.:]+", log.read_text()), said=log.read_text)[0]
    runs = httpx.get(f"{address}/api/runs", trust_env=False, timeout=60).json()["runs"]
    assert "pairs/pair0123456789" in [run["id"] for run in runs]
    server.send_signal(signal.SIGTERM)
    assert (server.wait(60), log.read_text().splitlines()[-1]) == (0, "False")
