"""Training on fake CUDA tensors: nothing on the wrong device, no wait for the device, and what a step costs."""

from unittest import mock

import pytest
import torch

from benchmarks.fake_cuda.mode import fake_cuda
from benchmarks.fake_cuda.steps import FakeTraining
from lightgen_core.config import (
    DistilConfig,
    DpoConfig,
    FewStepConfig,
    HeadConfig,
    MarConfig,
    MaskConfig,
    OptimizerConfig,
    RepaConfig,
    SamplerConfig,
    TrainConfig,
)
from lightgen_core.model import mar as student_module
from lightgen_core.model.flops import projector_parameters, student_parameters, training_flops
from lightgen_core.model.memory import ImageShape, activation_bytes, alignment_bytes, row_bytes, static_bytes
from lightgen_core.train import train_step

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked_shapes")

MUON = OptimizerConfig(name="muon")
DISTILLED = DistilConfig(
    batch_size=4,
    head=FewStepConfig(width=48, depth=1, steps=2),
    sampler=SamplerConfig(head_sampler="ddim", head_steps=4, guidance_schedule="linear"),
)


def waits(**training):
    """The places at which the host waits in the second step."""
    with fake_cuda() as cuda:
        running = FakeTraining.start(cuda, **training)
        running.run(0)
        return dict(running.run(1).waits)


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"grid": (6, 8), "moments": True, "head": HeadConfig(width=48, depth=1, objective="flow")},
        {"config": TrainConfig(batch_size=4, precision="fp32", optimizer=MUON), "activation_checkpointing": True},
        {"config": TrainConfig(batch_size=4, residual_precision="bf16")},
        {"config": DpoConfig(batch_size=2, displacement_guard="both")},
        {"config": DpoConfig(batch_size=2, objective="nft")},
        {"config": TrainConfig(batch_size=4, mask=MaskConfig(drop_ratio=0.5), repa=RepaConfig(depth=2))},
        {"config": DISTILLED, "moments": True, "head": HeadConfig(width=48, depth=1, objective="v")},
    ],
    ids=[
        "ddpm",
        "flow, moments, another grid",
        "fp32, muon, checkpointing",
        "bf16 residuals",
        "dpo",
        "nft",
        "aligned, dropped tokens",
        "distillation, moments",
    ],
)
def test_a_step_is_on_one_device_and_never_waits(training):
    assert waits(**training) == {}


def test_bf16_residuals_move_fewer_bytes_and_keep_fewer():
    """Of a student of 256 channels the norms' inputs and outputs, the sums, and what autograd keeps of them."""
    moved, kept = [], []
    for residual in ("fp32", "bf16"):
        config = TrainConfig(batch_size=4, residual_precision=residual)
        with fake_cuda() as cuda:
            running = FakeTraining.start(cuda, SMALL, config=config, grid=(16, 16), text_tokens=16)
            watch = running.run(0, masked=200)
            moved.append(sum(kernel.bytes for kernel in watch.kernels[: running.forward_kernels]))
            kept.append(running.saved)
    assert moved[1] < 0.97 * moved[0]
    assert kept[1] < 0.96 * kept[0]


def test_losses_of_all_objectives_never_wait():
    from lightgen_core.train.preference_losses import OF_ERRORS

    with fake_cuda() as cuda:
        running = FakeTraining.start(cuda, config=DpoConfig(batch_size=2))
        for objective in OF_ERRORS:
            changed = DpoConfig(batch_size=2, objective=objective)
            object.__setattr__(running.step._criterion, "config", changed)
            running.run(0)
            assert dict(running.run(1).waits) == {}, objective


def test_positions_of_another_grid_have_repeatable_gradients():
    """Torch's bicubic kernels add the gradient in the order in which threads come."""
    with fake_cuda() as cuda:
        running = FakeTraining.start(cuda, grid=(6, 8))
        running.run(0)
        kernels = {kernel.name for kernel in running.run(1).kernels}
    assert "mm" in kernels and not {name for name in kernels if "upsample" in name or "interpolate" in name}


def test_a_step_in_which_all_tokens_are_masked_runs():
    with fake_cuda() as cuda:
        running = FakeTraining.start(cuda)
        running.run(0, masked=16)
        assert running.student.head.out.weight.grad is None  # the update was made


@pytest.mark.parametrize(
    ("owner", "name", "broken", "caught"),
    [
        (
            student_module,
            "visible_first",
            lambda mask: torch.arange(mask.shape[1]).expand(len(mask), -1),
            "different devices|two devices|cpu",
        ),
        (
            student_module,
            "unmask_empty_rows",
            lambda mask: mask if mask.all() else mask | ~mask.any(dim=1, keepdim=True),
            "_local_scalar_dense",
        ),
        (
            student_module,
            "gather_tokens",
            lambda values, index: values[torch.ones_like(values[..., 0], dtype=torch.bool)].view(len(values), -1, 1),
            "nonzero|aten.index",
        ),
        (
            train_step,
            "total_norm",
            lambda tensors: torch.full((), torch.stack(tensors[:1]).sum().item()),
            "_local_scal",
        ),
    ],
    ids=["an index made on the host", "a branch on a tensor", "an index of booleans", "an item"],
)
def test_a_planted_fault_is_an_error(owner, name, broken, caught):
    with fake_cuda() as cuda, mock.patch.object(owner, name, broken), pytest.raises(Exception, match=caught):
        FakeTraining.start(cuda).run(0)


def test_a_planted_copy_over_the_host_is_named_by_line():
    norm = train_step.total_norm
    with mock.patch.object(train_step, "total_norm", lambda tensors: norm(tensors).cpu().to("cuda")):
        found = waits()
    assert sorted(found.values()) == [1, 1]
    assert all(place.startswith("tests/gpu/test_fake_training.py:") for place in found)


def test_the_paper_sized_step_keeps_to_its_budget():
    """0.7B at 256 px, 222 of 256 tokens masked, 128 text tokens, bf16, 16 images."""
    mar, head, images = MarConfig(), HeadConfig(), 16
    config = TrainConfig(batch_size=images)
    with fake_cuda() as cuda:
        running = FakeTraining.start(cuda, mar, head, config=config, grid=(16, 16), text_tokens=128)
        running.run(0, masked=222)
        watch, saved = running.run(1, masked=222), running.saved
    sizes = ImageShape(tokens=256, masked=222, text_tokens=128, noise_samples=4)
    parameters = student_parameters(mar, head)
    flops = training_flops(mar, head, tokens=256, masked=222, text_tokens=128, noise_samples=4)
    assert len(watch.kernels) <= 5200
    assert sum(kernel.flops for kernel in watch.kernels) / images == pytest.approx(flops, rel=0.01)
    halves = 2 * parameters  # autocast's copies of the weights
    assert (saved - halves) / images == pytest.approx(activation_bytes(mar, head, sizes, "bf16"), rel=0.05)
    upper = static_bytes(mar, head, config)
    upper += images * row_bytes(mar, head, config, tokens=256, text_tokens=128, checkpointing=False)
    assert 0.8 * upper < watch.peak <= upper


SMALL = MarConfig(width=256, heads=4, text_width=1024, aligner_depth=1, encoder_depth=1, decoder_depth=2, text_depth=1)


@pytest.mark.parametrize(
    ("changes", "precision", "checkpointing", "repa"),
    [
        ({}, "bf16", True, None),
        ({}, "fp32", False, None),
        ({"text_self_attention": True, "dropout": 0.0}, "bf16", False, None),
        ({"text_self_attention": True, "qk_norm": True}, "bf16", False, None),
        ({}, "bf16", False, RepaConfig(projector_width=2048)),
        ({}, "fp32", False, RepaConfig(projector_width=2048, depth=3)),
    ],
    ids=["checkpointing", "fp32", "self-attention without dropout", "qk-norm", "aligned", "fp32, text aligned"],
)
def test_the_bytes_of_an_image_are_as_computed(changes, precision, checkpointing, repa):
    mar, head = SMALL.model_copy(update=changes), HeadConfig(width=384, depth=2)
    config = TrainConfig(batch_size=16, precision=precision, repa=repa)
    with fake_cuda() as cuda:
        running = FakeTraining.start(
            cuda, mar, head, config=config, grid=(16, 16), text_tokens=64, activation_checkpointing=checkpointing
        )
        running.run(0, masked=200)
        watch = running.run(1, masked=200)
        saved = running.saved
    sizes = ImageShape(tokens=256, masked=200, text_tokens=64, noise_samples=4)
    projector = running.projector
    computed = 16 * activation_bytes(mar, head, sizes, precision, checkpointing)
    parameters = student_parameters(mar, head)
    if projector is not None:
        added = 16 * alignment_bytes(mar, projector, sizes, precision)
        assert added > 0.1 * computed
        computed, parameters = computed + added, parameters + projector_parameters(mar, projector)
    if not checkpointing:
        halves = 2 * parameters if precision == "bf16" else 0
        assert saved - halves == pytest.approx(computed, rel=0.06)
    upper = static_bytes(mar, head, config, projector)
    options = {"text_tokens": 64, "checkpointing": checkpointing, "projector": projector}
    upper += 16 * row_bytes(mar, head, config, tokens=256, **options)
    assert 0.6 * upper < watch.peak <= upper
