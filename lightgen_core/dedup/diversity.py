"""Diversity of an image set: six metrics that fail in different ways, so that one alone cannot flatter.

Vectors are unit-norm embeddings; cosine is similarity, 1 - cosine is distance unless a figure says otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightgen_core.dedup.clusters import cluster_count, kmeans
from lightgen_core.dedup.config import DedupConfig
from lightgen_core.dedup.minhash import topic_coverage
from lightgen_core.dedup.search import Indices, Subset, Vectors


@dataclass(frozen=True)
class Metric:
    """One measured figure in words: what it is called, its value, and how to read it."""

    name: str
    value: float
    meaning: str


@dataclass(frozen=True)
class Diversity:
    """The figures of one set of images.

    Attributes:
        rows: images in the set.
        sample: images behind Vendi score, k-centre radius and near-duplicate rate.
        cluster_entropy: evenness of cluster sizes, 0 (all in one) to 1 (all alike).
        vendi: effective number of different images in the sample.
        k_centre_radius: distance that k centres leave uncovered, 0 to 2.
        near_duplicate_rate: share of sampled images with another one at the dedup threshold.
        topics: number of topics that occur.
        topic_evenness: entropy of topic counts over its largest value, 0 to 1.
        within_prompt_distance: mean distance of two images of one prompt; None: no prompt has two.
    """

    rows: int
    sample: int
    cluster_entropy: float
    vendi: float
    k_centre_radius: float
    near_duplicate_rate: float
    topics: int
    topic_evenness: float
    within_prompt_distance: float | None

    def metrics(self) -> list[Metric]:
        """The figures with their meanings, for a report."""
        shown = [
            Metric("Vendi score", self.vendi, f"effective number of different images among {self.sample:,} sampled"),
            Metric("cluster entropy", self.cluster_entropy, "how evenly images spread over clusters; 1 is even"),
            Metric("k-centre radius", self.k_centre_radius, "how far the set reaches beyond its k most spread images"),
            Metric("near-duplicate rate", self.near_duplicate_rate, "share of images with a near duplicate in the set"),
            Metric("topics", float(self.topics), "topics that occur"),
            Metric("topic evenness", self.topic_evenness, "how evenly captions spread over topics; 1 is even"),
        ]
        if self.within_prompt_distance is not None:
            meaning = "mean distance (1 - cosine) of two images of one caption"
            shown.append(Metric("within-prompt distance", self.within_prompt_distance, meaning))
        return shown


def diversity(
    vectors: Subset,
    topics: Sequence[str] | Sequence[Sequence[str]],
    prompts: Sequence[object],
    seed: int,
    config: DedupConfig,
) -> Diversity:
    """Measure a set of images.

    Args:
        vectors: (n,) of unit norm.
        topics: (n,) topic or topics of each image.
        prompts: (n,) prompt of each image.
        seed: of the sample, of k-means and of the first centre.
        config: sample size, clusters, centres and the near-duplicate threshold.
    """
    if not len(vectors) == len(topics) == len(prompts) or len(vectors) < 2:
        raise ValueError(
            f"{len(vectors)} vectors, {len(topics)} topics, {len(prompts)} prompts; expected equally many, 2 or more"
        )
    rng = np.random.default_rng(seed)
    places = np.sort(rng.choice(len(vectors), min(config.diversity_sample, len(vectors)), replace=False))
    sample = vectors[places]
    counts = np.array(list(topic_coverage(topics).counts.values()), np.float64)
    return Diversity(
        rows=len(vectors),
        sample=len(sample),
        cluster_entropy=cluster_entropy(vectors, config.clusters, seed),
        vendi=vendi_score(sample),
        k_centre_radius=k_centre_radius(sample, config.centres, int(rng.integers(len(sample)))),
        near_duplicate_rate=near_duplicate_rate(vectors, places, config.threshold),
        topics=len(counts),
        topic_evenness=_evenness(counts),
        within_prompt_distance=within_prompt_distance(vectors, prompts),
    )


def vendi_score(vectors: Vectors) -> float:
    """exp of the entropy of the eigenvalues of K / n, K the cosine matrix (Friedman & Dieng 2023, Eq. 1).

    1 for n copies of one vector, n for n orthogonal ones. The smaller of the n x n and the width x width matrix is
    decomposed: their non-zero eigenvalues agree.
    """
    x = vectors.astype(np.float64)
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    eigenvalues = np.clip(np.linalg.eigvalsh(gram), 0, None)
    return float(np.exp(_entropy(eigenvalues / eigenvalues.sum())))


def cluster_entropy(vectors: Subset, clusters: int, seed: int) -> float:
    """Entropy of k-means cluster sizes over its largest value, log k; see `kmeans`."""
    cluster = kmeans(vectors, clusters, seed)
    sizes = np.bincount(cluster, minlength=cluster_count(len(vectors), clusters))
    return _evenness(sizes.astype(np.float64))


def k_centre_radius(vectors: Vectors, centres: int, first: int) -> float:
    """Largest Euclidean distance to the nearest of k centres chosen greedily (Gonzalez 1985), from row `first` on.

    The greedy radius is at most twice the best one. Chord length between unit vectors: 0 for copies, 2 for opposites.
    """
    nearest = np.full(len(vectors), np.inf)
    centre = first
    for _ in range(min(centres, len(vectors))):
        cosine = np.einsum("nd,d->n", vectors, vectors[centre], dtype=np.float64)
        nearest = np.minimum(nearest, np.sqrt(np.maximum(2 - 2 * cosine, 0)))
        nearest[centre] = 0.0
        centre = int(nearest.argmax())
    return float(nearest.max())


def near_duplicate_rate(vectors: Subset, places: Indices, threshold: float) -> float:
    """Share of the rows at `places` that have another row, anywhere in the set, at the cosine threshold or above."""
    return float((vectors.cosines(places, vectors.nearest(places)) >= threshold).mean())


def within_prompt_distance(vectors: Subset, prompts: Sequence[object]) -> float | None:
    """Mean over prompts of the mean 1 - cosine of two of its images; None if no prompt has two.

    With s the sum of a prompt's m unit vectors, its pairs' mean cosine is (|s|^2 - m) / (m (m - 1)).
    """
    _, member, count = np.unique(np.asarray(prompts), return_inverse=True, return_counts=True)
    by_prompt = np.argsort(member, kind="stable")
    repeated = by_prompt[count[member[by_prompt]] > 1]
    if len(repeated) == 0:
        return None
    starts = np.flatnonzero(np.diff(member[repeated], prepend=-1))
    size = np.diff(np.append(starts, len(repeated)))
    sums = (vectors[rows].sum(axis=0, dtype=np.float64) for rows in np.split(repeated, starts[1:]))
    squares = np.array([(total**2).sum() for total in sums])
    return float((1 - (squares - size) / (size * (size - 1))).mean())


def _entropy(share: npt.NDArray[np.float64]) -> float:
    """-sum p log p in nats of shares that sum to one; 0 log 0 is 0."""
    positive = share[share > 0]
    return float(-(positive * np.log(positive)).sum())


def _evenness(counts: npt.NDArray[np.float64]) -> float:
    """Entropy of the counts over its largest value; 0 for a single kind, which is no variety at all."""
    return _entropy(counts / counts.sum()) / float(np.log(len(counts))) if len(counts) > 1 else 0.0
