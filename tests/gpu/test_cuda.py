"""Behaviour that only a GPU can show: recorded graphs, waits, memory, copies under load. Skipped where there is none.

make gpu-test
"""

import os

import pytest
import torch

from benchmarks.fake_cuda.steps import FakeRows
from lightgen_core.config import HeadConfig, MarConfig, ParallelConfig, TrainConfig
from lightgen_core.data.batches import TokenSource
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.mar import new_student
from lightgen_core.model.memory import row_bytes, static_bytes
from lightgen_core.sampling.token_sampler import HeadCompileConfig, TokenSampler
from lightgen_core.sampling.unmask import sample
from lightgen_core.train import checkpoint as checkpoints
from lightgen_core.train.async_checkpoint import AsyncCheckpointWriter
from lightgen_core.train.checkpoint import Checkpoint
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.train_step import TrainStep
from tests.factories.tiny_sampling import captions, settings, trained_looking
from tests.factories.tiny_student import GRID, PATCH, tiny_student, tiny_training, train, write_rows

CUDA = torch.device("cuda")
REQUIRED = os.environ.get("LIGHTGEN_REQUIRE_GPU") == "1"

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not REQUIRED and not torch.cuda.is_available(),
        reason="needs a GPU: graphs, waits, memory and copies on the device are not tested here",
    ),
]


@pytest.fixture
def no_waits():
    """Make every wait for the device an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "sampler"), [("ddpm", "ddpm"), ("v", "ddim"), ("flow", "euler")])
def test_a_replayed_graph_samples_what_eager_does(name, sampler, precision):
    """Also after other allocations took the memory that autocast had freed."""
    student, config = trained_looking(name).to(CUDA).eval(), settings(sampler, precision=precision)
    text, mask = (tensor.to(CUDA) for tensor in captions(3, 5))
    graphs = TokenSampler(student.head, HeadCompileConfig(graphs=True))
    expected = sample(student, text, mask, GRID, config, seeds=[1, 2])
    for _ in range(3):
        found = sample(student, text, mask, GRID, config, seeds=[1, 2], head=graphs)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2 * expected.abs().max().item())
        blocks = [torch.full((size,), float("nan"), device=CUDA) for size in (64, 1024, 4096, 65536) for _ in range(64)]
        del blocks


def test_the_second_sampling_never_waits(request):
    student = trained_looking("ddpm").to(CUDA).eval()
    text, mask = (tensor.to(CUDA) for tensor in captions(3, 5))
    loop = TokenSampler(student.head)
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


def test_the_peak_of_memory_is_as_computed():
    """0.7B at 256 px, all tokens masked at most: the peak is below the computed bound, and above 70 % of it."""
    mar, head, config = MarConfig(), HeadConfig(), TrainConfig(batch_size=16)
    step, rows = step_of(mar, head, config, (16, 16), 128)
    step.step(0, step.prepare(0, rows))
    torch.cuda.reset_peak_memory_stats()
    for number in range(1, 4):
        step.step(number, step.prepare(number, rows))
    bound = static_bytes(mar, head, config)
    bound += 16 * row_bytes(mar, head, config, tokens=256, text_tokens=128, checkpointing=False)
    assert 0.7 * bound < torch.cuda.max_memory_allocated() <= 1.02 * bound


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


def test_a_resumed_run_has_the_losses_of_an_unbroken_one(tmp_path):
    tokens = write_rows(tmp_path / "tokens.parquet", rows=24)

    def run(folder, steps):
        config = tiny_training(steps=steps)
        source = TokenSource([tokens], patch=PATCH, batch_size=config.batch_size, seed=7)
        return train(tiny_student(), source, config, seed=7, folder=tmp_path / folder, device=CUDA).rows

    whole = [row["loss"] for row in run("whole", 6)]
    assert [row["loss"] for row in run("whole", 6)] == whole  # from its last checkpoint: the log as it was
    again = [row["loss"] for row in run("again", 6)]
    assert again == pytest.approx(whole, rel=1e-4)


def test_a_batch_that_fits_in_parts_alone_is_trained_in_parts():
    """1,024 rows of the paper's student want 800 GB at once."""
    mar, head, config = MarConfig(), HeadConfig(), TrainConfig(batch_size=256)
    step, rows = step_of(mar, head, config, (16, 16), 128)
    parts = step.prepare(0, rows)
    assert len(parts) > 1 and sum(part.weight for part in parts) == pytest.approx(1)
    assert step.step(0, parts)["loss"].isfinite()
