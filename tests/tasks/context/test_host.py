"""Facts of the machine in a manifest."""

import os
import platform

import pytest

from storage.open_store import open_store
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context import host
from tasks.context.host import cpu_name, gpu_names, host_facts
from tasks.stage import stage


@pytest.fixture
def machine(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(
        "processor : 0\nmodel name\t: AMD EPYC  9654\nprocessor : 1\nmodel name\t: other\n"
    )
    for slot in ("0000:01", "0000:02"):
        (tmp_path / "gpus" / slot).mkdir(parents=True)
        (tmp_path / "gpus" / slot / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 7\n")
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(host, "_GPUS", tmp_path / "gpus")
    return tmp_path


def test_processor_and_gpus_have_their_makers_names(machine):
    assert cpu_name() == "AMD EPYC 9654"
    assert gpu_names() == ["NVIDIA H200"] * 2
    assert host_facts(None)["gpu"] == "2 x NVIDIA H200"


def test_without_a_name_the_architecture_stands_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(host, "_GPUS", tmp_path / "none")
    assert cpu_name() == (platform.processor() or platform.machine())
    assert "gpu" not in host_facts(None)


def test_cores_name_those_that_others_keep(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert host_facts(None)["cores"] == "2 of 64"


def test_auto_is_the_device_that_was_taken(monkeypatch):
    import torch

    for there, device in ((True, "cuda (auto)"), (False, "cpu (auto)")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert host_facts("auto")["device"] == device
    assert host_facts("cuda:1")["device"] == "cuda:1"


@pytest.mark.parametrize("on_device", [True, False])
def test_a_manifest_names_a_device_only_where_a_stage_has_one(on_device, tmp_path):
    @stage(version=1, config_sections=(), on_device=on_device)
    def nothing(ctx):
        ctx.write("a", b"")

    artifact = nothing.artifact(Recipe(name="test"), open_store(str(tmp_path)), ())
    nothing.run(Recipe(name="test"), Settings(device="cpu"), (), artifact)
    found = artifact.manifest().host
    assert found.get("device") == ("cpu" if on_device else None)
    assert {"machine", "system", "cpu", "cores", "memory"} <= found.keys()
