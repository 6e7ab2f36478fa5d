"""The few-step head: what it learns from is where the full sampler ends, and it replaces all of its evaluations."""

import numpy as np
import pytest
import torch

from lightgen_core.config import FewStepConfig
from lightgen_core.model.few_step import FewStepHead, new_few_step_head
from lightgen_core.model.head import TokenDenoiser
from lightgen_core.model.mar import Mar
from lightgen_core.sampling.distillation import deterministic, sample_pairs
from lightgen_core.sampling.head_samplers import IncompatibleSamplerError
from lightgen_core.sampling.inpaint import inpaint
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.sampling.token_sampler import TokenSampler
from lightgen_core.sampling.unmask import sample
from tests.factories.tiny_checkpoint import save_tiny_checkpoint
from tests.factories.tiny_sampling import captions, head_tokens, settings, trained_looking
from tests.factories.tiny_student import GRID, TOKEN_WIDTH, TOKENS

DETERMINISTIC = [("ddpm", "ddim"), ("v", "ddim"), ("flow", "euler")]
TEXT, TEXT_MASK = captions(3, 5)


def few_step_head(null_text=False) -> FewStepHead:
    """A head whose output layer and modulations are not zero, as they are at the start."""
    sizes, generator = FewStepConfig(width=16, depth=1, null_text=null_text), torch.Generator()
    head = new_few_step_head(sizes, TOKEN_WIDTH, 16, seed=0)
    with torch.no_grad():
        for weight in head.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator.manual_seed(1))
    return head.eval()


def pairs_of(student, config, **changes):
    asked = {"tokens_per_image": TOKENS, "noise_samples": 3} | changes
    return sample_pairs(student, TEXT, TEXT_MASK, GRID, config, [5, 6], **asked)


@pytest.mark.parametrize("null_text", [False, True])
@pytest.mark.parametrize(("name", "sampler"), DETERMINISTIC)
def test_a_target_is_where_the_full_sampler_ends(name, sampler, null_text, monkeypatch):
    """From the recorded noise, with the conditions of its iteration and their guidance; the head sees one or both."""
    student, config = trained_looking(name), settings(sampler, guidance_schedule="linear", temperature=0.9)
    seen, plain = [], TokenSampler.tokens

    def spy(self, conditions, noises, config, times, strength):
        seen.append((conditions, times, strength))
        return plain(self, conditions, noises, config, times, strength)

    monkeypatch.setattr(TokenSampler, "tokens", spy)
    pairs = pairs_of(student, config, null_text=null_text)
    assert len(pairs.image) == 2 * TOKENS and pairs.tokens.shape == (2 * TOKENS, 3, TOKEN_WIDTH)
    start, whole, head = 0, config.model_copy(update={"temperature": 1.0}), TokenSampler(student.head)
    for conditions, times, strength in seen:
        rows = slice(start, start := start + conditions.shape[1])
        seen_states = torch.cat(conditions.unbind(), dim=-1) if null_text else conditions[0]
        assert torch.equal(pairs.states[rows], seen_states) and (pairs.guidance[rows] == strength).all()
        for k in range(3):
            ended = plain(head, conditions, pairs.noise[rows, k][None], whole, times, strength)
            assert torch.allclose(ended, pairs.tokens[rows, k], atol=1e-4, rtol=1e-4)
    assert start == 2 * TOKENS and len(seen) == 4


def test_one_step_of_the_full_sampler_is_its_heads_prediction():
    """At time 1 a v head's clean token is its prediction, negated."""
    student, config = trained_looking("v"), settings(head_steps=1, guidance_scale=1.0)
    pairs = pairs_of(student, config)
    with torch.no_grad():
        predicted = student.head(pairs.noise.transpose(0, 1), torch.tensor(1.0), pairs.states)
    assert torch.allclose(-predicted.transpose(0, 1), pairs.tokens, atol=1e-5)


def test_recording_changes_no_image(monkeypatch):
    student, config, ended = trained_looking("v"), settings(), []
    plain = sample(student, TEXT, TEXT_MASK, GRID, config, [5, 6])
    monkeypatch.setattr("lightgen_core.sampling.distillation.sample", lambda *a, **k: ended.append(sample(*a, **k)))
    pairs_of(student, config)
    assert torch.equal(ended[0], plain)


def test_so_many_tokens_of_each_image_are_recorded():
    pairs = pairs_of(trained_looking("v"), settings(), tokens_per_image=4)
    assert pairs.image.bincount().tolist() == [4, 4]
    assert torch.equal(pairs.noise, pairs.noise.half().float()), "stored without a loss"
    again = pairs_of(trained_looking("v"), settings(), tokens_per_image=4)
    assert torch.equal(again.noise, pairs.noise) and torch.equal(again.tokens, pairs.tokens)


def test_ancestral_steps_are_taught_by_their_deterministic_form():
    assert deterministic(settings("ddpm")).head_sampler == "ddim"
    assert deterministic(settings("euler")) == settings("euler")


@pytest.mark.parametrize(("null_text", "passes"), [(False, 4), (True, 8)])
def test_a_token_costs_one_evaluation_of_the_head(monkeypatch, null_text, passes):
    """24 times fewer than 12 steps with guidance, and where the null text is not seen half of the cross-attention."""
    evaluations, branches = [], []
    student, few_step = trained_looking("v"), few_step_head(null_text)
    of_head, attend = TokenDenoiser.forward_embedded, Mar.cross_attend

    def head(self, noisy, time, embedded):
        out = of_head(self, noisy, time, embedded)
        evaluations.append(out[..., 0].numel())
        return out

    def cross_attend(self, *inputs, **options):
        branches.append(1)
        return attend(self, *inputs, **options)

    monkeypatch.setattr(TokenDenoiser, "forward_embedded", head)
    monkeypatch.setattr(Mar, "cross_attend", cross_attend)
    counts = {}
    for name in ("ddim", "few_step"):
        evaluations.clear(), branches.clear()
        sampler = TokenSampler(student.head, few_step=few_step)
        sample(student, TEXT, TEXT_MASK, GRID, settings(name, head_steps=12), [5, 6], head=sampler)
        counts[name] = (sum(evaluations), sum(branches))
    assert counts == {"ddim": (2 * TOKENS * 24, 8), "few_step": (2 * TOKENS, passes)}


@pytest.mark.parametrize("null_text", [False, True])
def test_the_token_is_what_the_few_step_head_gives(null_text):
    student, few_step, generator = trained_looking("v"), few_step_head(null_text), torch.Generator().manual_seed(3)
    conditions, noises = (torch.randn(2, 4, width, generator=generator) for width in (16, TOKEN_WIDTH))
    states = torch.cat([conditions[0], conditions[1]], dim=-1) if null_text else conditions[0]
    config = settings("few_step", temperature=0.5)
    drawn = head_tokens(TokenSampler(student.head, few_step=few_step), conditions, noises, config, 5, 2.0)
    with torch.no_grad():
        expected = few_step(0.5 * noises[0], torch.tensor(2.0), states)
        other = few_step(0.5 * noises[0], torch.tensor(3.0), states)
    assert torch.equal(drawn, expected)
    assert (other - expected).abs().max() > 1e-3, "guidance is inside"


def test_without_guidance_both_states_are_the_captions():
    """As they were recorded: the null text has no say then."""
    student, few_step, config = trained_looking("v"), few_step_head(null_text=True), settings(guidance_scale=1.0)
    pairs = pairs_of(student, config, null_text=True)
    assert torch.equal(*pairs.states.chunk(2, dim=-1))
    conditions, noises = pairs.states[None, :4, :16], pairs.noise[:4, :1].transpose(0, 1)
    head = TokenSampler(student.head, few_step=few_step)
    drawn = head_tokens(head, conditions, noises, settings("few_step", guidance_scale=1.0), 5, 1.0)
    with torch.no_grad():
        assert torch.equal(drawn, few_step(noises[0], torch.tensor(1.0), pairs.states[:4]))


def test_inpainting_takes_the_few_step_head(tmp_path):
    loaded = TextToImage.load(save_tiny_checkpoint(tmp_path / "student"), torch.device("cpu"))
    loaded.few_step = new_few_step_head(FewStepConfig(width=16, depth=1), 64, 32, 0).eval()
    image, mask = np.zeros((48, 48, 3), np.uint8), np.arange(48 * 48).reshape(48, 48) < 48 * 16
    sampler = loaded.sampler.model_copy(update={"head_sampler": "few_step"})
    painted = inpaint(loaded, image, mask, "a star", 3, sampler)
    assert painted.renewed.sum() == 3 and np.array_equal(painted.pasted[16:], image[16:])


def test_a_student_without_a_few_step_head_says_so():
    student = trained_looking("v")
    with pytest.raises(IncompatibleSamplerError, match=r"stage distil_head\); this one has none: choose ddpm or ddim"):
        sample(student, TEXT, TEXT_MASK, GRID, settings("few_step"), [5, 6])
