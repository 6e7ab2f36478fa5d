"""FLOPs of the known teachers, counted by torch on models of their published sizes without weights.

python -m benchmarks.teacher_flops

A pass over one image is a polynomial of its image tokens i and text tokens t: once + a i + b t + c i^2 + d i t + e t^2.
Six counts give its coefficients, a seventh at other sizes checks them. `flows/known_teachers.py` holds what is printed;
`tests/flows/test_known_teachers.py` counts again. A decoder is counted at 512 px, per pixel; of a text encoder the
weights that every token meets, without the table of embeddings, are counted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import diffusers
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SIZES = ((64, 32), (256, 32), (576, 32), (64, 64), (256, 64), (64, 128))
"""Image tokens, of a square, and text tokens; multiples of the 32 to which Z-Image pads both."""
CHECK = (1024, 256)


@dataclass(frozen=True)
class Denoiser:
    """A transformer of diffusers: how it is built, and what it is called with for one image."""

    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int, int], dict[str, Any]]


def _joint(channels: int, text_width: int, axes: int, **more: int) -> Callable[[int, int], dict[str, Any]]:
    def inputs(image: int, text: int) -> dict[str, Any]:
        named = {name: torch.empty(1, width) if width else torch.empty(1) for name, width in more.items()}
        return named | {
            "hidden_states": torch.empty(1, image, channels),
            "encoder_hidden_states": torch.empty(1, text, text_width),
            "timestep": torch.empty(1),
            "img_ids": torch.empty(image, axes),
            "txt_ids": torch.empty(text, axes),
        }

    return inputs


def _z_image(image: int, text: int) -> dict[str, Any]:
    side = 2 * math.isqrt(image)
    return {"x": [torch.empty(16, 1, side, side)], "t": torch.empty(1), "cap_feats": [torch.empty(text, 2560)]}


def _qwen_image(image: int, text: int) -> dict[str, Any]:
    side = math.isqrt(image)
    return {
        "hidden_states": torch.empty(1, image, 64),
        "encoder_hidden_states": torch.empty(1, text, 3584),
        "timestep": torch.empty(1),
        "img_shapes": [[(1, side, side)]],
    }


def _sana(image: int, text: int) -> dict[str, Any]:
    side = math.isqrt(image)
    return {
        "hidden_states": torch.empty(1, 32, side, side),
        "encoder_hidden_states": torch.empty(1, text, 2304),
        "timestep": torch.empty(1),
        "guidance": torch.empty(1),
    }


def _klein(layers: int, single: int, heads: int) -> Denoiser:
    width = 128 * heads
    sizes = {"num_layers": layers, "num_single_layers": single, "num_attention_heads": heads, "guidance_embeds": False}
    text = {3072: 7680, 4096: 12288}[width]  # three layers of Qwen3-4B, of Qwen3-8B
    return Denoiser(
        lambda: diffusers.Flux2Transformer2DModel(**sizes, joint_attention_dim=text), _joint(128, text, axes=4)
    )


DENOISERS = {
    "black-forest-labs/FLUX.1-dev": Denoiser(
        lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True),
        _joint(64, 4096, axes=3, pooled_projections=768, guidance=0),
    ),
    "black-forest-labs/FLUX.2-klein-4B": _klein(5, 20, 24),
    "black-forest-labs/FLUX.2-klein-9B": _klein(8, 24, 32),
    "Tongyi-MAI/Z-Image-Turbo": Denoiser(diffusers.ZImageTransformer2DModel, _z_image),
    "Qwen/Qwen-Image": Denoiser(diffusers.QwenImageTransformer2DModel, _qwen_image),
    "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers": Denoiser(
        lambda: diffusers.SanaTransformer2DModel(guidance_embeds=True, qk_norm="rms_norm_across_heads"), _sana
    ),
}
"""Defaults of diffusers' classes are the published sizes; FLUX.2-klein's are those of black-forest-labs/flux2, SANA's
those of diffusers' conversion script."""

_KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_DC = {
    f"{side}_{name}": value
    for side, layers in (("encoder", (2, 2, 2, 3, 3, 3)), ("decoder", (3,) * 6))
    for name, value in (
        ("block_types", ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3),
        ("block_out_channels", (128, 256, 512, 512, 1024, 1024)),
        ("layers_per_block", layers),
        ("qkv_multiscales", ((), (), (), (5,), (5,), (5,))),
    )
}
SIDE = 512
DECODERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "FLUX.1, Z-Image": (lambda: diffusers.AutoencoderKL(**_KL), (1, 16, SIDE // 8, SIDE // 8)),
    "FLUX.2": (diffusers.AutoencoderKLFlux2, (1, 32, SIDE // 8, SIDE // 8)),
    "Qwen-Image": (diffusers.AutoencoderKLQwenImage, (1, 16, 1, SIDE // 8, SIDE // 8)),
    "SANA-Sprint": (lambda: diffusers.AutoencoderDC(latent_channels=32, **_DC), (1, 32, SIDE // 32, SIDE // 32)),
}
"""Autoencoders and the shape of their latents."""


def _qwen3(width: int, mlp: int) -> torch.nn.Module:
    sizes = {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    config = transformers.Qwen3Config(vocab_size=151936, hidden_size=width, intermediate_size=mlp, **sizes)
    return transformers.Qwen3ForCausalLM(config)


def _gemma2() -> torch.nn.Module:
    sizes = {"num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
    return transformers.Gemma2Model(transformers.Gemma2Config(hidden_size=2304, intermediate_size=9216, **sizes))


def _qwen2() -> torch.nn.Module:
    sizes = {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
    config = transformers.Qwen2Config(hidden_size=3584, intermediate_size=18944, tie_word_embeddings=False, **sizes)
    return transformers.Qwen2ForCausalLM(config)


def _t5() -> torch.nn.Module:
    sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    return transformers.T5EncoderModel(transformers.T5Config(feed_forward_proj="gated-gelu", **sizes))


TEXT_ENCODERS: dict[str, Callable[[], Any]] = {
    "FLUX.1: T5-XXL": _t5,
    "FLUX.2-klein-4B: Qwen3-4B": lambda: _qwen3(2560, 9728),
    "FLUX.2-klein-9B: Qwen3-8B": lambda: _qwen3(4096, 12288),
    "Z-Image: Qwen3-4B without its output layer": lambda: _qwen3(2560, 9728).model,
    "Qwen-Image: the language model of Qwen2.5-VL-7B": _qwen2,
    "SANA-Sprint: Gemma-2-2B": _gemma2,
}
"""FLUX.2's and Qwen-Image's pipelines call their encoders with the output layer."""


def token_weights(encoder: Any) -> int:
    """Return the weights that a text encoder applies to each token: the output layer, and not the embeddings."""
    weights = sum(weight.numel() for weight in encoder.parameters())
    embeddings, output = encoder.get_input_embeddings(), encoder.get_output_embeddings()
    tied = output is not None and output.weight is embeddings.weight
    return weights if tied else weights - embeddings.weight.numel()


def decoder_flops(name: str) -> float:
    """Return the FLOPs per pixel of an autoencoder's decoder."""
    build_one, shape = DECODERS[name]
    with torch.device("meta"):
        model, latents = build_one().requires_grad_(False).eval(), torch.empty(shape)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.decode(latents)
    return counter.get_total_flops() / SIDE**2


def build(name: str) -> torch.nn.Module:
    """Return a known teacher's denoiser on the meta device: shapes alone."""
    with torch.device("meta"):
        return DENOISERS[name].build().requires_grad_(False).eval()


def count(name: str, model: torch.nn.Module, image: int, text: int) -> int:
    """Return the FLOPs of one pass over one image, two for each multiply-add."""
    with torch.device("meta"):
        inputs = DENOISERS[name].inputs(image, text)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_total_flops()


def terms(image: int, text: int) -> tuple[int, ...]:
    """Return the polynomial's terms."""
    return 1, image, text, image**2, image * text, text**2


def solve(counts: list[int]) -> list[int]:
    """Return the polynomial's coefficients from counts at SIZES, exactly."""
    rows = [[Fraction(term) for term in (*terms(*size), found)] for size, found in zip(SIZES, counts, strict=True)]
    for column in range(len(rows)):
        pivot = next(row for row in rows[column:] if row[column])
        rows.remove(pivot)
        rows.insert(column, [value / pivot[column] for value in pivot])
        for row in rows:
            if row is not rows[column]:
                row[:] = [a - row[column] * b for a, b in zip(row, rows[column], strict=True)]
    return [round(row[-1]) for row in rows]


def main() -> None:
    print("| teacher | parameters | once | image | text | image^2 | image x text | text^2 | 2 x parameters x tokens |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in DENOISERS:
        model = build(name)
        parameters = sum(weight.numel() for weight in model.parameters())
        found = solve([count(name, model, *size) for size in SIZES])
        at, counted = CHECK, count(name, model, *CHECK)
        expected = sum(coefficient * term for coefficient, term in zip(found, terms(*at), strict=True))
        assert counted == expected, f"{name}: {counted} is not the polynomial's {expected}"
        ratio = 2 * parameters * sum(at) / counted
        print(
            f"| {name} | {parameters} | {' | '.join(map(str, found))} | {ratio:.2f} of the count at {at} |", flush=True
        )
    for name in DECODERS:
        print(f"decoder of {name}: {decoder_flops(name):.3g} FLOP a pixel", flush=True)
    for name, make in TEXT_ENCODERS.items():
        with torch.device("meta"):
            print(f"{name}: {token_weights(make())} weights a token", flush=True)


if __name__ == "__main__":
    main()
