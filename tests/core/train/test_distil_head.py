"""Training of the few-step head: it learns, resumes to the same bytes, and is saved with its student."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from lightgen_core.config import FewStepConfig, FitConfig, OptimizerConfig
from lightgen_core.data.distil_rows import VALUES, DistilSource
from lightgen_core.data.token_file import DataError
from lightgen_core.data.token_rows import values_to_bytes
from lightgen_core.model.few_step import new_few_step_head, start_from
from lightgen_core.model.save import StudentError, load_few_step, load_student, save_student
from lightgen_core.sampling.distillation import sample_pairs
from lightgen_core.sampling.token_sampler import TokenSampler
from lightgen_core.train.distil_head import DistilHeadCriterion
from lightgen_core.train.loop import RunContext, fit
from tests.factories.tiny_sampling import captions, head_tokens, settings, trained_looking
from tests.factories.tiny_student import GRID, TOKEN_WIDTH, TOKENS, tiny_student

SIZES = FewStepConfig(width=32, depth=2)
CONFIG = FitConfig(
    steps=60,
    batch_size=16,
    optimizer=OptimizerConfig(name="muon", learning_rate=1e-2, warmup_steps=5, schedule="cosine", weight_decay=0),
    ema_decay=0.9,
    precision="fp32",
    log_every=5,
    checkpoint_every=20,
)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Targets of a tiny student's full sampler for 16 images, in the form of the stage's files."""
    text, mask = captions(*[3, 5] * 8)
    config = settings(guidance_schedule="linear")
    pairs = sample_pairs(
        trained_looking("v"), text, mask, GRID, config, range(16), tokens_per_image=TOKENS, noise_samples=4
    )
    values = values_to_bytes({name: getattr(pairs, name).numpy() for name in VALUES}, "float16")
    layout = json.dumps({"dtype": "float16", "width": 16, "samples": 4})
    columns = {"id": pa.array(np.arange(len(pairs.image))), "guidance": pa.array(pairs.guidance.numpy())} | values
    return pa.table(columns).replace_schema_metadata({"lightgen": layout})


def train(table, folder, config=CONFIG, model=None):
    model = model or new_few_step_head(SIZES, TOKEN_WIDTH, 16, seed=0)
    source = DistilSource(table, config.batch_size, seed=1)
    return fit(model, source, DistilHeadCriterion(config), RunContext(1, folder, torch.device("cpu")))


def error(weights, table) -> float:
    """Mean square error over all rows."""
    head = new_few_step_head(SIZES, TOKEN_WIDTH, 16, seed=0)
    head.load_state_dict(weights)
    batch = DistilSource(table, len(table), seed=1).batch(0).to(torch.device("cpu"))
    with torch.no_grad():
        return float(
            (head(batch.noise.transpose(0, 1), batch.guidance, batch.states) - batch.tokens.transpose(0, 1))
            .square()
            .mean()
        )


def test_a_batch_holds_the_rows_that_were_written(table):
    source = DistilSource(table, 8, seed=1)
    batch = source.batch(3, 2, 5).to(torch.device("cpu"))
    assert batch.ids.tolist() == source.batch(3).ids[2:5].tolist()
    for row, id_ in enumerate(batch.ids):
        stored = np.frombuffer(table["tokens"][id_].as_py(), np.float16).reshape(4, TOKEN_WIDTH)
        assert np.array_equal(batch.tokens[row].numpy(), stored)
    rows = np.concatenate([source.batch(step).ids for step in range(len(table) // 8)])
    assert sorted(rows) == list(range(len(table))), "each row once an epoch"


@pytest.mark.parametrize("null_text", [False, True])
@pytest.mark.parametrize("objective", ["v", "x"])
def test_it_begins_as_the_full_heads_first_step(objective, null_text):
    teacher = trained_looking(objective).head
    sizes = FewStepConfig(width=teacher.config.width, depth=teacher.config.depth, null_text=null_text)
    head = new_few_step_head(sizes, TOKEN_WIDTH, 16, seed=0)
    assert start_from(head, teacher)
    generator = torch.Generator().manual_seed(5)
    noise, states = torch.randn(6, TOKEN_WIDTH, generator=generator), torch.randn(6, 16, generator=generator)
    first = head_tokens(TokenSampler(teacher), states[None], noise[None], settings(), 1, guidance=1.0)
    seen = torch.cat([states, torch.randn(6, 16, generator=generator)], dim=1) if null_text else states
    with torch.no_grad():
        token = head(noise, torch.rand(6, generator=generator), seen)
    torch.testing.assert_close(token, first)
    assert first.std() > 0.1


@pytest.mark.parametrize(("objective", "sizes"), [("ddpm", {}), ("flow", {}), ("v", {"width": 8}), ("v", {"depth": 2})])
def test_other_heads_begin_with_fresh_weights(objective, sizes):
    teacher = trained_looking(objective).head
    config = FewStepConfig(**{"width": teacher.config.width, "depth": teacher.config.depth} | sizes)
    head, fresh = (new_few_step_head(config, TOKEN_WIDTH, 16, seed=0) for _ in range(2))
    assert not start_from(head, teacher)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in head.state_dict().items())


def test_no_row_is_an_error(table):
    with pytest.raises(DataError, match="no row for a few-step head"):
        DistilSource(table.slice(0, 0), 8, seed=1)


def test_the_learned_head_is_nearer_than_an_untrained_one(table, tmp_path):
    untrained = new_few_step_head(SIZES, TOKEN_WIDTH, 16, seed=0).state_dict()
    learned = train(table, tmp_path).ema
    total, within = DistilSource(table, 8, seed=1).variance
    assert error(untrained, table) > total > within > 0
    assert error(learned, table) < 0.25 * within, "noise and state are both used"


def test_tokens_of_other_noises_cannot_be_learned(table, tmp_path):
    """A planted fault: with each row's noises turned by one, what is left is the variance over noises."""
    turned = [
        np.roll(np.frombuffer(row, np.float16).reshape(4, -1), 1, axis=0).tobytes()
        for row in table["noise"].to_pylist()
    ]
    wrong = table.set_column(table.schema.get_field_index("noise"), "noise", pa.array(turned, pa.binary()))
    _, within = DistilSource(table, 8, seed=1).variance
    assert error(train(wrong, tmp_path).ema, table) > 0.75 * within


def test_a_resumed_training_ends_with_the_same_weights(table, tmp_path):
    whole = train(table, tmp_path / "whole")

    class Dies(DistilHeadCriterion):
        def should_stop(self, rows):
            if rows[-1]["step"] == 35:
                raise KeyboardInterrupt
            return None

    model = new_few_step_head(SIZES, TOKEN_WIDTH, 16, seed=0)
    with pytest.raises(KeyboardInterrupt):
        fit(
            model,
            DistilSource(table, CONFIG.batch_size, seed=1),
            Dies(CONFIG),
            RunContext(1, tmp_path / "cut", torch.device("cpu")),
        )
    resumed = train(table, tmp_path / "cut")
    assert resumed.rows == whole.rows and resumed.step == 60
    assert all(torch.equal(resumed.ema[name], value) for name, value in whole.ema.items())


def test_a_head_is_saved_with_its_student_and_others_load_bare(tmp_path):
    student, head = tiny_student(), new_few_step_head(SIZES, TOKEN_WIDTH, 16, seed=3)
    save_student(tmp_path / "with", student, student.state_dict(), {"patch": 2}, head)
    save_student(tmp_path / "without", student, student.state_dict(), {"patch": 2})
    assert load_few_step(tmp_path / "without") is None
    assert {path.name for path in (tmp_path / "with").iterdir()} - {
        path.name for path in (tmp_path / "without").iterdir()
    } == {"few_step.safetensors"}
    loaded = load_few_step(tmp_path / "with")
    assert loaded is not None and loaded.sizes == SIZES and not loaded.training
    assert all(torch.equal(value, head.state_dict()[name]) for name, value in loaded.state_dict().items())
    for folder in ("with", "without"):
        found, info = load_student(tmp_path / folder)
        assert info == {"patch": 2} and len(found.state_dict()) == len(student.state_dict())


def test_a_damaged_head_is_named(tmp_path):
    student = tiny_student()
    save_student(tmp_path / "x", student, student.state_dict(), {}, new_few_step_head(SIZES, TOKEN_WIDTH, 16, seed=3))
    file = tmp_path / "x" / "few_step.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(StudentError, match=r"few_step\.safetensors has changed since it was written"):
        load_few_step(tmp_path / "x")
