"""Captions of GenEval's form, read as what they demand of an image. Free of torch."""

from typing import cast, get_args

from lightgen_core.evaluation.geneval_prompts import (
    COLORS,
    NAMES,
    Color,
    Relation,
    Requirement,
    attribution,
    colors,
    counting,
    plural,
    position,
    single,
    two,
)
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.scene.vocabulary import NUMBERS

_ARTICLES = ("a ", "an ")
_PLURALS = {form: name for name in NAMES for form in (f"{name}s", plural(name))}
"""Plurals in English, and as GenEval's own prompts have them ("wine glasss"), to classes."""


def read_caption(caption: str) -> Prompt | None:
    """Return a caption such as "a photo of two clocks" with its category and meaning; None for any other form.

    Case, a full stop and "a photo of" may be left out.
    """
    phrase = " ".join(caption.lower().rstrip(". ").split()).removeprefix("a photo of ")
    read = _read_counting(phrase) or _read_position(phrase) or _read_objects(phrase)
    return Prompt(caption, read[0], read[1].as_meaning()) if read else None


def _read_counting(phrase: str) -> tuple[str, Requirement] | None:
    number, _, name = phrase.partition(" ")
    if number not in NUMBERS or name not in _PLURALS:
        return None
    return "counting", counting(_PLURALS[name], number)[1]


def _read_position(phrase: str) -> tuple[str, Requirement] | None:
    for relation in get_args(Relation):
        first, found, second = phrase.partition(f" {relation} ")
        names = (_without_article(first), _without_article(second))
        if found and names[0] in NAMES and names[1] in NAMES:
            return "position", position(names, relation)[1]
    return None


def _read_objects(phrase: str) -> tuple[str, Requirement] | None:
    parts = [_without_article(part) for part in phrase.split(" and ")]
    if len(parts) > 2:
        return None
    if all(part in NAMES for part in parts):
        one = len(parts) == 1
        return ("single_object", single(parts[0])[1]) if one else ("two_object", two((parts[0], parts[1]))[1])
    words = [part.partition(" ") for part in parts]
    if not all(color in COLORS and name in NAMES for color, _, name in words):
        return None
    coloured = [(name, cast(Color, color)) for color, _, name in words]
    if len(coloured) == 1:
        return "colors", colors(*coloured[0])[1]
    (name, color), (other, second) = coloured
    return "color_attr", attribution((name, other), (color, second))[1]


def _without_article(phrase: str) -> str:
    """Return an object without its article; "" for one that has none, but for classes that take none."""
    for article in _ARTICLES:
        if phrase.startswith(article):
            return phrase.removeprefix(article)
    return phrase if phrase.endswith("s") or phrase == "broccoli" else ""
