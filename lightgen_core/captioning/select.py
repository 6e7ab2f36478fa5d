"""The choice of captions: evenly over topics, without those that a screen finds fault with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lightgen_core.captioning.reasons import Reason


@dataclass(frozen=True)
class Caption:
    """A caption, the topic it covers, what it means apart from its wording, and what else it was written to cover."""

    text: str
    topic: str
    meaning: str
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Fault:
    """Why a caption is left out.

    Attributes:
        reason: to be counted.
        detail: of this case, such as the evaluation prompt it gives away.
        repeats: index of the caption it repeats: among those screened, and in a `Choice` among those chosen.
        similarity: to what it repeats or gives away, by the measure that found it.
    """

    reason: Reason
    detail: str = ""
    repeats: int | None = None
    similarity: float | None = None


Screen = Callable[[Sequence[Caption]], list[Fault | None]]
"""Looks at captions, of which earlier ones are preferred, and says of each what is wrong with it."""


@dataclass(frozen=True)
class Choice:
    """The captions chosen, in order, and those left out that had a fault (or repeat one of the chosen)."""

    chosen: list[Caption]
    dropped: list[tuple[Caption, Fault]]


def in_turn(*screens: Screen) -> Screen:
    """One screen after the other, each over what the ones before it found nothing wrong with.

    Screens that find repeats come last: what a caption repeats may go by a later screen, and then the caption repeats
    what that one repeats.
    """

    def screen(captions: Sequence[Caption]) -> list[Fault | None]:
        faults: list[Fault | None] = [None] * len(captions)
        for each in screens:
            left = [row for row, fault in enumerate(faults) if fault is None]
            for row, fault in zip(left, each([captions[row] for row in left]), strict=True):
                repeats = None if fault is None or fault.repeats is None else left[fault.repeats]
                faults[row] = fault and replace(fault, repeats=repeats)
        return [fault and replace(fault, repeats=_origin(faults, fault.repeats)) for fault in faults]

    return screen


def _origin(faults: Sequence[Fault | None], row: int | None) -> int | None:
    """The caption without a fault at the end of a chain of repeats."""
    while row is not None and (fault := faults[row]) is not None:
        assert fault.repeats is not None, "a screen that finds no repeats came after one that does"
        row = fault.repeats
    return row


def even_quotas(available: Mapping[str, int], count: int) -> dict[str, int]:
    """Share `count` evenly over topics; what a topic cannot give goes to the others.

    The quotas add up to `count`, or to all there is.
    """
    quotas: dict[str, int] = {}
    left = min(count, sum(available.values()))
    for waiting, topic in enumerate(sorted(available, key=lambda name: (available[name], name))):
        quotas[topic] = min(available[topic], left // (len(available) - waiting))
        left -= quotas[topic]
    return {topic: quotas[topic] for topic in available}


def choose_captions(topics: Mapping[str, list[Caption]], count: int, screen: Screen) -> Choice:
    """Take `count` captions evenly over topics, of those without a fault; fewer where the topics hold no more.

    Each topic first offers a third more than its share, so that what is dropped can be replaced; twice as much, and
    twice again, while that was not enough.

    Args:
        topics: candidates by topic, in order of preference.
        screen: is shown the candidates topic by topic.
    """
    available = {topic: len(found) for topic, found in topics.items()}
    offer = count + count // 3
    while True:
        offered = even_quotas(available, offer)
        candidates = [caption for topic, found in topics.items() for caption in found[: offered[topic]]]
        faults = screen(candidates)
        if faults.count(None) >= count or offer >= sum(available.values()):
            return _choice(candidates, faults, list(topics), count)
        offer *= 2


def _choice(candidates: list[Caption], faults: list[Fault | None], topics: list[str], count: int) -> Choice:
    survivors: dict[str, list[int]] = {topic: [] for topic in topics}
    for index, fault in enumerate(faults):
        if fault is None:
            survivors[candidates[index].topic].append(index)
    quotas = even_quotas({topic: len(found) for topic, found in survivors.items()}, count)
    taken = _in_turn({topic: found[: quotas[topic]] for topic, found in survivors.items()})
    place = {index: position for position, index in enumerate(taken)}
    dropped = [
        (caption, fault if fault.repeats is None else replace(fault, repeats=place[fault.repeats]))
        for caption, fault in zip(candidates, faults, strict=True)
        if fault is not None and (fault.repeats is None or fault.repeats in place)
    ]
    return Choice([candidates[index] for index in taken], dropped)


def _in_turn(queues: Mapping[str, list[int]]) -> list[int]:
    """One of each topic in turn, so that any prefix of the captions covers the topics evenly."""
    turns = [(turn, topic, index) for topic, queue in enumerate(queues.values()) for turn, index in enumerate(queue)]
    return [index for _, _, index in sorted(turns)]


def assign_images(topics: list[str], count: int, balance: str) -> np.ndarray:
    """Return, for each of `count` images, the index of the caption it is drawn from, in rising order.

    Pictures of one caption are neighbours, so that a later stage meets each caption in one shard and encodes it once.

    Args:
        topics: topic of every caption.
        count: images wanted.
        balance: "captions" gives every caption equally many images; "topics" gives every topic equally many, and within
            a topic every caption.
    """
    if balance == "captions":
        return np.sort(np.arange(count) % len(topics))
    number = {topic: place for place, topic in enumerate(dict.fromkeys(topics))}
    codes = np.array([number[topic] for topic in topics])
    sizes = np.bincount(codes)
    members, starts = np.argsort(codes, kind="stable"), np.cumsum(sizes) - sizes
    which, turn = np.arange(count) % len(number), np.arange(count) // len(number)
    return np.sort(members[starts[which] + turn % sizes[which]])
