"""Instructions to a language model, evenly over a taxonomy and seed captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter

import numpy as np

from lightgen_core.captioning.config import Rewriting, Taxonomy
from lightgen_core.captioning.select import Caption
from lightgen_core.seeds import derive_seed


@dataclass(frozen=True)
class Instruction:
    """A request for one caption; `values` are those of the taxonomy's axes, `rewrites` is any seed caption."""

    text: str
    topic: str
    values: Mapping[str, str]
    seed: int
    rewrites: str = ""


class Instructions:
    """Endless list of instructions from a taxonomy, a seed, and the captions `seeds` to rewrite.

    The values of an axis come in blocks, each a random order of all of them, so that in any first n instructions their
    counts differ by one at most (a Latin hypercube: McKay, Beckman & Conover 1979). Combinations can repeat with
    another seed.
    """

    def __init__(
        self, taxonomy: Taxonomy, seed: int, rewrite: Rewriting | None = None, seeds: Sequence[Caption] = ()
    ) -> None:
        if rewrite and not seeds:
            raise ValueError("there is no seed caption to rewrite; does captions.file hold any that is not damaged?")
        self._taxonomy = taxonomy
        self._seed = seed
        self._seeds = seeds
        self._rewrite_fraction = rewrite.share if rewrite else 0.0
        self._rewrite_template = rewrite.template if rewrite else ""

    def __getitem__(self, index: int) -> Instruction:
        before, rewrites = int(index * self._rewrite_fraction), int((index + 1) * self._rewrite_fraction)
        seed = derive_seed(self._seed, "answer", index)
        if rewrites > before:
            return self._rewriting(before, seed)
        values = {
            axis: options[self._turn(len(options), index - before, "expand", axis)]
            for axis, options in self._taxonomy.axes.items()
        }
        text = self._taxonomy.template.format_map(values)
        return Instruction(text, values[self._taxonomy.topic], values, seed)

    def _rewriting(self, turn: int, seed: int) -> Instruction:
        original = self._seeds[self._turn(len(self._seeds), turn, "rewrite")]
        named = {name for _, name, *_ in Formatter().parse(self._rewrite_template)}
        values = {
            axis: options[self._turn(len(options), turn, "rewrite", axis)]
            for axis, options in self._taxonomy.axes.items()
            if axis in named
        }
        text = self._rewrite_template.format_map(values | {"caption": original.text})
        return Instruction(text, original.topic, values, seed, original.text)

    def _turn(self, size: int, turn: int, *name: str) -> int:
        """Return the index of the value, of `size`, whose turn it is."""
        block, offset = divmod(turn, size)
        return int(_block(size, derive_seed(self._seed, *name, block))[offset])


@lru_cache(maxsize=64)
def _block(size: int, seed: int) -> np.ndarray:
    """Return a random order of all values; cached, as neighbouring instructions share it."""
    return np.random.default_rng(seed).permutation(size)
