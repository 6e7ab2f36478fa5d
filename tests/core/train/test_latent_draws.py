"""Training on moments of latents: each step draws its own tokens, equal for every split, process and restart."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from lightgen_core.config import LoopConfig, MaskConfig, ParallelConfig
from lightgen_core.data.batches import DataError, TokenSource
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.patchify import patchify
from lightgen_core.train.losses import latent_tokens
from lightgen_core.train.parallel import DistributedState
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.step_noise import StepNoise, step_generator
from lightgen_core.train.train_step import SINGLE_PROCESS, TrainStep
from tests.factories.tiny_student import (
    GRID,
    LAYOUT,
    PATCH,
    SIDE,
    TOKEN_WIDTH,
    TOKENS,
    tiny_student,
    tiny_training,
    train,
    write_rows,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
MEAN, NOISE = torch.randn(2, 10, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).half()
STD = NOISE.abs().clamp(min=0.01)
"""Moments of ten rows of the tiny student's tokens."""


def in_bytes(latents: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in latents]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return with_moments(tmp_path_factory.mktemp("tokens") / "tokens.parquet", STD)


def with_moments(path: Path, std: Tensor) -> Path:
    layout = LAYOUT | {"moments": True}
    return write_rows(path, rows=10, layout=layout, latents=in_bytes(MEAN), std=in_bytes(std))


def source_of(*files, batch_size=4) -> TokenSource:
    return TokenSource(files, patch=PATCH, batch_size=batch_size, seed=7)


def test_a_batch_holds_both_moments_cut_into_tokens_alike(file):
    batch = source_of(file).batch(2, 1, 3)
    rows = batch.ids - 100
    assert batch.tokens.equal(patchify(MEAN[rows], PATCH)) and batch.std.equal(patchify(STD[rows], PATCH))


def test_a_file_with_other_pages_is_read_with_its_moments(tmp_path, file):
    packed = tmp_path / "packed.parquet"
    pq.write_table(pq.read_table(file), packed, compression="zstd")
    assert source_of(packed).batch(1).std.equal(source_of(file).batch(1).std)


def test_files_with_and_without_moments_do_not_train_together(tmp_path, file):
    plain = write_rows(tmp_path / "plain.parquet", rows=3)
    with pytest.raises(DataError, match="without column std"):
        source_of(file, plain)
    with pytest.raises(DataError, match="train on one kind"):
        source_of(plain, file)
    claimed = write_rows(tmp_path / "claimed.parquet", rows=3, layout=LAYOUT | {"moments": True})
    with pytest.raises(DataError, match="without column std"):
        source_of(claimed)


def tokens_at(step: int, source: TokenSource, micro_batch: int | None = None, rank: int = 0, ranks: int = 1) -> Tensor:
    """The tokens on which a process trains its rows of a step, in the order of the batch."""
    criterion = MaskedDenoisingCriterion(TOKEN_WIDTH, get_objective("v"), tiny_training(), source.moments)
    parallel = ParallelConfig(micro_batch=micro_batch)
    train_step = TrainStep(tiny_student(), criterion, seed=7, device=CPU, parallel=parallel)
    train_step.ranks = DistributedState(rank, ranks)
    return torch.cat([latent_tokens(part.batch, part.step_noise) for part in train_step.prepare(step, source)])


def noise_at(step: int, source: TokenSource) -> Tensor:
    """Return by how many deviations the tokens of a step are off their means."""
    batch = source.batch(step).to(CPU)
    return (tokens_at(step, source) - batch.tokens) / batch.std


def test_micro_batches_processes_and_restarts_draw_equal_tokens(file):
    """Other steps draw others."""
    whole = tokens_at(3, source_of(file))
    assert tokens_at(3, source_of(file)).equal(whole)
    assert all(tokens_at(3, source_of(file), size).equal(whole) for size in (1, 2))
    assert torch.cat([tokens_at(3, source_of(file), rank=rank, ranks=2) for rank in (0, 1)]).equal(whole)
    noise = torch.cat([noise_at(step, source_of(file)) for step in (3, 4)]).flatten(1)
    assert np.abs(np.corrcoef(noise.numpy())[np.triu_indices(8, 1)]).max() < 0.6


def test_tokens_of_many_steps_have_the_stored_mean_and_deviation(file):
    """Of 600 draws a mean is off by std / 24 and a deviation by 3 %: five times that is never seen."""
    source = source_of(file, batch_size=10)
    criterion = MaskedDenoisingCriterion(TOKEN_WIDTH, get_objective("v"), tiny_training(batch_size=10), source.moments)
    seen = torch.empty(600, 10, TOKENS, TOKEN_WIDTH)
    for step in range(600):
        batch = source.batch(step).to(CPU)
        seen[step, batch.ids - 100] = latent_tokens(
            batch, criterion.sample_noise(GRID, (0, 10), step_generator(7, step))
        )
    mean, std = patchify(MEAN, PATCH).float(), patchify(STD, PATCH).float()
    assert ((seen.mean(dim=0) - mean).abs() <= 5 * std / 600**0.5).all()
    assert torch.allclose(seen.std(dim=0), std, rtol=5 * 0.029)


def test_noise_of_latents_changes_nothing_else_of_a_draw():
    """It is independent of the rest too."""
    config = LoopConfig(batch_size=64, mask=MaskConfig(min_ratio=0.99), noise_samples_per_token=1)
    plain, more = (
        StepNoise.sample(config, (TOKENS, 16), get_objective("v"), step_generator(1, 2), latent_noise=latents)
        for latents in (False, True)
    )
    assert plain.latent_noise is None and more.latent_noise.shape == (64, TOKENS, 16)
    for name in ("mask", "masked_index", "text_dropped", "timestep", "noise"):
        assert getattr(plain, name).equal(getattr(more, name))
    both = np.corrcoef(more.noise.flatten(), more.latent_noise.flatten())
    assert abs(both[0, 1]) < 0.05 and more.latent_noise.std().item() == pytest.approx(1, abs=0.03)


class Interrupted(Exception):
    """Stands for a kill."""


def run(
    tokens_file: Path, folder: Path, kill_at: int = 0, parallel: ParallelConfig = SINGLE_PROCESS, dropout: float = 0.1
):
    def on_log(row):
        if row["step"] == kill_at:
            raise Interrupted

    student, config = tiny_student(dropout=dropout), tiny_training()
    place = {"seed": 7, "folder": folder, "device": CPU, "parallel": parallel, "on_log": on_log}
    result = train(student, source_of(tokens_file), config, **place)
    return [row["loss"] for row in result.rows], student.state_dict()


def test_interrupted_training_ends_with_the_same_bytes(tmp_path, file):
    losses, weights = run(file, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(file, tmp_path / "parts", kill_at=5)
    resumed = run(file, tmp_path / "parts")
    assert resumed[0] == losses and all(resumed[1][name].equal(weights[name]) for name in weights)
    last = "step-00000006/model.safetensors"
    assert (tmp_path / "parts" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


def test_training_on_micro_batches_has_the_losses_of_whole_ones(tmp_path, file):
    whole, _ = run(file, tmp_path / "whole", dropout=0.0)
    for size in (1, 2):
        parts, _ = run(file, tmp_path / f"parts-{size}", parallel=ParallelConfig(micro_batch=size), dropout=0.0)
        assert parts == pytest.approx(whole, rel=1e-5)


def test_deviations_of_zero_train_as_the_mean_alone_to_the_bit(tmp_path):
    none = with_moments(tmp_path / "none.parquet", torch.zeros_like(STD))
    plain = write_rows(tmp_path / "plain.parquet", rows=10, latents=in_bytes(MEAN))
    losses, weights = run(none, tmp_path / "none")
    expected, mean_only = run(plain, tmp_path / "plain")
    assert losses == expected and all(weights[name].equal(mean_only[name]) for name in weights)
