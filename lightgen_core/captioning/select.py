"""Select captions evenly over topics, without those that a filter rejects."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
        reason: to be counted.
        detail: of this case, such as the evaluation prompt that the caption contains.
        duplicate_of: index of the caption it repeats: among those filtered, and in a `CaptionSelection` among those
            chosen.
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
    """Apply filters one after the other, each to what passed those before.

    Filters that find duplicates come last. The original of a duplicate may be dropped by a later filter as a duplicate
    itself; its own original then counts for both.
    """

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
    """Divide `count` evenly over topics; others make up for a topic that runs out.

    The quotas add up to `count`, or to all that is available.
    """
    quotas: dict[str, int] = {}
    remaining = min(count, sum(available.values()))
    for done, topic in enumerate(sorted(available, key=lambda name: (available[name], name))):
        quotas[topic] = min(available[topic], remaining // (len(available) - done))
        remaining -= quotas[topic]
    return {topic: quotas[topic] for topic in available}


def select_captions(topics: Mapping[str, list[Caption]], count: int, caption_filter: CaptionFilter) -> CaptionSelection:
    """Select `count` accepted captions evenly over topics, or fewer if they run out.

    Each topic first offers a third more than its quota, to replace what is rejected; then twice as much, and twice
    again, until that is enough.

    Args:
        topics: candidates by topic, in order of preference.
        caption_filter: gets the candidates topic by topic.
    """
    available = {topic: len(captions) for topic, captions in topics.items()}
    offer = count + count // 3
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
    chosen = _interleave({topic: indices[: quotas[topic]] for topic, indices in accepted.items()})
    position_of = {index: position for position, index in enumerate(chosen)}
    dropped = []
    for caption, rejection in zip(candidates, rejections, strict=True):
        if rejection is None or (rejection.duplicate_of is not None and rejection.duplicate_of not in position_of):
            continue
        if rejection.duplicate_of is not None:
            rejection = replace(rejection, duplicate_of=position_of[rejection.duplicate_of])
        dropped.append((caption, rejection))
    return CaptionSelection([candidates[index] for index in chosen], dropped)


def _interleave(queues: Mapping[str, list[int]]) -> list[int]:
    """Take one of each topic in turn: any prefix covers the topics evenly."""
    turns = [(turn, topic, index) for topic, queue in enumerate(queues.values()) for turn, index in enumerate(queue)]
    return [index for _, _, index in sorted(turns)]


def assign_images(topics: list[str], count: int, balance: str) -> np.ndarray:
    """Return the caption index of each of `count` images, in rising order.

    Images of one caption are neighbours, so that a later stage meets each caption in one shard and encodes it once.

    Args:
        topics: topic of every caption.
        count: images wanted.
        balance: "captions" gives every caption equally many images; "topics" gives every topic equally many, and within
            a topic every caption.
    """
    if balance == "captions":
        return np.sort(np.arange(count) % len(topics))
    number = {topic: index for index, topic in enumerate(dict.fromkeys(topics))}
    codes = np.array([number[topic] for topic in topics])
    sizes = np.bincount(codes)
    members, starts = np.argsort(codes, kind="stable"), np.cumsum(sizes) - sizes
    topic, turn = np.arange(count) % len(number), np.arange(count) // len(number)
    return np.sort(members[starts[topic] + turn % sizes[topic]])
