"""`lightgen doctor RECIPE`: which models are here, which can be had, what else is missing; nothing is downloaded."""

import json
import re
import subprocess
import sys
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import huggingface_hub.constants
import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.commands import doctor, doctor_models
from flows.commands.doctor_models import check_model, models_of
from flows.errors import UserError
from flows.load import load_recipe
from tasks.config.settings import Settings

COMMIT = "3d7c5902f1a4b6e8d0c2a4b6e8d0c2a4b6e8d0c2"
WEIGHTS = [{"rfilename": "model.safetensors", "size": 3_000_000_000}, {"rfilename": "vae/model.safetensors", "size": 9}]


class Hub(BaseHTTPRequestHandler):
    """Stands for the hub: answers for a few repositories, and keeps a list of what it was asked about them.

    The client of the hub also asks for a list of its own, once a day and machine; that is not about a repository.
    """

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if not self.path.startswith("/api/models/"):
            self.send_error(404)
            return
        self.asked.append(f"{self.command} {self.path}")
        name = self.path.removeprefix("/api/models/").partition("/revision/")[0]
        about = {"id": name, "sha": COMMIT, "siblings": WEIGHTS, "gated": False, "cardData": {"license": "mit"}}
        if name == "org/pickled":
            about["siblings"] = [{"rfilename": "pytorch_model.bin", "size": 3}]
        if name == "org/gated":
            about["gated"] = "manual"
        if name == "org/slow":
            time.sleep(0.5)
        if name == "org/none":
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(about).encode())

    def do_HEAD(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        self.send_error(403)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A hub on this machine, an empty cache, and the list of requests."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(Hub, "asked", [])
    yield Hub.asked
    server.shutdown()
    server.server_close()


def cached(tmp_path, weights: bytes) -> None:
    """Put org/name into the cache, its main branch at COMMIT."""
    folder = tmp_path / "hub" / "models--org--name"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT / "config.json").write_text("{}")
    if weights:
        (folder / "snapshots" / COMMIT / "model.safetensors").write_bytes(weights)


def test_the_models_of_a_recipe_are_those_that_its_stages_use():
    assert models_of(load_recipe("demo")) == {
        "zoo:clip": ["embeddings", "pairs", "evaluation"],
        "zoo:autoencoder": ["tokens"],
        "zoo:t5": ["tokens"],
    }


def test_a_model_on_the_hub_is_looked_up_and_not_downloaded(online):
    found = check_model("org/name")
    assert (found.state, found.download) == ("note", 3_000_000_009)
    assert found.found == f"on the hub, 3 GB to download; licence mit; not pinned: write org/name@{COMMIT}"
    assert online == ["GET /api/models/org/name/revision/main?blobs=true"]


def test_a_pinned_folder_of_a_repository_is_read_at_its_commit(online):
    found = check_model(f"org/name/vae@{COMMIT}")
    assert (found.state, found.download, "pinned" in found.found) == ("note", 9, False)
    assert online == [f"GET /api/models/org/name/revision/{COMMIT}?blobs=true"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/none", "has no such model or revision"),
        ("org/pickled", "has no safetensors"),
        ("org/gated", "wants consent"),
        ("org/slow", "cannot be reached: timed out"),
        ("/nosuch/folder", "there is nothing at"),
    ],
)
def test_a_model_that_cannot_be_had_is_missing_with_the_reason(online, monkeypatch, name, message):
    monkeypatch.setattr(doctor_models, "TIMEOUT_SECONDS", 0.2 if name == "org/slow" else 5.0)
    found = check_model(name)
    assert found.state == "missing"
    assert message in found.found


def test_offline_nothing_is_requested(online, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = check_model("google/flan-t5-xxl")
    assert found.state == "missing"
    assert found.found == "not here, and cannot be checked offline (HF_HUB_OFFLINE); licence Apache-2.0"
    assert online == []


def test_the_licence_and_the_gate_of_a_known_model_are_named(online):
    assert "licence FLUX.1 [dev] Non-Commercial License, gated" in check_model("black-forest-labs/FLUX.1-dev").found


def test_a_cached_model_is_ready_with_advice_how_to_pin_it(online, tmp_path):
    cached(tmp_path, b"1234")
    assert check_model(f"org/name@{COMMIT}").state == "ok"
    found = check_model("org/name")
    assert (found.state, found.bytes, found.download) == ("note", 4.0, 0.0)
    assert f"not pinned: write org/name@{COMMIT}" in found.found
    assert online == []


def test_a_model_with_only_its_configuration_cached_is_not_here(online, tmp_path):
    cached(tmp_path, b"")
    assert check_model("org/name").found.startswith("on the hub, 3 GB to download")


def checks_of(recipe, settings) -> dict[str, dict[str, str]]:
    return {row["check"]: row for row in doctor.check_machine(recipe, settings)}


def test_a_disk_that_is_too_small_is_missing(monkeypatch, tmp_path):
    settings = Settings(store=str(tmp_path / "store"))
    recipe = load_recipe("demo")
    assert checks_of(recipe, settings)["disk"]["state"] == "ok"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 10**6))
    row = checks_of(recipe, settings)["disk"]
    assert row["state"] == "missing"
    assert "tokens 82.6 MB" in row["found"] and "1 MB free" in row["found"]


def test_a_device_that_is_too_small_is_noted(monkeypatch, tmp_path):
    settings, recipe = Settings(store=str(tmp_path / "store")), load_recipe("demo")
    assert checks_of(recipe, settings)["device memory"]["state"] == "ok"
    monkeypatch.setattr(doctor, "_memory", lambda: 10**6)
    row = checks_of(recipe, settings)["device memory"]
    assert row["state"] == "note"
    assert row["found"].startswith("48.8 MB for training, one row at a time")
    distilled = checks_of(load_recipe("demo", ["distil_head={}"]), settings)["device memory"]
    assert distilled["found"].startswith("52.9 MB for training")  # the student that teaches it, and Muon's averages


def test_a_shard_of_more_than_ten_minutes_is_noted():
    """With a size that takes ten: FLUX needs 1.3 s an image of 512 px by the estimate."""
    sizes = [("synthesis.shard_size=192",), ("synthesis.shard_size=2000",)]
    (short,), (long,) = (doctor._check_shards(load_recipe("lightgen-0.7b-256", changes)) for changes in sizes)
    assert (short["state"], short["found"]) == ("ok", "a shard of 192 images takes 4 minutes (estimate)")
    assert (long["state"], long["found"].partition("; ")[2]) == (
        "note",
        "a kill loses them: set synthesis.shard_size=474",
    )


def test_a_training_of_more_than_a_day_on_a_cpu_is_noted(monkeypatch):
    """A recipe without a section `pretrain` has the paper's steps and batches."""
    monkeypatch.setattr(doctor, "measure_cores", lambda: 0.05)
    settings, short = Settings(device="cpu"), load_recipe("demo")
    assert doctor._check_training(short, settings) == []
    (row,) = doctor._check_training(short.model_copy(update={"pretrain": type(short.pretrain)()}), settings)
    assert row["state"] == "note"
    assert re.match(r"204,800,000 images take \d+ days.* on this CPU, at least", row["found"]), row["found"]


def test_the_store_and_the_fields_of_a_run_are_looked_at(tmp_path):
    """With the options that `run` has."""
    given = ["--store", str(tmp_path), "--set", "pretrain.model=small", "--json"]
    done = CliRunner().invoke(cli, ["doctor", "demo", *given], catch_exceptions=False)
    checks = {row["check"]: row["found"] for row in json.loads(done.output)["checks"]}
    assert checks["store"].startswith(f"{tmp_path}, ") and checks["disk"].endswith(f"at {tmp_path}")
    assert checks["student"].startswith("small, ")
    refused = CliRunner().invoke(cli, ["doctor", *given]).exception
    assert isinstance(refused, UserError) and "name one" in str(refused)


def test_keys_of_endpoints_are_reported_as_set_and_never_shown(monkeypatch):
    monkeypatch.setenv("LIGHTGEN_LLM_KEY", "a secret")
    monkeypatch.delenv("LIGHTGEN_LLM_URL", raising=False)
    rows = doctor._check_endpoints(load_recipe("lightgen-0.7b-256"))
    assert {row["check"]: row["state"] for row in rows} == {"LIGHTGEN_LLM_URL": "note", "LIGHTGEN_LLM_KEY": "ok"}
    assert "a secret" not in json.dumps(rows)
    monkeypatch.setenv("LIGHTGEN_IMAGES_URL", "http://painter/v1")
    painter = ["captions.llm=null", "captions.source=scene", "synthesis.teacher=endpoint"]
    rows = doctor._check_endpoints(load_recipe("demo", [*painter, "synthesis.endpoint={model: painter}"]))
    assert {row["check"]: row["state"] for row in rows} == {"LIGHTGEN_IMAGES_URL": "ok", "LIGHTGEN_IMAGES_KEY": "note"}


def test_a_recipe_with_missing_models_exits_1_and_names_them():
    command = [sys.executable, "-m", "flows", "doctor", "lightgen-0.7b-256", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    checks = {row["check"]: row for row in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert checks["black-forest-labs/FLUX.1-dev"]["state"] == "missing"
    assert checks["google/flan-t5-xxl"]["found"].endswith("(for tokens)")
