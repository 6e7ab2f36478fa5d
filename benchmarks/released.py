"""The released code behind two functions: its training step and its sampler, imported from a checkout by path.

The checkout is used as it is. It calls `.cuda()` on what it makes; on a CPU that call is turned into one that changes
nothing, for as long as its code runs. Sizes are ours; weights are random.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightgen_core.config import HeadConfig, MarConfig, OptimizerConfig

STRIDE, PATCH = 8, 2


@contextlib.contextmanager
def _cuda_means(device: torch.device) -> Iterator[None]:
    """On a CPU, `tensor.cuda()` gives the tensor."""
    original = torch.Tensor.cuda
    try:
        if device.type == "cpu":
            torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
        yield
    finally:
        torch.Tensor.cuda = original  # type: ignore[method-assign]


def released_model(
    checkout: Path, mar: MarConfig, head: HeadConfig, grid: tuple[int, int], words: int, device: torch.device
) -> Any:
    """Build their model with our sizes and 100 sampling steps.

    It has no self-attention in its text blocks.

    Raises:
        SystemExit: no checkout there, or something that it imports is missing.
    """
    if not (checkout / "models" / "fluid_arbitrary.py").is_file():
        raise SystemExit(f"{checkout} holds no models/fluid_arbitrary.py: give a checkout of the released code")
    sys.path.insert(0, str(checkout))
    try:
        from models import fluid_arbitrary
    except ImportError as error:
        raise SystemExit(f"the released code needs {error.name}: install it for this comparison") from error
    finally:
        sys.path.remove(str(checkout))
    with _cuda_means(device):
        model = fluid_arbitrary.FLUID(
            vae_stride=STRIDE,
            patch_size=PATCH,
            vae_embed_dim=mar.token_width // PATCH**2,
            text_depth=mar.aligner_depth,
            encoder_embed_dim=mar.width,
            encoder_depth=mar.encoder_depth,
            encoder_num_heads=mar.heads,
            decoder_embed_dim=mar.width,
            decoder_depth=mar.decoder_depth,
            decoder_num_heads=mar.heads,
            cross_embed_dim=mar.width,
            cross_depth=mar.text_depth,
            cross_num_heads=mar.heads,
            mlp_ratio=mar.mlp_ratio,
            norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
            caption_channels=mar.text_width,
            max_length=words,
            attn_dropout=mar.dropout,
            proj_dropout=mar.dropout,
            diffloss_d=head.depth,
            diffloss_w=head.width,
            num_sampling_steps="100",
        )
    for name in ("encoder_pos_embed_learned", "decoder_pos_embed_learned", "last_pos_embed_learned"):
        # Their tables have 256 places whatever the size asked for; with the grid's own none is interpolated.
        setattr(model, name, nn.Parameter(0.02 * torch.randn(1, grid[0] * grid[1], mar.width)))
    return model.to(device)


def training_step(
    model: Any, latents: Tensor, text: Tensor, config: OptimizerConfig, ema_decay: float
) -> Callable[[], None]:
    """Return their training step: fp16 autocast with loss scaling, fp32 on a CPU.

    Args:
        latents: (batch, channels, height, width).
        text: (batch, words, text width).
    """
    device, (height, width) = latents.device, (side * STRIDE for side in latents.shape[2:])
    model.train()
    weights = list(model.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(
        weights, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def step() -> None:
        with _cuda_means(device):
            with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
                loss = model(latents, text, height=height, width=width)
            loss.item()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            for average, weight in zip(averages, weights, strict=True):
                average.mul_(ema_decay).add_(weight.detach(), alpha=1 - ema_decay)

    return step


def sampler(model: Any, text: Tensor, grid: tuple[int, int], iterations: int, guidance: float) -> Callable[[], Tensor]:
    """Return their sampler with constant guidance, at most one iteration per token."""
    model.eval()
    iterations = min(iterations, grid[0] * grid[1])
    height, width = (side * STRIDE * PATCH for side in grid)

    @torch.no_grad()
    def run() -> Tensor:
        with (
            _cuda_means(text.device),
            torch.autocast(text.device.type, torch.float16, enabled=text.device.type == "cuda"),
        ):
            return model.sample_tokens(
                bsz=len(text),
                num_iter=iterations,
                cfg=guidance,
                cfg_schedule="constant",
                texts=text,
                height=height,
                width=width,
            )

    return run
