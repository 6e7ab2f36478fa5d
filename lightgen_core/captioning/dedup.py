"""Filters for near-duplicate captions: the same words, or the same meaning."""

from collections.abc import Sequence

import numpy as np

from lightgen_core.captioning.embedding import Embed
from lightgen_core.captioning.reasons import Reason
from lightgen_core.captioning.select import Caption, CaptionFilter, Rejection
from lightgen_core.dedup.greedy import GreedySelector
from lightgen_core.dedup.minhash import CaptionDuplicates, near_duplicate_captions
from lightgen_core.dedup.neighbour_index import SearchOptions
from lightgen_core.dedup.search import SearchThreads, Subset, Vectors, squared_norms


def lexical_dedup(threshold: float, seed: int, *, within_meaning: bool, threads: int = 1) -> CaptionFilter:
    """Reject captions whose word shingles have a Jaccard index of `threshold` with an earlier one's.

    within_meaning: compare captions of equal `meaning` only; for sources whose meanings are certain.
    """

    def caption_filter(captions: Sequence[Caption]) -> list[Rejection | None]:
        groups = [caption.meaning for caption in captions] if within_meaning else None
        texts = [caption.text for caption in captions]
        found = near_duplicate_captions(texts, threshold, seed, groups=groups, threads=threads)
        return _rejections(found, Reason.REPEATED_WORDS)

    return caption_filter


def semantic_dedup(threshold: float, embed: Embed, *, within_meaning: bool, threads: int = 1) -> CaptionFilter:
    """Reject captions with the cosine `threshold` to an earlier one (SemDeDup); `within_meaning` as `lexical_dedup`."""

    def caption_filter(captions: Sequence[Caption]) -> list[Rejection | None]:
        if len(captions) < 2:
            return [None] * len(captions)
        meanings = [caption.meaning if within_meaning else "" for caption in captions]
        vectors = embed([caption.text for caption in captions])
        return _rejections(similar_vectors(vectors, threshold, meanings, threads), Reason.REPEATED_MEANING)

    return caption_filter


def similar_vectors(vectors: Vectors, threshold: float, groups: Sequence[str], threads: int = 1) -> CaptionDuplicates:
    """Keep the first of each set of vectors of a group whose cosines reach `threshold`.

    A row is dropped only for a row that stays, the most similar one. vectors: (n, width) float32 of unit norm, n >= 2.
    """
    rows, squares, pool = len(vectors), squared_norms(vectors), SearchThreads(threads)
    duplicate_of, similarity = np.full(rows, -1), np.full(rows, np.nan)
    _, group, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    for members in np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1]):
        subset = Subset(vectors, members, squares)
        keeper = GreedySelector(subset, SearchOptions(threshold), threshold, pool).select().keeper
        dropped = np.flatnonzero(keeper != np.arange(len(members)))
        duplicate_of[members[dropped]] = members[keeper[dropped]]
        similarity[members[dropped]] = subset.cosines(dropped, keeper[dropped])
    return CaptionDuplicates(duplicate_of < 0, duplicate_of, similarity)


def _rejections(duplicates: CaptionDuplicates, reason: Reason) -> list[Rejection | None]:
    return [
        None if kept else Rejection(reason, duplicate_of=int(other), similarity=float(similarity))
        for kept, other, similarity in zip(duplicates.kept, duplicates.duplicate_of, duplicates.similarity, strict=True)
    ]
