"""Select captions evenly over topics, without those that a filter rejects."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np

from lightgen_core.captioning.reasons import Reason

Item = TypeVar("Item")
_NONE: Any = object()


@dataclass(frozen=True)
class Caption:
    """A caption with topic, meaning apart from the wording, labels, and the name of its source if there are several."""

    text: str
    topic: str
    meaning: str
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)
    source: str = field(default="", compare=False)


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


def select_captions(topics: Mapping[str, list[Caption]], count: int, caption_filter: CaptionFilter) -> CaptionSelection:
    """Select `count` accepted captions, one of each topic in turn, or fewer if the candidates, best first, run out.

    A larger count adds captions behind those of a smaller one, if the filter judges each by earlier ones alone.
    """
    order = in_turn(topics.values())
    offer = count + count // 3  # to replace what is rejected
    while True:
        candidates = order[:offer]
        rejections = caption_filter(candidates)
        accepted: dict[str, list[int]] = {topic: [] for topic in topics}
        for index, (caption, rejection) in enumerate(zip(candidates, rejections, strict=True)):
            if rejection is None:
                accepted[caption.topic].append(index)
        chosen = in_turn(accepted.values())[:count]
        turns = max(Counter(candidates[index].topic for index in chosen).values(), default=0)
        offered = Counter(caption.topic for caption in candidates)
        # of a topic with fewer accepted captions than turns, one behind the offer could have its turn
        short = [topic for topic in topics if len(accepted[topic]) < turns and offered[topic] < len(topics[topic])]
        if offer >= len(order) or (len(chosen) == count and not short):
            return selection_of(candidates, rejections, chosen)
        offer *= 2


def in_turn(lists: Iterable[Sequence[Item]]) -> list[Item]:
    """Return the first item of each list, then the second of each, and so on."""
    return [item for turn in zip_longest(*lists, fillvalue=_NONE) for item in turn if item is not _NONE]


def selection_of(candidates: list[Caption], rejections: list[Rejection | None], chosen: list[int]) -> CaptionSelection:
    """Return the selection of some candidates, by index and in order, and of those that were rejected."""
    position_of = {index: position for position, index in enumerate(chosen)}
    dropped = []
    for caption, rejection in zip(candidates, rejections, strict=True):
        if rejection is None or (rejection.duplicate_of is not None and rejection.duplicate_of not in position_of):
            continue
        if rejection.duplicate_of is not None:
            rejection = replace(rejection, duplicate_of=position_of[rejection.duplicate_of])
        dropped.append((caption, rejection))
    return CaptionSelection([candidates[index] for index in chosen], dropped)


def assign_captions(topics: list[str], count: int, balance: str) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of `count` images its caption's index, and the number of earlier images of that caption.

    A larger count only adds images at the end.

    Args:
        topics: of the captions.
        balance: "captions", or "topics" and within a topic captions, get equal numbers of images.
    """
    images = np.arange(count)
    if balance == "captions":
        return images % len(topics), images // len(topics)
    number = {topic: index for index, topic in enumerate(dict.fromkeys(topics))}
    codes = np.array([number[topic] for topic in topics])
    sizes = np.bincount(codes)
    members, starts = np.argsort(codes, kind="stable"), np.cumsum(sizes) - sizes
    topic, turn = images % len(number), images // len(number)
    return members[starts[topic] + turn % sizes[topic]], turn // sizes[topic]
