"""Sections of deduplication and selection."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from lightgen_core.config import Fraction, Positive, Section


class CopyConfig(Section):
    """Copies of an image under any caption, in the space of perceptual hashes and thumbnails (`dedup/copies.py`)."""

    hash_bits: int = Field(
        10, ge=0, le=11, description="bits of 64 in which the perceptual hashes of copies may differ"
    )
    correlation: Fraction = Field(
        0.9, description="correlation of the thumbnails' luminance from which images are copies"
    )
    semantic_correlation: Fraction = Field(
        0.9,
        description="the same, for two captions' images whose cosine reaches dedup.threshold; lower it for a good CLIP",
    )
    related_captions: Fraction = Field(
        0.15, description="share of two captions' words, rare ones counting more, from which they may name a difference"
    )
    planted: int = Field(
        100, ge=0, description="images of which copies of ten kinds are planted, to know how many are found; 0: no test"
    )
    max_gap: float = Field(
        2.0,
        ge=0,
        description="mean difference of the thumbnails, of 255, up to which a related caption changes nothing",
    )


class SelectionConfig(Section):
    """A subset of the images that are no duplicates (`dedup/selection.py`)."""

    count: Positive = Field(description="images selected, at most")
    method: Literal["random", "balanced", "k_centre", "score"] = Field(
        "balanced",
        description="random; balanced: k-means clusters (`clusters`) in turn; k_centre: each the farthest from those "
        "before it, in count x images cosines; score: the highest text-image scores",
    )


class DedupConfig(Section):
    """Filters of images: near duplicates and, on request, those that do not show their caption."""

    renamed: ClassVar = {
        "least_score": "min_clip_score",
        "lowest_share": "drop_lowest_fraction",
        "neighbours": "k",
        "certificate_queries": "recall_queries",
    }

    min_clip_score: float | None = Field(
        None, ge=-1, le=1, description="text-image score (cosine) below which an image is dropped; none: no such rule"
    )
    drop_lowest_fraction: float = Field(0.0, ge=0, lt=1, description="share of images to drop, of the lowest scores")
    threshold: float = Field(0.95, gt=0, le=1, description="cosine from which the worse of a pair is dropped")
    compare: Literal["all", "meaning"] = Field(
        "all", description="all: images of any captions; meaning: of equal meanings only, where those are certain"
    )
    copies: CopyConfig = Field(default_factory=CopyConfig, description="compare: all; copies of an image")
    cluster_threshold: float | None = Field(
        None, gt=0, le=1, description="chain rule: cosine that links images into clusters; none: no chain rule"
    )
    cluster_size: int = Field(5, ge=3, description="chain rule: a cluster of this size or more keeps only its best")
    k: Positive = Field(64, description="near images of another caption that are compared with each image, at most")
    index: str | None = Field(None, description="faiss factory string, such as IVF4096,Flat; none: chosen by row count")
    search_recall: Fraction = Field(
        0.998, description="inverted files: share of pairs exactly at the threshold that the probed lists must hold"
    )
    recall_queries: Positive = Field(40_000, description="rows whose pairs are checked against brute force")
    diversity_sample: int = Field(5_000, ge=2, description="rows behind Vendi, k-centre radius and near-duplicate rate")
    clusters: Positive = Field(256, description="k-means clusters of the occupancy entropy")
    centres: Positive = Field(64, description="centres of the k-centre radius")
    select: SelectionConfig | None = Field(
        None,
        description="a subset of what is left, by embeddings; none: all of it",
        exclude_if=lambda select: select is None,  # keys of recipes without it stay
    )

    @model_validator(mode="after")
    def _chain_rule_is_the_looser_one(self) -> "DedupConfig":
        if self.cluster_threshold is not None and self.cluster_threshold > self.threshold:
            raise ValueError(f"cluster_threshold {self.cluster_threshold} exceeds threshold {self.threshold}; lower it")
        return self
