"""Which pictures are copies, and which one of them stays.

Three rules, in this order, over a total order of rows (score falling, then id rising):
1. Exact copies: of rows with the same sha256 the first in the order stays.
2. Near duplicates: a row goes if a better row that stays is at `threshold` or above (SemDeDup, Abbas et al. 2023,
   applied pair by pair). A row that resembles only dropped rows stays, so a chain of look-alikes is not eaten up.
3. Chains, optional: where `cluster_threshold` links `cluster_size` rows or more into one connected component, only its
   best row stays. Off by default: in a narrow domain a low threshold links everything to everything.

Every dropped row names a row that stays. Nothing depends on the order in which rows are handed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lightgen_core.config import DedupConfig
from lightgen_core.neighbours import NeighbourSearch, Pairs, Rows, exact_pairs, index_factory
from lightgen_core.statistics import Interval, wilson

Reason = Literal["exact copy", "near duplicate", "chain"]

_TUNING_QUERIES = 1000
_EDGES = 4_000_000  # links kept before they are folded into component labels


@dataclass(frozen=True)
class Certificate:
    """How complete the search was: its pairs at the threshold against brute force, for sampled rows.

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
    duplicate_of: list[str | None]
    similarity: npt.NDArray[np.float32]
    certificate: Certificate


def find_duplicates(
    vectors: npt.NDArray[np.float32],
    digests: Sequence[str] | None,
    score: npt.ArrayLike,
    ids: Sequence[str],
    config: DedupConfig,
    *,
    groups: Sequence[object] | None = None,
    seed: int = 0,
) -> Deduplication:
    """Find the duplicates among pictures, keeping the best of each set.

    Args:
        vectors: (n, width) float32 of unit norm, such as CLIP image embeddings.
        digests: (n,) sha256 of each picture's bytes; None: no rule for exact copies.
        score: (n,) higher is better.
        ids: (n,) distinct; break ties of the score, the smaller first.
        config: thresholds and search.
        groups: (n,) only rows of one group can be duplicates of each other (such as a caption's meaning: two
            meanings can look alike to CLIP); None: all can.
        seed: of the sample behind the certificate.

    Raises:
        ValueError: lengths differ, ids repeat, a score is not finite, or vectors are not of unit norm.
    """
    scores = np.asarray(score, dtype=np.float64)
    _check(vectors, digests, scores, ids, groups)
    order = np.lexsort((np.asarray(ids), -scores)).astype(np.int64)
    group = np.zeros(len(ids), np.int64) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    # From here on rows are ranks: 0 is the best. `keeper` maps a rank to the rank it duplicates, or to itself.
    keeper = _exact_copies(digests, group, order)
    distinct = np.flatnonzero(keeper == np.arange(len(order)))
    near, certificate = _near_duplicates(vectors, order, distinct, group[order], config, seed)
    copied = keeper != np.arange(len(order))
    keeper = near.keeper[keeper]
    return _verdict(vectors, order, ids, keeper, copied & (near.keeper == np.arange(len(order)))[keeper], near, certificate)


@dataclass
class _Near:
    """Rank -> rank it duplicates (itself: stays)."""

    keeper: Rows


def _check(*args: object) -> None: ...
