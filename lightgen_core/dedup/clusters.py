"""Clusters of embeddings: k-means of faiss, on one thread so that it repeats to the bit."""

import faiss
import numpy as np

from lightgen_core.dedup.search import Indices, SearchThreads, Subset, evenly_spaced

_PART = 65_536
"""Rows gathered at a time."""
_POINTS_PER_CLUSTER = 256


def kmeans(vectors: Subset, clusters: int, seed: int, *, spread: bool = False) -> Indices:
    """Return each row's cluster, (n,), by spherical k-means into `cluster_count` clusters.

    spread: first centres by k-means++ instead of at random, so that few rows of their own kind get a cluster.
    """
    return SearchThreads(1).run(_kmeans, vectors, cluster_count(len(vectors), clusters), seed, spread)


def cluster_count(rows: int, clusters: int) -> int:
    """Return the clusters of some rows: a tenth as many at most (but two), or sizes would say nothing."""
    return min(clusters, max(2, rows // 10))


def _kmeans(vectors: Subset, clusters: int, seed: int, spread: bool) -> Indices:
    seed %= 2**31  # faiss holds it in a C int
    trained_on = vectors[evenly_spaced(len(vectors), _POINTS_PER_CLUSTER * clusters)]
    fit = faiss.Kmeans(trained_on.shape[1], clusters, niter=20, seed=seed, spherical=True, min_points_per_centroid=1)
    if spread:
        fit.cp.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    fit.train(trained_on)
    cluster = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _PART):
        _, nearest = fit.index.search(vectors[start : start + _PART], 1)
        cluster[start : start + len(nearest)] = nearest[:, 0]
    return cluster
