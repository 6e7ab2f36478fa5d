"""Grammar of the scene world: meanings, their phrasings, and the parser."""

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
    """Caption outside the grammar."""


def meanings(world: World) -> list[Meaning]:
    """Return every meaning of a world, by category, shapes and colours."""
    one = [Object(shape) for shape in world.shapes]
    counts = range(2, world.max_count + 1)
    result = [Meaning("single_object", (a,)) for a in one]
    result += [Meaning("two_object", pair) for pair in combinations(one, 2)]
    result += [Meaning("counting", (a,), count=n) for a, n in product(one, counts)]
    result += [Meaning("colors", (Object(s, c),)) for s, c in product(world.shapes, world.colors)]
    result += [Meaning("position", pair, relation=r) for pair in permutations(one, 2) for r in ("left of", "above")]
    for (s, t), (c, d) in product(combinations(world.shapes, 2), permutations(world.colors, 2)):
        result.append(Meaning("color_attr", (Object(s, c), Object(t, d))))
    return result


def phrasings(meaning: Meaning) -> list[str]:
    """Return all distinct captions of a meaning, the canonical one first."""
    cores = _cores(meaning)
    return [" ".join(filter(None, parts)) for parts in product(PREFIXES, cores, SUFFIXES)]


def _cores(meaning: Meaning) -> list[str]:
    """Return the phrasings without prefix and suffix."""
    if meaning.category == "counting":
        return _counting_phrases(meaning)
    if meaning.category == "position":
        return _position_phrases(meaning)
    if len(meaning.objects) == 1:
        nouns = _nouns(meaning.objects[0])
        return [f"{one} {noun}" if one != "a" else with_article(noun) for one, noun in product(ONE, nouns)]
    sides = [[with_article(noun) for noun in _nouns(o)] for o in meaning.objects]
    orders = [*zip(*sides, strict=True), *zip(*reversed(sides), strict=True)]
    return [f"{a} {conjunction} {b}" for conjunction, (a, b) in product(CONJUNCTIONS, orders)]


def _nouns(obj: Object) -> list[str]:
    """Return the noun phrases of "circle" or "red circle"."""
    if obj.color is None:
        return [obj.shape]
    return [form.format(color=obj.color, shape=obj.shape) for form in COLORED]


def _counting_phrases(meaning: Meaning) -> list[str]:
    nouns = plural(meaning.objects[0].shape)
    numbers = (NUMBER_WORDS[meaning.count], str(meaning.count))
    captions = [" ".join(filter(None, (group, number, nouns))) for group, number in product(GROUPS, numbers)]
    return captions + [f"a pair of {nouns}"] * (meaning.count == 2)


def _position_phrases(meaning: Meaning) -> list[str]:
    first, second = (with_article(o.shape) for o in meaning.objects)
    assert meaning.relation is not None
    ways = ((first, meaning.relation, second), (second, RELATIONS[meaning.relation], first))
    captions = [f"{a} {phrase} {b}" for a, relation, b in ways for phrase in RELATION_PHRASES[relation]]
    return captions + [f"{b} with {a} {phrase}" for a, relation, b in ways for phrase in ASIDE[relation]]


def parse(caption: str) -> Meaning:
    """Parse a caption of any case and final punctuation into its meaning.

    Raises:
        CaptionError: `caption` is not a sentence of the grammar.
    """
    text = re.sub(r"[\s,]+", " ", caption.lower()).strip(" .!?;")
    text = _PREFIX_RE.sub("", _SUFFIX_RE.sub("", text), count=1)
    try:
        return _parse_normalized(text)
    except CaptionError as error:
        raise CaptionError(f"cannot read caption {caption!r}: {error}; an example: {EXAMPLE!r}") from None
    except ValueError as error:  # a sentence, but what it says is in no category
        raise CaptionError(f"caption {caption!r} has no category: {error}; an example: {EXAMPLE!r}") from None


def _parse_normalized(text: str) -> Meaning:
    if match := _COUNTING_RE.fullmatch(text):
        number = match["number"] or "two"
        count = NUMBERS[number] if number in NUMBERS else int(number)
        return Meaning("counting", (Object(_SINGULAR[match["nouns"]]),), count=count)
    if match := _POSITION_AFTER_RE.fullmatch(text):
        pair = (_object(match["first"]), _object(match["second"]))
        return Meaning("position", pair, relation=_ASIDE_MEANS[match["aside"]])
    if match := _POSITION_RE.fullmatch(text):
        pair = (_object(match["first"]), _object(match["second"]))
        return Meaning("position", pair, relation=_PHRASE_MEANS[match["relation"]])
    if match := _PAIR_RE.fullmatch(text):
        pair = (_object(match["first"]), _object(match["second"]))
        return Meaning("color_attr" if pair[0].color or pair[1].color else "two_object", pair)
    obj = _object(text)
    return Meaning("colors" if obj.color else "single_object", (obj,))


def _object(text: str) -> Object:
    match = _NOUN_RE.fullmatch(text)
    if match is None:
        raise CaptionError(
            f"found {text!r} where an object was expected, such as 'a star' or 'a red star' "
            f"(shapes: {', '.join(SHAPES)}; colours: {', '.join(COLORS)}; counts: {', '.join(NUMBERS)})"
        )
    return Object(match["shape"], match["before"] or match["after"])


def _any_of(words: object) -> str:
    """Return a regex alternation of `words`, longest first."""
    return "|".join(sorted(map(re.escape, map(str, words)), key=lambda w: (-len(w), w)))  # type: ignore[call-overload]


_SINGULAR = {plural(shape): shape for shape in SHAPES}
_PHRASE_MEANS = {phrase: relation for relation, phrases in RELATION_PHRASES.items() for phrase in phrases}
_ASIDE_MEANS = {phrase: relation for relation, phrases in ASIDE.items() for phrase in phrases}
_PREFIX_RE = re.compile(rf"^(?:{_any_of(filter(None, PREFIXES))}) ")
_SUFFIX_RE = re.compile(rf" (?:{_any_of(filter(None, SUFFIXES))})$")
_COUNTING_RE = re.compile(
    rf"(?:(?:{_any_of(filter(None, GROUPS))}) )?(?:a pair of|(?P<number>\d|{_any_of(NUMBERS)})) "
    rf"(?P<nouns>{_any_of(_SINGULAR)})"
)
_POSITION_AFTER_RE = re.compile(rf"(?P<second>.+) with (?P<first>.+) (?P<aside>{_any_of(_ASIDE_MEANS)})")
_POSITION_RE = re.compile(rf"(?P<first>.+?) (?P<relation>{_any_of(_PHRASE_MEANS)}) (?P<second>.+)")
_PAIR_RE = re.compile(rf"(?P<first>.+?) (?:{_any_of(CONJUNCTIONS)}) (?P<second>.+)")
_NOUN_RE = re.compile(
    rf"(?:(?:{_any_of(ONE)}|an|the) )?"
    rf"(?:(?P<before>{_any_of(COLORS)})(?:[ -]colou?red)? )?(?P<shape>{_any_of(SHAPES)})"
    rf"(?: (?:that is|in) (?P<after>{_any_of(COLORS)}))?"
)
