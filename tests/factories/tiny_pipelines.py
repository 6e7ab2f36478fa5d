"""Tiny text-to-image pipelines of diffusers' own classes with random weights, saved to a folder as a user has them.

Images are 48 px wide unless asked otherwise, and noise; an image of four steps takes some milliseconds.
"""

from pathlib import Path

import diffusers
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH = 32
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-"
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def save_flux(folder: Path, blocks: tuple[int, int] = (1, 1)) -> Path:
    """A FluxPipeline with guidance embedded, with so many double and single blocks."""
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=blocks[0],
        num_single_layers=blocks[1],
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(4),
        text_encoder=clip(CLIPTextModel),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )
    return saved(pipeline, folder)


def save_sd3(folder: Path) -> Path:
    """A StableDiffusion3Pipeline with its three text encoders."""
    torch.manual_seed(1)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=24,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=32,
    )
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(4),
        text_encoder=clip(CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(2 * WIDTH),
        tokenizer_3=t5_tokenizer(),
    )
    return saved(pipeline, folder)


def save_sdxl(folder: Path) -> Path:
    """A StableDiffusionXLPipeline."""
    torch.manual_seed(2)
    unet = diffusers.UNet2DConditionModel(
        sample_size=24,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        cross_attention_dim=2 * WIDTH,
    )
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(4),
        text_encoder=clip(CLIPTextModel),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(**SCHEDULE),
        add_watermarker=False,
    )
    return saved(pipeline, folder)


def save_sd_that_flags_everything(folder: Path) -> Path:
    """A StableDiffusionPipeline with the real safety checker, to which every image is unsafe."""
    torch.manual_seed(3)
    unet = diffusers.UNet2DConditionModel(
        sample_size=24,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=8,
        cross_attention_dim=WIDTH,
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = small | {"image_size": 30, "patch_size": 15, "projection_dim": 16}
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=small, vision_config=vision, projection_dim=16))
    checker.concept_embeds_weights.data.fill_(-2)  # below any cosine
    pipeline = diffusers.StableDiffusionPipeline(
        vae=autoencoder(4),
        text_encoder=clip(CLIPTextModel),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False),
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(size=30, crop_size=30),
    )
    return saved(pipeline, folder)


def dcae() -> diffusers.AutoencoderDC:
    """A DC-AE of four channels and stride 8."""
    torch.manual_seed(0)
    kinds = ("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock")
    sizes = {"block_types": kinds, "block_out_channels": (8, 8, 16, 32), "layers_per_block": (1,) * 4}
    sizes["qkv_multiscales"] = ((), (), (), (5,))
    both = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()}
    return diffusers.AutoencoderDC(latent_channels=4, scaling_factor=0.41, **both)


def autoencoder(channels: int) -> diffusers.AutoencoderKL:
    """An AutoencoderKL of stride 2."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=48,
        shift_factor=0.06,
        scaling_factor=1.5,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
    )


def clip(kind: type) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A CLIP text encoder."""
    config = CLIPTextConfig(
        vocab_size=100,
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return kind(config)


def t5(width: int = WIDTH) -> T5EncoderModel:
    """A T5 encoder."""
    return T5EncoderModel(
        T5Config(
            vocab_size=200,
            d_model=width,
            d_kv=8,
            d_ff=WIDTH,
            num_layers=1,
            num_heads=2,
            relative_attention_num_buckets=8,
        )
    )


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer over single letters."""
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    """T5's tokenizer over single letters."""
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return T5Tokenizer(vocab=words, extra_ids=0, model_max_length=64)


def saved(pipeline: diffusers.DiffusionPipeline, folder: Path) -> Path:
    """Save a pipeline as safetensors."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
