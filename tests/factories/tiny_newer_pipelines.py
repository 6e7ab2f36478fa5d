"""Tiny pipelines of the newer teachers' classes: FLUX.2-klein, Qwen-Image, Z-Image, SANA-Sprint, PixArt-Sigma.

Weights are random; text encoders are language models of transformers' own classes, tokenizers know single bytes.
"""

from pathlib import Path

import diffusers
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from tests.factories.tiny_pipelines import WIDTH, autoencoder, dcae, saved, t5, t5_tokenizer

TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
_SMALL = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


def save_flux2_klein(folder: Path) -> Path:
    """A Flux2KleinPipeline; it reads three layers of its encoder, the last of them the 27th."""
    torch.manual_seed(4)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    pipeline = diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLFlux2(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            layers_per_block=1,
        ),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**_SMALL, num_hidden_layers=27, head_dim=16)),
        tokenizer=byte_tokenizer(),
        transformer=transformer,
        is_distilled=True,
    )
    return saved(pipeline, folder)


def save_qwen_image(folder: Path) -> Path:
    """A QwenImagePipeline, with guidance of its own (true_cfg_scale) where a negative prompt is given."""
    torch.manual_seed(5)
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    text = _SMALL | {"num_hidden_layers": 2, "rope_scaling": rope}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    pipeline = diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=encoder,
        tokenizer=byte_tokenizer(),
        transformer=transformer,
    )
    return saved(pipeline, folder)


def save_z_image(folder: Path) -> Path:
    """A ZImagePipeline, whose transformer pads texts and images to multiples of 32 tokens."""
    torch.manual_seed(6)
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=WIDTH,
        n_layers=3,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 64, 64],
    )
    pipeline = diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(4),
        text_encoder=Qwen3Model(Qwen3Config(**_SMALL, num_hidden_layers=3, head_dim=16)),
        tokenizer=byte_tokenizer(),
        transformer=transformer,
    )
    return saved(pipeline, folder)


def save_sana_sprint(folder: Path) -> Path:
    """A SanaSprintPipeline; in its transformer images attend to texts by cross-attention alone."""
    torch.manual_seed(7)
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        sample_size=16,
        guidance_embeds=True,
        qk_norm="rms_norm_across_heads",
    )
    gemma = Gemma2Config(**_SMALL, num_hidden_layers=1, head_dim=16)
    pipeline = diffusers.SanaSprintPipeline(
        tokenizer=gemma_tokenizer(),
        text_encoder=Gemma2Model(gemma),
        vae=dcae(),
        transformer=transformer,
        scheduler=diffusers.SCMScheduler(),
    )
    return saved(pipeline, folder)


def save_pixart_sigma(folder: Path) -> Path:
    """A PixArtSigmaPipeline, with classifier-free guidance in one batch of both."""
    torch.manual_seed(8)
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=WIDTH,
        sample_size=24,
        caption_channels=WIDTH,
        use_additional_conditions=False,
    )
    pipeline = diffusers.PixArtSigmaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5(),
        vae=autoencoder(4),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )
    return saved(pipeline, folder)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """Qwen's tokenizer over single bytes, with a chat template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *sorted(ByteLevel.alphabet())]
    tokenizer = Qwen2Tokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def gemma_tokenizer() -> PreTrainedTokenizerBase:
    """Gemma's tokenizer over single characters and bytes."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    return GemmaTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])
