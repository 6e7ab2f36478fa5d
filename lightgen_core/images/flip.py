"""Captions that still hold for the flipped image."""

import re

_SIDED = """
left right lefthand righthand leftmost rightmost leftward leftwards rightward rightwards clockwise counterclockwise
anticlockwise east west eastern western
"""
_WRITING = """
text word words letter letters lettering writing written writes reads reading says saying spells spelling sign signs
signage logo label labels labelled labeled number numbers digit digits clock clocks watch map maps banner poster
newspaper book books
"""
_BREAKS = frozenset(f"{_SIDED} {_WRITING}".split())
_QUOTED = re.compile(r'["“”„«»]')


def is_flip_safe(caption: str) -> bool:
    """Return whether a caption holds for the mirrored image, by English words of sides and writing."""
    words = re.findall(r"[a-z]+", caption.lower())
    return not _QUOTED.search(caption) and _BREAKS.isdisjoint(words)
