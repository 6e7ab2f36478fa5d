"""Prefect is not asked where no server is named; where it would know of one, it always is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.operations import configured

ADDRESS = "http://127.0.0.1:4299/api"
PROFILES = f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{ADDRESS}"\n[profiles.other]\n'

CASES: dict[str, tuple[dict[str, str], dict[str, str], bool, bool]] = {
    # environment, files, what Prefect knows, what counts as a place that may give one
    "nothing": ({}, {}, False, False),
    "environment": ({"PREFECT_API_URL": ADDRESS}, {}, True, True),
    "lower case": ({"prefect_api_url": ADDRESS}, {}, True, True),
    "empty": ({"PREFECT_API_URL": ""}, {}, False, False),
    "dotenv": ({}, {".env": f"PREFECT_API_URL={ADDRESS}\n"}, True, True),
    "other dotenv": ({}, {".env": "AWS_REGION=x\n"}, False, False),
    "prefect.toml": ({}, {"prefect.toml": f'[api]\nurl = "{ADDRESS}"\n'}, True, True),
    "other prefect.toml": ({}, {"prefect.toml": '[server.ui]\napi_url = "/api"\n'}, False, False),
    "pyproject.toml": ({}, {"pyproject.toml": f'[tool.prefect.api]\nurl = "{ADDRESS}"\n'}, True, True),
    "other pyproject.toml": ({}, {"pyproject.toml": '[project]\nname = "x"\n'}, False, False),
    "profile": ({}, {"home/profiles.toml": PROFILES}, True, True),
    "inactive profile": ({}, {"home/profiles.toml": PROFILES.replace('"mine"', '"other"', 1)}, False, False),
    "chosen profile": (
        {"PREFECT_PROFILE": "mine"},
        {"home/profiles.toml": PROFILES.replace('"mine"', '"other"', 1)},
        True,
        True,
    ),
    "profiles elsewhere": ({"PREFECT_PROFILES_PATH": "there.toml"}, {"there.toml": PROFILES}, True, True),
    "profiles moved by a file": (
        {},
        {"there.toml": PROFILES, "prefect.toml": 'profiles_path = "there.toml"\n'},
        True,
        True,
    ),
    "damaged profiles": ({}, {"home/profiles.toml": "active ="}, False, True),
}

ASK_PREFECT = """
import json, os, sys, warnings
from prefect.settings import Settings
warnings.simplefilter("ignore")
answers = {}
for name, (folder, environment) in json.loads(sys.stdin.read()).items():
    os.chdir(folder)
    os.environ.update(environment)
    answers[name] = bool(Settings().api.url)
    for variable in environment:
        del os.environ[variable]
    os.environ["PREFECT_HOME"] = "home"
print(json.dumps(answers))
"""


def folder_of(case: str, root: Path) -> Path:
    folder = root / case
    (folder / "home").mkdir(parents=True)
    for name, text in CASES[case][1].items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_a_place_that_may_name_a_server_is_noticed(case, tmp_path, monkeypatch):
    environment, _, _, may_be = CASES[case]
    monkeypatch.chdir(folder_of(case, tmp_path))
    monkeypatch.setenv("PREFECT_HOME", "home")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert configured.may_be_configured() is may_be


def test_prefect_knows_of_a_server_in_no_other_place(tmp_path):
    """The same cases, read by Prefect itself."""
    asked = {case: (str(folder_of(case, tmp_path)), {"PREFECT_HOME": "home"} | CASES[case][0]) for case in CASES}
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK_PREFECT], input=json.dumps(asked), capture_output=True, text=True, env=clean
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {case: known for case, (_, _, known, _) in CASES.items()}


def test_prefect_has_the_last_word_where_it_is_loaded(monkeypatch, tmp_path):
    """As in a test of Prefect's own, which sets the address in a context and in no place that is read."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.chdir(tmp_path)
    with temporary_settings({PREFECT_API_URL: ADDRESS}):
        assert configured.is_server_configured()
