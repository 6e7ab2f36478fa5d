"""A detector of any named objects: OWL-ViT or OWLv2 of transformers (Minderer et al. 2023, arXiv 2306.09683)."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import UInt8
from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor

from lightgen_core.encoders.model_ref import parse_model_ref
from lightgen_core.evaluation.compbench import SIDE, FoundObject

_KINDS = ("owlvit", "owlv2")
_CONFIDENCE = 0.1
"""Score from which an object counts, T2I-CompBench's own of its detector."""


class OpenDetectorError(ValueError):
    """Reference without a detector that takes names."""


class OpenDetector:
    """Finds the objects that it is given the names of."""

    def __init__(self, model: Any, processor: Any, device: torch.device | str) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self._processor = processor

    @classmethod
    def load(cls, reference: str, *, device: torch.device | str = "cpu") -> Self:
        """Load a folder or hub id such as google/owlv2-base-patch16-ensemble; safetensors only.

        Raises:
            OpenDetectorError: a model of another type.
            OSError: there is no such model, or its weights are not safetensors.
        """
        ref = parse_model_ref(reference)
        kind = AutoConfig.from_pretrained(ref.source, **ref.options).model_type
        if kind not in _KINDS:
            raise OpenDetectorError(f"{reference} is a model of type {kind}, expected {' or '.join(_KINDS)}")
        model = AutoModelForZeroShotObjectDetection.from_pretrained(ref.source, use_safetensors=True, **ref.options)
        return cls(model, AutoProcessor.from_pretrained(ref.source, **ref.options), device)

    @torch.inference_mode()
    def find(self, image: UInt8[np.ndarray, "height width 3"], names: Sequence[str]) -> dict[str, FoundObject]:
        """Return the surest object of each name that is there, its box in px of an image of `SIDE`."""
        wanted = list(dict.fromkeys(names))
        inputs = self._processor(
            images=[np.array(image)], text=[[f"a photo of a {name}" for name in wanted]], return_tensors="pt"
        ).to(self.model.device)
        scale = SIDE / max(image.shape[:2])
        size = (image.shape[0] * scale, image.shape[1] * scale)
        (result,) = self._processor.post_process_grounded_object_detection(
            self.model(**inputs), threshold=_CONFIDENCE, target_sizes=[size]
        )
        found: dict[str, FoundObject] = {}
        objects = zip(result["scores"].tolist(), result["labels"].tolist(), result["boxes"].tolist(), strict=True)
        for score, label, (left, top, right, bottom) in sorted(objects, reverse=True):
            found.setdefault(wanted[label], FoundObject(score, (left, top, right, bottom)))
        return found
