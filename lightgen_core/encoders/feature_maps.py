"""Features of a frozen image encoder for each token of an image: the targets of representation alignment."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from lightgen_core.device import to_device
from lightgen_core.encoders.dtypes import PRECISIONS
from lightgen_core.encoders.model_ref import TIMM, ModelNotFound
from lightgen_core.encoders.timm_model import load_timm, timm_config, timm_map


class FeatureMaps:
    """Encodes images to the last feature map of a frozen model, resampled to a grid of tokens.

    The whole image is resized to the model's input, without its crop and whatever its aspect ratio: so that a place in
    the map is the same place in the latents.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        *,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """encode: normalised images (n, 3, height, width) of `size` to maps (n, channels, h, w)."""
        self._encode, self._size, self._dtype = encode, size, dtype
        self.device = torch.device(device)
        self._mean, self._std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
        self._mode = transforms.InterpolationMode(interpolation)
        self.channels = int(self.encode(np.zeros((1, *size, 3), np.uint8), (1, 1)).shape[3])

    @classmethod
    def load(
        cls, reference: str, *, device: torch.device | str = "cpu", precision: str = "fp32", size: int | None = None
    ) -> Self:
        """Load a CLIP's image tower, named as `Clip.load` has it, or a model of timm, as `load_timm`.

        size: side of a timm model's images, px; None: the model's own.

        Raises:
            ClipError, ModelNotFound: there is no such model, or it gives no map of features.
        """
        dtype = PRECISIONS[precision]
        if reference.startswith(TIMM):
            model = load_timm(reference, device, size).to(dtype)
            return cls._of_timm(model, timm_config(model, size), device, dtype)
        if size is not None:
            raise ModelNotFound(f"{reference} is a CLIP, which takes images of its own size; leave features.size out")
        from lightgen_core.encoders.clip import Clip

        clip = Clip.load(reference, device=device, precision=precision)
        tower, found = clip.model.visual, clip.preprocessing
        side = found.size if isinstance(found.size, int) else None
        height, width = (side, side) if side else found.size
        config = {"input_size": (3, height, width), "mean": found.mean, "std": found.std}
        config["interpolation"] = found.interpolation
        if not hasattr(tower, "forward_intermediates"):  # two towers, whose trunk is timm's
            return cls._of_timm(tower.trunk, config, device, dtype)
        return cls._of(lambda images: _open_clip_map(tower, images), config, device, dtype)

    @classmethod
    def _of_timm(cls, model: Any, config: dict[str, Any], device: torch.device | str, dtype: torch.dtype) -> Self:
        return cls._of(lambda images: timm_map(model, images), config, device, dtype)

    @classmethod
    def _of(
        cls,
        encode: Callable[[Tensor], Tensor],
        config: dict[str, Any],
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> Self:
        height, width = config["input_size"][1:]
        options = {name: config[name] for name in ("mean", "std", "interpolation")}
        return cls(encode, size=(height, width), **options, device=device, dtype=dtype)

    @torch.inference_mode()
    def encode(
        self, images: UInt8[np.ndarray, "n height width 3"], grid: tuple[int, int]
    ) -> Float32[np.ndarray, "n grid_height grid_width channels"]:
        """Return the features of each token of an (h, w) grid."""
        values = to_device(torch.from_numpy(np.ascontiguousarray(images)), self.device).permute(0, 3, 1, 2)
        if tuple(values.shape[2:]) != self._size:
            values = transforms.resize(values, list(self._size), interpolation=self._mode, antialias=True)
        maps = self._encode(((values.float() / 255 - self._mean) / self._std).to(self._dtype))
        return resample(maps.float(), grid).permute(0, 2, 3, 1).cpu().numpy()


def resample(
    maps: Float[Tensor, "n channels height width"], grid: tuple[int, int]
) -> Float[Tensor, "n channels grid_height grid_width"]:
    """Bring maps to a grid: means over the places that a token covers, or, where the grid is finer, bilinear."""
    if maps.shape[2] >= grid[0] and maps.shape[3] >= grid[1]:
        return functional.adaptive_avg_pool2d(maps, grid)
    return functional.interpolate(maps, grid, mode="bilinear", align_corners=False)


def _open_clip_map(tower: Any, images: Tensor) -> Tensor:
    """Return the last map of an open_clip image tower, normalised, without its class token."""
    output = tower.forward_intermediates(
        images, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NCHW"
    )
    return output["image_intermediates"][0]
