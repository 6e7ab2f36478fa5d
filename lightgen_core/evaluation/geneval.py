"""The judge of GenEval's prompts, on transformers' port of its detector: "GenEval-HF".

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
from lightgen_core.evaluation.geneval_prompts import COCO_NAMES, COLORS, SPOKEN, Color, Requirement
from lightgen_core.evaluation.geneval_rules import CONFIDENCE, Detected, alone, counted, meets
from lightgen_core.evaluation.prompt import Prompt

_COLOR_TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")


class DetectorError(ValueError):
    """A reference that holds no detector of COCO's classes."""


class Detector:
    """Finds the objects of COCO's 80 classes in pictures, each with its mask."""

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
        self.names = {index: SPOKEN.get(label, label) for index, label in labels.items()}

    @classmethod
    def load(cls, reference: str, *, device: torch.device | str = "cpu") -> Self:
        """Load a Mask2Former by folder or hub id; safetensors only.

        Raises:
            DetectorError: a model of another type, or of other classes.
            OSError: there is no such model, or its weights are not safetensors.
        """
        where = resolve(reference)
        found = AutoConfig.from_pretrained(where).model_type
        if found != "mask2former":
            raise DetectorError(f"{reference} is a model of type {found}, expected mask2former")
        model = Mask2FormerForUniversalSegmentation.from_pretrained(where, use_safetensors=True)
        return cls(model, AutoImageProcessor.from_pretrained(where), device)

    def __call__(self, pictures: Sequence[UInt8[np.ndarray, "height width 3"]]) -> Iterator[list[Detected]]:
        """Yield the objects of each picture, those that GenEval never looks at left out."""
        for start in range(0, len(pictures), self.batch_size):
            yield from self._detect(pictures[start : start + self.batch_size])

    @torch.inference_mode()
    def _detect(self, pictures: Sequence[np.ndarray]) -> Iterator[list[Detected]]:
        # Copied, since torch warns of arrays that decoders hand out read-only.
        prepared = self.processor([np.array(picture) for picture in pictures], return_tensors="pt")
        prepared = prepared.to(self.model.device)
        output = self.model(**prepared)
        sizes = [picture.shape[:2] for picture in pictures]
        for found in self.processor.post_process_instance_segmentation(
            output, threshold=CONFIDENCE, target_sizes=sizes, return_binary_maps=True
        ):
            segments = found["segments_info"]  # empty: the map beside it then holds no mask
            yield [
                self._detected(segment, found["segmentation"][place].cpu().numpy() > 0)
                for place, segment in enumerate(segments)
            ]

    def _detected(self, segment: dict[str, Any], mask: Bool[np.ndarray, "height width"]) -> Detected:
        down, across = np.nonzero(mask)
        box = (int(across.min()), int(down.min()), int(across.max()) + 1, int(down.max()) + 1)
        return Detected(self.names[segment["label_id"]], segment["score"], box, mask)


class ColorNamer:
    """Names the colour of an object by CLIP, zero-shot: what of the picture is not the object is grey."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self._classifiers: dict[str, np.ndarray] = {}

    def __call__(self, picture: UInt8[np.ndarray, "height width 3"], things: Sequence[Detected]) -> list[Color]:
        """Return the nearest colour of each of some objects."""
        named = []
        for thing in things:
            vector = self.clip.embed_images(alone(picture, thing)[None])[0]
            named.append(COLORS[int(np.argmax(self._classifier(thing.name) @ vector))])
        return named

    def _classifier(self, name: str) -> np.ndarray:
        """One unit vector a colour, (colors, width): the direction of the mean over the templates."""
        if name not in self._classifiers:
            said = [template.format(color=color, name=name) for color in COLORS for template in _COLOR_TEMPLATES]
            means = self.clip.embed_texts(said).reshape(len(COLORS), len(_COLOR_TEMPLATES), -1).mean(axis=1)
            self._classifiers[name] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return self._classifiers[name]


class GenEvalJudge:
    """Judges pictures of GenEval's prompts."""

    def __init__(self, detector: Detector, name_colors: ColorNamer) -> None:
        self.detector, self.name_colors = detector, name_colors

    @classmethod
    def load(cls, detector: str, color_model: str, device: torch.device | str) -> Self:
        """Load the detector and the CLIP that names colours.

        Raises:
            DetectorError: the first is no Mask2Former of COCO's classes.
            ClipError: the second is no CLIP.
            OSError: a model is not there.
        """
        return cls(Detector.load(detector, device=device), ColorNamer(Clip.load(color_model, device=device)))

    def __call__(
        self, pictures: Sequence[UInt8[np.ndarray, "height width 3"]], prompts: Sequence[Prompt]
    ) -> Bool[np.ndarray, " pictures"]:
        """Return, for each picture, whether it shows what its prompt demands."""
        verdicts = [
            meets(
                picture,
                counted(detected, prompt.category),
                Requirement.model_validate_json(prompt.meaning),
                self.name_colors,
            )
            for picture, prompt, detected in zip(pictures, prompts, self.detector(pictures), strict=True)
        ]
        return np.array(verdicts, dtype=bool)
