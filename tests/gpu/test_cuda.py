"""Behaviour that only a GPU can show: recorded graphs, waits, memory, copies under load. Skipped where there is none.

make gpu-test
"""

import pytest
import torch

from benchmarks.fake_cuda.mode import fake_cuda
from benchmarks.fake_cuda.steps import FakeRows, FakeTraining
from lightgen_core.config import HeadConfig, MarConfig, ParallelConfig, TrainConfig
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.mar import new_student
from lightgen_core.model.memory import static_bytes
from lightgen_core.sampling.token_sampler import HeadCompileConfig, TokenSampler
from lightgen_core.sampling.unmask import sample
from lightgen_core.train import checkpoint as checkpoints
from lightgen_core.train.async_checkpoint import AsyncCheckpointWriter
from lightgen_core.train.checkpoint import Checkpoint
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.train_step import TrainStep
from tests.factories.tiny_sampling import captions, settings, trained_looking
from tests.factories.tiny_student import GRID
from tests.support.gpus import needs_gpus

CUDA = torch.device("cuda")

pytestmark = needs_gpus(1, "graphs, waits, memory and copies on the device are")


@pytest.fixture
def no_waits():
    """Make every wait for the device an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "sampler"), [("ddpm", "ddpm"), ("v", "ddim"), ("flow", "euler")])
def test_a_replayed_graph_samples_what_eager_does(name, sampler, precision):
    """With other texts and seeds, after other allocations took the memory that autocast had freed."""
    student, config = trained_looking(name).to(CUDA).eval(), settings(sampler, precision=precision)
    graphs = TokenSampler(student.head, HeadCompileConfig(graphs=True))
    for turn in range(3):
        text, mask = (tensor.to(CUDA) for tensor in captions(3 + turn, 5))
        expected = sample(student, text, mask, GRID, config, seeds=[turn, 7])
        found = sample(student, text, mask, GRID, config, seeds=[turn, 7], head=graphs)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2 * expected.abs().max().item())
        blocks = [torch.full((size,), float("nan"), device=CUDA) for size in (64, 1024, 4096, 65536) for _ in range(64)]
        del blocks


@pytest.mark.parametrize("graphs", [False, True])
def test_the_second_sampling_never_waits(request, graphs):
    student = trained_looking("ddpm").to(CUDA).eval()
    text, mask = (tensor.to(CUDA) for tensor in captions(3, 5))
    loop = TokenSampler(student.head, HeadCompileConfig(graphs=graphs))
    sample(student, text, mask, GRID, settings("ddpm"), seeds=[1, 2], head=loop)
    torch.cuda.synchronize()
    request.getfixturevalue("no_waits")
    sample(student, text, mask, GRID, settings("ddpm"), seeds=[1, 2], head=loop)


def step_of(mar: MarConfig, head: HeadConfig, config: TrainConfig, grid, text_tokens, **parallel):
    student = new_student(mar, head, 0)
    criterion = MaskedDenoisingCriterion(mar.token_width, get_objective(head.objective), config)
    criterion.prepare(student, CUDA)
    layout = ParallelConfig(**parallel)
    rows = FakeRows(mar, grid, text_tokens, config.batch_size)
    return TrainStep(student, criterion, 0, CUDA, layout), rows


def test_twenty_steps_never_wait(request):
    mar = MarConfig(width=64, heads=4, text_width=64, encoder_depth=1, decoder_depth=1, text_depth=1)
    step, rows = step_of(mar, HeadConfig(width=64, depth=1), TrainConfig(batch_size=8), (16, 16), 16)
    step.step(0, step.prepare(0, rows))
    torch.cuda.synchronize()
    request.getfixturevalue("no_waits")
    for number in range(1, 21):
        step.step(number, step.prepare(number, rows))


def test_the_peak_of_memory_is_that_of_fake_tensors(unchecked_shapes):
    """0.7B at 256 px, 16 images, as many tokens masked in three steps as happen to be: within 10 %."""
    mar, head, config = MarConfig(), HeadConfig(), TrainConfig(batch_size=16)
    with fake_cuda() as cuda:
        running = FakeTraining.start(cuda, mar, head, config=config, grid=(16, 16), text_tokens=128)
        running.run(0)
        expected = max(running.run(number).peak for number in range(1, 4))
    step, rows = step_of(mar, head, config, (16, 16), 128, micro_batch=None)
    step.step(0, step.prepare(0, rows))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert before < 1.1 * static_bytes(mar, head, config), "memory of another test is still there"
    for number in range(1, 4):
        step.step(number, step.prepare(number, rows))
    assert torch.cuda.max_memory_allocated() == pytest.approx(expected, rel=0.1)


def test_a_checkpoint_under_load_is_a_quiet_one(tmp_path):
    state = {part: {"weight": torch.randn(1 << 24, device=CUDA)} for part in ("model", "ema", "optimizer")}
    expected = {part: group["weight"].cpu() for part, group in state.items()}
    with AsyncCheckpointWriter(tmp_path, keep=1, device=CUDA) as writer:
        writer.save(Checkpoint(1, state, [], {}))
        for _ in range(20):
            torch.randn(2048, 2048, device=CUDA) @ torch.randn(2048, 2048, device=CUDA)
        writer.wait_for_copy()
        for group in state.values():
            group["weight"].zero_()
    saved = checkpoints.latest(tmp_path)
    assert saved is not None
    assert all(saved.tensors[part]["weight"].equal(weight) for part, weight in expected.items())


def test_a_batch_that_fits_in_parts_alone_is_trained_in_parts():
    """1,024 rows of the paper's student want 800 GB at once."""
    mar, head, config = MarConfig(), HeadConfig(), TrainConfig(batch_size=256)
    step, rows = step_of(mar, head, config, (16, 16), 128)
    parts = step.prepare(0, rows)
    assert len(parts) > 1 and sum(part.weight for part in parts) == pytest.approx(1)
    assert step.step(0, parts)["loss"].isfinite()
