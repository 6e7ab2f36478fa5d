"""Judge images by GenEval's rules with transformers' port of its detector.

GenEval's thresholds are calibrated for Mask2Former in mmdetection, at another input size; scores of the two agree in
form, not to the last hundredth, so a table says which of them it holds.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from transformers import AutoConfig, AutoImageProcessor, Mask2FormerForUniversalSegmentation

from lightgen_core.encoders.clip import Clip
from lightgen_core.encoders.model_ref import resolve
from lightgen_core.evaluation.geneval_prompts import COCO_NAMES, COLORS, DISPLAY_NAMES, Color, Requirement
from lightgen_core.evaluation.geneval_rules import CONFIDENCE, DetectedObject, crop_on_grey, group_by_class, satisfies
from lightgen_core.evaluation.prompt import Prompt

_COLOR_TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")


class DetectorError(ValueError):
    """Reference without a detector of COCO's classes."""


class Detector:
    """Mask2Former detector of COCO's 80 classes, with masks."""

    def __init__(self, model: Any, processor: Any, device: torch.device | str, batch_size: int = 8) -> None:
        labels = model.config.id2label
        if missing := sorted(set(COCO_NAMES) - set(labels.values())):
            raise DetectorError(
                f"found a detector of {len(labels)} classes without {', '.join(missing[:3])} ({len(missing)} of COCO's "
                "80 are missing); expected a Mask2Former trained on COCO instances"
            )
        self.model = model.eval().requires_grad_(False).to(device)
        self.processor = processor
        self.batch_size = batch_size
        self.names = {index: DISPLAY_NAMES.get(label, label) for index, label in labels.items()}

    @classmethod
    def load(cls, reference: str, *, device: torch.device | str = "cpu") -> Self:
        """Load a Mask2Former by folder or hub id; safetensors only.

        Raises:
            DetectorError: a model of another type, or of other classes.
            OSError: there is no such model, or its weights are not safetensors.
        """
        path = resolve(reference)
        model_type = AutoConfig.from_pretrained(path).model_type
        if model_type != "mask2former":
            raise DetectorError(f"{reference} is a model of type {model_type}, expected mask2former")
        model = Mask2FormerForUniversalSegmentation.from_pretrained(path, use_safetensors=True)
        return cls(model, AutoImageProcessor.from_pretrained(path), device)

    def __call__(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Iterator[list[DetectedObject]]:
        """Yield the objects of each image, those that GenEval never looks at left out."""
        for start in range(0, len(images), self.batch_size):
            yield from self._detect(images[start : start + self.batch_size])

    @torch.inference_mode()
    def _detect(self, images: Sequence[np.ndarray]) -> Iterator[list[DetectedObject]]:
        # Copied, since torch warns of arrays that decoders hand out read-only.
        inputs = self.processor([np.array(image) for image in images], return_tensors="pt")
        inputs = inputs.to(self.model.device)
        output = self.model(**inputs)
        sizes = [image.shape[:2] for image in images]
        for result in self.processor.post_process_instance_segmentation(
            output, threshold=CONFIDENCE, target_sizes=sizes, return_binary_maps=True
        ):
            objects = []
            for index, segment in enumerate(result["segments_info"]):  # empty: the map beside it then holds no mask
                mask = result["segmentation"][index].cpu().numpy() > 0
                down, across = np.nonzero(mask)
                box = (int(across.min()), int(down.min()), int(across.max()) + 1, int(down.max()) + 1)
                objects.append(DetectedObject(self.names[segment["label_id"]], segment["score"], box, mask))
            yield objects


class ColorNamer:
    """Zero-shot colour classifier by CLIP; everything but the object is grey."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self._classifiers: dict[str, np.ndarray] = {}

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], objects: Sequence[DetectedObject]) -> list[Color]:
        """Return the nearest colour of each of some objects."""
        colors = []
        for obj in objects:
            vector = self.clip.embed_images(crop_on_grey(image, obj)[None])[0]
            colors.append(COLORS[int(np.argmax(self._classifier(obj.name) @ vector))])
        return colors

    def _classifier(self, name: str) -> np.ndarray:
        """Return a unit vector per colour, (colors, width): the mean over the templates."""
        if name not in self._classifiers:
            texts = [template.format(color=color, name=name) for color in COLORS for template in _COLOR_TEMPLATES]
            means = self.clip.embed_texts(texts).reshape(len(COLORS), len(_COLOR_TEMPLATES), -1).mean(axis=1)
            self._classifiers[name] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return self._classifiers[name]


class GenEvalJudge:
    """Judge of images of GenEval's prompts."""

    def __init__(self, detector: Detector, name_colors: ColorNamer) -> None:
        self.detector, self.name_colors = detector, name_colors

    def __call__(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], prompts: Sequence[Prompt]
    ) -> Bool[np.ndarray, " images"]:
        """Return, for each image, whether it shows what its prompt demands."""
        verdicts = []
        for image, prompt, detected in zip(images, prompts, self.detector(images), strict=True):
            objects = group_by_class(detected, prompt.category)
            required = Requirement.model_validate_json(prompt.meaning)
            verdicts.append(satisfies(image, objects, required, self.name_colors))
        return np.array(verdicts, dtype=bool)
