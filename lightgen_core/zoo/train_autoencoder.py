"""Train the zoo's autoencoder: a small diffusers AutoencoderDC, 8 px and 16 channels to a latent.

    python -m lightgen_core.zoo.train_autoencoder --out FOLDER [--steps 3000] [--seed 0] [--threads 1]
    python -m lightgen_core.zoo.train_autoencoder --out FOLDER --pictures zoo:emoji FOLDER ...

The first trains on the scene world, the second on images of these sets and on dead leaves.

Noise on the latents while training keeps neighbouring latents alike in image, so a student's imperfect samples
decode cleanly; a penalty on their size then empties directions that carry nothing worth the noise.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch import Tensor
from torch.nn import functional

from lightgen_core.scene.config import World
from lightgen_core.zoo.optimize import argument_parser, optimize, parse_arguments
from lightgen_core.zoo.training import full_world, render_images
from lightgen_core.zoo.training_images import dead_leaves, halved, load_images, resized

logger = logging.getLogger(__name__)

WIDTHS = (32, 32, 64, 128)
"""Channels at 1, 1/2, 1/4 and 1/8 of the image's side; full size has no blocks of its own."""

LATENT_CHANNELS = 16
PIXELS = 32 * 48 * 48
"""Pixels in a batch, whatever the images' size."""

NOISE, PENALTY = 0.2, 0.003
"""Standard deviation of the noise on unscaled latents; weight of their mean square in the loss."""


@dataclass(frozen=True)
class Pool:
    """Images of one size, for a `fraction` of the steps."""

    images: Tensor
    fraction: float

    def batch(self, generator: torch.Generator) -> Tensor:
        """Sample images as floats in -1..1, (n, 3, height, width)."""
        count = max(1, PIXELS // (self.images.shape[-1] * self.images.shape[-2]))
        chosen = self.images[torch.randint(len(self.images), (count,), generator=generator)]
        return as_floats(chosen)


def as_floats(images: Tensor) -> Tensor:
    return images.float().div(127.5).sub(1)


def make_pools(seed: int) -> list[Pool]:
    """Render pools: mostly the default world, besides other layouts, words and sizes."""
    rng = np.random.default_rng(seed)
    plan: list[tuple[float, list[tuple[World, int]]]] = [
        (0.76, [(World(), 18_000), (full_world(layout="grid"), 2_000), (full_world(layout="free"), 2_000),
                (full_world(background=(0.75, 1.0)), 2_000)]),
        (0.12, [(World(image_size=64), 2_000), (full_world(image_size=64, layout="free"), 1_000),
                (full_world(image_size=64, layout="grid"), 1_000)]),
        (0.05, [(full_world(image_size=32), 1_500)]),
        (0.07, [(full_world(image_size=128, layout="free"), 600), (full_world(image_size=128), 600)]),
    ]  # fmt: skip
    pools = []
    for fraction, worlds in plan:
        images = np.concatenate([render_images(world, count, rng) for world, count in worlds])
        pools.append(Pool(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), fraction))
    return pools


def image_pools(locations: Sequence[str], seed: int, threads: int) -> list[Pool]:
    """Load pools of images at 64, 48 and 128 px, and dead leaves."""
    large = np.concatenate([load_images(location, 128, threads) for location in locations])
    plan = [
        (0.45, halved(large)),
        (0.3, resized(large, 48)),
        (0.05, large),
        (0.2, dead_leaves(4000, 64, np.random.default_rng(seed))),
    ]
    return [Pool(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), fraction) for fraction, images in plan]


def make_model() -> AutoencoderDC:
    """Build 1.3M parameters of convolutions, for any multiple of 8 px."""
    return AutoencoderDC(
        latent_channels=LATENT_CHANNELS,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=WIDTHS,
        decoder_block_out_channels=WIDTHS,
        encoder_layers_per_block=(0, 1, 1, 1),
        decoder_layers_per_block=(0, 2, 2, 1),
        encoder_qkv_multiscales=((), (), (), ()),
        decoder_qkv_multiscales=((), (), (), ()),
    )


def train(model: AutoencoderDC, pools: list[Pool], steps: int, seed: int) -> Tensor:
    """Train in place; returns the latents' mean (channels,), which the decoder never saw."""
    generator = torch.Generator().manual_seed(seed)
    model.train()
    fractions = torch.tensor([pool.fraction for pool in pools])
    center = torch.zeros(LATENT_CHANNELS)

    def losses(step: int) -> dict[str, Tensor]:
        images = pools[int(torch.multinomial(fractions, 1, generator=generator))].batch(generator)
        latents = model.encode(images).latent
        center.lerp_(latents.detach().mean((0, 2, 3)), max(0.01, 1 / (step + 1)))
        latents = latents - center.view(1, -1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator) * NOISE
        decoded = model.decode(latents + noise).sample
        squared = functional.mse_loss(decoded, images)
        loss = functional.l1_loss(decoded, images) + squared + PENALTY * latents.square().mean()
        return {"loss": loss, "squared error": squared}

    optimize(model, losses, steps, betas=(0.9, 0.99))
    return center


@torch.no_grad()
def fold(model: AutoencoderDC, center: Tensor, images: Tensor) -> None:
    """Move the latents' mean into the encoder's last bias and their scale into `scaling_factor`."""
    bias = model.encoder.conv_out.bias
    assert bias is not None
    bias.sub_(center)
    latents = model.encode(as_floats(images)).latent
    model.register_to_config(scaling_factor=float(1 / latents.square().mean().sqrt()))


def main() -> None:
    parser = argument_parser(__doc__, steps=3000)
    parser.add_argument("--pictures", nargs="+", metavar="SET", help="sets of images; left out: the scene world")
    arguments = parse_arguments(parser)
    sets, seed = arguments.pictures, arguments.seed
    pools = image_pools(sets, seed, arguments.threads) if sets else make_pools(seed)
    model = make_model()
    center = train(model, pools, arguments.steps, arguments.seed)
    model.eval()
    fold(model, center, pools[0].images[:1000])
    model.to(torch.float16).save_pretrained(arguments.out, safe_serialization=True)
    logger.info("saved %s", arguments.out)


if __name__ == "__main__":
    main()
