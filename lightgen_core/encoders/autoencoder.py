"""The frozen image autoencoder: images to normalised latents and back (diffusers AutoencoderKL or AutoencoderDC)."""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightgen_core.device import to_device
from lightgen_core.encoders.model_ref import parse_model_ref

CLASSES = ("AutoencoderKL", "AutoencoderDC")
"""diffusers classes that can be loaded; a folder's config.json names its own."""

PIXELS_AT_ONCE = 1 << 22
"""Pixels that pass through an autoencoder together, 16 images of 512 px: SD3.5's takes 12 GiB for them in fp32."""


class CodecError(ValueError):
    """A reference that holds no autoencoder we can use, or images and latents that do not fit it."""


class LatentCodec:
    """Images uint8 (n, height, width, 3) <-> latents float32 (n, channels, height / stride, width / stride).

    Latents are normalised by the model's configuration to mean 0 and variance 1: less `shift_factor` (AutoencoderKL
    only), times `scaling_factor`. An AutoencoderKL `has_moments`: its encoder gives a normal distribution of latents.
    """

    def __init__(self, model: diffusers.ModelMixin) -> None:
        if type(model).__name__ not in CLASSES:
            raise CodecError(f"found an autoencoder of class {type(model).__name__}, expected {' or '.join(CLASSES)}")
        self.model = model.eval().requires_grad_(False)
        config = model.config
        self._scale = float(config.get("scaling_factor") or 1.0)
        self._shift = float(config.get("shift_factor") or 0.0)
        self.has_moments = isinstance(model, diffusers.AutoencoderKL)
        self.channels = int(config["latent_channels"])
        self.stride = _stride(config)

    @classmethod
    def load(cls, reference: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Load "zoo:autoencoder", a folder, or a hub id (see `lightgen_core.encoders.model_ref`); safetensors only.

        Raises:
            CodecError: the model is of another class.
            ModelNotFound: nothing is at the path.
            OSError: there is no such model on the hub, or its weights are not safetensors.
        """
        ref = parse_model_ref(reference)
        if ref.path is not None and not (ref.path / "config.json").is_file():
            raise CodecError(f"{ref.path} has no config.json; give the folder that save_pretrained wrote")
        name = str(diffusers.AutoencoderDC.load_config(ref.source, **ref.options).get("_class_name"))
        if name not in CLASSES:
            raise CodecError(f"{reference} holds a model of class {name}, expected {' or '.join(CLASSES)}")
        model = getattr(diffusers, name).from_pretrained(
            ref.source, torch_dtype=dtype, use_safetensors=True, low_cpu_mem_usage=False, **ref.options
        )
        return cls(model.to(device))

    @staticmethod
    def stride_of(reference: str) -> int:
        """Return px per latent of an autoencoder by its configuration, without its weights; raise as `load`."""
        ref = parse_model_ref(reference)
        return _stride(diffusers.AutoencoderDC.load_config(ref.source, **ref.options))

    @torch.inference_mode()
    def encode(self, images: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        """Encode images uint8 (n, height, width, 3) to latents; of an AutoencoderKL, the mean.

        Raises:
            CodecError: not uint8, not (n, height, width, 3), or sides that are not multiples of the stride.
        """
        encoded = [part.latent_dist.mean if self.has_moments else part.latent for part in self._encoded(images)]
        return ((torch.cat(encoded).float() - self._shift) * self._scale).cpu().numpy()

    @torch.inference_mode()
    def moments(self, images: NDArray[np.uint8] | Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return mean (as `encode`) and standard deviation of the latents of images uint8 (n, height, width, 3).

        Raises:
            CodecError: an autoencoder without a distribution (`has_moments`), or as `encode`.
        """
        if not self.has_moments:
            raise CodecError(f"{type(self.model).__name__} gives one latent and no standard deviation of it")
        moments = [(part.latent_dist.mean, part.latent_dist.std) for part in self._encoded(images)]
        means, stds = (torch.cat(parts).float() for parts in zip(*moments, strict=True))
        return ((means - self._shift) * self._scale).cpu().numpy(), (stds * self._scale).cpu().numpy()

    def _encoded(self, images: NDArray[np.uint8] | Tensor) -> Iterator[Any]:
        """Yield the model's outputs for images, so many at once as `PIXELS_AT_ONCE` allows; raise as `encode`."""
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
            found = f"{images.dtype} {tuple(images.shape)}"
            raise CodecError(f"found images of {found}, expected uint8 (n, height, width, 3)")
        if images.shape[1] % self.stride or images.shape[2] % self.stride:
            found = f"{images.shape[1]} x {images.shape[2]} px"
            raise CodecError(f"found images of {found}, expected sides that are multiples of {self.stride} px")
        for part in images.split(_at_once(images.shape[1] * images.shape[2])):
            values = to_device(part, self.model.device).permute(0, 3, 1, 2).to(self.model.dtype).div(127.5).sub(1)
            yield self.model.encode(values)

    @torch.inference_mode()
    def decode(self, latents: NDArray[np.float32] | Tensor) -> NDArray[np.uint8]:
        """Decode latents (n, channels, h, w), else CodecError, to images uint8 (n, height, width, 3)."""
        values = torch.as_tensor(latents)
        if values.ndim != 4 or values.shape[1] != self.channels:
            raise CodecError(f"found latents {tuple(values.shape)}, expected (n, {self.channels}, height, width)")
        parts = values.split(_at_once(values.shape[2] * values.shape[3] * self.stride**2))
        return torch.cat([self._decoded(part) for part in parts]).cpu().numpy()

    def _decoded(self, latents: Tensor) -> Tensor:
        """Decode latents to uint8 (n, height, width, 3) on the model's device."""
        raw = to_device(latents, self.model.device).float() / self._scale + self._shift
        decoded = self.model.decode(raw.to(self.model.dtype)).sample
        return decoded.float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1)


def _at_once(pixels: int) -> int:
    """Return how many images of so many pixels pass through the model together."""
    return max(1, PIXELS_AT_ONCE // pixels)


def _stride(config: Mapping[str, Any]) -> int:
    """Return px per latent: every stage but one halves the sides."""
    return 2 ** (len(config.get("block_out_channels") or config["encoder_block_out_channels"]) - 1)
