"""Samples beside reference images of the same captions: retrieval, and the distance of the two distributions.

The space is EfficientNet-Lite0's of ImageNet, which neither trains a student nor judges its pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lightgen_core.images.codec import resize_square
from lightgen_core.images.image_set import ImageSet, open_image_set
from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.images.sample import Sample
from lightgen_core.intervals import bootstrap_mean
from lightgen_core.rejected import Rejected

if TYPE_CHECKING:
    import torch

MODEL = "tf_efficientnet_lite0"
REFERENCE_MODEL = "zoo:efficientnet_lite0"
"""The same, as recipes name models."""
SIDE = 224
"""Side of the images that the model sees, px."""
TOP = (1, 5)
MAX_PIXELS = 1 << 26

_BATCH = 32


class ReferencesMissing(ValueError):
    """A set of references that cannot be compared with."""


class Features:
    """Embeds images as pooled features of EfficientNet-Lite0, (n, 1280) float32."""

    def __init__(self, device: "torch.device | str" = "cpu") -> None:
        """Load the model. Raises PackageMissing: `lightgen[pictures]` is not installed."""
        from lightgen_core.encoders.packaged import efficientnet

        self.model, self.device = efficientnet(MODEL).to(device), device

    def __call__(self, images: Sequence[np.ndarray]) -> Float[np.ndarray, "n features"]:
        """Return features of images uint8 (height, width, 3); each is resized to SIDE x SIDE px, bicubic."""
        import torch
        from torchvision.transforms.v2.functional import InterpolationMode, resize

        bicubic = InterpolationMode.BICUBIC

        def prepare(image: np.ndarray) -> torch.Tensor:
            values = torch.tensor(image, device=self.device).permute(2, 0, 1).float()
            return (resize(values, [SIDE, SIDE], bicubic, antialias=True).clamp(0, 255) - 127) / 128

        with torch.inference_mode():
            parts = [
                self.model(torch.stack([prepare(image) for image in images[start : start + _BATCH]])).cpu()
                for start in range(0, len(images), _BATCH)
            ]
        return torch.cat(parts).numpy()


@dataclass(frozen=True)
class References:
    """Images of captions. features: (captions, features)."""

    captions: Sequence[str]
    features: Float[np.ndarray, "captions features"]


def find_references(location: str, captions: Sequence[str]) -> tuple[ImageSet, dict[str, Sample]]:
    """Return a set, and its first image of each caption that it has.

    Raises:
        ImageSetError: the set cannot be read.
        ReferencesMissing: it has images of fewer than two of the captions.
    """
    image_set, wanted = open_image_set(location), set(captions)
    samples: dict[str, Sample] = {}
    for sample in image_set.samples():
        if isinstance(sample, Sample) and sample.caption in wanted:
            samples.setdefault(sample.caption, sample)
    if len(samples) < 2:
        raise ReferencesMissing(
            f"evaluation.references: {location} has images of {len(samples)} of the {len(wanted)} captions that are "
            "evaluated; retrieval needs two or more, under the same captions"
        )
    return image_set, samples


def load_references(location: str, captions: Sequence[str], side: int, features: Features) -> References:
    """Return the images that a set has for captions, brought to the samples' side, px, as features.

    Raises:
        ImageSetError, ReferencesMissing: as `find_references`; also an image that cannot be decoded.
    """
    image_set, samples = find_references(location, captions)
    decoder, images = SafeImageDecoder(MAX_PIXELS), []
    for sample, data in zip(samples.values(), image_set.read([s.byte_range for s in samples.values()]), strict=True):
        try:
            if isinstance(data, Rejected):
                raise data
            images.append(resize_square(decoder.decode(data), side))
        except Rejected as error:
            raise ReferencesMissing(f"evaluation.references: {sample.key} of {location}: {error}") from error
    return References(list(samples), features(images))


def retrieval_ranks(samples: Float[np.ndarray, "n features"], wanted: np.ndarray, references: References) -> np.ndarray:
    """Return for each sample how many references are nearer, by cosine, than that of its own caption: (n,).

    wanted: (n,) index of its caption's reference.
    """
    cosines = _unit(samples) @ _unit(references.features).T
    own = cosines[np.arange(len(samples)), wanted]
    return (cosines > own[:, None]).sum(axis=1)


def frechet_distance(one: Float[np.ndarray, "n features"], other: Float[np.ndarray, "m features"]) -> float:
    """Return the Fréchet distance of two sets as Gaussians (Heusel et al. 2017, Eq. 6).

    With fewer samples than features it is biased upwards: compare only values of the same numbers of samples.
    """
    # The trace of the root of the product of both covariances, by singular values of the centred sets.
    centred = [(values - values.mean(axis=0)) / np.sqrt(len(values) - 1) for values in (one, other)]
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    total = sum(float((values**2).sum()) for values in centred)
    return float(((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum() + total - 2 * cross)


def compare(
    features: Mapping[str, Float[np.ndarray, "n features"]],
    captions: Mapping[str, Sequence[str]],
    references: References,
    *,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Return for each student `top_1` and `top_5`, retrieval with intervals over captions, and `frechet_distance`.

    Args:
        features: of each student's samples.
        captions: of each student's samples; those without a reference are left out.
    """
    index = {caption: row for row, caption in enumerate(references.captions)}
    results = {}
    for name, values in features.items():
        rows = np.array([row for row, caption in enumerate(captions[name]) if caption in index])
        own = [captions[name][row] for row in rows]
        ranks = retrieval_ranks(values[rows], np.array([index[caption] for caption in own]), references)
        scores: dict[str, Any] = {
            f"top_{top}": bootstrap_mean(ranks < top, own, seed, resamples=resamples).as_dict() for top in TOP
        }
        results[name] = scores | {"frechet_distance": frechet_distance(values[rows], references.features)}
    return results


def _unit(values: Float[np.ndarray, "n features"]) -> Float[np.ndarray, "n features"]:
    return values / np.linalg.norm(values, axis=1, keepdims=True)
