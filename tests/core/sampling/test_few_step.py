"""The few-step student: one evaluation of its head a token, without the null text."""

import numpy as np
import pytest
import torch

from lightgen_core.config import FewStepConfig
from lightgen_core.model.few_step import FewStepStudent, new_few_step_student
from lightgen_core.model.head import TokenDenoiser
from lightgen_core.model.mar import Mar
from lightgen_core.sampling.head_samplers import IncompatibleSamplerError
from lightgen_core.sampling.inpaint import inpaint
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.sampling.token_sampler import TokenSampler
from lightgen_core.sampling.unmask import sample
from tests.factories.tiny_checkpoint import save_tiny_checkpoint
from tests.factories.tiny_sampling import captions, head_tokens, settings, trained_looking
from tests.factories.tiny_student import GRID, TOKEN_WIDTH, TOKENS

TEXT, TEXT_MASK = captions(3, 5)


def few_step_student(steps=1) -> FewStepStudent:
    """A student whose transformer is another than its teacher's."""
    student = new_few_step_student(trained_looking("v"), FewStepConfig(width=16, depth=1, steps=steps), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in student.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return student.eval()


@pytest.mark.parametrize(("steps", "times"), [(1, 24), (2, 12)])
def test_a_token_costs_a_step_of_the_head_without_a_branch(monkeypatch, steps, times):
    """So many times fewer evaluations than 12 steps with guidance, and half of the cross-attention."""
    evaluations, branches = [], []
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
    for name, student, count in (("ddim", trained_looking("v"), 12), ("few_step", few_step_student(steps), steps)):
        evaluations.clear(), branches.clear()
        sample(student, TEXT, TEXT_MASK, GRID, settings(name, head_steps=count), [5, 6])
        counts[name] = (sum(evaluations), sum(branches))
    assert counts == {"ddim": (2 * TOKENS * 24, 8), "few_step": (2 * TOKENS * 24 // times, 4)}


def test_guidance_is_inside():
    head, generator = few_step_student().head, torch.Generator().manual_seed(3)
    conditions, noises = (torch.randn(1, 4, width, generator=generator) for width in (16, TOKEN_WIDTH))
    config = settings("few_step", temperature=0.5, head_steps=1)
    drawn, other = (head_tokens(TokenSampler(head), conditions, noises, config, 1, each) for each in (2.0, 3.0))
    with torch.no_grad():
        embedded = head.guided_condition(conditions[0], torch.tensor(2.0))
        output = head.forward_embedded(0.5 * noises[0], head.embed_time(torch.tensor(1.0)), embedded)
    torch.testing.assert_close(drawn, -output)  # of v, at pure noise
    assert (other - drawn).abs().max() > 1e-3


def test_each_sampler_runs_on_the_student_that_it_is_for(tmp_path):
    """The transformers differ, so images of one through the other would too."""
    loaded = TextToImage.load(save_tiny_checkpoint(tmp_path / "student"), torch.device("cpu"))
    few_step = new_few_step_student(loaded.student, FewStepConfig(width=16, depth=1), 0)
    with torch.no_grad():
        few_step.mar.cross_in.weight.add_(0.3)
    both = TextToImage(loaded.student, loaded.info, loaded.codec, loaded.text_encoder, loaded.device, few_step=few_step)
    one_step = loaded.sampler.model_copy(update={"head_sampler": "few_step", "head_steps": 1})
    assert both.sampled(one_step) is both.few_step and both.sampled(loaded.sampler) is both.student
    full = [each.sample(["a star"], [3]).latents for each in (loaded, both)]
    assert torch.equal(*full)
    text, mask = both.encode_text(["a star"])
    tokens = sample(few_step, text, mask, loaded.info.grid, one_step, [3])
    drawn = both.sample(["a star"], [3], sampler=one_step).latents
    assert torch.equal(tokens.sort().values.flatten().sort().values, drawn.flatten().sort().values)


def test_inpainting_takes_the_few_step_student(tmp_path):
    loaded = TextToImage.load(save_tiny_checkpoint(tmp_path / "student"), torch.device("cpu"))
    loaded.few_step = new_few_step_student(loaded.student, FewStepConfig(width=16, depth=1), 0).eval()
    image, mask = np.zeros((48, 48, 3), np.uint8), np.arange(48 * 48).reshape(48, 48) < 48 * 16
    sampler = loaded.sampler.model_copy(update={"head_sampler": "few_step", "head_steps": 1})
    painted = inpaint(loaded, image, mask, "a star", 3, sampler)
    assert painted.renewed.sum() == 3 and np.array_equal(painted.pasted[16:], image[16:])


def test_a_student_that_was_not_distilled_says_so():
    with pytest.raises(IncompatibleSamplerError, match=r"stage distil_head\); this one was not: choose ddpm or ddim"):
        sample(trained_looking("v"), TEXT, TEXT_MASK, GRID, settings("few_step"), [5, 6])


def test_a_few_step_student_refuses_a_sampler_of_many_steps():
    with pytest.raises(IncompatibleSamplerError, match="'ddim' does not fit a few-step student; choose few_step"):
        sample(few_step_student(), TEXT, TEXT_MASK, GRID, settings(), [5, 6])
    with pytest.raises(IncompatibleSamplerError, match="head_steps is 5, but this few-step student learned at most 2"):
        sample(few_step_student(2), TEXT, TEXT_MASK, GRID, settings("few_step"), [5, 6])
