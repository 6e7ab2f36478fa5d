"""Duplicate images, and the one of each group that is kept.

Four rules, in this order, over a total order of rows (score falling, then id rising):
1. Exact copies: of rows with the same digest the first in the order stays.
2. Near duplicates: a row goes if a better row that stays is at `threshold` or above (SemDeDup, Abbas et al. 2023,
   applied pair by pair). A row that resembles only dropped rows stays, so a chain of look-alikes is not eaten up.
   Under two captions the pair must also agree as in `dedup/copies.py`.
3. Copies: as rule 2, for pairs that `dedup/copies.py` finds.
4. Chains, optional: where `cluster_threshold` links `cluster_size` rows or more into one connected component, only its
   best row stays. Off by default: in a narrow domain a low threshold links everything to everything.

Every dropped row names a row that stays. Nothing depends on the order in which rows are handed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lightgen_core.config import DedupConfig
from lightgen_core.dedup.copies import CopyMatcher
from lightgen_core.dedup.search import (
    BLOCK,
    Indices,
    NeighbourSearch,
    Pairs,
    Subset,
    Vectors,
    evenly_spaced,
    index_factory,
)
from lightgen_core.intervals import Interval, wilson_interval

Reason = Literal["exact copy", "near duplicate", "copy", "chain"]
Id = str | int

_TUNING_QUERIES = 1000
_LINKS = 4_000_000  # links kept before they are folded into component labels


@dataclass(frozen=True)
class RecallEstimate:
    """Estimated recall of the search: its pairs at the threshold against brute force, for sampled rows.

    `index` and `probes` list what was used, one per kind of group. A pair counts once from each of its sampled rows.
    `recall` takes pairs as independent, which those of one cluster are not quite. It is None where the sampled rows
    have no pair at the threshold: then there was nothing to miss.
    """

    index: tuple[str, ...]
    probes: tuple[int, ...]
    queries: int
    pairs: int
    found: int
    recall: Interval | None


@dataclass(frozen=True)
class Deduplication:
    """The verdict on every row, in the order in which rows were handed in.

    Attributes:
        kept: (n,) bool.
        reason: why a row went; None where it stays.
        duplicate_of: id of the kept row it duplicates; None where it stays.
        similarity: (n,) float32 cosine with that row; NaN where it stays.
        certificate: recall of the search.
    """

    kept: npt.NDArray[np.bool_]
    reason: list[Reason | None]
    duplicate_of: list[Id | None]
    similarity: npt.NDArray[np.float32]
    certificate: RecallEstimate


def find_duplicates(
    vectors: Vectors,
    digests: Sequence[str] | None,
    score: npt.ArrayLike,
    ids: Sequence[Id],
    config: DedupConfig,
    *,
    groups: Sequence[object] | None = None,
    copies: CopyMatcher | None = None,
    seed: int = 0,
) -> Deduplication:
    """Find the duplicates among images, keeping the best of each set.

    Args:
        vectors: (n, width) float32 of unit norm, such as CLIP image embeddings.
        digests: (n,) of each image's bytes or pixels; None: no rule for exact copies.
        score: (n,) higher is better.
        ids: (n,) distinct, all text or all numbers; break ties of the score, the smaller first.
        config: thresholds and search.
        groups: (n,) only rows of one group can be duplicates of each other (such as a caption's meaning: two
            meanings can look alike to CLIP); None: all can.
        copies: of the same rows; not together with groups.
        seed: of the sample behind the certificate.

    Raises:
        ValueError: lengths differ, ids repeat, a score is not finite, or vectors are not of unit norm.
    """
    scores = np.asarray(score, dtype=np.float64)
    _check(vectors, digests, scores, ids, groups)
    if groups is not None and copies is not None:
        raise ValueError("copies are compared over all groups; pass groups or copies")
    # From here on a row is its rank, 0 the best: "better" is "smaller", and the input's order is forgotten.
    order = np.lexsort((np.asarray(ids), -scores)).astype(np.int64)
    group = _codes(groups, order)
    copy_of = _first_of_each(digests, group, order)
    distinct = np.flatnonzero(copy_of == np.arange(len(order)))
    keeper, certificate = _near_duplicates(vectors, order, distinct, group, config, copies, seed)
    return _verdict(vectors, order, ids, copy_of, keeper[copy_of], certificate, config, copies)


def _check(
    vectors: Vectors,
    digests: Sequence[str] | None,
    scores: npt.NDArray[np.float64],
    ids: Sequence[Id],
    groups: Sequence[object] | None,
) -> None:
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) == 0:
        raise ValueError(f"found vectors of {vectors.dtype} and shape {vectors.shape}; expected float32 (rows, width)")
    for name, column in (("digests", digests), ("score", scores), ("ids", ids), ("groups", groups)):
        if column is not None and len(column) != len(vectors):
            raise ValueError(f"found {len(column)} {name} for {len(vectors)} vectors; expected one each")
    if len(set(ids)) != len(ids):
        raise ValueError(f"{len(ids) - len(set(ids))} of {len(ids)} ids repeat; a row is named by its id")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite; score the rows")
    for start in range(0, len(vectors), 65_536):
        norms = np.linalg.norm(vectors[start : start + 65_536], axis=1)
        wrong = np.flatnonzero(~(np.abs(norms - 1) < 1e-3))
        if len(wrong):
            raise ValueError(
                f"vector {start + wrong[0]} has norm {norms[wrong[0]]:.4g}; expected 1. Divide embeddings by their norm"
            )


def _codes(labels: Sequence[object] | None, order: Indices) -> Indices:
    """Labels as integers, by rank; all one where there are none."""
    if labels is None:
        return np.zeros(len(order), np.int64)
    return np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64)[order]


def _first_of_each(digests: Sequence[str] | None, group: Indices, order: Indices) -> Indices:
    """Rank -> best rank with the same bytes in the same group."""
    if digests is None:
        return np.arange(len(order))
    code = _codes(digests, order)
    _, first, member = np.unique(group * (code.max() + 1) + code, return_index=True, return_inverse=True)
    return first[member].astype(np.int64)


def _near_duplicates(
    vectors: Vectors,
    order: Indices,
    distinct: Indices,
    group: Indices,
    config: DedupConfig,
    copies: CopyMatcher | None,
    seed: int,
) -> tuple[Indices, RecallEstimate]:
    """Rank -> rank it duplicates (itself: it stays), group by group."""
    keeper = np.arange(len(order))
    sampled = np.zeros(len(order), bool)
    queries = min(config.recall_queries, len(distinct))
    sampled[np.random.default_rng(seed).choice(distinct, queries, replace=False)] = True
    searched = []
    for members in _partitions(distinct, group):
        part = _search(vectors, order[members], sampled[members], config, copies)
        keeper[members] = members[part.keeper]
        searched.append(part)
    pairs, found = sum(part.pairs for part in searched), sum(part.found for part in searched)
    return keeper, RecallEstimate(
        index=tuple(sorted({part.factory for part in searched})),
        probes=tuple(sorted({part.probes for part in searched if part.probes is not None})),
        queries=queries,
        pairs=pairs,
        found=found,
        recall=wilson_interval(found, pairs) if pairs else None,
    )


def _partitions(distinct: Indices, group: Indices) -> list[Indices]:
    """The ranks of each group with two rows or more, ascending."""
    by_group = distinct[np.argsort(group[distinct], kind="stable")]
    starts = np.flatnonzero(np.diff(group[by_group])) + 1
    return [members for members in np.split(by_group, starts) if len(members) > 1]


class _Searched(NamedTuple):
    """One group, searched: place -> place it duplicates, and what the certificate counts."""

    keeper: Indices
    factory: str
    probes: int | None
    pairs: int
    found: int


def _search(
    vectors: Vectors,
    rows: Indices,
    sampled: npt.NDArray[np.bool_],
    config: DedupConfig,
    copies: CopyMatcher | None,
) -> _Searched:
    """Near duplicates among the rows of one group, best row first; places are ranks within it."""
    factory = config.index or index_factory(len(rows))
    subset = Subset(vectors, rows)
    search = NeighbourSearch(subset, factory, config.k)
    search.tune_nprobe(evenly_spaced(len(rows), _TUNING_QUERIES), config.threshold, config.search_recall)
    keeper, hits = np.arange(len(rows)), 0
    copied = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    if copies is not None:
        row, other = copies.pairs(rows)
        copied = Pairs(row, other, subset.cosines(row, other))
    chains = None if config.cluster_threshold is None else _Components(len(rows))
    for block, found in enumerate(search.pairs(config.cluster_threshold or config.threshold)):
        if chains is not None:
            chains.link(found.row, found.other)
        close = found.similarity >= config.threshold
        hits += int((close & sampled[found.row]).sum())
        better = found.where(close & (found.other < found.row))
        if copies is not None:
            better = better.where(copies.confirm(rows[better.row], rows[better.other]))
        _suppress(keeper, better.merged(copied.where(copied.row // BLOCK == block)))
    if chains is not None:
        best = chains.best()
        large = np.bincount(best, minlength=len(rows))[best] >= config.cluster_size
        keeper[large] = best[large]
    truth = subset.exact_pairs(np.flatnonzero(sampled), config.threshold)
    return _Searched(keeper, factory, search.probes, len(truth.row), hits)


def _suppress(keeper: Indices, better: Pairs) -> None:
    """Drop, best first, each row that has a better kept row among its pairs; it duplicates the most similar one.

    `keeper` (changed in place) is settled for every place before the pairs' first row.
    """
    rows, starts = np.unique(better.row, return_index=True)
    for row, others, similarity in zip(
        rows, np.split(better.other, starts[1:]), np.split(better.similarity, starts[1:]), strict=False
    ):
        stays = keeper[others] == others
        if stays.any():
            keeper[row] = others[np.argmax(np.where(stays, similarity, -np.inf))]


class _Components:
    """Connected components of a stream of links, in memory bounded by the places, not the links."""

    def __init__(self, size: int) -> None:
        self._best = np.arange(size)
        self._links: list[tuple[Indices, Indices]] = []

    def link(self, row: Indices, other: Indices) -> None:
        self._links.append((row, other))
        if sum(len(row) for row, _ in self._links) > _LINKS:
            self.best()

    def best(self) -> Indices:
        """Place -> smallest place of its component."""
        size = len(self._best)
        row = np.concatenate([np.arange(size), *(row for row, _ in self._links)])
        other = np.concatenate([self._best, *(other for _, other in self._links)])
        graph = coo_array((np.ones(len(row), bool), (row, other)), (size, size))
        _, label = connected_components(graph, directed=False)
        _, first = np.unique(label, return_index=True)
        self._best, self._links = first[label], []
        return self._best


def _verdict(
    vectors: Vectors,
    order: Indices,
    ids: Sequence[Id],
    copy_of: Indices,
    keeper: Indices,
    certificate: RecallEstimate,
    config: DedupConfig,
    copies: CopyMatcher | None,
) -> Deduplication:
    """Ranks back to rows. The reason says how a row relates to the kept row it names, not how it was found."""
    kept = np.empty(len(order), bool)
    kept[order] = keeper == np.arange(len(order))
    reason: list[Reason | None] = [None] * len(order)
    duplicate_of: list[Id | None] = [None] * len(order)
    similarity = np.full(len(order), np.nan, np.float32)
    dropped = np.flatnonzero(keeper != np.arange(len(order)))
    cosines = Subset(vectors, order).cosines(dropped, keeper[dropped])
    copied = np.zeros(len(dropped), bool)
    if copies is not None:
        copied = copies.agree(order[dropped], order[keeper[dropped]], config.copies.correlation)
    for rank, cosine, copy in zip(dropped, cosines, copied, strict=True):
        row = order[rank]
        if keeper[rank] == copy_of[rank]:
            reason[row] = "exact copy"
        elif cosine >= config.threshold:
            reason[row] = "near duplicate"
        else:
            reason[row] = "copy" if copy else "chain"
        duplicate_of[row] = ids[order[keeper[rank]]]
        similarity[row] = cosine
    return Deduplication(kept, reason, duplicate_of, similarity, certificate)
