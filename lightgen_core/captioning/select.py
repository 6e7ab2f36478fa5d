"""Select captions evenly over topics, without those that a filter rejects."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np

from lightgen_core.captioning.reasons import Reason


@dataclass(frozen=True)
class Caption:
    """A caption with topic, meaning apart from the wording, and labels."""

    text: str
    topic: str
    meaning: str
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Rejection:
    """The reason for which a caption is left out.

    Attributes:
        duplicate_of: index among the filtered captions, and in a `CaptionSelection` among the chosen ones.
        similarity: to the caption it repeats or the prompt it contains, by the measure that found it.
    """

    reason: Reason
    detail: str = ""
    duplicate_of: int | None = None
    similarity: float | None = None


CaptionFilter = Callable[[Sequence[Caption]], list[Rejection | None]]
"""Captions, earlier ones preferred, to a rejection of each, or None."""


@dataclass(frozen=True)
class CaptionSelection:
    """Chosen captions in order, and rejected ones (duplicates only of chosen ones)."""

    chosen: list[Caption]
    rejected: list[tuple[Caption, Rejection]]


def chain(*filters: CaptionFilter) -> CaptionFilter:
    """Apply filters in turn, those that find duplicates last; duplicates of a duplicate count for its original."""

    def caption_filter(captions: Sequence[Caption]) -> list[Rejection | None]:
        rejections: list[Rejection | None] = [None] * len(captions)
        for step in filters:
            rows = [row for row, rejection in enumerate(rejections) if rejection is None]
            for row, rejection in zip(rows, step([captions[row] for row in rows]), strict=True):
                original = None if rejection is None or rejection.duplicate_of is None else rows[rejection.duplicate_of]
                rejections[row] = rejection and replace(rejection, duplicate_of=original)
        return [
            rejection and replace(rejection, duplicate_of=_original(rejections, rejection.duplicate_of))
            for rejection in rejections
        ]

    return caption_filter


def _original(rejections: Sequence[Rejection | None], row: int | None) -> int | None:
    """Return the accepted caption at the end of a chain of duplicates."""
    while row is not None and (rejection := rejections[row]) is not None:
        assert rejection.duplicate_of is not None, "a filter that finds no duplicates came after one that does"
        row = rejection.duplicate_of
    return row


def balanced_quotas(available: Mapping[str, int], count: int) -> dict[str, int]:
    """Divide `count`, or all that is available, evenly over topics; others make up for one that runs out."""
    quotas: dict[str, int] = {}
    remaining = min(count, sum(available.values()))
    for done, topic in enumerate(sorted(available, key=lambda name: (available[name], name))):
        quotas[topic] = min(available[topic], remaining // (len(available) - done))
        remaining -= quotas[topic]
    return {topic: quotas[topic] for topic in available}


def select_captions(topics: Mapping[str, list[Caption]], count: int, caption_filter: CaptionFilter) -> CaptionSelection:
    """Select `count` accepted captions evenly over topics, or fewer if the candidates, best first, run out."""
    available = {topic: len(captions) for topic, captions in topics.items()}
    offer = count + count // 3  # to replace what is rejected
    while True:
        quotas = balanced_quotas(available, offer)
        candidates = [caption for topic, captions in topics.items() for caption in captions[: quotas[topic]]]
        rejections = caption_filter(candidates)
        if rejections.count(None) >= count or offer >= sum(available.values()):
            return _select(candidates, rejections, list(topics), count)
        offer *= 2


def _select(
    candidates: list[Caption], rejections: list[Rejection | None], topics: list[str], count: int
) -> CaptionSelection:
    accepted: dict[str, list[int]] = {topic: [] for topic in topics}
    for index, rejection in enumerate(rejections):
        if rejection is None:
            accepted[candidates[index].topic].append(index)
    quotas = balanced_quotas({topic: len(indices) for topic, indices in accepted.items()}, count)
    # One of each topic in turn: any prefix covers the topics evenly.
    rounds = zip_longest(*(indices[: quotas[topic]] for topic, indices in accepted.items()))
    chosen = [index for turn in rounds for index in turn if index is not None]
    position_of = {index: position for position, index in enumerate(chosen)}
    dropped = []
    for caption, rejection in zip(candidates, rejections, strict=True):
        if rejection is None or (rejection.duplicate_of is not None and rejection.duplicate_of not in position_of):
            continue
        if rejection.duplicate_of is not None:
            rejection = replace(rejection, duplicate_of=position_of[rejection.duplicate_of])
        dropped.append((caption, rejection))
    return CaptionSelection([candidates[index] for index in chosen], dropped)


def assign_images(topics: list[str], count: int, balance: str) -> np.ndarray:
    """Return the caption index of each of `count` images, ascending: a later stage encodes each caption in one shard.

    Args:
        topics: of the captions.
        balance: "captions", or "topics" and within a topic captions, get equal numbers of images.
    """
    if balance == "captions":
        return np.sort(np.arange(count) % len(topics))
    number = {topic: index for index, topic in enumerate(dict.fromkeys(topics))}
    codes = np.array([number[topic] for topic in topics])
    sizes = np.bincount(codes)
    members, starts = np.argsort(codes, kind="stable"), np.cumsum(sizes) - sizes
    topic, turn = np.arange(count) % len(number), np.arange(count) // len(number)
    return np.sort(members[starts[topic] + turn % sizes[topic]])
