"""Facts about the hub models that the included recipes name.

Licence, gate and size are from their pages when this was written; the page is authoritative. FLOPs of the autoencoders
were counted with torch's FlopCounterMode on models of their configuration (`docs/estimate.md`).
"""

from dataclasses import dataclass

from lightgen_core.encoders.model_ref import parse_model_ref


@dataclass(frozen=True)
class KnownModel:
    """A hub repository, or one folder of it.

    licence: its name; gated: the page requires login and consent before a download; gigabytes: of the files used;
    parameters: active for every token; stride: px per latent; channels: of a latent; text_width: of an encoder's
    states; encoder_flops, decoder_flops: of an autoencoder, per pixel.
    """

    licence: str
    gated: bool
    gigabytes: float
    parameters: float = 0.0
    stride: int | None = None
    channels: int | None = None
    text_width: int | None = None
    encoder_flops: float | None = None
    decoder_flops: float | None = None


KNOWN = {
    "black-forest-labs/FLUX.1-dev": KnownModel("FLUX.1 [dev] Non-Commercial License", True, 34, 11.9e9),
    "black-forest-labs/FLUX.2-klein-4B": KnownModel("Apache-2.0", False, 16, 3.9e9),
    "facebook/mask2former-swin-small-coco-instance": KnownModel("see its page", False, 0.28),
    "google/flan-t5-xxl": KnownModel("Apache-2.0", False, 45, 4.6e9, text_width=4096),
    "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers": KnownModel(
        "see its page", False, 1.3, 0.31e9, stride=32, channels=32, encoder_flops=5.0e6, decoder_flops=8.0e6
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": KnownModel("Apache-2.0", False, 16.6, 8.3e9),
    "Qwen/Qwen3-0.6B": KnownModel("Apache-2.0", False, 1.5, 0.44e9, text_width=1024),
    "Qwen/Qwen3-4B-Instruct-2507": KnownModel("Apache-2.0", False, 8.1, 3.6e9),
    "stabilityai/stable-diffusion-3.5-large/vae": KnownModel(
        "Stability AI Community License",
        True,
        0.17,
        0.084e9,
        stride=8,
        channels=16,
        encoder_flops=4.2e6,
        decoder_flops=9.6e6,
    ),
    "ViT-B-32-SigLIP2-256/webli": KnownModel("Apache-2.0", False, 1.5),
    "ViT-L-14-quickgelu/openai": KnownModel("MIT", False, 1.7),
}


def known_model(name: str) -> KnownModel | None:
    """Return the facts about a hub model, at any revision; None if unknown."""
    reference = parse_model_ref(name)
    return KNOWN.get(f"{reference.repository}/{reference.subfolder}" if reference.subfolder else reference.repository)
