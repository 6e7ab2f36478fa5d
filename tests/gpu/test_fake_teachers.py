"""Teachers that are diffusers pipelines on fake CUDA tensors: one device, and no wait that our own code adds."""

from collections import Counter
from contextlib import ExitStack
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.fake_cuda.mode import CUDA, fake_cuda
from lightgen_core.teachers.config import DiffusersConfig
from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher
from tests.factories.tiny_newer_pipelines import save_flux2_klein
from tests.factories.tiny_pipelines import save_flux

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked_shapes")

CLASSES = {"FLUX.1": save_flux, "FLUX.2-klein": save_flux2_klein}
"""The classes of the teachers of the recipes that come along."""

EVERY_BATCH = {
    "diffusers/utils/torch_utils.py": 1,  # the first latents, from generators on the host
    "diffusers/schedulers/scheduling_flow_match_euler_discrete.py": 1,  # the noise levels, of all steps at once
    "diffusers/image_processor.py": 1,  # the images
}
OWN_WAITS = {
    "FLUX.1": EVERY_BATCH | {"diffusers/pipelines/flux/pipeline_flux.py": 4},  # two texts, and ids of text and image
    "FLUX.2-klein": EVERY_BATCH | {"diffusers/pipelines/flux2/pipeline_flux2_klein.py": 4},
}
"""Waits for the device of a batch in diffusers' own files."""

PROMPTS = ["a red circle", "a dog on the moon", "two green squares"]


def move(module):
    """Replace the tensors of a module that was loaded on the CPU by fakes on the device."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers, vars(part)):
            for name, tensor in tensors.items():
                if isinstance(tensor, torch.Tensor):
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)
                    tensors[name] = nn.Parameter(fake, requires_grad=False) if tensors is part._parameters else fake


def drawn(folder, steps):
    """Waits of a batch of three images, by file and line, after one of two."""
    config = DiffusersConfig(model=str(folder), dtype="bfloat16", steps=steps, height=48, width=48, batch_size=3)
    teacher = DiffusersTeacher.load(config, "cpu")
    with fake_cuda() as cuda, ExitStack() as stack:
        # The host knows the values of its own tensors: what a tokenizer or a schedule gives.
        stack.enter_context(mock.patch("torch._subclasses.fake_tensor.CONSTANT_NUMEL_LIMIT", 1 << 20))
        stack.enter_context(mock.patch("torch.from_numpy", torch.tensor))
        parts = [part for part in teacher.pipeline.components.values() if isinstance(part, nn.Module)]
        for part in parts:
            move(part)
        list(teacher.generate(PROMPTS[:2], [1, 2]))
        watch = cuda.watch(*parts)
        with watch:
            images = list(teacher.generate(PROMPTS, [1, 2, 3]))
    assert [(type(image), getattr(image, "shape", image)) for image in images] == [(np.ndarray, (48, 48, 3))] * 3
    return watch.waits


@pytest.mark.parametrize("name", CLASSES)
def test_a_teacher_waits_in_diffusers_own_lines_alone(tmp_path, name):
    """As often for six steps as for two, and never in a line of ours."""
    folder = CLASSES[name](tmp_path / "pipeline")
    for steps in (2, 6):
        by_file = Counter[str]()
        for place, count in drawn(folder, steps).items():
            by_file[place.split(":")[0]] += count
        assert dict(by_file) == OWN_WAITS[name]
