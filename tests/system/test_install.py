"""Installing: a wheel outside of the checkout, uv where it is there, PyTorch without CUDA."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = ("flows", "tasks", "storage", "lightgen_core")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
BUILD = """
import os, sys, tarfile
from setuptools import build_meta
folder = sys.argv[1]
archive = build_meta.build_sdist(folder)
tarfile.open(f"{folder}/{archive}").extractall(folder, filter="data")
os.chdir(f"{folder}/{archive.removesuffix('.tar.gz')}")
build_meta.build_wheel(folder)
"""

needs_setuptools = pytest.mark.skipif(
    int(version("setuptools").split(".")[0]) < 77,
    reason=f"setuptools {version('setuptools')} cannot build the wheel, 77 can: it is not tried (make install)",
)


def outside(**more: str) -> dict[str, str]:
    """Environment of a shell in which nothing of the checkout is set."""
    dropped = ("PYTHON", "LIGHTGEN_", "PIP_", "MAKE", "UV_")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)} | more


def run(*command: str | Path, folder: Path, **more: str) -> str:
    """Run a command in a folder, with nothing of the checkout set; return what it prints."""
    environment = outside(PREFECT_HOME=str(folder / "prefect"), **more)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_of_the_packages(folder: Path) -> set[str]:
    found = {path.relative_to(folder).as_posix() for name in PACKAGES for path in (folder / name).rglob("*")}
    return {name for name in found if "__pycache__" not in name and (folder / name).is_file()} | {"lightgen.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from an sdist, which was built from the files of the checkout."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "lightgen.py", "constraints.txt"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-c", BUILD, str(built), folder=source)
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """`bin` of an environment with the wheel; its dependencies are those of this one, without the editable checkout."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    run(*pip, "install", "--no-deps", "--no-index", "--quiet", str(wheel), folder=home)
    (packages,) = home.glob("lib/python*/site-packages")
    # Lines that are folders join sys.path; what the .pth files in those folders say is not followed.
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return python.parent


@needs_setuptools
def test_the_wheel_of_an_sdist_holds_every_file_of_the_packages(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == files_of_the_packages(ROOT)


@needs_setuptools
def test_the_wheel_is_imported_outside_the_checkout(installed, tmp_path):
    code = "import lightgen, flows.cli, tasks.stage, storage; print(lightgen.__file__, flows.__file__, tasks.__file__)"
    files = run(installed / "python", "-c", code, folder=tmp_path).split()
    assert [Path(file).is_relative_to(installed.parent) for file in files] == [True] * 3


@needs_setuptools
def test_recipes_are_listed_shown_and_planned_outside(installed, tmp_path):
    listed = run(installed / "lightgen", "recipes", folder=tmp_path)
    shown = run(installed / "lightgen", "show", "smoke", folder=tmp_path)
    planned = json.loads(run(installed / "lightgen", "plan", "smoke", "--json", folder=tmp_path))
    recipes = {path.stem for path in (ROOT / "flows/recipes").glob("*.yaml")}
    assert recipes <= set(listed.split())
    assert "name: smoke" in shown.splitlines()
    assert [stage["state"] for stage in planned["stages"]] == ["missing"] * 10
    assert planned["store"] == str(tmp_path / "lightgen-store")


def make_install(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `make --dry-run install ARGUMENTS`."""
    make = shutil.which("make") or pytest.skip("no `make` on PATH")
    command = [make, "--dry-run", "--always-make", "install", *arguments]
    environment = outside(PATH=path or os.environ["PATH"])
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)


def install_line(*arguments: str, path: str | None = None) -> list[str]:
    """Words of the command by which `make install` installs the dependencies."""
    made = make_install(*arguments, path=path)
    assert made.returncode == 0, made.stderr
    (line,) = [line for line in made.stdout.splitlines() if "--constraint" in line]
    return shlex.split(line)


def program(folder: Path, name: str) -> Path:
    """A program of this name that does nothing."""
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def test_make_uses_uv_where_it_is_with_the_same_lock(tmp_path):
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    uv = program(tmp_path / "with", "uv")
    tools = f"{tmp_path / 'without'}:/usr/bin:/bin"
    lock = ["--editable", ".[dev]", "--constraint", "constraints.txt"]
    by_uv = install_line(path=f"{uv.parent}:/usr/bin:/bin")
    assert by_uv == [str(uv), "pip", "install", "--quiet", "--python", ".venv/bin/python", *lock]
    if shutil.which("uv", path=tools) is None:
        assert install_line(path=tools) == [".venv/bin/python", "-m", "pip", "install", "--quiet", *lock]


def test_torch_is_cpu_or_the_registrys_build():
    assert CPU_INDEX in install_line("TORCH=cpu")
    assert CPU_INDEX not in install_line()
    made = make_install("TORCH=cuda")
    assert made.returncode == 2
    assert "give cpu, or leave it out" in made.stderr


def package_index(folder: Path, release: str, requires: str = "") -> str:
    """Address of a package index (PEP 503) whose torch has nothing in it but the metadata of a release."""
    (folder / "torch").mkdir(parents=True)
    name, info = f"torch-{release}-py3-none-any.whl", f"torch-{release}.dist-info"
    with zipfile.ZipFile(folder / "torch" / name, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {release}\n{requires}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    (folder / "torch" / "index.html").write_text(f'<a href="{name}">{name}</a>')
    (folder / "index.html").write_text('<a href="torch/">torch</a>')
    return folder.as_uri()


def test_a_cpu_build_is_preferred_under_the_same_pin(tmp_path):
    (pinned,) = re.findall(r"^torch==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    cuda = package_index(tmp_path / "registry", pinned, "Requires-Dist: nvidia-cublas\n")
    cpu = package_index(tmp_path / "cpu", f"{pinned}+cpu")
    words = install_line("TORCH=cpu", f"TORCH_INDEX={cpu}", path="/usr/bin:/bin")
    words[words.index("--editable") : words.index("--constraint")] = ["torch"]
    dry = ["--dry-run", "--ignore-installed", "--index-url", cuda, "--report", str(tmp_path / "report.json")]
    run(sys.executable, *words[1:], *dry, folder=ROOT, PIP_CONFIG_FILE=os.devnull)
    chosen = json.loads((tmp_path / "report.json").read_text())["install"]
    assert [(each["metadata"]["name"], each["metadata"]["version"]) for each in chosen] == [("torch", f"{pinned}+cpu")]
