"""Layouts of training change rounding at most: micro-batches, recomputed and compiled blocks, one process."""

import contextlib
from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from lightgen_core.config import MarConfig, OptimizerConfig, ParallelConfig
from lightgen_core.data.batches import TokenSource
from lightgen_core.device import check_bf16
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.blocks import Block
from lightgen_core.model.mar import new_student
from lightgen_core.train import compile as blocks
from lightgen_core.train.compile import RecompileLimitError, apply_compile_and_ac, blocks_of
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.train_step import TrainStep
from tests.factories.tiny_student import LONGEST, PATCH, TEXT_WIDTH, tiny_student, tiny_training, train, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("tokens") / "tokens.parquet", rows=24)


@pytest.fixture
def graphs(monkeypatch, unchecked_shapes):
    """Compiles to graphs without kernels, and counts the graphs so far."""
    torch.compiler.reset()
    counters.clear()
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="eager"))
    return lambda: counters["stats"]["unique_graphs"]


def run(tokens, folder, layout, dropout=0.0, on_log=None, **changes):
    student, config = tiny_student(dropout=dropout), tiny_training(**changes)
    source = TokenSource([tokens], patch=PATCH, batch_size=config.batch_size, seed=7)
    result = train(student, source, config, seed=7, folder=folder, device=CPU, parallel=layout, on_log=on_log)
    return student.state_dict(), [row["loss"] for row in result.rows]


def without_key_biases(weights):
    """A softmax does not change with its keys' bias: the bias's gradient is rounding, which AdamW makes a full step."""
    weights = {name: weight.clone() for name, weight in weights.items()}
    for name, weight in weights.items():
        if name.endswith("qkv.bias"):
            weight[len(weight) // 3 : 2 * len(weight) // 3] = 0
        elif name.endswith("key_value.bias"):
            weight[: len(weight) // 2] = 0
    return torch.cat([weight.flatten() for weight in weights.values()])


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_micro_batches_train_the_weights_of_the_whole_batch(tmp_path, tokens, micro_batch):
    settings = OptimizerConfig(learning_rate=1e-3, warmup_steps=0, max_grad_norm=1.0)
    whole, expected = run(tokens, tmp_path / "whole", ParallelConfig(), optimizer=settings)
    parts, found = run(tokens, tmp_path / "parts", ParallelConfig(micro_batch=micro_batch), optimizer=settings)
    assert found == pytest.approx(expected, rel=1e-6)
    before, after = without_key_biases(whole), without_key_biases(parts)
    assert (after - before).norm() <= 1e-6 * before.norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_activations_give_the_same_weights_to_the_bit(tmp_path, tokens, precision):
    kept, expected = run(tokens, tmp_path / "kept", ParallelConfig(), dropout=0.1, precision=precision)
    again, found = run(
        tokens, tmp_path / "again", ParallelConfig(activation_checkpointing=True), dropout=0.1, precision=precision
    )
    assert found == expected and all(weight.equal(again[name]) for name, weight in kept.items())


def test_recomputation_runs_every_block_twice(tokens, monkeypatch):
    student, calls = tiny_student(), []
    plain = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, *given: calls.append(1) or plain(self, *given))
    for layout, times in ((ParallelConfig(), 3), (ParallelConfig(activation_checkpointing=True), 6)):
        calls.clear()
        train_step, source = updater_of(student, tokens, layout)
        with apply_compile_and_ac(student, layout):
            train_step.step(0, train_step.prepare(0, source))
        assert len(calls) == times


def updater_of(student, tokens, layout):
    config = tiny_training()
    source = TokenSource([tokens], patch=PATCH, batch_size=4, seed=7)
    criterion = MaskedDenoisingCriterion(student.head.token_width, get_objective("v"), config)
    return TrainStep(student.train(), criterion, seed=7, device=CPU, parallel=layout), source


def test_few_graphs_serve_any_number_of_masked_tokens(tmp_path, tokens, graphs):
    """None, one or more of 9 tokens are visible, and texts have 1 to 5 text tokens, padded to 2, 4 or 6."""
    seen, layout = [], ParallelConfig(compile=True, pad_text_to_multiple_of=2)
    settings = {"steps": 24, "checkpoint_every": 24, "batch_size": 2}
    _, found = run(tokens, tmp_path / "first", layout, on_log=lambda row: seen.append(graphs()), **settings)
    assert seen[-1] <= 8
    run(tokens, tmp_path / "again", layout, **settings)
    assert graphs() == seen[-1]
    _, expected = run(tokens, tmp_path / "plain", ParallelConfig(), **settings)
    assert found == pytest.approx(expected, rel=1e-5)


def test_more_blocks_of_a_kind_are_no_more_graphs(tmp_path, tokens, graphs):
    counts = []
    for depth in (1, 3):
        torch.compiler.reset()
        counters.clear()
        deep = tiny_student().mar.config.model_copy(update={"encoder_depth": depth, "decoder_depth": depth})
        counts.append(compiled_graphs(tmp_path / str(depth), tokens, deep, graphs))
    assert counts[0] == counts[1] > 0


def compiled_graphs(folder, tokens, mar: MarConfig, graphs):
    student, config = new_student(mar, tiny_student().head.config, 0), tiny_training(steps=2, checkpoint_every=2)
    source = TokenSource([tokens], patch=PATCH, batch_size=4, seed=7)
    train(student, source, config, seed=7, folder=folder, device=CPU, parallel=ParallelConfig(compile=True))
    return graphs()


def test_padded_text_tokens_change_nothing(tokens):
    student = tiny_student(dropout=0.0)
    train_step, source = updater_of(student, tokens, ParallelConfig(compile=True, pad_text_to_multiple_of=16))
    (padded,), batch = train_step.prepare(0, source), source.batch(0)
    assert padded.batch.text.shape[1] == 16 > LONGEST and padded.batch.text_mask.sum() == batch.text_mask.sum()
    plain, _ = updater_of(student, tokens, ParallelConfig())
    (bare,) = plain.prepare(0, source)
    expected, found = (train_step._losses(0, part, student).loss for part in (bare, padded))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_a_student_that_reads_padding_is_cut_where_there_is_none(tmp_path, tokens):
    student = tiny_student()
    student.mar.config = student.mar.config.model_copy(update={"attend_to_padding": True})
    text = [bytes(2 * LONGEST * TEXT_WIDTH)] * 24
    stored = write_rows(tmp_path / "t.parquet", rows=24, text_length=np.full(24, LONGEST, np.int32), text=text)
    for layout in (
        ParallelConfig(micro_batch=2, activation_checkpointing=True),
        ParallelConfig(compile=True, pad_text_to_multiple_of=LONGEST),
    ):
        for file, fine in ((tokens, False), (stored, True)):
            train_step, source = updater_of(student, file, layout)
            with contextlib.nullcontext() if fine else pytest.raises(ValueError, match=r"only on texts stored in one"):
                train_step.prepare(0, source)
    train_step, source = updater_of(student, tokens, ParallelConfig())
    train_step.prepare(0, source)


def test_ever_new_shapes_are_an_error_that_names_the_knobs(tmp_path, tokens, graphs, monkeypatch):
    monkeypatch.setattr(blocks, "SHAPES", 2)
    with pytest.raises(RecompileLimitError, match=r"compiled for 2 shapes .*MICRO_BATCH"):
        run(tokens, tmp_path, ParallelConfig(compile=True, pad_text_to_multiple_of=1), steps=12, checkpoint_every=12)


def test_after_training_the_blocks_are_themselves_again(tmp_path, tokens):
    student = tiny_student()
    with apply_compile_and_ac(student, ParallelConfig(activation_checkpointing=True)):
        assert all("forward" in vars(block) for block in blocks_of(student))
    assert len(blocks_of(student)) == 5 and not any("forward" in vars(block) for block in blocks_of(student))


def test_a_gpu_without_bf16_is_refused_and_never_given_fp16(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Tesla T4")
    check_bf16(CPU)
    with pytest.raises(ValueError, match=r"Tesla T4 has no bfloat16 .* precision=fp32"):
        check_bf16(torch.device("cuda"))


@pytest.mark.parametrize(
    ("architecture", "bf16", "warnings"), [("x86_64", False, 1), ("x86_64", True, 0), ("aarch64", False, 0)]
)
def test_an_x86_cpu_that_emulates_bf16_is_named(monkeypatch, caplog, architecture, bf16, warnings):
    found = {"architecture": architecture, "avx512_bf16": bf16, "amx_bf16": False}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: found)
    check_bf16(CPU)
    assert sum("precision=fp32" in record.message for record in caplog.records) == warnings
