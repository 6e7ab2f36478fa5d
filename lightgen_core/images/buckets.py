"""Aspect-ratio buckets: shapes of about one area, and the one that fits an image best.

A ratio is a text "width:height" of two whole numbers. All comparisons are of fractions, so that no rounding decides.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from math import isqrt

_RATIO = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})")


def parse_ratio(text: str) -> Fraction:
    """Return width over height of a ratio such as "4:3"; ValueError for another form."""
    if (found := _RATIO.fullmatch(text)) is None:
        raise ValueError(f"found {text!r}; expected an aspect ratio width:height such as '4:3', in quotes")
    return Fraction(int(found[1]), int(found[2]))


def check_ratios(ratios: Sequence[str]) -> None:
    """Raise ValueError for a text that is no ratio, or two texts of one ratio."""
    named: dict[Fraction, str] = {}
    for ratio in ratios:
        if other := named.get(aspect := parse_ratio(ratio)):
            raise ValueError(f"{other} and {ratio} are one aspect ratio; expected each once")
        named[aspect] = ratio


def bucket_shape(ratio: str, size: int, multiple: int) -> tuple[int, int]:
    """Return height and width, px, of a bucket of about size * size pixels.

    Each is the multiple of `multiple` that is nearest to the exact side, one at least: sides of 1:1 are `size` itself
    if that is a multiple.
    """
    aspect = parse_ratio(ratio)
    width, height = (
        max(1, _rounded_root((size * size * factor) / (multiple * multiple))) for factor in (aspect, 1 / aspect)
    )
    return height * multiple, width * multiple


def _rounded_root(square: Fraction) -> int:
    """Return the square root, rounded to the nearest whole number, halves up."""
    return (isqrt(int(4 * square)) + 1) // 2


def bucket_shapes(ratios: Sequence[str], size: int, multiple: int) -> tuple[tuple[int, int], ...]:
    """Return (height, width), px, of the bucket of each ratio; ValueError if two of them round to one shape."""
    named: dict[tuple[int, int], str] = {}
    for ratio in ratios:
        height, width = shape = bucket_shape(ratio, size, multiple)
        if other := named.get(shape):
            raise ValueError(
                f"tokens.buckets: at {size} px {other} and {ratio} are both {width} x {height} px, in whole tokens of "
                f"{multiple} px; leave one out, or take larger sizes"
            )
        named[shape] = ratio
    return tuple(named)


def nearest_bucket(ratios: Sequence[str], height: int, width: int) -> int:
    """Return the position of the ratio whose logarithm is nearest to an image's; of equally near ones the first."""
    image = Fraction(width, height)
    factors = [max(image / aspect, aspect / image) for aspect in map(parse_ratio, ratios)]
    return factors.index(min(factors))
