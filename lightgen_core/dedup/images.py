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
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from lightgen_core.dedup.components import Components
from lightgen_core.dedup.config import DedupConfig
from lightgen_core.dedup.copies import CopyMatcher
from lightgen_core.dedup.greedy import GreedySelector, RowProgress
from lightgen_core.dedup.neighbour_index import SearchOptions
from lightgen_core.dedup.search import Indices, SearchThreads, Subset, Vectors, squared_norms
from lightgen_core.intervals import Interval, wilson_interval

Reason = Literal["exact copy", "near duplicate", "copy", "chain", "not selected"]
Id = str | int


@dataclass(frozen=True)
class RecallEstimate:
    """Estimated recall of the search: pairs of sampled rows with better rows that stay, against brute force.

    `index` and `probes` list what was used, one per kind of group. `recall` takes pairs as independent, which those of
    one cluster are not quite. It is None where the sampled rows have no pair at the threshold: then there was nothing
    to miss. `crowded` counts rows, of all, of whose near rows only a part was looked at; `queries` leaves these out.
    """

    index: tuple[str, ...]
    probes: tuple[int, ...]
    queries: int
    pairs: int
    found: int
    recall: Interval | None
    crowded: int


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
    threads: int = 1,
    folder: Path | None = None,
    on_progress: RowProgress = lambda rows: None,
) -> Deduplication:
    """Find the duplicates among images, keeping the best of each set.

    The result is the same for any order of the rows and any number of threads.

    Args:
        vectors: (n, width) float32 of unit norm, such as CLIP image embeddings; a memory map will do.
        digests: (n,) of each image's bytes or pixels; None: no rule for exact copies.
        score: (n,) higher is better.
        ids: (n,) distinct, all text or all numbers; break ties of the score, the smaller first.
        config: thresholds and search.
        groups: (n,) only rows of one group can be duplicates of each other (such as a caption's meaning: two
            meanings can look alike to CLIP); None: all can.
        copies: of the same rows; not together with groups.
        seed: of the sample behind the certificate.
        threads: of the search.
        folder: keeps what is decided, for a later call with equal arguments to continue with.
        on_progress: called with the number of rows decided, of the distinct ones.

    Raises:
        ValueError: lengths differ, ids repeat, a score is not finite, or vectors are not of unit norm.
    """
    scores = np.asarray(score, dtype=np.float64)
    squares = _check(vectors, digests, scores, ids, groups)
    if groups is not None and copies is not None:
        raise ValueError("copies are compared over all groups; pass groups or copies")
    # From here on a row is its rank, 0 the best: "better" is "smaller", and the input's order is forgotten.
    order = np.lexsort((np.asarray(ids), -scores)).astype(np.int64)
    group = _codes(groups, order)
    copy_of = _first_of_each(digests, group, order)
    distinct = np.flatnonzero(copy_of == np.arange(len(order)))
    ranked = Subset(vectors, order, squares)
    search = _GroupSearch(ranked, squares, config, copies, SearchThreads(threads), folder)
    keeper, certificate = search.near_duplicates(distinct, group, seed, on_progress)
    return _verdict(ranked, ids, copy_of, keeper[copy_of], certificate, config, copies)


def _check(
    vectors: Vectors,
    digests: Sequence[str] | None,
    scores: npt.NDArray[np.float64],
    ids: Sequence[Id],
    groups: Sequence[object] | None,
) -> npt.NDArray[np.float64]:
    """Check the arguments and return the vectors' squared norms."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) == 0:
        raise ValueError(f"found vectors of {vectors.dtype} and shape {vectors.shape}; expected float32 (rows, width)")
    for name, column in (("digests", digests), ("score", scores), ("ids", ids), ("groups", groups)):
        if column is not None and len(column) != len(vectors):
            raise ValueError(f"found {len(column)} {name} for {len(vectors)} vectors; expected one each")
    if len(set(ids)) != len(ids):
        raise ValueError(f"{len(ids) - len(set(ids))} of {len(ids)} ids repeat; a row is named by its id")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite; score the rows")
    squares = squared_norms(vectors)
    wrong = np.flatnonzero(~(np.abs(np.sqrt(squares) - 1) < 1e-3))
    if len(wrong):
        norm = np.sqrt(squares[wrong[0]])
        raise ValueError(f"vector {wrong[0]} has norm {norm:.4g}; expected 1. Divide embeddings by their norm")
    return squares


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


@dataclass(frozen=True)
class _GroupSearch:
    """The search for near duplicates, group by group, and the certificate of its recall."""

    ranked: Subset
    squares: npt.NDArray[np.float64]
    config: DedupConfig
    copies: CopyMatcher | None
    threads: SearchThreads
    folder: Path | None

    def near_duplicates(
        self, distinct: Indices, group: Indices, seed: int, on_progress: RowProgress
    ) -> tuple[Indices, RecallEstimate]:
        """Return the rank that each rank duplicates (itself: it stays), of distinct ones, and the certificate."""
        keeper, sampled = np.arange(len(self.ranked)), np.zeros(len(self.ranked), bool)
        queries = min(self.config.recall_queries, len(distinct))
        sampled[np.random.default_rng(seed).choice(distinct, queries, replace=False)] = True
        certified, pairs, found, crowded, done = queries, 0, 0, 0, 0
        indices, probes = set(), set()
        for members in _partitions(distinct, group):
            selector, chains = self._selector(members)
            part = selector.select(_offset(on_progress, done))
            places = np.flatnonzero(sampled[members] & ~part.crowded)
            certified -= int((sampled[members] & part.crowded).sum())
            pairs += len(selector.exact_pairs(places).row)
            found, crowded = found + int(part.found[places].sum()), crowded + int(part.crowded.sum())
            indices.add(part.factory)
            probes.update([part.probes] if part.probes is not None else [])
            keeper[members] = members[part.keeper if chains is None else self._chained(part.keeper, chains)]
            done += len(members)
        recall = wilson_interval(found, pairs) if pairs else None
        index = tuple(sorted(indices)), tuple(sorted(probes))
        return keeper, RecallEstimate(*index, certified, pairs, found, recall, crowded)

    def _selector(self, members: Indices) -> tuple[GreedySelector, Components | None]:
        """Return what selects among the ranks of one group; places are ranks within it."""
        config, linked = self.config, self.config.cluster_threshold
        subset = Subset(self.ranked.vectors, self.ranked.rows[members], self.squares)
        chains = None if linked is None else Components(len(subset))
        options = SearchOptions(linked or config.threshold, config.k, config.search_recall, config.index)
        folder = self.folder and self.folder / f"group-{members[0]:010d}"
        selector = GreedySelector(
            subset, options, config.threshold, self.threads, copies=self.copies, chains=chains, folder=folder
        )
        return selector, chains

    def _chained(self, keeper: Indices, chains: Components) -> Indices:
        best = chains.best()
        large = np.bincount(best, minlength=len(best))[best] >= self.config.cluster_size
        return np.where(large, best, keeper)


def _offset(on_progress: RowProgress, before: int) -> RowProgress:
    return lambda rows: on_progress(before + rows)


def _partitions(distinct: Indices, group: Indices) -> list[Indices]:
    """Return the ranks of each group with two rows or more, ascending."""
    by_group = distinct[np.argsort(group[distinct], kind="stable")]
    starts = np.flatnonzero(np.diff(group[by_group])) + 1
    return [members for members in np.split(by_group, starts) if len(members) > 1]


def _verdict(
    ranked: Subset,
    ids: Sequence[Id],
    copy_of: Indices,
    keeper: Indices,
    certificate: RecallEstimate,
    config: DedupConfig,
    copies: CopyMatcher | None,
) -> Deduplication:
    """Ranks back to rows. The reason says how a row relates to the kept row it names, not how it was found."""
    order = ranked.rows
    kept = np.empty(len(order), bool)
    kept[order] = keeper == np.arange(len(order))
    reason: list[Reason | None] = [None] * len(order)
    duplicate_of: list[Id | None] = [None] * len(order)
    similarity = np.full(len(order), np.nan, np.float32)
    dropped = np.flatnonzero(keeper != np.arange(len(order)))
    cosines = ranked.cosines(dropped, keeper[dropped])
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
