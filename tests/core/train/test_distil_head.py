"""Training of the few-step student: targets, learning them, the same bytes after a resume, and how it is saved."""

from pathlib import Path

import pytest
import torch

from lightgen_core.config import DistilConfig, FewStepConfig, MaskConfig, OptimizerConfig, ParallelConfig
from lightgen_core.data.batches import TokenSource
from lightgen_core.model.few_step import new_few_step_student, start_from
from lightgen_core.model.save import StudentError, load_few_step, load_info, load_student, save_student
from lightgen_core.sampling.noise import noises_on, sample_orders
from lightgen_core.sampling.token_sampler import TokenSampler
from lightgen_core.sampling.unmask import sample
from lightgen_core.train.distil_head import DistilHeadCriterion
from lightgen_core.train.loop import RunContext, fit
from lightgen_core.train.step_noise import StepNoise, step_generator
from tests.factories.tiny_sampling import head_tokens, settings, trained_looking
from tests.factories.tiny_student import GRID, PATCH, TOKEN_WIDTH, TOKENS, tiny_student, write_rows

CPU = torch.device("cpu")
SIZES = FewStepConfig(width=16, depth=1)

pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(sampler=None, **changes) -> DistilConfig:
    fields = {
        "steps": 40,
        "batch_size": 4,
        "noise_samples_per_token": 2,
        "mask": MaskConfig(distribution="uniform", min_ratio=0.0),
        "optimizer": OptimizerConfig(name="muon", learning_rate=5e-3, warmup_steps=5, weight_decay=0),
        "ema_decay": 0.9,
        "precision": "fp32",
        "log_every": 5,
        "checkpoint_every": 20,
        "head": SIZES,
        "sampler": sampler or settings(),
    }
    return DistilConfig(**(fields | changes))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("tokens") / "tokens.parquet", rows=10)


def source_of(file, batch_size=4) -> TokenSource:
    return TokenSource([file], patch=PATCH, batch_size=batch_size, seed=7)


def train(file, folder, config, teacher=None, criterion=DistilHeadCriterion, **run):
    teacher = teacher or trained_looking("v")
    source = source_of(file)
    return fit(
        new_few_step_student(teacher, config.head, seed=0),
        source,
        criterion.create(teacher, source, config),
        RunContext(1, folder, CPU, **run),
    )


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("objective", ["v", "x"])
def test_it_begins_as_the_full_heads_first_step(objective, depth):
    teacher, generator = trained_looking(objective), torch.Generator().manual_seed(5)
    student = new_few_step_student(teacher, FewStepConfig(width=16, depth=depth), seed=0)
    noise, states = torch.randn(6, TOKEN_WIDTH, generator=generator), torch.randn(6, 16, generator=generator)
    first = head_tokens(TokenSampler(teacher.head), states[None], noise[None], settings(), 1, guidance=1.0)
    with torch.no_grad():
        token = student.head(noise, torch.rand(6, generator=generator), states)
    torch.testing.assert_close(token, first)
    assert first.std() > 0.1
    weights = teacher.mar.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in student.mar.state_dict().items())


@pytest.mark.parametrize(("objective", "sizes"), [("ddpm", {}), ("flow", {}), ("v", {"width": 8})])
def test_other_heads_begin_with_fresh_weights(objective, sizes):
    teacher = trained_looking(objective)
    config = FewStepConfig(**{"width": 16, "depth": 1} | sizes)
    student = new_few_step_student(teacher, config, seed=0)
    assert not start_from(student.head, teacher.head)
    assert student.head.mlp.out.weight.eq(0).all() and student.head.mlp.token_in.weight.std() > 0


@pytest.mark.parametrize("masked", [1, 4, TOKENS])
@pytest.mark.parametrize(("name", "sampler"), [("ddpm", "ddpm"), ("v", "ddim"), ("x", "ddim"), ("flow", "euler")])
def test_a_target_is_where_the_full_sampler_ends(file, name, sampler, masked):
    """What `sample` paints at once into the same visible tokens, from the same noise; ancestral steps become ddim's."""
    teacher, config = trained_looking(name).eval(), config_of(settings(sampler, temperature=0.9))
    source = source_of(file, batch_size=1)
    criterion = DistilHeadCriterion.create(teacher, source, config.model_copy(update={"batch_size": 1}))
    batch = source.batch(0).to(CPU)
    hidden = torch.arange(TOKENS) % TOKENS < masked
    once = criterion.config.sampler.model_copy(update={"iterations": 1})
    painted = sample(teacher, batch.text, batch.text_mask, GRID, once, [5], known=batch.tokens, keep=~hidden)
    generator = torch.Generator().manual_seed(5)
    order = sample_orders(hidden, [generator])
    (noise,) = noises_on(CPU, [generator], [(1, masked)], TOKEN_WIDTH)
    in_order = torch.zeros(TOKENS, TOKEN_WIDTH).index_copy(0, order[0], noise[0])[hidden]
    step_noise = StepNoise(
        objective=criterion.objective,
        num_masked=masked,
        mask=hidden[None],
        masked_index=hidden.nonzero().T,
        text_dropped=torch.zeros(1, dtype=torch.bool),
        timestep=torch.zeros(1, masked),
        noise=in_order[None],
    )
    seen = []

    class Student(torch.nn.Module):
        def forward(self, *inputs, noise, guidance, **options):
            seen.append((noise, guidance))
            return torch.zeros_like(noise)

    losses = criterion.losses(Student(), batch, step_noise).loss
    expected = painted[0][hidden].square().mean()
    torch.testing.assert_close(losses[0], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(seen[0][0], 0.9 * in_order[None]) and seen[0][1] == once.guidance_scale


def test_guidance_and_steps_are_those_of_the_samplers_iteration(file):
    sampler = settings(iterations=3, guidance_schedule="linear", head_steps=12, head_steps_last=4)
    criterion = DistilHeadCriterion.create(trained_looking("v"), source_of(file), config_of(sampler))
    seen = {}
    for step in range(60):
        noise = StepNoise.sample(criterion.config, (TOKENS, TOKEN_WIDTH), criterion.objective, step_generator(0, step))
        iteration = criterion._iteration(noise)
        seen[noise.num_masked] = (round(iteration.guidance, 3), iteration.steps)
    first, second, third = (1.444, 12), (2.111, 10), (3.0, 8)  # with 9, 7 and 4 tokens masked
    assert [seen[masked] for masked in range(TOKENS, 0, -1)] == [first] * 2 + [second] * 3 + [third] * 4


def test_it_learns_what_the_sampler_reaches(file, tmp_path):
    rows = train(file, tmp_path, config_of(steps=200)).rows
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_tokens_of_other_noises_cannot_be_learned(file, tmp_path):
    """A planted fault: with each row's noises turned by one, the error stays above what is learned otherwise."""

    class Turned(DistilHeadCriterion):
        def _reach(self, *arguments):
            return super()._reach(*arguments).roll(1, 0)

    right, wrong = (
        train(file, tmp_path / kind.__name__, config_of(steps=200), criterion=kind).rows[-1]["loss"]
        for kind in (DistilHeadCriterion, Turned)
    )
    assert right < 0.8 * wrong


def test_the_teacher_stays_as_it_is(file, tmp_path):
    teacher = trained_looking("v")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    result = train(file, tmp_path, config_of(steps=5), teacher)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not torch.equal(result.raw["mar.cross_in.weight"], before["mar.cross_in.weight"]), "the student's moves"


def test_a_resumed_training_ends_with_the_same_weights(file, tmp_path):
    whole = train(file, tmp_path / "whole", config_of())

    class Dies(DistilHeadCriterion):
        def should_stop(self, rows):
            if rows[-1]["step"] == 35:
                raise KeyboardInterrupt
            return None

    with pytest.raises(KeyboardInterrupt):
        train(file, tmp_path / "cut", config_of(), criterion=Dies)
    resumed = train(file, tmp_path / "cut", config_of())
    assert resumed.rows == whole.rows and resumed.step == 40
    assert all(torch.equal(resumed.ema[name], value) for name, value in whole.ema.items())


def test_micro_batches_have_the_losses_of_whole_ones(file, tmp_path):
    whole, parts = (
        train(file, tmp_path / str(size), config_of(steps=10), parallel=ParallelConfig(micro_batch=size)).rows
        for size in (None, 2)
    )
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in whole], rel=1e-4)


def test_it_is_saved_with_its_student_and_others_load_bare(tmp_path):
    student = tiny_student()
    few_step = new_few_step_student(student, SIZES, seed=3)
    save_student(tmp_path / "with", student, student.state_dict(), {"patch": 2}, few_step)
    save_student(tmp_path / "without", student, student.state_dict(), {"patch": 2})
    assert load_few_step(tmp_path / "without") is None
    assert {path.name for path in (tmp_path / "with").iterdir()} - {
        path.name for path in (tmp_path / "without").iterdir()
    } == {"few_step.safetensors"}
    loaded = load_few_step(tmp_path / "with")
    assert loaded is not None and loaded.head.sizes == SIZES and not loaded.training
    assert all(torch.equal(value, few_step.state_dict()[name]) for name, value in loaded.state_dict().items())
    for folder in ("with", "without"):
        found, info = load_student(tmp_path / folder)
        assert info == load_info(tmp_path / folder) == {"patch": 2}
        assert len(found.state_dict()) == len(student.state_dict())


def test_a_damaged_file_is_named(tmp_path):
    student = tiny_student()
    save_student(tmp_path / "x", student, student.state_dict(), {}, new_few_step_student(student, SIZES, seed=3))
    file = tmp_path / "x" / "few_step.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(StudentError, match=r"few_step\.safetensors has changed since it was written"):
        load_few_step(tmp_path / "x")
