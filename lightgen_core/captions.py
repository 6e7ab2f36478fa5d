"""Caption sources and the choice of captions: many phrasings of many meanings, evenly over topics."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lightgen_core.config import World
from lightgen_core.near_duplicates import near_duplicate_captions
from lightgen_core.scene.grammar import phrasings
from lightgen_core.scene.split import split


@dataclass(frozen=True)
class Caption:
    """A caption, the topic it covers, and what it means apart from its wording."""

    text: str
    topic: str
    meaning: str


def scene_captions(world: World, rng: np.random.Generator) -> dict[str, list[Caption]]:
    """Return every phrasing of every training meaning, shuffled, by topic.

    Held-out meanings are left out whole, so no phrasing of an evaluation caption is ever trained on.
    """
    topics: dict[str, list[Caption]] = {}
    for meaning in split(world)[0]:
        said = [Caption(text, meaning.category, meaning.canonical) for text in phrasings(meaning)]
        topics.setdefault(meaning.category, []).extend(said)
    return {topic: [found[i] for i in rng.permutation(len(found))] for topic, found in topics.items()}


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


@dataclass(frozen=True)
class Choice:
    """The captions chosen, in order, and the near-duplicates of these that were left out."""

    chosen: list[Caption]
    dropped: list["Repeated"]


@dataclass(frozen=True)
class Repeated:
    """A caption that was left out, the index (into `Choice.chosen`) of the one it repeats, and their Jaccard index."""

    caption: Caption
    repeats: int
    similarity: float


def choose_captions(topics: Mapping[str, list[Caption]], count: int, near_duplicate: float, seed: int) -> Choice:
    """Take `count` captions evenly over topics, without near-duplicates of the same meaning.

    Each topic offers a third more than its share, so that what is dropped can be replaced.

    Args:
        topics: candidates by topic, in order of preference.
        near_duplicate: Jaccard similarity of word shingles above which the later caption goes.
        seed: of the hashes behind the search for near-duplicates.
    """
    offered = even_quotas({topic: len(found) for topic, found in topics.items()}, count + count // 3)
    candidates = [caption for topic, found in topics.items() for caption in found[: offered[topic]]]
    found = near_duplicate_captions(
        [caption.text for caption in candidates],
        near_duplicate,
        seed,
        groups=[caption.meaning for caption in candidates],
    )
    survivors: dict[str, list[int]] = {topic: [] for topic in topics}
    for index in np.flatnonzero(found.kept):
        survivors[candidates[index].topic].append(int(index))
    quotas = even_quotas({topic: len(found) for topic, found in survivors.items()}, count)
    taken = list(_in_turn({topic: found[: quotas[topic]] for topic, found in survivors.items()}))
    place = {index: position for position, index in enumerate(taken)}
    dropped = [
        Repeated(candidates[index], place[int(found.duplicate_of[index])], float(found.similarity[index]))
        for index in np.flatnonzero(~found.kept)
        if int(found.duplicate_of[index]) in place
    ]
    return Choice([candidates[index] for index in taken], dropped)


def _in_turn(queues: Mapping[str, list[int]]) -> Iterator[int]:
    """Yield one of each topic in turn, so that any prefix of the captions covers the topics evenly."""
    for turn in range(max(map(len, queues.values()), default=0)):
        for queue in queues.values():
            if turn < len(queue):
                yield queue[turn]


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
    names = list(dict.fromkeys(topics))
    members = {name: np.flatnonzero([topic == name for topic in topics]) for name in names}
    which, turn = np.arange(count) % len(names), np.arange(count) // len(names)
    return np.sort([members[names[w]][t % len(members[names[w]])] for w, t in zip(which, turn, strict=True)])
