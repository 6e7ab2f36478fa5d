import pytest
import torch
from tiny_student import GRID, TEXT_WIDTH, TOKEN_WIDTH, TOKENS, tiny_student
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lightgen_core.config import MaskConfig
from lightgen_core.draw import draw
from lightgen_core.flops import forward_flops, training_flops
from lightgen_core.losses import token_losses
from lightgen_core.mar.student import new_student
from lightgen_core.objectives import objective

WORDS, DRAWS = 7, 3


@pytest.mark.parametrize("self_attention", [False, True])
@pytest.mark.parametrize("name", ["ddpm", "v"])
def test_flops_are_those_that_torch_counts(name, self_attention):
    tiny = tiny_student(name)
    mar = tiny.mar.config.model_copy(update={"text_self_attention": self_attention, "text_depth": 2})
    student, generator = new_student(mar, tiny.head.config, seed=0).eval(), torch.Generator().manual_seed(0)
    drawn = draw(1, TOKENS, TOKEN_WIDTH, MaskConfig(), objective(name), DRAWS, 0.0, generator)
    tokens, text = torch.randn(1, TOKENS, TOKEN_WIDTH), torch.randn(1, WORDS, TEXT_WIDTH)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        token_losses(student, tokens, text, None, GRID, drawn)
    sizes = {"tokens": TOKENS, "hidden": drawn.num_hidden, "words": WORDS, "draws": DRAWS}
    assert counter.get_total_flops() == forward_flops(mar, tiny.head.config, **sizes)
    assert training_flops(mar, tiny.head.config, **sizes) == 3 * counter.get_total_flops()
