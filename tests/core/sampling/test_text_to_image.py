"""A student with its components: what two students share, and in which weights a compiled head runs."""

import torch

from lightgen_core.model.head import TokenDenoiser
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.sampling.token_sampler import HeadCompileConfig, TokenSampler
from lightgen_core.sampling.unmask import sample
from tests.factories.tiny_checkpoint import save_tiny_checkpoint
from tests.factories.tiny_sampling import captions, settings, trained_looking
from tests.factories.tiny_student import GRID

CPU = torch.device("cpu")


def test_students_that_name_the_same_components_share_them(tmp_path):
    first = TextToImage.load(save_tiny_checkpoint(tmp_path / "first"), CPU)
    second = TextToImage.load(save_tiny_checkpoint(tmp_path / "second"), CPU, beside=first)
    assert second.codec is first.codec and second.text_encoder is first.text_encoder
    assert second.student is not first.student


def test_other_states_of_a_text_need_their_own_encoder(tmp_path):
    first = TextToImage.load(save_tiny_checkpoint(tmp_path / "first"), CPU)
    second = TextToImage.load(save_tiny_checkpoint(tmp_path / "second", text_layer=-2), CPU, beside=first)
    assert second.text_encoder is not first.text_encoder
    assert not torch.equal(second.encode_text(["a red circle"])[0], first.encode_text(["a red circle"])[0])


def test_a_compiled_bf16_head_has_weights_that_were_cast_once(monkeypatch):
    """Else the compiled step casts every weight again at every step of the head."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    ran, forward = [], TokenDenoiser.forward_embedded

    def forward_embedded(self, *inputs):
        ran.append(self)
        return forward(self, *inputs)

    monkeypatch.setattr(TokenDenoiser, "forward_embedded", forward_embedded)
    student, (text, mask) = trained_looking("v"), captions(3)
    compiled = TokenSampler(student.head, HeadCompileConfig(compile=True))
    for seed in (1, 2):
        sample(student, text, mask, GRID, settings(precision="bf16"), seeds=[seed], head=compiled)
    (half,) = set(ran)
    assert half is not student.head and half.out.weight.dtype == torch.bfloat16
    ran.clear()
    sample(student, text, mask, GRID, settings(), seeds=[1], head=compiled)
    assert set(ran) == {student.head} and student.head.out.weight.dtype == torch.float32
