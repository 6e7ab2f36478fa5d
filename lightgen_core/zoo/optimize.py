"""The zoo's training loop: Muon (Jordan et al. 2024) on matrices and convolutions, AdamW on the rest.

The autoencoder reaches a third of AdamW's squared error in the same CPU time with it.
"""

import argparse
import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from lightgen_core.train.muon import orthogonalize

logger = logging.getLogger(__name__)

MUON_RATE, ADAM_RATE = 0.02, 2e-3


class KernelMuon(torch.optim.Optimizer):
    """Muon for weights of two or more dimensions, kernels flattened.

    Unlike the student's Muon it has kernels, and scales updates by the matrix's sides, as the packaged models had it.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one update of every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                matrix = weight.grad.lerp(average, group["momentum"]).flatten(1)
                update = orthogonalize(matrix[None])[0].view(weight.shape)
                # Rows of a tall matrix would otherwise move less than those of a wide one.
                step = group["lr"] * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-step)


def optimize(
    model: nn.Module,
    losses: Callable[[int], dict[str, Tensor]],
    steps: int,
    betas: tuple[float, float],
    max_grad_norm: float = math.inf,
) -> None:
    """Train in place at a rate of linear warm-up, then half a cosine to zero.

    Args:
        losses: from a step, the scalar "loss" to minimise and others to log.
        betas: of AdamW.
        max_grad_norm: of AdamW's weights.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        is_table = id(parameter) in tables or name.endswith("positional_embedding")
        (matrices if parameter.ndim >= 2 and not is_table else rest).append(parameter)
    adamw = torch.optim.AdamW(rest, ADAM_RATE, betas=betas, weight_decay=0)
    optimizers = {MUON_RATE: KernelMuon(matrices, MUON_RATE), ADAM_RATE: adamw}
    started = time.monotonic()
    for step in range(steps):
        fraction = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for peak, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = peak * fraction
        metrics = losses(step)
        model.zero_grad()
        metrics["loss"].backward()
        if max_grad_norm < math.inf:
            nn.utils.clip_grad_norm_(rest, max_grad_norm)
        for optimizer in optimizers.values():
            optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            values = ", ".join(f"{name} {value.item():.4f}" for name, value in metrics.items())
            logger.info("step %d of %d, %.0f s, %s", step, steps, time.monotonic() - started, values)


def argument_parser(description: str | None, steps: int) -> argparse.ArgumentParser:
    """Build the command line of a training program."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for configuration, weights and any tokenizer")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; set up logging, torch's threads and its seed."""
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    return arguments
