"""The training student is captured by torch.compile without a break, whole and block by block, forward and backward."""

from functools import partial
from unittest import mock

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from benchmarks.fake_cuda.steps import TINY, TINY_HEAD
from lightgen_core.config import MaskConfig, ParallelConfig, TrainConfig
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.diffusion.schedule import schedule_on
from lightgen_core.model.mar import new_student
from lightgen_core.train.compile import apply_compile_and_ac
from lightgen_core.train.losses import predict
from lightgen_core.train.step_noise import StepNoise

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked_shapes")

CONFIG = TrainConfig(batch_size=2, noise_samples_per_token=2, mask=MaskConfig())
MASKED = {"all": lambda tokens: tokens, "all but one": lambda tokens: tokens - 1, "half": lambda tokens: tokens // 2}
CPU = torch.device("cpu")


@pytest.fixture
def graphs():
    """A compiler that counts graphs and runs them as they are, forward and backward; a break is an error."""
    schedule_on(CPU)  # made once in a process, before any step
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    with mock.patch("torch.compile", partial(torch.compile, backend=counter, fullgraph=True)):
        yield counter
    torch._dynamo.reset()


def gradients_of(student, called, grid, masked):
    """The gradients of a step of two images, from the loss of what is called, with dropout."""
    tokens = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(0)
    with mock.patch("lightgen_core.train.step_noise.sample_num_masked", lambda *_: masked):
        objective, sizes = get_objective(TINY_HEAD.objective), (tokens, TINY.token_width)
        step_noise = StepNoise.sample(CONFIG, sizes, objective, generator, caption_dropout=0.5)
    images = torch.randn(2, tokens, TINY.token_width, generator=generator)
    text, mask = torch.randn(2, 5, TINY.text_width, generator=generator), torch.ones(2, 5, dtype=torch.bool)
    student.zero_grad()
    with torch.random.fork_rng(), torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(3)
        x0, output = predict(called, images, text, mask, grid, step_noise)
        losses = objective.loss(output, x0, step_noise.timestep, step_noise.noise)
    losses.mean().backward()
    return {name: weight.grad.clone() for name, weight in student.named_parameters() if weight.grad is not None}


def check_equal(found, expected):
    assert found.keys() == expected.keys() and len(found) > 50
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0.02, atol=1e-3 * float(gradient.abs().max()) + 1e-8)


@pytest.mark.parametrize("grid", [(4, 4), (6, 8)], ids=["table's grid", "interpolated"])
@pytest.mark.parametrize("masked", MASKED)
def test_the_whole_student_is_one_graph(graphs, masked, grid):
    student = new_student(TINY, TINY_HEAD, 0).train()
    count = MASKED[masked](grid[0] * grid[1])
    expected = gradients_of(student, student, grid, count)
    found = gradients_of(student, torch.compile(student, dynamic=False), grid, count)
    assert graphs.frame_count == 1
    check_equal(found, expected)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "computed again"])
def test_each_kind_of_block_is_one_graph_for_any_length(graphs, checkpointing):
    """As blocks are compiled for training: two grids and three numbers of masked tokens, one process."""
    student = new_student(TINY, TINY_HEAD, 0).train()
    layout = ParallelConfig(compile=True, activation_checkpointing=checkpointing)
    for grid in ((4, 4), (6, 8)):
        for masked in MASKED.values():
            count = masked(grid[0] * grid[1])
            expected = gradients_of(student, student, grid, count)
            with apply_compile_and_ac(student, layout):
                found = gradients_of(student, student, grid, count)
            check_equal(found, expected)
    # Three kinds; of blocks over visible tokens there are graphs of none and of one of them beside that of many.
    assert 3 <= graphs.frame_count <= 8
