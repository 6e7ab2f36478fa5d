"""Muon (Jordan et al. 2024): momentum whose matrix is made orthogonal before the step.

The zoo's small networks learn two to three times faster with it than with AdamW, in steps and in CPU time.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that drives singular values towards one."""


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions; a convolution's kernel counts as (outputs, inputs * height * width)."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                average = state.setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(average, group["momentum"]).flatten(1)).view(weight.shape)
                # Rows of a tall matrix would otherwise move less than those of a wide one.
                step = group["lr"] * max(1.0, len(weight) / weight[0].numel()) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-step)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: singular values end between 0.7 and 1.2. (rows, columns)."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T, iterations).T
    a, b, c = NEWTON_SCHULZ
    matrix = (matrix / (matrix.norm() + 1e-7)).bfloat16()  # rough is enough, and twice as fast
    for _ in range(iterations):
        gram = matrix @ matrix.T
        matrix = a * matrix + (b * gram + c * gram @ gram) @ matrix
    return matrix.float()


def split_parameters(model: torch.nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """(matrices and kernels for Muon, the rest for AdamW). Tables go to AdamW: their rows mean different things."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        is_table = id(parameter) in tables or name.endswith("positional_embedding")
        (matrices if parameter.ndim >= 2 and not is_table else rest).append(parameter)
    return matrices, rest
