"""The tensors of a batch that is being sampled: what its iterations read, and tokens and mask, which they change."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightgen_core.model.blocks import KeyValue


class Branch(NamedTuple):
    """A text as the text blocks read it: keys and values of every block, and which text tokens count."""

    kv: list[KeyValue]
    mask: Bool[Tensor, "batch text_tokens"] | None


@dataclass(frozen=True)
class SamplingState:
    """Tensors that differ between calls of one shape, so that a recorded graph needs copies of these alone.

    order: of the masked tokens of each image; branches: the caption's and, for guidance, the null text's; strengths:
    the guidance of each iteration; difference: the null text's states without the caption's, where they are reused.
    """

    tokens: Float[Tensor, "batch tokens values"]
    mask: Bool[Tensor, "batch tokens"]
    order: Int[Tensor, "batch num_masked"]
    branches: tuple[Branch, ...]
    strengths: Float[Tensor, " iterations"]
    difference: Float[Tensor, "batch tokens width"] | None = None

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Iterate over all of them."""
        yield from (self.tokens, self.mask, self.order, self.strengths)
        for branch in self.branches:
            for kv in branch.kv:
                yield from kv
            if branch.mask is not None:
                yield branch.mask
        if self.difference is not None:
            yield self.difference

    def clone(self) -> Self:
        """Copy every tensor."""
        branches = (
            Branch(
                [(key.clone(), value.clone()) for key, value in branch.kv],
                None if branch.mask is None else branch.mask.clone(),
            )
            for branch in self.branches
        )
        tokens, mask, order, strengths = (part.clone() for part in (self.tokens, self.mask, self.order, self.strengths))
        difference = None if self.difference is None else self.difference.clone()
        return type(self)(tokens, mask, order, tuple(branches), strengths, difference)

    def copy_(self, other: Self) -> None:
        """Overwrite every tensor with that of a state of the same shape."""
        for own, given in zip(self.tensors, other.tensors, strict=True):
            own.copy_(given)
