"""Spaces in which sets of images are compared, by name.

    efficientnet_lite0           ImageNet's EfficientNet-Lite0, which `lightgen[pictures]` ships
    clip:REF                     image vectors of an open_clip model, named as `embeddings.model`: clip:zoo:clip
    timm:NAME                    any model of timm with its weights of the hub: timm:vit_large_patch14_dinov2.lvd142m
    timm:NAME@FILE               the same with weights of a file of this machine; or timm:NAME.TAG@revision
    inception:FILE               FID's own Inception-v3, through torch-fidelity

A distance compares only with others in the same space. Free of torch until one is loaded.
"""

import hashlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightgen_core.encoders.model_ref import ModelNotFound

if TYPE_CHECKING:
    import torch

    from lightgen_core.encoders.clip import Clip

EFFICIENTNET = "efficientnet_lite0"
DINOV2 = "timm:vit_large_patch14_dinov2.lvd142m"
"""Space of FD-DINOv2 (Stein et al. 2023)."""
INCEPTION = "inception:~/.cache/torch/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"
_INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
_INCEPTION_HASH = "6726825d"
"""Beginning of the file's sha256, which its name gives."""
_BATCH = 32

Features = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Images uint8 (height, width, 3) of any sizes to features float (n, width)."""


class FeaturesMissing(ValueError):
    """A space whose model is not on this machine; the message says how to get it."""


class ClipSpace:
    """CLIP's space, in which captions lie too."""

    def __init__(self, clip: "Clip") -> None:
        self._clip = clip

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return unit vectors of images."""
        return self._clip.embed_image_list(images)

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, width) of captions; equal ones are embedded once."""
        unique, inverse = np.unique(np.asarray(captions), return_inverse=True)
        return self._clip.embed_texts(unique.tolist())[inverse]


def load_features(name: str, device: "torch.device | str" = "cpu") -> Features:
    """Load a space by its name. Raises FeaturesMissing."""
    kind, _, reference = name.partition(":")
    try:
        if name == EFFICIENTNET:
            from lightgen_core.evaluation.references import Features as EfficientNet

            return EfficientNet(device)
        if kind == "clip" and reference:
            from lightgen_core.encoders.clip import Clip

            return ClipSpace(Clip.load(reference, device=device))
        if kind == "timm" and reference:
            return _load_timm(name, device)
        if kind == "inception" and reference:
            return _load_inception(Path(reference).expanduser(), device)
    except FeaturesMissing:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # what loaders raise for weights that are not there
        raise FeaturesMissing(f"the weights of {name} are not here: {str(error).strip().splitlines()[0]}") from error
    raise FeaturesMissing(
        f"found space {name!r}; expected {EFFICIENTNET}, clip:REF, timm:NAME, timm:NAME@FILE or inception:FILE"
    )


def _load_timm(reference: str, device: "torch.device | str") -> Features:
    """Return pooled features of a timm model, its images resized, cropped and normalised as its configuration says."""
    import timm
    import torch

    from lightgen_core.encoders.timm_model import load_timm

    try:
        model = load_timm(reference, device)
    except ModelNotFound as error:
        raise FeaturesMissing(str(error)) from error
    config = timm.data.resolve_model_data_config(model)
    prepare = timm.data.create_transform(**config, is_training=False)

    def embed(images: Sequence[np.ndarray]) -> np.ndarray:
        from PIL import Image

        with torch.inference_mode():
            parts = [
                model(torch.stack([prepare(Image.fromarray(image)) for image in batch]).to(device)).float().cpu()
                for batch in _batches(images)
            ]
        return torch.cat(parts).numpy()

    return embed


def _load_inception(path: Path, device: "torch.device | str") -> Features:
    """Return the 2048 pooled features of FID's Inception-v3, resized as its TensorFlow graph does (torch-fidelity)."""
    if find_spec("torch_fidelity") is None:
        raise FeaturesMissing("FID needs the package torch-fidelity: pip install 'lightgen[fid]'")
    if not path.is_file():
        raise FeaturesMissing(f"FID's weights are not here: put {_INCEPTION_URL} at {path}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(_INCEPTION_HASH):
        raise FeaturesMissing(f"{path} is not FID's Inception-v3: its sha256 begins {found[:8]}, not {_INCEPTION_HASH}")
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    model: Any = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path)).to(device)

    def embed(images: Sequence[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            parts = [
                torch.cat([model(_channels_first(image, device))[0] for image in batch]).cpu()
                for batch in _batches(images)
            ]
        return torch.cat(parts).numpy()

    return embed


def _channels_first(image: np.ndarray, device: "torch.device | str") -> "torch.Tensor":
    import torch

    return torch.tensor(image, device=device).permute(2, 0, 1)[None]


def _batches(images: Sequence[np.ndarray]) -> list[Sequence[np.ndarray]]:
    return [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
