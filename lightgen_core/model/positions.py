"""Learned two-dimensional positions, and their interpolation to other grids."""

import functools

import torch
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

    Interpolation is linear in the table. On a GPU it is a product with a constant matrix: its gradient then has one
    order of sums, where that of torch's kernel adds in the order in which threads come.
    """
    places = len(table)
    side = round(places**0.5)
    assert side * side == places, f"a position table is square, got {places} places"
    if grid == (side, side):
        return table
    if table.is_cuda:
        with torch.autocast(table.device.type, enabled=False):
            return interpolation_matrix(side, grid, released, table.device) @ table.float()
    return _interpolate(table.float().view(side, side, table.shape[1]), grid, released)


@functools.cache
def interpolation_matrix(
    side: int, grid: tuple[int, int], released: bool, device: torch.device
) -> Float[Tensor, "tokens places"]:
    """Return the weights of a table's vectors in those of a grid, copied to the device once."""
    with torch.inference_mode(False):  # training may read what sampling made
        return _interpolate(torch.eye(side**2).view(side, side, side**2), grid, released).to(device)


def _interpolate(
    table: Float[Tensor, "side side width"], grid: tuple[int, int], released: bool
) -> Float[Tensor, "tokens width"]:
    (side, _, channels), (height, width) = table.shape, grid
    square = table[None].permute(0, 3, 1, 2)
    if released:
        scale = ((width + RELEASED_OFFSET) / side, (height + RELEASED_OFFSET) / side)
        resized = functional.interpolate(square, scale_factor=scale, mode="bicubic")
    else:
        resized = functional.interpolate(square, size=(height, width), mode="bicubic")
    return resized.permute(0, 2, 3, 1).reshape(height * width, channels)
