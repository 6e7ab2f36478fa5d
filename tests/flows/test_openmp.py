"""OpenMP's waiting threads spin for a bounded time, wherever torch loads, unless the caller's environment says how."""

import os
import re
import subprocess
import sys

import pytest

from flows.openmp import SPIN_COUNT, bound_spinning
from lightgen_core.launch import ray_cluster

QUIET = "import os; os.getloadavg = lambda: (1.0, 9.0, 9.0); os.cpu_count = lambda: 2\n"

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "LIGHTGEN_SPIN_COUNT")


@pytest.fixture
def unset(monkeypatch):
    """No variable of OpenMP is set; after the test all are as before."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored though the code under test sets it
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0, 9.0, 9.0))
    return monkeypatch


def test_the_openmp_that_torch_loads_spins_as_set():
    """It is asked to print what it has read, as it loads."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    code = QUIET + "from flows.openmp import bound_spinning; bound_spinning(); import torch"
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | {"OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True
    )
    assert re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr) == [str(SPIN_COUNT)]


def test_a_command_and_what_it_starts_have_the_default():
    """Workers of a pool and processes of torchrun inherit it; the environment is printed by a child of the command."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    child = "print(__import__('os').environ['GOMP_SPINCOUNT'])"
    code = QUIET + (
        "import subprocess, sys; from flows import cli\n"
        f'cli.cli = lambda *_, **__: subprocess.run([sys.executable, "-c", "{child}"])\n'
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (f"{SPIN_COUNT}\n", 0), done.stderr


def test_processes_on_a_cluster_get_it(unset):
    bound_spinning()
    assert ray_cluster._environment()["GOMP_SPINCOUNT"] == str(SPIN_COUNT)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({}, str(SPIN_COUNT)),
        ({"LIGHTGEN_SPIN_COUNT": "7"}, "7"),
        ({"GOMP_SPINCOUNT": "5", "LIGHTGEN_SPIN_COUNT": "7"}, "5"),
        ({"OMP_WAIT_POLICY": "passive", "LIGHTGEN_SPIN_COUNT": "7"}, None),
    ],
)
def test_the_callers_environment_goes_before_the_setting(unset, given, count):
    for name, value in given.items():
        unset.setenv(name, value)
    bound_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == count


@pytest.mark.parametrize(("load", "count"), [(0.0, str(SPIN_COUNT)), (4.0, str(SPIN_COUNT)), (4.1, "0")])
def test_threads_sleep_at_once_where_cores_are_crowded(unset, load, count):
    unset.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    bound_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == count
