"""Micro-batches by memory: as many rows as fit a GPU, halves after it ran out, the whole batch on a CPU."""

from dataclasses import dataclass

import pytest
import torch

from lightgen_core.config import (
    DistilConfig,
    DpoConfig,
    FewStepConfig,
    HeadConfig,
    MarConfig,
    ParallelConfig,
    SamplerConfig,
    TrainConfig,
)
from lightgen_core.data.batches import TokenSource
from lightgen_core.device import pick_device
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.mar import Student
from lightgen_core.model.memory import row_bytes, static_bytes
from lightgen_core.train.micro_batch import MicroBatchSize
from lightgen_core.train.parallel import DistributedState
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from tests.factories.tiny_student import PATCH, tiny_student, tiny_training, train, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ALONE = DistributedState()
DISTILLED = DistilConfig(noise_samples_per_token=1, head=FewStepConfig(width=1536, depth=8), sampler=SamplerConfig())


@dataclass(frozen=True)
class Largest:
    """A source of one size."""

    grid: tuple[int, int]
    text_tokens: int

    def largest(self, step):
        return self.grid, self.text_tokens


def size_of(free, config, grid, parallel="ddp", ranks=ALONE, rows=10_000):
    with torch.device("meta"):
        distilled = isinstance(config, DistilConfig)
        student = FewStepStudent(MarConfig(), config.head) if distilled else Student(MarConfig(), HeadConfig())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.mem_get_info", lambda device: (free, 0))
        patch.setattr("torch.cuda.memory_reserved", lambda device: 0)
        patch.setattr(DistributedState, "gather", lambda self, value: [value, value + 1])
        size = MicroBatchSize(student, config, ParallelConfig(parallel=parallel), ranks, CUDA)
    return size.of(rows, 0, Largest(grid, 128))


@pytest.mark.parametrize(
    ("gigabytes", "config", "grid", "rows"),
    [
        (80, TrainConfig(), (16, 16), 74),
        (140, TrainConfig(), (16, 16), 147),
        (80, TrainConfig(), (32, 32), 19),
        (80, DpoConfig(), (32, 32), 9),
        (24, TrainConfig(), (16, 16), 5),
        (8, TrainConfig(), (16, 16), 1),
        (80, DISTILLED, (16, 16), 105),
        (24, DISTILLED, (16, 16), 1),
    ],
)
def test_the_papers_student_takes_the_rows_that_fit(gigabytes, config, grid, rows):
    assert size_of(gigabytes * 10**9, config, grid) == pytest.approx(rows, abs=2)


def test_rows_that_fit_fill_the_memory_and_do_not_pass_it():
    config, free = TrainConfig(), 80 * 10**9
    count = size_of(free, config, (16, 16))
    mar, head = MarConfig(), HeadConfig()
    row = row_bytes(mar, head, config, tokens=256, text_tokens=128, checkpointing=False)
    used = static_bytes(mar, head, config) + count * row
    assert used <= 0.92 * free < used + row


def test_shards_of_fsdp_leave_room_for_more_rows():
    alone = size_of(24 * 10**9, TrainConfig(), (16, 16))
    assert size_of(24 * 10**9, TrainConfig(), (16, 16), "fsdp", DistributedState(0, 8)) > alone


def test_a_step_of_fewer_rows_is_not_cut():
    assert size_of(80 * 10**9, TrainConfig(), (16, 16), rows=7) == 7


class LimitedMemory(MaskedDenoisingCriterion):
    """A device that holds two rows."""

    def losses(self, model, batch, step_noise):
        if len(batch.ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().losses(model, batch, step_noise)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("tokens") / "tokens.parquet", rows=24)


def run(tokens, folder, **parallel):
    config, student = tiny_training(), tiny_student()
    source = TokenSource([tokens], patch=PATCH, batch_size=config.batch_size, seed=7)
    layout = ParallelConfig(**parallel)
    result = train(student, source, config, seed=7, folder=folder, device=CPU, parallel=layout)
    return student.state_dict(), [row["loss"] for row in result.rows]


def test_out_of_memory_halves_the_rows_and_trains_alike(tmp_path, tokens, monkeypatch):
    expected, losses = run(tokens, tmp_path / "two", micro_batch=2)
    monkeypatch.setattr("tests.factories.tiny_student.MaskedDenoisingCriterion", LimitedMemory)
    found, halved = run(tokens, tmp_path / "halved")
    assert halved == losses and all(weight.equal(found[name]) for name, weight in expected.items())


def test_out_of_memory_at_one_row_names_the_settings(tmp_path, tokens, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LimitedMemory, "losses", full)
    monkeypatch.setattr("tests.factories.tiny_student.MaskedDenoisingCriterion", LimitedMemory)
    with pytest.raises(torch.OutOfMemoryError, match=r"at 1 rows at once.*LIGHTGEN_TRAIN__ACTIVATION_CHECKPOINTING"):
        run(tokens, tmp_path)


def test_the_longest_text_is_known_before_it_is_read(tokens):
    source = TokenSource([tokens], patch=PATCH, batch_size=4, seed=7)
    longest = max(source.batch(step).text.shape[1] for step in range(6))
    assert source.largest(0) == (source.batch(0).grid, longest)


def test_a_gpu_by_number_becomes_the_current_one(monkeypatch):
    chosen = []
    monkeypatch.setattr("torch.empty", lambda *_, **__: None)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    assert pick_device("cuda:1", threads=1) == torch.device("cuda", 1)
    pick_device("cuda", threads=1)
    assert chosen == [torch.device("cuda", 1)]
