"""Latents to image tokens and back: one token is a patch x patch square of the latent, channel by channel."""

from jaxtyping import Shaped
from torch import Tensor


def patchify(
    latents: Shaped[Tensor, "batch channels height width"], patch: int = 2
) -> Shaped[Tensor, "batch tokens values"]:
    """Cut latents into row-major tokens, channel-major inside; ValueError if the patch does not divide them."""
    batch, channels, height, width = latents.shape
    if height % patch or width % patch:
        raise ValueError(
            f"latents of {height}x{width} cannot be cut into patches of {patch}x{patch}: "
            f"choose an image size whose latents are multiples of {patch}"
        )
    rows, columns = height // patch, width // patch
    cut = latents.reshape(batch, channels, rows, patch, columns, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * patch * patch)


def unpatchify(
    tokens: Shaped[Tensor, "batch tokens values"], grid: tuple[int, int], channels: int, patch: int = 2
) -> Shaped[Tensor, "batch channels height width"]:
    """Put row-major tokens of an (h, w) grid together to latents of (h x patch, w x patch)."""
    rows, columns = grid
    batch, count, values = tokens.shape
    if count != rows * columns or values != channels * patch * patch:
        raise ValueError(
            f"{count} tokens of {values} values do not make a grid of {rows}x{columns} with {channels} channels "
            f"and patch {patch}: expected {rows * columns} tokens of {channels * patch * patch} values"
        )
    cut = tokens.reshape(batch, rows, columns, channels, patch, patch)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows * patch, columns * patch)
