"""A compiled teacher generates the same images, its blocks compiled once each, below a step cache too."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from lightgen_core.teachers.base import TeacherError
from lightgen_core.teachers.config import DiffusersConfig
from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher
from tests.factories import tiny_newer_pipelines, tiny_pipelines

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow(rank=20)]

UNBINNED = {"use_resolution_binning": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("compiled")
    newer = {name: getattr(tiny_newer_pipelines, f"save_{name}")(root / name) for name in ("z_image", "pixart_sigma")}
    return newer | {"flux": tiny_pipelines.save_flux(root / "flux", (2, 10))}


@pytest.fixture
def graphs(monkeypatch) -> list[torch.fx.GraphModule]:
    """Compile by a backend that runs what was traced; returns the graphs."""
    compiled: list[torch.fx.GraphModule] = []

    def backend(graph, example_inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    yield compiled
    torch._dynamo.reset()


def load(folder: Path, compile: bool, **fields) -> DiffusersTeacher:
    plain = {"dtype": "float32", "steps": 4, "height": 48, "width": 48, "batch_size": 1}
    return DiffusersTeacher.load(DiffusersConfig(model=str(folder), **plain | fields), "cpu", compile=compile)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("flux", {}),
        ("flux", {"step_cache": {"method": "mag", "threshold": 9.0}, "steps": 8}),
        ("flux", {"step_cache": {"method": "first_block", "threshold": 0.5}, "steps": 8}),
        ("z_image", {"guidance_scale": 0.0}),
        ("pixart_sigma", {"arguments": UNBINNED}),
    ],
    ids=["flux", "flux-mag", "flux-first_block", "z_image", "pixart_sigma"],
)
def test_a_compiled_teacher_generates_the_same_images(folders, graphs, name, fields):
    """Of FLUX's twelve blocks two kinds are compiled, the double ones again for the first of them at most."""
    plain = np.stack(list(load(folders[name], False, **fields).generate(["a dog", "a red circle"], [1, 2])))
    assert not graphs
    compiled = np.stack(list(load(folders[name], True, **fields).generate(["a dog", "a red circle"], [1, 2])))
    assert np.abs(plain.astype(int) - compiled).max() <= 1
    assert 1 <= len(graphs) <= 4


def test_a_pipeline_without_a_denoiser_is_not_compiled(folders, monkeypatch):
    monkeypatch.setattr("lightgen_core.teachers.diffusers_teacher.find_denoiser", lambda pipeline: None)
    with pytest.raises(TeacherError, match="FluxPipeline has no transformer and no unet to compile"):
        load(folders["flux"], True)
