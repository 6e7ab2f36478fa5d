"""The rungs of the speed ladder are exact: each draws the tokens of the plain way to sample."""

import functools
from dataclasses import fields

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from benchmarks.ladder import Rungs, sample_by_rungs
from lightgen_core.model.mar import gather_tokens
from lightgen_core.sampling.token_sampler import HeadCompileConfig, TokenSampler
from lightgen_core.sampling.unmask import sample
from tests.factories.tiny_sampling import SAMPLERS, captions, head_tokens, settings, trained_looking
from tests.factories.tiny_student import GRID, TOKEN_WIDTH

SEEDS = [1, 2]


def drawn(student, config, **rungs):
    text, mask = captions(2, 5)
    return sample_by_rungs(student.eval(), text, mask, GRID, config, SEEDS, Rungs(**rungs))


def without_self_attention(name):
    """Text blocks as in the released model, so that they need not run at every token."""
    student = trained_looking(name)
    student.mar.config = student.mar.config.model_copy(update={"text_self_attention": False})
    for block in student.mar.cross_blocks:
        block.self_attention = torch.nn.Identity()
    return student


def assert_equal_but_for_rounding(tokens, expected):
    torch.testing.assert_close(tokens, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@pytest.mark.parametrize("rung", [field.name for field in fields(Rungs)])
def test_a_rung_draws_the_plain_tokens(rung):
    student, config = without_self_attention("v"), settings(iterations=9)
    assert_equal_but_for_rounding(drawn(student, config, **{rung: True}), drawn(student, config))


@pytest.mark.parametrize("make", [trained_looking, without_self_attention])
@pytest.mark.parametrize(("name", "sampler"), SAMPLERS)
def test_the_sampler_draws_the_plain_tokens(name, sampler, make):
    student, (text, mask) = make(name), captions(2, 5)
    config = settings(sampler, guidance_schedule="interval", guidance_interval=(0.2, 0.7), head_steps_last=2)
    assert_equal_but_for_rounding(sample(student, text, mask, GRID, config, SEEDS), drawn(student, config))


@torch.no_grad()
@pytest.mark.parametrize("make", [trained_looking, without_self_attention])
def test_states_at_some_tokens_are_those_of_all(make):
    mar, (text, text_mask) = make("v").eval().mar, captions(2, 5)
    tokens, mask = torch.randn(2, 9, TOKEN_WIDTH), torch.arange(9).expand(2, -1) > 3
    at = torch.tensor([[7, 4], [0, 8]])
    some = mar(tokens, mask, text, text_mask, GRID, at=at)
    torch.testing.assert_close(some, gather_tokens(mar(tokens, mask, text, text_mask, GRID), at), rtol=0, atol=1e-5)


@torch.no_grad()
def test_one_compiled_head_draws_the_eager_tokens_of_any_number(monkeypatch, unchecked_shapes):
    """The compiler's own code is left to the benchmark: making it takes a minute."""
    torch.compiler.reset()  # other tests of this process compile the same code, up to a limit
    backend = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend, fullgraph=True))
    head, config = trained_looking("v").head, settings()
    eager, compiled = TokenSampler(head), TokenSampler(head, HeadCompileConfig(compile=True))
    for rows in (6, 4, 30):
        states, noises = torch.randn(2, rows, 16), torch.randn(1, rows, TOKEN_WIDTH)
        expected = head_tokens(eager, states, noises, config, 5, 3.0)
        assert_equal_but_for_rounding(head_tokens(compiled, states, noises, config, 5, 3.0), expected)
    assert backend.frame_count == 1


def test_cuda_graphs_on_a_cpu_are_refused():
    student, (text, mask) = trained_looking("v"), captions(2, 5)
    graphs = TokenSampler(student.head, HeadCompileConfig(graphs=True))
    with pytest.raises(ValueError, match="CUDA graphs need a CUDA device, found cpu"):
        sample(student, text, mask, GRID, settings(), SEEDS, head=graphs)
