"""Filter images by CLIP's text-image score, as web-scale sets are (LAION; DataComp)."""

import numpy as np
import numpy.typing as npt


def clip_score_mask(
    score: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], least: float | None, drop_lowest_fraction: float
) -> npt.NDArray[np.bool_]:
    """Return the rows to keep, (n,) bool.

    Args:
        score: (n,) cosine of image and caption.
        ids: (n,) distinct; of equal scores the largest id goes first, so the order of rows does not matter.
        least: rows below it go; None: no such rule.
        drop_lowest_fraction: of all rows, this share goes (rounded down), the lowest scores first.

    Raises:
        ValueError: no row is left.
    """
    stays = np.ones(len(score), bool)
    stays[np.lexsort((-ids, score))[: int(drop_lowest_fraction * len(score))]] = False
    if least is not None:
        stays &= score >= least
    if not stays.any():
        raise ValueError(
            f"no image is left: scores lie between {score.min():.3f} and {score.max():.3f}, and "
            f"dedup.min_clip_score is {least}; lower it"
        )
    return stays
