"""Detector of the scene world: finds objects and scores images by captions.

It sees the image and the vocabulary only, not the caption nor the recipe's choice of words, sizes and layout.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from lightgen_core.scene.meaning import Meaning
from lightgen_core.scene.objects import Detection, find_objects

POSITION_MARGIN, POSITION_COSINE = 0.1, 0.5
"""GenEval: fraction of the two widths that an offset must exceed, and least fraction of the offset along the axis."""


def detect(image: NDArray[np.uint8]) -> list[Detection]:
    """Return the objects in `image` (height, width, 3), top to bottom."""
    return [obj for obj in find_objects(image) if obj is not None]


def satisfies(image: NDArray[np.uint8], meaning: Meaning) -> bool:
    """Return True if `image` (height, width, 3) shows exactly `meaning`.

    GenEval's rules made strict: one more object, or something as large that is no object, is wrong in every category.
    """
    regions = find_objects(image)
    objects = [obj for obj in regions if obj is not None]
    expected = Counter({obj.shape: meaning.count for obj in meaning.objects})
    if len(objects) < len(regions) or Counter(obj.shape for obj in objects) != expected:
        return False
    colors = {obj.shape: obj.color for obj in meaning.objects}
    if any(colors[obj.shape] not in (None, obj.color) for obj in objects):
        return False
    if meaning.relation is None:
        return True
    detections = {obj.shape: obj for obj in objects}
    return meaning.relation in relations(*(detections[obj.shape] for obj in meaning.objects))


def relations(first: Detection, second: Detection) -> set[str]:
    """Return up to two relations of `first` to `second` (GenEval's rule)."""
    offset = np.array([first.x - second.x, first.y - second.y])
    margin = POSITION_MARGIN * 2 * (first.radius + second.radius)
    clear = np.sign(offset) * np.maximum(np.abs(offset) - margin, 0)
    across, down = clear / max(float(np.linalg.norm(offset)), 1e-9)
    along = {"left of": -across, "right of": across, "above": -down, "below": down}
    return {name for name, fraction in along.items() if fraction > POSITION_COSINE}
