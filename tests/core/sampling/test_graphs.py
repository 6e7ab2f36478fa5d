"""Recorded iterations: they sample what eager ones do, read memory of their own alone, and are bounded in number."""

import gc

import pytest
import torch

from benchmarks.fake_cuda.graph import FakeGraph
from lightgen_core.config import FewStepConfig
from lightgen_core.model.few_step import new_few_step_student
from lightgen_core.sampling import graphs
from lightgen_core.sampling.half_weights import with_half_weights
from lightgen_core.sampling.token_sampler import HeadCompileConfig, TokenSampler
from lightgen_core.sampling.unmask import sample
from tests.factories.tiny_sampling import SAMPLERS, captions, settings, trained_looking
from tests.factories.tiny_student import GRID, TOKEN_WIDTH, TOKENS

TEXT = graphs.TEXT_MULTIPLE


@pytest.fixture
def fake_graphs(monkeypatch):
    monkeypatch.setattr(graphs, "CudaGraph", FakeGraph)


class EmptyGraph(FakeGraph):
    """Records nothing."""

    def __init__(self, function, pool):
        pass

    def replay(self):
        pass


def recorder(student, **options):
    return TokenSampler(student.head, HeadCompileConfig(graphs=True), **options)


def batches(count, *lengths):
    """Texts of other values, of lengths up to a multiple that graphs pad to, with their seeds."""
    for turn in range(count):
        text, mask = captions(*lengths, TEXT)
        yield text.roll(turn, dims=2), mask, [10 * turn + image for image in range(len(text))]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "sampler"), SAMPLERS)
def test_a_replay_is_eager_to_the_bit(fake_graphs, name, sampler, precision):
    """With other texts and seeds, after what autocast had cast was freed and its memory taken."""
    student = trained_looking(name).eval()
    config = settings(sampler, precision=precision, guidance_schedule="linear", head_steps_last=3)
    recorded = recorder(student)
    for text, mask, seeds in batches(3, 5):
        expected = sample(student, text, mask, GRID, config, seeds)
        assert sample(student, text, mask, GRID, config, seeds, head=recorded).equal(expected)
        gc.collect()
        torch.full((1 << 16,), float("nan"))
    (shape,) = recorded.graphs._shapes.values()
    assert len(shape._graphs) == 4


def test_a_replay_on_another_grid_is_eager_to_the_bit(fake_graphs):
    """Positions are interpolated once for a shape."""
    student, grid = trained_looking("v").eval(), (2, 5)
    recorded = recorder(student)
    for text, mask, seeds in batches(2):
        expected = sample(student, text, mask, grid, settings(), seeds)
        assert sample(student, text, mask, grid, settings(), seeds, head=recorded).equal(expected)


def test_a_replay_with_a_cached_null_text_is_eager_to_the_bit(fake_graphs):
    student, config = trained_looking("v").eval(), settings(null_text_every=2)
    recorded = recorder(student)
    for text, mask, seeds in batches(2):
        expected = sample(student, text, mask, GRID, config, seeds)
        assert sample(student, text, mask, GRID, config, seeds, head=recorded).equal(expected)


def test_a_replay_keeps_known_tokens(fake_graphs):
    student, keep = trained_looking("v").eval(), torch.arange(TOKENS) % 2 == 0
    recorded = recorder(student)
    for turn, (text, mask, seeds) in enumerate(batches(2)):
        known = torch.full((1, TOKENS, TOKEN_WIDTH), turn + 0.5)
        drawn = sample(student, text, mask, GRID, settings(), seeds, known=known, keep=keep, head=recorded)
        assert drawn.equal(sample(student, text, mask, GRID, settings(), seeds, known=known, keep=keep))


def test_a_replay_of_the_few_step_student_is_eager_to_the_bit(fake_graphs):
    student = new_few_step_student(trained_looking("v"), FewStepConfig(width=16, depth=1, steps=2), seed=0).eval()
    recorded, config = recorder(student), settings("few_step", precision="bf16", head_steps=2)
    for text, mask, seeds in batches(2):
        expected = sample(student, text, mask, GRID, config, seeds)
        assert sample(student, text, mask, GRID, config, seeds, head=recorded).equal(expected)


def test_padding_texts_changes_rounding_alone(fake_graphs):
    student, (text, mask) = trained_looking("v").eval(), captions(2, 5)
    found = sample(student, text, mask, GRID, settings(), [1, 2], head=recorder(student))
    expected = sample(student, text, mask, GRID, settings(), [1, 2])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_graph_of_weights_that_autocast_casts_is_caught(monkeypatch, fake_graphs):
    """So that the tests above can fail."""
    monkeypatch.setattr(graphs, "with_half_weights", lambda module: module)
    student = trained_looking("v").eval()
    recorded = recorder(student)
    with pytest.raises(RuntimeError, match=r"the graph reads memory that was freed: torch\.bfloat16"):
        for text, mask, seeds in batches(2):
            sample(student, text, mask, GRID, settings(precision="bf16"), seeds, head=recorded)


def test_a_half_student_shares_what_it_does_not_cast():
    student = trained_looking("ddpm")
    half, names = with_half_weights(student), dict(student.named_parameters())
    cast = {name for name, weight in half.named_parameters() if weight.dtype == torch.bfloat16}
    assert all(weight is names[name] for name, weight in half.named_parameters() if name not in cast)
    assert cast == {name for name in names if name.endswith((".weight", ".bias")) and "norm" not in name} | {
        "mar.mask_token"
    }
    assert all(weight.dtype == torch.float32 for weight in student.parameters())


def counted(student, recorded, config, lengths=(5,), grid=(32, 32)):
    text, mask = captions(*lengths)
    sample(student, text, mask, grid, config, list(range(len(lengths))), head=recorded)
    return sum(len(shape._graphs) for shape in recorded.graphs._shapes.values())


def test_the_papers_schedule_at_512_px_has_64_graphs(monkeypatch):
    """Whatever the captions, the seeds and the strength of the guidance."""
    monkeypatch.setattr(graphs, "CudaGraph", EmptyGraph)
    student, config = trained_looking("ddpm"), settings("ddpm", iterations=64)
    recorded = recorder(student)
    assert counted(student, recorded, config) == 64
    assert counted(student, recorded, config, (TEXT,)) == 64
    assert counted(student, recorded, config.model_copy(update={"guidance_scale": 7.5})) == 64
    assert counted(student, recorded, config.model_copy(update={"guidance_scale": 1.0})) == 2 * 64
    assert counted(student, recorded, config, (TEXT + 1,)) == 3 * 64
    assert counted(student, recorded, config, (5, 5)) == 4 * 64


def test_graphs_of_the_shape_used_longest_ago_make_room(monkeypatch):
    monkeypatch.setattr(graphs, "CudaGraph", EmptyGraph)
    monkeypatch.setattr(graphs, "MAX_SHAPES", 2)
    student = trained_looking("v")
    recorded = recorder(student)
    for images, kept in ((1, 4), (2, 8), (1, 8), (3, 8)):
        assert counted(student, recorded, settings(), (5,) * images, GRID) == kept
    assert [len(shape._state.tokens) for shape in recorded.graphs._shapes.values()] == [1, 3]
