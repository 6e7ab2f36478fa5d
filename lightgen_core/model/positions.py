"""Learned two-dimensional positions, and their interpolation to other grids."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

RELEASED_OFFSET = 0.1


def positions_for(
    table: Float[Tensor, "places width"], grid: tuple[int, int], released: bool = False
) -> Float[Tensor, "tokens width"]:
    """Interpolate a square table of learned vectors to an (h, w) grid, row-major; bicubic, its own grid excepted.

    ``released`` does as the released code, for weights trained so: the scale is (size + 0.1) / side, and the map is
    laid out as (w, h), so that on a grid that is not square the vectors are out of place.
    """
    height, width = grid
    places, channels = table.shape
    side = round(places**0.5)
    assert side * side == places, f"a position table is square, got {places} places"
    if grid == (side, side):
        return table
    square = table.float().view(1, side, side, channels).permute(0, 3, 1, 2)
    if released:
        scale = ((width + RELEASED_OFFSET) / side, (height + RELEASED_OFFSET) / side)
        resized = functional.interpolate(square, scale_factor=scale, mode="bicubic")
    else:
        resized = functional.interpolate(square, size=(height, width), mode="bicubic")
    return resized.permute(0, 2, 3, 1).reshape(height * width, channels)
