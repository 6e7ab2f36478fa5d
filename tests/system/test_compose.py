"""docker-compose.yml, Dockerfile and .env.example: what can be held against them without a Docker engine."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest
import yaml
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_settings_fields
from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings
from prefect_redis.client import RedisMessagingSettings
from prefect_redis.messaging import RedisMessagingPublisherSettings

from flows.environment import PREFECT_DEFAULTS
from flows.operations.provision import AUTOMATIONS, WORK_POOL, _automation
from tasks.config.settings import Settings
from tests.support.compose_file import COMPOSE, compose, example, filled, services, variables
from tests.support.paths import ROOT

OURS = ("server", "setup", "worker", "worker-cpu", "lightgen")
LONG_RUNNING = ("postgres", "redis", "s3", "server", "worker", "worker-cpu")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH|_KEY$")


def test_the_file_follows_the_compose_specification():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_image_has_a_version_and_ours_is_the_projects():
    images = {service["image"] for service in services().values()} | set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.M))
    assert [image for image in images if not re.search(r":\d+\.\d+\S*$", image)] == []
    assert {services()[name]["image"] for name in OURS} == {f"lightgen:{PROJECT['version']}"}


def test_every_port_is_published_on_loopback_only():
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_lasting_service_has_a_health_check_and_restarts():
    stays = {name for name, service in services().items() if service["restart"] == "unless-stopped"}
    assert stays == set(LONG_RUNNING)
    assert {name for name, service in services().items() if "test" in service.get("healthcheck", {})} == stays


def test_a_service_waits_for_the_health_or_success_of_its_needs():
    for service in services().values():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_healthy" if needed in LONG_RUNNING else "service_completed_successfully"
            assert how == {"condition": wanted}


def test_every_variable_is_in_the_example():
    """The required ones wait for a value."""
    assert {name for name, _ in variables(compose())} | {"COMPOSE_PROFILES"} == example().keys()
    required = {name for name, kind in variables(compose()) if kind == "?"}
    uncommented = set(re.findall(r"^([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.M))
    assert uncommented == required | {"COMPOSE_PROFILES"}


def test_a_secret_is_never_written_down():
    for service in services().values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name):
                assert re.fullmatch(r"\$\{[^}]*\}", value), name
            assert not re.search(r"://[^/@]*:(?!\$\{)[^/@]+@", value), name
    assert {name: value for name, value in example().items() if SECRET.search(name) and value} == {
        "S3_ACCESS_KEY": "lightgen"  # a name, not a secret
    }


def test_no_setting_is_misspelt():
    known = set(_get_settings_fields(PrefectSettings))
    redis = {
        "MESSAGING": RedisMessagingSettings,
        "MESSAGING_PUBLISHER": RedisMessagingPublisherSettings,
        "WORKER_CLEANUP_QUEUE": RedisWorkerCleanupQueueSettings,
    }
    known |= {f"PREFECT_REDIS_{part}_{name.upper()}" for part, owner in redis.items() for name in owner.model_fields}
    known |= {f"LIGHTGEN_{name.upper()}" for name in Settings.model_fields}
    for name in OURS:
        given = {name for name in services()[name]["environment"] if name.startswith(("PREFECT_", "LIGHTGEN_"))}
        assert given - known == set()
    assert PREFECT_DEFAULTS.keys() - known == {"DO_NOT_TRACK"}


def test_messages_leases_and_clean_up_use_modules_that_exist():
    """They all go through Redis."""
    modules = {value for value in services()["server"]["environment"].values() if value.startswith("prefect_redis.")}
    assert len(modules) == 4
    for module in modules:
        importlib.import_module(module)


def test_prefect_reads_the_settings_of_the_command_line(tmp_path):
    """In the checkout, and in the image."""
    told = "import json, prefect.settings as s; print(json.dumps(s.get_current_settings().to_environment_variables()))"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    clean["PREFECT_HOME"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert (PREFECT_DEFAULTS.items() - {("DO_NOT_TRACK", "1")}) <= json.loads(done.stdout).items()
    assert len(PREFECT_DEFAULTS) == 10
    assert re.search(r"^ENV .*DO_NOT_TRACK=1", DOCKERFILE, re.M)
    assert re.search(r"^WORKDIR /lightgen$", DOCKERFILE, re.M)
    assert re.search(r"^COPY .*\bprefect.toml\b.* \./$", DOCKERFILE, re.M)


def test_the_image_holds_every_package_and_module_of_the_project():
    copied = set(" ".join(re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.M)).split())
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {f"{name}.py" for name in built["py-modules"]} <= copied
    assert {name.rstrip("*") for name in built["packages"]["find"]["include"]} - copied == set()


def test_the_worker_has_the_gpu_and_its_twin_only_lacks_it():
    worker, twin = services()["worker"], services()["worker-cpu"]
    (device,) = worker.pop("deploy")["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert [worker.pop("profiles"), twin.pop("profiles")] == [["gpu"], ["cpu"]]
    assert worker == twin
    assert int(worker["shm_size"].removesuffix("gb")) >= 2


def test_the_worker_polls_the_pool_that_deployments_use():
    command = services()["worker"]["command"]
    assert command[command.index("--pool") + 1] == WORK_POOL
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert {deployment["work_pool"]["name"] for deployment in deployments} == {WORK_POOL}


@pytest.mark.parametrize("enabled", [True, False])
def test_a_repeated_set_up_keeps_an_automation_on_or_off(enabled):
    there, told = SimpleNamespace(id="1", enabled=enabled), []
    server = SimpleNamespace(find_automation=lambda _: there, update_automation=lambda _, wanted: told.append(wanted))
    _automation(server, AUTOMATIONS / "crashed.yaml")
    assert [(wanted.name, wanted.enabled) for wanted in told] == [("lightgen run crashed", enabled)]


def test_every_volume_is_declared_and_used():
    used = {volume.split(":")[0] for service in services().values() for volume in service.get("volumes", [])}
    assert used == compose()["volumes"].keys()


def test_the_docker_image_copies_and_installs_what_exists():
    """It runs as a user."""
    sources = [word for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.M) for word in line.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    extras = re.search(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.M)[1].split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    assert re.search(r"pip install --constraint constraints.txt", DOCKERFILE)
    assert re.search(r"^USER (?!root)\w+$", DOCKERFILE, re.M)


@pytest.mark.parametrize("ignore", [".gitignore", ".dockerignore"])
def test_secrets_stay_out_of_git_and_out_of_the_image(ignore):
    assert ".env" in (ROOT / ignore).read_text().splitlines()


def test_variables_are_filled_in_as_compose_does():
    text = "${A}-${B:-b}-${C:?say c}-$$D"
    assert filled(text, {"A": "1", "C": "3"}) == "1-b-3-$D"
    assert filled(text, {"A": "1", "B": "2", "C": "3"}) == "1-2-3-$D"
    with pytest.raises(KeyError, match="say c"):
        filled(text, {"A": "1"})
