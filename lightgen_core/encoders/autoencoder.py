"""The frozen image autoencoder: images to normalised latents and back (diffusers AutoencoderKL or AutoencoderDC)."""

from collections.abc import Mapping
from typing import Any, Self

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightgen_core.encoders.model_ref import parse_model_ref

CLASSES = ("AutoencoderKL", "AutoencoderDC")
"""diffusers classes that can be loaded; a folder's config.json names its own."""


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
        encoded = self._encoded(images)
        raw = encoded.latent_dist.mean if self.has_moments else encoded.latent
        return ((raw.float() - self._shift) * self._scale).cpu().numpy()

    @torch.inference_mode()
    def moments(self, images: NDArray[np.uint8] | Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return mean (as `encode`) and standard deviation of the latents of images uint8 (n, height, width, 3).

        Raises:
            CodecError: an autoencoder without a distribution (`has_moments`), or as `encode`.
        """
        if not self.has_moments:
            raise CodecError(f"{type(self.model).__name__} gives one latent and no standard deviation of it")
        latents = self._encoded(images).latent_dist
        mean, std = (latents.mean.float() - self._shift) * self._scale, latents.std.float() * self._scale
        return mean.cpu().numpy(), std.cpu().numpy()

    def _encoded(self, images: NDArray[np.uint8] | Tensor) -> Any:
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
            found = f"{images.dtype} {tuple(images.shape)}"
            raise CodecError(f"found images of {found}, expected uint8 (n, height, width, 3)")
        if images.shape[1] % self.stride or images.shape[2] % self.stride:
            found = f"{images.shape[1]} x {images.shape[2]} px"
            raise CodecError(f"found images of {found}, expected sides that are multiples of {self.stride} px")
        values = images.to(self.model.device).permute(0, 3, 1, 2).to(self.model.dtype).div(127.5).sub(1)
        return self.model.encode(values)

    @torch.inference_mode()
    def decode(self, latents: NDArray[np.float32] | Tensor) -> NDArray[np.uint8]:
        """Decode latents (n, channels, h, w), else CodecError, to images uint8 (n, height, width, 3)."""
        values = torch.as_tensor(latents)
        if values.ndim != 4 or values.shape[1] != self.channels:
            raise CodecError(f"found latents {tuple(values.shape)}, expected (n, {self.channels}, height, width)")
        raw = values.to(self.model.device, torch.float32) / self._scale + self._shift
        decoded = self.model.decode(raw.to(self.model.dtype)).sample
        return decoded.float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _stride(config: Mapping[str, Any]) -> int:
    """Return px per latent: every stage but one halves the sides."""
    return 2 ** (len(config.get("block_out_channels") or config["encoder_block_out_channels"]) - 1)
