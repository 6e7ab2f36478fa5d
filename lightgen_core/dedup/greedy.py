"""Greedy selection among near rows, best row first, in blocks that are saved as they are decided.

A row goes if a better row that stays is near it. So a row is compared with better rows that stay only: a crowd of equal
images costs each of them a comparison with one, not with all others. Where many near rows do stay, because captions or
thumbnails tell them apart, those looked at are limited, and the rows that have more are counted as crowded.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lightgen_core.dedup.components import Components
from lightgen_core.dedup.copies import CopyMatcher
from lightgen_core.dedup.hash_index import NEAREST, HashIndex
from lightgen_core.dedup.neighbour_index import WIDE, NeighbourIndex, SearchOptions
from lightgen_core.dedup.search import Indices, Pairs, SearchThreads, Subset

BLOCK = 2048
"""Rows decided at a time."""

Flags = npt.NDArray[np.bool_]
RowProgress = Callable[[int], None]
"""Called with the number of rows that are decided."""


@dataclass(frozen=True)
class Selection:
    """The verdict on every place.

    Attributes:
        keeper: (n,) the place it duplicates, the most similar one that stays; itself where it stays.
        found: (n,) near places that are better and stay, as the search found them.
        crowded: (n,) has more near places than were looked at.
        factory, probes: of the index.
    """

    keeper: Indices
    found: Indices
    crowded: Flags
    factory: str
    probes: int | None


class Block(NamedTuple):
    """The verdict on the places of one block, as saved; `links` are (2, pairs) for the chain rule."""

    keeper: Indices
    found: Indices
    crowded: Flags
    links: Indices


class GreedySelector:
    """Select among the rows of a subset, best first.

    Args:
        options: of the search; its threshold is the chain rule's, where there is one.
        threshold: cosine from which rows are near.
        copies: confirm near rows of two captions, and find copies, which need not be near; None: all near rows are
            duplicates.
        chains: collects the links of all rows; None: no chain rule.
        folder: for blocks; those already there are not decided again. None: nothing is saved.
    """

    def __init__(
        self,
        subset: Subset,
        options: SearchOptions,
        threshold: float,
        threads: SearchThreads,
        *,
        copies: CopyMatcher | None = None,
        chains: Components | None = None,
        folder: Path | None = None,
    ) -> None:
        self.subset, self.threshold, self.copies, self.chains = subset, threshold, copies, chains
        self.options, self._folder = options, folder if len(subset) > BLOCK else None
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
        self.keeper = np.arange(len(subset))
        saved = self._folder / "index.faiss" if self._folder else None
        self._index = NeighbourIndex(subset, options, threads, saved)
        self._hashes = HashIndex(copies.config.hash_bits, threads) if copies else None

    def select(self, on_progress: RowProgress = lambda rows: None) -> Selection:
        """Decide all blocks."""
        blocks = []
        for start in range(0, len(self.subset), BLOCK):
            places = np.arange(start, min(start + BLOCK, len(self.subset)))
            block = self._load(start) or self._save(start, self._decide(places))
            self.keeper[places] = block.keeper
            if self.chains:
                self.chains.link(*block.links)
            if places[-1] + 1 < len(self.subset):
                self._learn(places)
            blocks.append(block)
            on_progress(int(places[-1]) + 1)
        found, crowded = (np.concatenate(column) for column in list(zip(*blocks, strict=True))[1:3])
        return Selection(self.keeper, found, crowded, self._index.factory, self._index.probes)

    def exact_pairs(self, queries: Indices) -> Pairs:
        """Return the pairs of some places with better ones that stay, after `select`, by comparing all."""
        staying = np.flatnonzero(self.keeper == np.arange(len(self.subset)))
        return self._index.exact_pairs(self.subset, queries, staying, self.threshold)

    def _decide(self, places: Indices) -> Block:
        start, vectors = int(places[0]), self.subset[places]
        row, other, crowded = self._index.search(vectors)
        linked = self.subset.rescore(row + start, other, self.options.threshold)
        near = linked.where((linked.similarity >= self.threshold) & (self.keeper[linked.other] == linked.other))
        found = np.bincount(near.row - start, minlength=len(places))
        near, cut = self._confirmed(near)
        crowded[cut - start] = True
        verdict = _Verdict(places, found, crowded)
        verdict.offer(near)
        if self.copies and self._hashes:
            row, other, more = self._hashes.search(self.copies.hashes[self.subset.rows[places]])
            crowded |= more
            verdict.offer(self._agreeing(row + start, other))
        inside = np.tril(self._index.near_within(vectors), -1)
        self._decide_inside(verdict, inside)
        links = np.stack([linked.row, linked.other])
        if self.chains:
            row, other = np.nonzero(inside)
            more_links = self.subset.rescore(row + start, other + start, self.options.threshold)
            links = np.concatenate([links, np.stack([more_links.row, more_links.other])], axis=1)
        return Block(verdict.keeper, found, crowded, links if self.chains else links[:, :0])

    def _decide_inside(self, verdict: "_Verdict", near: Flags) -> None:
        """Decide rows by better ones of their own block; near: (rows, rows) candidates, of which some are."""
        places = verdict.places
        hashed = np.zeros_like(near)
        if self.copies and self._hashes:
            hashed = np.tril(self._hashes.near_within(self.copies.hashes[self.subset.rows[places]]), -1)
        for row in np.flatnonzero((near | hashed).any(axis=1)):
            stays = verdict.keeper == places
            candidates, alike = places[near[row] & stays], places[hashed[row] & stays]
            others = candidates[:WIDE]
            pairs = self.subset.rescore(np.full(len(others), places[row]), others, self.threshold)
            verdict.found[row] += len(pairs.row)
            pairs, cut = self._confirmed(pairs)
            verdict.offer(pairs)
            others = alike[:NEAREST]
            verdict.offer(self._agreeing(np.full(len(others), places[row]), others))
            verdict.crowded[row] |= len(cut) > 0 or len(candidates) > WIDE or len(alike) > NEAREST

    def _confirmed(self, near: Pairs) -> tuple[Pairs, Indices]:
        """Return the near pairs that are duplicates, and the places of which only the most similar were looked at."""
        if self.copies is None or not len(near.row):
            return near, np.empty(0, np.int64)
        left, right = self.subset.rows[near.row], self.subset.rows[near.other]
        confirmed = self.copies.same_caption(left, right)
        order = np.lexsort((near.other, -near.similarity, near.row))
        order = order[~confirmed[order]]
        ranked = near.row[order]
        rank = np.arange(len(ranked)) - np.searchsorted(ranked, ranked)
        looked = order[rank < self.options.k]
        correlation = self.copies.config.semantic_correlation
        confirmed[looked] = self.copies.agree(left[looked], right[looked], correlation)
        return near.where(confirmed), np.unique(ranked[rank >= self.options.k])

    def _agreeing(self, row: Indices, other: Indices) -> Pairs:
        """Return the pairs of places, alike by their hashes, that are copies."""
        if self.copies and len(row):
            agree = self.copies.agree(self.subset.rows[row], self.subset.rows[other], self.copies.config.correlation)
            row, other = row[agree], other[agree]
        return Pairs(row, other, self.subset.cosines(row, other))

    def _learn(self, places: Indices) -> None:
        """Let later blocks find these: those that stay, and for the chain rule's links all."""
        staying = places[self.keeper[places] == places]
        learned = places if self.chains else staying
        self._index.add(self.subset[learned], learned)
        if self.copies and self._hashes:
            self._hashes.add(self.copies.hashes[self.subset.rows[staying]], staying)

    def _load(self, start: int) -> Block | None:
        path = self._path(start)
        if path is None or not path.exists():
            return None
        with np.load(path) as saved:
            return Block(*(saved[name] for name in Block._fields))

    def _save(self, start: int, block: Block) -> Block:
        if path := self._path(start):
            with open(part := path.with_suffix(".part"), "wb") as file:
                np.savez(file, **block._asdict())
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        return block

    def _path(self, start: int) -> Path | None:
        return self._folder and self._folder / f"block-{start:010d}.npz"


class _Verdict:
    """The verdict on a block in the making: the most similar duplicate offered so far, of equals the best one."""

    def __init__(self, places: Indices, found: Indices, crowded: Flags) -> None:
        self.places, self.found, self.crowded = places, found, crowded
        self.keeper = places.copy()
        self._similarity = np.full(len(places), -np.inf)

    def offer(self, pairs: Pairs) -> None:
        order = np.lexsort((pairs.other, -pairs.similarity, pairs.row))
        rows, first = np.unique(pairs.row[order], return_index=True)
        best, row = order[first], rows - self.places[0]
        closer = (pairs.similarity[best] > self._similarity[row]) | (
            (pairs.similarity[best] == self._similarity[row]) & (pairs.other[best] < self.keeper[row])
        )
        self.keeper[row[closer]] = pairs.other[best[closer]]
        self._similarity[row[closer]] = pairs.similarity[best[closer]]
