"""Train the zoo's autoencoder: a small diffusers AutoencoderDC, 8 px and 16 channels to a latent.

    python -m lightgen_core.zoo.train_autoencoder --out FOLDER [--steps 3000] [--seed 0] [--threads 1]

Noise on the latents while training keeps neighbouring latents alike in image, so a student's imperfect samples
decode cleanly; a penalty on their size then empties directions that carry nothing worth the noise.
"""

import argparse
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch import Tensor
from torch.nn import functional

from lightgen_core.scene.config import World
from lightgen_core.zoo.muon import KernelMuon, split_parameters
from lightgen_core.zoo.training import full_world, learning_rate, render_images

logger = logging.getLogger(__name__)

WIDTHS = (32, 32, 64, 128)
"""Channels at 1, 1/2, 1/4 and 1/8 of the image's side; full size has no blocks of its own."""

LATENT_CHANNELS = 16
PIXELS = 32 * 48 * 48
"""Pixels in a batch, whatever the images' size."""

NOISE, PENALTY = 0.2, 0.003
"""Standard deviation of the noise on unscaled latents; weight of their mean square in the loss."""

MUON_RATE, ADAM_RATE = 0.02, 2e-3


@dataclass(frozen=True)
class Pool:
    """Images of one size, for a `fraction` of the steps."""

    images: Tensor
    fraction: float

    def batch(self, generator: torch.Generator) -> Tensor:
        """Sample images as floats in -1..1, (n, 3, height, width)."""
        count = max(1, PIXELS // (self.images.shape[-1] * self.images.shape[-2]))
        chosen = self.images[torch.randint(len(self.images), (count,), generator=generator)]
        return as_floats(chosen).contiguous(memory_format=torch.channels_last)


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
    """Train in position; returns the latents' mean (channels,), which the decoder never saw."""
    generator = torch.Generator().manual_seed(seed)
    model.to(memory_format=torch.channels_last).train()
    matrices, rest = split_parameters(model)
    adamw = torch.optim.AdamW(rest, ADAM_RATE, betas=(0.9, 0.99), weight_decay=0)
    optimizers = [KernelMuon(matrices, MUON_RATE), adamw]
    peaks = [MUON_RATE, ADAM_RATE]
    fractions = torch.tensor([pool.fraction for pool in pools])
    center = torch.zeros(LATENT_CHANNELS)
    started = time.monotonic()
    for step in range(steps):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * learning_rate(step, steps)
        images = pools[int(torch.multinomial(fractions, 1, generator=generator))].batch(generator)
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(images).latent.float()
        center.lerp_(latents.detach().mean((0, 2, 3)), max(0.01, 1 / (step + 1)))
        latents = latents - center.view(1, -1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator) * NOISE
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.decode(latents + noise).sample.float()
        squared = functional.mse_loss(decoded, images)
        loss = functional.l1_loss(decoded, images) + squared + PENALTY * latents.square().mean()
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            losses = f"loss {loss.item():.4f}, squared error {squared.item():.5f}"
            logger.info("step %d of %d, %.0f s, %s", step, steps, time.monotonic() - started, losses)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json and the weights")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    pools = make_pools(arguments.seed)
    model = make_model()
    center = train(model, pools, arguments.steps, arguments.seed)
    model.eval()
    fold(model, center, pools[0].images[:1000])
    model.to(torch.float16).save_pretrained(arguments.out, safe_serialization=True)
    logger.info("saved %s", arguments.out)


if __name__ == "__main__":
    main()
