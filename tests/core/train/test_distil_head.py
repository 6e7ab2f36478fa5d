"""Training of the few-step student: targets, learning them, the same bytes after a resume, and how it is saved."""

from pathlib import Path

import pytest
import torch

from lightgen_core.config import DistilConfig, FewStepConfig, MaskConfig, OptimizerConfig, ParallelConfig
from lightgen_core.data.batches import TokenSource
from lightgen_core.model.few_step import new_few_step_student, start_from
from lightgen_core.model.save import StudentError, load_few_step, load_info, load_student, save_student
from lightgen_core.sampling.head_samplers import head_steps
from lightgen_core.sampling.noise import noises_on, sample_orders
from lightgen_core.sampling.token_sampler import TokenSampler
from lightgen_core.sampling.unmask import sample
from lightgen_core.train.distil_head import DistilHeadCriterion
from lightgen_core.train.loop import RunContext, fit
from lightgen_core.train.step_noise import StepNoise, step_generator
from tests.factories.tiny_sampling import captions, head_tokens, settings, trained_looking
from tests.factories.tiny_student import GRID, PATCH, TOKEN_WIDTH, TOKENS, tiny_student, write_rows

CPU = torch.device("cpu")
SIZES = FewStepConfig(width=16, depth=1, steps=2)

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
        "head": FewStepConfig(width=16, depth=1),
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
@pytest.mark.parametrize(("objective", "solver"), [("v", "ddim"), ("x", "ddim"), ("flow", "euler")])
def test_it_begins_as_the_full_head_without_guidance(objective, solver, depth):
    """With two steps of its deterministic sampler, whatever the guidance."""
    teacher, generator = trained_looking(objective), torch.Generator().manual_seed(5)
    sizes = FewStepConfig(width=16, depth=depth, objective=objective, steps=2)
    student = new_few_step_student(teacher, sizes, seed=0)
    noise, states = torch.randn(6, TOKEN_WIDTH, generator=generator), torch.randn(6, 16, generator=generator)
    full = head_tokens(TokenSampler(teacher.head), states[None], noise[None], settings(solver), 2, guidance=1.0)
    few = head_tokens(TokenSampler(student.head), states[None], noise[None], settings("few_step"), 2, guidance=3.0)
    torch.testing.assert_close(few, full)
    assert full.std() > 0.1
    weights = teacher.mar.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in student.mar.state_dict().items())


@pytest.mark.parametrize(("objective", "sizes"), [("ddpm", {}), ("flow", {}), ("v", {"width": 8})])
def test_other_heads_begin_with_fresh_weights(objective, sizes):
    teacher = trained_looking(objective)
    config = FewStepConfig(**{"width": 16, "depth": 1} | sizes)
    student = new_few_step_student(teacher, config, seed=0)
    assert not start_from(student.head, teacher.head)
    assert student.head.out.weight.eq(0).all() and student.head.token_in.weight.std() > 0
    assert student.head.guidance.weight.std() > 0


def test_training_takes_the_steps_that_sampling_takes():
    """The last prediction is the token that the sampler gives from the same states, noise and guidance."""
    student = new_few_step_student(trained_looking("v"), FewStepConfig(width=16, depth=1, steps=3), seed=0).eval()
    with torch.no_grad():
        student.head.guidance.weight.add_(0.1)
    generator, (text, mask) = torch.Generator().manual_seed(5), captions(3, 5)
    tokens, noise = (torch.randn(2, TOKENS, TOKEN_WIDTH, generator=generator) for _ in range(2))
    everywhere, strength = torch.ones(2, TOKENS, dtype=torch.bool), torch.tensor(2.0)
    index = torch.arange(TOKENS).expand(2, -1)
    with torch.no_grad():
        starts, clean = student(
            tokens,
            text,
            mask,
            GRID,
            mask=everywhere,
            masked_index=index,
            text_dropped=None,
            noise=noise.flatten(0, 1)[None],
            guidance=strength,
        )
        states = student.mar(tokens, everywhere, text, mask, GRID, num_masked=TOKENS).flatten(0, 1)
    drawn = head_tokens(
        TokenSampler(student.head), states[None], noise.flatten(0, 1)[None], settings("few_step"), 3, guidance=2.0
    )
    torch.testing.assert_close(clean[-1, 0], drawn)
    assert torch.equal(starts[0, 0], noise.flatten(0, 1)) and starts.shape == clean.shape == (3, 1, 18, TOKEN_WIDTH)


def painted_and_noise(teacher, sampler, batch, hidden):
    """Tokens that `sample` paints at once into visible ones, in order of place, and the noise of each."""
    once = sampler.model_copy(update={"iterations": 1})
    painted = sample(teacher, batch.text, batch.text_mask, GRID, once, [5], known=batch.tokens, keep=~hidden)
    generator = torch.Generator().manual_seed(5)
    order = sample_orders(hidden, [generator])
    (noise,) = noises_on(CPU, [generator], [(1, int(hidden.sum()))], TOKEN_WIDTH)
    return painted[0][hidden], torch.zeros(TOKENS, TOKEN_WIDTH).index_copy(0, order[0], noise[0])[hidden]


def step_noise_of(criterion, hidden, noise) -> StepNoise:
    return StepNoise(
        objective=criterion.objective,
        num_masked=int(hidden.sum()),
        mask=hidden[None],
        masked_index=hidden.nonzero().T,
        text_dropped=torch.zeros(1, dtype=torch.bool),
        timestep=torch.zeros(1, int(hidden.sum())),
        noise=noise[None],
    )


class Given(torch.nn.Module):
    """A student whose steps begin and end where it is told; keeps what it is called with."""

    def __init__(self, starts=None):
        super().__init__()
        self.starts = starts

    def forward(self, *inputs, noise, guidance, **options):
        self.noise, self.guidance = noise, guidance
        starts = noise[None] if self.starts is None else self.starts
        return starts, torch.zeros_like(starts)


@pytest.mark.parametrize("masked", [1, 4, TOKENS])
@pytest.mark.parametrize(("name", "sampler"), [("ddpm", "ddpm"), ("v", "ddim"), ("x", "ddim"), ("flow", "euler")])
def test_a_target_is_where_the_full_sampler_ends(file, name, sampler, masked):
    """Targets are what `sample` paints at once into the same visible tokens, from the same noise, ddpm's by ddim."""
    teacher, source = trained_looking(name).eval(), source_of(file, batch_size=1)
    config = config_of(settings(sampler, temperature=0.9), batch_size=1)
    criterion = DistilHeadCriterion.create(teacher, source, config)
    batch, hidden = source.batch(0).to(CPU), torch.arange(TOKENS) < masked
    painted, noise = painted_and_noise(teacher, criterion.config.sampler, batch, hidden)
    student = Given()
    losses = criterion.losses(student, batch, step_noise_of(criterion, hidden, noise)).loss
    torch.testing.assert_close(losses[0], painted.square().mean(), rtol=1e-4, atol=1e-5)
    assert torch.equal(student.noise, 0.9 * noise[None]) and student.guidance == config.sampler.guidance_scale


def test_a_second_step_is_taught_from_where_it_begins(file):
    """On the teacher's own way, half of its steps done, the end is the same; elsewhere it is not."""
    teacher, source = trained_looking("v").eval(), source_of(file, batch_size=1)
    sizes = FewStepConfig(width=16, depth=1, steps=2)
    config = config_of(settings(head_steps=6, guidance_scale=1.0), batch_size=1, head=sizes)
    criterion = DistilHeadCriterion.create(teacher, source, config)
    batch, hidden = source.batch(0).to(CPU), torch.arange(TOKENS) < 4
    painted, noise = painted_and_noise(teacher, criterion.config.sampler, batch, hidden)
    with torch.no_grad():
        states = teacher.mar(
            batch.tokens, hidden[None], batch.text, batch.text_mask, GRID, num_masked=4, at=hidden.nonzero().T
        ).flatten(0, 1)
        halfway = noise
        for step in head_steps("v", "ddim", 6)[:3]:
            output = teacher.head(halfway, torch.tensor(step.timestep), states)
            halfway = step.on_token * halfway + step.on_prediction * output
    expected = float(painted.square().mean())
    for start, equal in ((halfway, True), (halfway + 0.5, False)):
        starts = torch.stack([noise, start])[:, None]
        loss = criterion.losses(Given(starts), batch, step_noise_of(criterion, hidden, noise)).loss[0]
        assert (float(loss) == pytest.approx(expected, rel=1e-4)) == equal


def test_several_steps_need_the_teachers_path(file):
    sizes = FewStepConfig(width=16, depth=1, steps=2)
    with pytest.raises(ValueError, match=r"objectives are v and ddpm: set distil_head\.head_steps=1"):
        DistilHeadCriterion.create(trained_looking("ddpm"), source_of(file), config_of(settings("ddim"), head=sizes))


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
    rows = train(file, tmp_path, config_of(steps=200, head=SIZES)).rows
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_tokens_of_other_noises_cannot_be_learned(file, tmp_path):
    """A planted fault: with each row's noises turned by one, the error stays above what is learned otherwise."""

    class Turned(DistilHeadCriterion):
        def _targets(self, *arguments):
            return super()._targets(*arguments).roll(1, dims=1)

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
