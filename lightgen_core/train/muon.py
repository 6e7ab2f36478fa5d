"""Muon: momentum whose matrix is made orthogonal before the step (Jordan et al. 2024); AdamW for what is no matrix.

The demo's student needs about a third of AdamW's steps with it, at a fifth more time for each.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lightgen_core.train.parallel import DistributedState

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that drives singular values towards one."""

ITERATIONS = 5
ADAMW_RMS = 0.2
"""Root mean square of an update at learning rate 1, about AdamW's: one rate then serves both (Liu et al. 2025)."""


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
    ) -> None:
        """matrices: weights of two dimensions, decayed; others: everything else, not decayed."""
        groups = [
            {"params": list(matrices), "weight_decay": weight_decay},
            {"params": list(others), "weight_decay": 0.0},
        ]
        super().__init__(groups, {"lr": lr})
        self.momentum = momentum
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
        for weight in group["params"]:
            if weight.grad is not None:
                by_shape[tuple(weight.shape)].append(weight)
        alike = list(by_shape.values())
        momenta = [self._accumulate(weights) for weights in alike]
        go = 1.0 if self.found_inf is None else 1 - self.found_inf
        for weights, update in zip(alike, orthogonalize_shared(momenta), strict=True):
            scale = ADAMW_RMS * max(update.shape[1:]) ** 0.5
            for weight, step in zip(weights, update, strict=True):
                weight.mul_(1 - go * group["lr"] * group["weight_decay"]).sub_(step * (go * group["lr"] * scale))

    def _accumulate(self, weights: Sequence[Tensor]) -> Tensor:
        """Add gradients of matrices of one shape to their averages. Return Nesterov's momenta, (n, rows, columns)."""
        gradients = torch.stack([weight.grad for weight in weights if weight.grad is not None])
        go = torch.ones((), device=gradients.device) if self.found_inf is None else 1 - self.found_inf
        gradients = torch.where(go > 0, gradients if self.grad_scale is None else gradients / self.grad_scale, 0)
        for weight in weights:
            if "average" not in self.state[weight]:
                self.state[weight]["average"] = torch.zeros_like(weight)
        averages = [self.state[weight]["average"] for weight in weights]
        average = torch.stack(averages)
        average = torch.where(go > 0, average.lerp(gradients, 1 - self.momentum), average)
        for own, new in zip(averages, average, strict=True):
            own.copy_(new)
        return gradients.lerp(average, self.momentum)


def orthogonalize_shared(groups: Sequence[Tensor]) -> Sequence[Tensor]:
    """Orthogonalise groups of matrices, (n, rows, columns) each, sizes of their own.

    Of several processes, which hold equal ones, each takes a share.
    """
    ranks = DistributedState.current()
    if ranks.world_size == 1:
        return [orthogonalize(group) for group in groups]
    shares = share_matrices([tuple(group.shape) for group in groups], ranks.world_size)
    sizes = [sum(len(places) * group[0].numel() for places, group in zip(s, groups, strict=True)) for s in shares]
    own = [orthogonalize(group[places]) for places, group in zip(shares[ranks.rank], groups, strict=True) if places]
    flat = torch.cat([part.reshape(-1) for part in own]) if own else groups[0].new_empty(0)
    received = ranks.all_gather(functional.pad(flat, (0, max(sizes) - len(flat))))
    results = [torch.empty_like(group) for group in groups]
    for share, values, size in zip(shares, received, sizes, strict=True):
        lengths = [len(places) * group[0].numel() for places, group in zip(share, groups, strict=True)]
        for places, result, part in zip(share, results, values[:size].split(lengths), strict=True):
            result[places] = part.view(len(places), *result.shape[1:])
    return results


def share_matrices(shapes: Sequence[tuple[int, ...]], processes: int) -> list[list[list[int]]]:
    """Return for each process and each group of (n, rows, columns) the matrices that it orthogonalises.

    The costliest first, each to the process with the least arithmetic so far.
    """
    shares: list[list[list[int]]] = [[[] for _ in shapes] for _ in range(processes)]
    load = [0] * processes
    costs = [rows * columns * min(rows, columns) for _, rows, columns in shapes]
    for group in sorted(range(len(shapes)), key=lambda group: -costs[group]):
        for place in range(shapes[group][0]):
            process = load.index(min(load))
            shares[process][group].append(place)
            load[process] += costs[group]
    return shares


def orthogonalize(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Approximate the nearest (semi-)orthogonal matrices: singular values end between 0.7 and 1.2."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT).mT
    norms = matrices.norm(dim=(1, 2), keepdim=True)
    matrices = matrices / (norms + 1e-7)
    if matrices.is_cuda:  # rough is enough; most CPUs emulate bfloat16, many times slower
        matrices = matrices.bfloat16()
    elif matrices.shape[2] >= 2 * matrices.shape[1]:
        return _iterate_on_gram(matrices)
    return _iterate(matrices).float()


def _iterate(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Run the iteration on the matrices themselves."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = matrices @ matrices.mT
        matrices = a * matrices + (b * gram + c * gram @ gram) @ matrices
    return matrices


def _iterate_on_gram(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Run the iteration on rows x rows matrices alone: the same up to rounding, and for long rows half the arithmetic.

    Each factor a + b G + c G^2 is a polynomial of the first Gram matrix, so all of them commute with it.
    """
    a, b, c = NEWTON_SCHULZ
    gram = matrices @ matrices.mT
    identity = torch.eye(gram.shape[1], device=gram.device)
    product = identity
    for iteration in range(ITERATIONS):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product if iteration else factor
        if iteration < ITERATIONS - 1:
            gram = factor @ gram @ factor
    return product @ matrices
