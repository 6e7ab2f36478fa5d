"""Whether a caption still holds for the mirrored picture."""

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


def mirrorable(caption: str) -> bool:
    """False where the caption tells left from right, or speaks of something whose mirror image reads wrong (writing).

    By a list of English words, on the careful side: a picture that is not mirrored costs less than one that is wrong.
    """
    words = re.findall(r"[a-z]+", caption.lower())
    return not _QUOTED.search(caption) and _BREAKS.isdisjoint(words)
