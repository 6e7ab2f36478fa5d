"""Muon: momentum whose matrix is made orthogonal before the step (Jordan et al. 2024); AdamW for what is no matrix.

The demo's student needs about a third of AdamW's steps with it, at a fifth more time for each.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that drives singular values towards one."""

ITERATIONS = 5
ADAMW_RMS = 0.2
"""Root mean square of an update at learning rate 1, about AdamW's: one rate then serves both (Liu et al. 2025)."""

GROUP_VALUES = 2**26
"""Values of the matrices that are updated together, and sent in one message: 256 MiB in fp32."""

Orthogonalize = Callable[[Sequence[Tensor], Sequence[tuple[int, ...]], int], list[Tensor]]
"""orthogonalize(stacks of matrices (n, own rows, columns), full shape of each, iterations) -> as the first."""


def _orthogonalize_alone(stacks: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], steps: int) -> list[Tensor]:
    return [orthogonalize(stack, steps) for stack in stacks]


class Muon(torch.optim.Optimizer):
    """Muon over `matrices`, fused AdamW over `others`, at one learning rate.

    Like the fused AdamW it honours two attributes that stay on the device: `grad_scale` divides the gradients, and a
    `found_inf` of one makes it skip the update.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        momentum: float = 0.95,
        ns_steps: int = ITERATIONS,
        shapes: Sequence[tuple[int, ...]] | None = None,
        orthogonalize: Orthogonalize = _orthogonalize_alone,
    ) -> None:
        """Take the weights to train.

        matrices: weights of two dimensions, decayed; others: everything else, not decayed. Of sharded matrices those
        are this process's rows; then shapes: of the full matrices, in the same order.
        orthogonalize: by default in this process alone; see `muon_shards.py`.
        """
        groups = [
            {"params": list(matrices), "weight_decay": weight_decay},
            {"params": list(others), "weight_decay": 0.0},
        ]
        super().__init__(groups, {"lr": lr})
        self.momentum, self.ns_steps = momentum, ns_steps
        self._orthogonalize = orthogonalize
        own = self.param_groups[0]["params"]
        self._shapes = [tuple(weight.shape) for weight in own] if shapes is None else list(shapes)
        self._adamw = torch.optim.AdamW([dict(self.param_groups[1])], lr=lr, betas=betas, fused=True)
        self._adamw.state = self.state
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one update of every weight that has a gradient."""
        group = self.param_groups[0]
        self._adamw.param_groups[0]["lr"] = self.param_groups[1]["lr"]
        vars(self._adamw).update(grad_scale=self.grad_scale, found_inf=self.found_inf)
        self._adamw.step()
        by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for weight, shape in zip(group["params"], self._shapes, strict=True):
            if weight.grad is not None:
                by_shape[shape].append(weight)
        for together in _groups(by_shape):
            self._update_together(together, group["lr"], group["weight_decay"])

    def _update_together(
        self, together: Sequence[tuple[tuple[int, ...], list[Tensor]]], lr: float, weight_decay: float
    ) -> None:
        """Update matrices of a few shapes, the iterations of each shape batched."""
        device = together[0][1][0].device
        go = torch.ones((), device=device) if self.found_inf is None else 1 - self.found_inf
        momenta = [self._momenta(weights, go) for _, weights in together]
        updates = self._orthogonalize(momenta, [shape for shape, _ in together], self.ns_steps)
        for (shape, weights), update in zip(together, updates, strict=True):
            scale = ADAMW_RMS * max(shape) ** 0.5
            for weight, step in zip(weights, update, strict=True):
                weight.mul_(1 - go * lr * weight_decay).sub_(step * (go * lr * scale))

    def _momenta(self, weights: Sequence[Tensor], go: Tensor) -> Float[Tensor, "n own_rows columns"]:
        """Update the averages of matrices of one shape, unless `go` is 0; return what is to be made orthogonal."""
        gradients = torch.stack([weight.grad for weight in weights if weight.grad is not None])
        gradients = torch.where(go > 0, gradients if self.grad_scale is None else gradients / self.grad_scale, 0)
        for weight in weights:
            if "average" not in self.state[weight]:
                self.state[weight]["average"] = torch.zeros_like(weight)
        averages = [self.state[weight]["average"] for weight in weights]
        average = torch.stack(averages)
        average = torch.where(go > 0, average.lerp(gradients, 1 - self.momentum), average)
        for own_average, new_average in zip(averages, average, strict=True):
            own_average.copy_(new_average)
        return gradients.lerp(average, self.momentum)


def _groups(by_shape: Mapping[tuple[int, ...], list[Tensor]]) -> Iterator[list[tuple[tuple[int, ...], list[Tensor]]]]:
    """Cut matrices by shape into groups of at most `GROUP_VALUES`, or of one shape."""
    group, values = list[tuple[tuple[int, ...], list[Tensor]]](), 0
    for shape, weights in by_shape.items():
        count = len(weights) * math.prod(shape)
        if group and values + count > GROUP_VALUES:
            yield group
            group, values = [], 0
        group.append((shape, weights))
        values += count
    if group:
        yield group


def orthogonalize(
    matrices: Float[Tensor, "n rows columns"], steps: int = ITERATIONS
) -> Float[Tensor, "n rows columns"]:
    """Approximate the nearest (semi-)orthogonal matrices: singular values end between 0.7 and 1.2."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT, steps).mT
    norms = matrices.norm(dim=(1, 2), keepdim=True)
    matrices = matrices / (norms + 1e-7)
    if matrices.is_cuda:  # rough is enough; most CPUs emulate bfloat16, many times slower
        matrices = matrices.bfloat16()
    elif matrices.shape[2] >= 2 * matrices.shape[1]:
        return _iterate_on_gram(matrices, steps)
    return _iterate(matrices, steps).float()


def _iterate(matrices: Float[Tensor, "n rows columns"], steps: int = ITERATIONS) -> Float[Tensor, "n rows columns"]:
    """Run the iteration on the matrices themselves."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = matrices @ matrices.mT
        matrices = a * matrices + (b * gram + c * gram @ gram) @ matrices
    return matrices


def _iterate_on_gram(
    matrices: Float[Tensor, "n rows columns"], steps: int = ITERATIONS
) -> Float[Tensor, "n rows columns"]:
    """Run the iteration on rows x rows matrices alone: the same up to rounding, and for long rows half the arithmetic.

    Each factor a + b G + c G^2 is a polynomial of the first Gram matrix, so all of them commute with it.
    """
    a, b, c = NEWTON_SCHULZ
    gram = matrices @ matrices.mT
    identity = torch.eye(gram.shape[1], device=gram.device)
    product = identity
    for iteration in range(steps):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product if iteration else factor
        if iteration < steps - 1:
            gram = factor @ gram @ factor
    return product @ matrices
