"""Split of meanings into training and held-out ones."""

from collections import Counter
from hashlib import blake2b

from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import meanings
from lightgen_core.scene.meaning import Meaning
from lightgen_core.scene.vocabulary import CATEGORIES

_KEY = b"lightgen scene split 1"


def split(world: World) -> tuple[list[Meaning], list[Meaning]]:
    """Return training and held-out meanings in the order of `meanings(world)`.

    In each category the fraction `world.held_out` is held out, but at least one meaning and never all, in the order of
    a keyed hash, whatever the recipe's seed. A meaning whose word (shape, colour, number, relation) the category would
    not train on otherwise is passed over, so evaluation asks for new combinations of known words; only where every
    meaning is its own word (single objects) the first is taken.
    """
    all_meanings = meanings(world)
    held_out: set[Meaning] = set()
    for category in CATEGORIES:
        held_out |= _hold_out([m for m in all_meanings if m.category == category], world.held_out)
    return [m for m in all_meanings if m not in held_out], [m for m in all_meanings if m in held_out]


def _hold_out(members: list[Meaning], fraction: float) -> set[Meaning]:
    quota = min(len(members) - 1, max(1, round(fraction * len(members))))
    order = sorted(members, key=lambda m: blake2b(m.canonical.encode(), key=_KEY, digest_size=16).digest())
    trained = Counter(word for m in members for word in _words(m))
    held_out: set[Meaning] = set()
    for meaning in order:
        if len(held_out) < quota and all(trained[word] > 1 for word in _words(meaning)):
            held_out.add(meaning)
            trained.subtract(_words(meaning))
    return held_out or set(order[:quota])


def _words(meaning: Meaning) -> set[str | int]:
    words: set[str | int | None] = {meaning.count, meaning.relation}
    for obj in meaning.objects:
        words |= {obj.shape, obj.color}
    return {word for word in words if word is not None}
