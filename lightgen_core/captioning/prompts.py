"""Instructions to a language model: a taxonomy spread evenly, and seed captions to rewrite."""

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
    """What a model is asked for one caption.

    Attributes:
        text: the instruction.
        topic: of the caption that it should give.
        values: of the taxonomy's axes that the instruction names.
        seed: of the sampling of its answer.
        rewrites: the seed caption; "": there is none.
    """

    text: str
    topic: str
    values: Mapping[str, str]
    seed: int
    rewrites: str = ""


class Instructions:
    """The endless list of instructions that follows from a taxonomy and a seed: each can be asked for by its place.

    The values of an axis come in blocks, each a random order of all of them, so that in any first n instructions their
    counts differ by one at most (a Latin hypercube: McKay, Beckman & Conover 1979). Combinations can come up again; the
    seeds differ. More instructions leave the first ones as they are.

    Args:
        rewrite: which share of the instructions, evenly spread, asks to rewrite a seed caption, and how; None: none.
        seeds: captions to rewrite, each as often as the others.
    """

    def __init__(
        self, taxonomy: Taxonomy, seed: int, rewrite: Rewriting | None = None, seeds: Sequence[Caption] = ()
    ) -> None:
        if rewrite and not seeds:
            raise ValueError("there is no seed caption to rewrite; does captions.file hold any that is not damaged?")
        self._taxonomy = taxonomy
        self._seed = seed
        self._seeds = seeds
        self._share = rewrite.share if rewrite else 0.0
        self._rewrite_template = rewrite.template if rewrite else ""

    def __getitem__(self, place: int) -> Instruction:
        before, rewrites = int(place * self._share), int((place + 1) * self._share)
        seed = derive_seed(self._seed, "answer", place)
        if rewrites > before:
            return self._rewriting(before, seed)
        values = {
            axis: given[self._turn(len(given), place - before, "expand", axis)]
            for axis, given in self._taxonomy.axes.items()
        }
        text = self._taxonomy.template.format_map(values)
        return Instruction(text, values[self._taxonomy.topic], values, seed)

    def _rewriting(self, turn: int, seed: int) -> Instruction:
        original = self._seeds[self._turn(len(self._seeds), turn, "rewrite")]
        named = {name for _, name, *_ in Formatter().parse(self._rewrite_template)}
        values = {
            axis: given[self._turn(len(given), turn, "rewrite", axis)]
            for axis, given in self._taxonomy.axes.items()
            if axis in named
        }
        text = self._rewrite_template.format_map(values | {"caption": original.text})
        return Instruction(text, original.topic, values, seed, original.text)

    def _turn(self, size: int, turn: int, *name: str) -> int:
        """Which of `size` values has its turn."""
        block, place = divmod(turn, size)
        return int(_block(size, derive_seed(self._seed, *name, block))[place])


@lru_cache(maxsize=64)
def _block(size: int, seed: int) -> np.ndarray:
    """An order of all values; kept, since neighbouring instructions share it."""
    return np.random.default_rng(seed).permutation(size)
