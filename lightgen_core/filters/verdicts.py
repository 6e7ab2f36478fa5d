"""Verdicts of the filters: the first reason to drop each image, with the value and the threshold it missed."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lightgen_core.filters.config import HeadFilter, ImageFilters

SMALL = "small"
ELONGATED = "elongated"
BLURRED = "blurred"
UNIFORM = "uniform"
LOW_SCORE = "low text-image score"
LOW_JUDGEMENT = "low judge score"
NO_JUDGEMENT = "no judge score"


class Verdicts:
    """Verdicts on images, filled by one filter after another.

    Attributes:
        reason: (n,) object, the first reason to drop an image; None where it passes.
        value, threshold: (n,) float32, what was measured and what was asked; NaN where there is none.
    """

    def __init__(self, rows: int) -> None:
        self.reason = np.full(rows, None, object)
        self.value, self.threshold = np.full((2, rows), np.nan, np.float32)

    @property
    def passed(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: images that no filter has dropped yet."""
        return np.array([reason is None for reason in self.reason], bool)

    def drop(self, reason: str, failed: npt.NDArray[np.bool_], value: npt.ArrayLike, threshold: float) -> None:
        """Drop the images that failed a filter and no earlier one. value: (n,)."""
        rows = failed & self.passed
        self.reason[rows] = reason
        self.value[rows] = np.asarray(value)[rows]
        self.threshold[rows] = threshold


def apply_pixel_filters(verdicts: Verdicts, filters: ImageFilters, measures: Mapping[str, np.ndarray]) -> None:
    """Drop images by their measures, (n,) each: `width`, `height`, `sharpness`, `entropy`."""
    short, long = (function(measures["width"], measures["height"]) for function in (np.minimum, np.maximum))
    if (side := filters.min_side) is not None:
        verdicts.drop(SMALL, short < side, short, side)
    if (aspect := filters.max_aspect) is not None:
        verdicts.drop(ELONGATED, long > aspect * short, long / short, aspect)
    for reason, name, least in (
        (BLURRED, "sharpness", filters.min_sharpness),
        (UNIFORM, "entropy", filters.min_entropy),
    ):
        if least is not None:
            verdicts.drop(reason, measures[name] < least, measures[name], least)


def apply_head(verdicts: Verdicts, head: HeadFilter, scores: npt.NDArray[np.float32]) -> None:
    """Drop images by a head's scores, (n,)."""
    if head.min is not None:
        verdicts.drop(f"low {head.name}", scores < head.min, scores, head.min)
    if head.max is not None:
        verdicts.drop(f"high {head.name}", scores > head.max, scores, head.max)


def apply_text_image_score(
    verdicts: Verdicts,
    scores: npt.NDArray[np.float32],
    shown: npt.NDArray[np.bool_],
    least: float | None,
) -> None:
    """Drop the images, (n,), that `clip_score_mask` has not shown.

    The threshold is `least` for scores below it, and for those that are of the lowest share the lowest score shown.
    """
    if least is not None:
        verdicts.drop(LOW_SCORE, scores < least, scores, least)
    if not shown.all():
        verdicts.drop(LOW_SCORE, ~shown, scores, float(scores[shown].min()))


def apply_judge(verdicts: Verdicts, scores: npt.NDArray[np.float32], min_score: float) -> None:
    """Drop images by a judge's scores, (n,), NaN where it gave none."""
    verdicts.drop(NO_JUDGEMENT, np.isnan(scores), scores, min_score)
    verdicts.drop(LOW_JUDGEMENT, scores < min_score, scores, min_score)
