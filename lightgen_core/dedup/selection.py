"""Selection: a subset of a given size of the images that deduplication keeps.

Vectors are unit-norm embeddings. The choice depends on ids, vectors and scores, not on the order of the rows.
"""

import numpy as np
import numpy.typing as npt

from lightgen_core.dedup.clusters import kmeans
from lightgen_core.dedup.config import SelectionConfig
from lightgen_core.dedup.search import Indices, Subset


def select(
    vectors: Subset, ids: npt.ArrayLike, scores: npt.ArrayLike, config: SelectionConfig, clusters: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Return which rows are selected, (n,): all where there are at most `config.count`.

    Args:
        vectors: (n,) of unit norm.
        ids: (n,) distinct; they order the rows.
        scores: (n,) of the text-image score, for the method `score`.
        clusters: k-means clusters of the method `balanced`, at most.
        seed: of the random order, of k-means and of the first centre.
    """
    count = config.count
    if len(vectors) <= count:
        return np.ones(len(vectors), bool)
    order = np.argsort(np.asarray(ids), kind="stable")
    ordered, rng = Subset(vectors.vectors, vectors.rows[order]), np.random.default_rng(seed)
    if config.method == "random":
        chosen = rng.permutation(len(order))[:count]
    elif config.method == "score":
        chosen = np.argsort(-np.asarray(scores, np.float64)[order], kind="stable")[:count]
    elif config.method == "balanced":
        chosen = take_in_turn(kmeans(ordered, clusters, seed, spread=True), count, rng)
    else:
        chosen = _k_centre(ordered, count, int(rng.integers(len(order))))
    selected = np.zeros(len(vectors), bool)
    selected[order[chosen]] = True
    return selected


def take_in_turn(cluster: Indices, count: int, rng: np.random.Generator) -> Indices:
    """Return rows of all clusters in turn, a random one of each, until there are `count`."""
    shuffled = rng.permutation(len(cluster))
    by_cluster = shuffled[np.argsort(cluster[shuffled], kind="stable")]
    sizes = np.bincount(cluster)
    turn = np.arange(len(cluster)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return by_cluster[np.argsort(turn, kind="stable")][:count]


def _k_centre(vectors: Subset, count: int, first: int) -> Indices:
    """Return `count` rows, each the farthest from those before it (Gonzalez 1985), from row `first` on.

    Takes count x n cosines.
    """
    values = vectors[np.arange(len(vectors))]
    nearest, chosen = np.full(len(values), -np.inf), np.empty(count, np.int64)
    chosen[0] = first
    for place in range(1, count):
        cosine = np.einsum("nd,d->n", values, values[chosen[place - 1]], dtype=np.float64)
        nearest = np.maximum(nearest, cosine)
        nearest[chosen[place - 1]] = np.inf  # also where it has a copy
        chosen[place] = nearest.argmin()
    return chosen
