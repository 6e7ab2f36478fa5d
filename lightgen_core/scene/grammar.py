"""Captions of the scene world: every meaning, its many phrasings, and the parser that reads them back."""

import re
from itertools import combinations, permutations, product

from lightgen_core.scene.config import World
from lightgen_core.scene.meaning import NUMBER_WORDS, Meaning, Object
from lightgen_core.scene.vocabulary import COLORS, NUMBERS, RELATIONS, SHAPES, plural, with_article

PREFIXES = (
    "", "a photo of", "a picture of", "an image of", "a photograph of", "a drawing of", "an illustration of",
    "a painting of", "a simple picture of", "a clean drawing of", "a scene with", "show me", "draw",
)  # fmt: skip
SUFFIXES = ("", "on a plain background")
ONE = ("a", "one", "a single", "just one")
GROUPS = ("", "exactly", "a group of", "a set of")
CONJUNCTIONS = ("and", "and also", "with", "next to", "together with", "along with", "as well as")
COLORED = ("{color} {shape}", "{color} colored {shape}", "{shape} that is {color}", "{shape} in {color}")
RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right of": ("right of", "to the right of", "on the right of", "on the right side of"),
    "above": ("above", "over", "right above", "higher up than"),
    "below": ("below", "under", "beneath", "underneath"),
}
ASIDE: dict[str, tuple[str, ...]] = {
    "left of": ("to its left", "on its left"),
    "right of": ("to its right", "on its right"),
    "above": ("above it", "over it"),
    "below": ("below it", "under it"),
}
EXAMPLE = "a photo of a red circle and a blue square"


class CaptionError(ValueError):
    """A caption that the grammar does not know."""


def meanings(world: World) -> list[Meaning]:
    """Every meaning the world can express: category by category, then in the order of its shapes and colours."""
    one = [Object(shape) for shape in world.shapes]
    counts = range(2, world.max_count + 1)
    found = [Meaning("single_object", (a,)) for a in one]
    found += [Meaning("two_object", pair) for pair in combinations(one, 2)]
    found += [Meaning("counting", (a,), count=n) for a, n in product(one, counts)]
    found += [Meaning("colors", (Object(s, c),)) for s, c in product(world.shapes, world.colors)]
    found += [Meaning("position", pair, relation=r) for pair in permutations(one, 2) for r in ("left of", "above")]
    for (s, t), (c, d) in product(combinations(world.shapes, 2), permutations(world.colors, 2)):
        found.append(Meaning("color_attr", (Object(s, c), Object(t, d))))
    return found


def phrasings(meaning: Meaning) -> list[str]:
    """All captions of one meaning: distinct, in a fixed order, the canonical one first."""
    cores = _cores(meaning)
    return [" ".join(filter(None, parts)) for parts in product(PREFIXES, cores, SUFFIXES)]


def _cores(meaning: Meaning) -> list[str]:
    """The phrasings without what may stand before and after them."""
    if meaning.category == "counting":
        return _counted(meaning)
    if meaning.category == "position":
        return _placed(meaning)
    if len(meaning.objects) == 1:
        nouns = _nouns(meaning.objects[0])
        return [f"{one} {noun}" if one != "a" else with_article(noun) for one, noun in product(ONE, nouns)]
    sides = [[with_article(noun) for noun in _nouns(o)] for o in meaning.objects]
    orders = [*zip(*sides, strict=True), *zip(*reversed(sides), strict=True)]
    return [f"{a} {conjunction} {b}" for conjunction, (a, b) in product(CONJUNCTIONS, orders)]


def _nouns(thing: Object) -> list[str]:
    """The ways to say "circle" or "red circle"."""
    if thing.color is None:
        return [thing.shape]
    return [form.format(color=thing.color, shape=thing.shape) for form in COLORED]


def _counted(meaning: Meaning) -> list[str]:
    nouns = plural(meaning.objects[0].shape)
    numbers = (NUMBER_WORDS[meaning.count], str(meaning.count))
    said = [" ".join(filter(None, (group, number, nouns))) for group, number in product(GROUPS, numbers)]
    return said + [f"a pair of {nouns}"] * (meaning.count == 2)


def _placed(meaning: Meaning) -> list[str]:
    first, second = (with_article(o.shape) for o in meaning.objects)
    assert meaning.relation is not None
    ways = ((first, meaning.relation, second), (second, RELATIONS[meaning.relation], first))
    said = [f"{a} {phrase} {b}" for a, relation, b in ways for phrase in RELATION_PHRASES[relation]]
    return said + [f"{b} with {a} {phrase}" for a, relation, b in ways for phrase in ASIDE[relation]]


def parse(caption: str) -> Meaning:
    """The meaning of `caption`; the inverse of every phrasing, in any case and with or without a final mark.

    Raises:
        CaptionError: `caption` is not a sentence of the grammar. Says what was found and what is expected.
    """
    text = re.sub(r"[\s,]+", " ", caption.lower()).strip(" .!?;")
    text = _PREFIX.sub("", _SUFFIX.sub("", text), count=1)
    try:
        return _read(text)
    except CaptionError as error:
        raise CaptionError(f"cannot read caption {caption!r}: {error}; an example: {EXAMPLE!r}") from None
    except ValueError as error:  # a sentence, but what it says is in no category
        raise CaptionError(f"caption {caption!r} has no category: {error}; an example: {EXAMPLE!r}") from None


def _read(text: str) -> Meaning:
    if match := _COUNTED.fullmatch(text):
        number = match["number"] or "two"
        count = NUMBERS[number] if number in NUMBERS else int(number)
        return Meaning("counting", (Object(_SINGULAR[match["nouns"]]),), count=count)
    if match := _ASIDE.fullmatch(text):
        pair = (_object(match["first"]), _object(match["second"]))
        return Meaning("position", pair, relation=_ASIDE_MEANS[match["aside"]])
    if match := _PLACED.fullmatch(text):
        pair = (_object(match["first"]), _object(match["second"]))
        return Meaning("position", pair, relation=_PHRASE_MEANS[match["relation"]])
    if match := _PAIR.fullmatch(text):
        pair = (_object(match["first"]), _object(match["second"]))
        return Meaning("color_attr" if pair[0].color or pair[1].color else "two_object", pair)
    thing = _object(text)
    return Meaning("colors" if thing.color else "single_object", (thing,))


def _object(text: str) -> Object:
    match = _NOUN.fullmatch(text)
    if match is None:
        raise CaptionError(
            f"found {text!r} where an object was expected, such as 'a star' or 'a red star' "
            f"(shapes: {', '.join(SHAPES)}; colours: {', '.join(COLORS)}; counts: {', '.join(NUMBERS)})"
        )
    return Object(match["shape"], match["before"] or match["after"])


def _any(words: object) -> str:
    """A pattern for any of `words`, longest first so that none hides another."""
    return "|".join(sorted(map(re.escape, map(str, words)), key=lambda w: (-len(w), w)))  # type: ignore[call-overload]


_SINGULAR = {plural(shape): shape for shape in SHAPES}
_PHRASE_MEANS = {phrase: relation for relation, phrases in RELATION_PHRASES.items() for phrase in phrases}
_ASIDE_MEANS = {phrase: relation for relation, phrases in ASIDE.items() for phrase in phrases}
_PREFIX = re.compile(rf"^(?:{_any(filter(None, PREFIXES))}) ")
_SUFFIX = re.compile(rf" (?:{_any(filter(None, SUFFIXES))})$")
_COUNTED = re.compile(
    rf"(?:(?:{_any(filter(None, GROUPS))}) )?(?:a pair of|(?P<number>\d|{_any(NUMBERS)})) (?P<nouns>{_any(_SINGULAR)})"
)
_ASIDE = re.compile(rf"(?P<second>.+) with (?P<first>.+) (?P<aside>{_any(_ASIDE_MEANS)})")
_PLACED = re.compile(rf"(?P<first>.+?) (?P<relation>{_any(_PHRASE_MEANS)}) (?P<second>.+)")
_PAIR = re.compile(rf"(?P<first>.+?) (?:{_any(CONJUNCTIONS)}) (?P<second>.+)")
_NOUN = re.compile(
    rf"(?:(?:{_any(ONE)}|an|the) )?"
    rf"(?:(?P<before>{_any(COLORS)})(?:[ -]colou?red)? )?(?P<shape>{_any(SHAPES)})"
    rf"(?: (?:that is|in) (?P<after>{_any(COLORS)}))?"
)
