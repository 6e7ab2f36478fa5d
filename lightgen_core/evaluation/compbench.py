"""T2I-CompBench's prompts, and its rules from answers and boxes to scores. Free of torch.

Huang et al. 2023 (arXiv 2307.06350), and T2I-CompBench++ (TPAMI 2025). The prompts come from the authors' files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lightgen_core.evaluation.prompt import Prompt, PromptFileError, limit_per_category, numbered_lines

ATTRIBUTES = ("color", "shape", "texture")
CATEGORIES = (*ATTRIBUTES, "spatial", "3d_spatial", "non_spatial", "numeracy", "complex")
SIDE = 480
"""Longest side of the images whose boxes the rules of space measure, px."""
MOST_PHRASES = 8
_NEAR_PX, _OVERLAP = 150, 0.1
_LEAST_SPATIAL = 0.5

Part = Literal["attributes", "spatial", "action"]
PARTS: dict[str, tuple[Part, ...]] = {
    **dict.fromkeys(ATTRIBUTES, ("attributes",)),
    "spatial": ("spatial",),
    "non_spatial": ("action",),
}
"""Parts scored in the images of a category; of complex prompts see `parts_of`."""

Relation = Literal["near", "left", "right", "top", "bottom"]
_RELATIONS: dict[str, Relation] = {
    "on side of": "near",
    "next to": "near",
    "near": "near",
    "on the left of": "left",
    "on the right of": "right",
    "on the bottom of": "bottom",
    "on bottom of": "bottom",
    "on the top of": "top",
    "on top of": "top",
}
_RELATION = re.compile(rf"\b({'|'.join(_RELATIONS)})\b", re.IGNORECASE)
_DIRECTIONS = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}
"""Axis along which the second object lies from the first, and its sign (y grows downwards)."""


@dataclass(frozen=True)
class FoundObject:
    """An object in an image: `score` from 0 to 1; `box` left, top, right, bottom, px of an image of `SIDE`."""

    score: float
    box: tuple[float, float, float, float]


def category_of(path: Path) -> str:
    """Return the category that a file's name begins with. Raises PromptFileError for another name."""
    for category in CATEGORIES:
        if path.stem == category or path.stem.startswith(f"{category}_"):
            return category
    raise PromptFileError(
        f"found {path.name}; expected a file of T2I-CompBench's examples/dataset, named by its category: "
        f"{', '.join(f'{category}_val.txt' for category in CATEGORIES)}"
    )


def read_compbench(path: Path, per_category: int | None = None) -> list[Prompt]:
    """Return the prompts of one of the authors' files; what stands behind a tab in a line is left out.

    The meaning of a complex prompt is what it holds beside attributes: "spatial", "action" or "both".

    Raises:
        PromptFileError: no such file, no prompt, a name of no category, or a complex file without the two beside it
            that tell its prompts apart.
    """
    category = category_of(path)
    captions = _captions(path)
    kinds = _kinds(path, captions) if category == "complex" else [category] * len(captions)
    prompts = [Prompt(caption, category, kind) for caption, kind in zip(captions, kinds, strict=True)]
    return limit_per_category(prompts, per_category)


def _captions(path: Path) -> list[str]:
    fields = [line.lstrip("\ufeff").split("\t")[0].strip() for _, line in numbered_lines(path)]
    if not (captions := [field for field in fields if field]):
        raise PromptFileError(f"{path} holds no prompt")
    return captions


def _kinds(path: Path, captions: Sequence[str]) -> list[str]:
    listed = {}
    for kind in ("spatial", "action"):
        beside = path.with_name(f"{path.stem}_{kind}.txt")
        if not beside.is_file():
            raise PromptFileError(
                f"there is no {beside}; a complex prompt is scored by what it holds, which the authors' "
                f"{path.stem}_spatial.txt and {path.stem}_action.txt say. Put both beside {path.name}"
            )
        listed[kind] = {_first_sentence(caption) for caption in _captions(beside)}
    sentences = [_first_sentence(caption) for caption in captions]
    return [next((kind for kind, those in listed.items() if text in those), "both") for text in sentences]


def _first_sentence(caption: str) -> str:
    return caption.split(".")[0].strip().lower()


def parts_of(prompt: Prompt) -> tuple[Part, ...]:
    """Return what is scored in a prompt's images; the score is their mean."""
    if prompt.category != "complex":
        return PARTS[prompt.category]
    if prompt.meaning == "spatial":
        return ("attributes", "spatial")
    return ("attributes", "action") if prompt.meaning == "action" else ("attributes", "spatial", "action")


def attribute_score(yes: Sequence[float]) -> float:
    """Return BLIP-VQA's score: the product of the probabilities that each noun phrase is there."""
    return float(np.prod(yes))


@dataclass(frozen=True)
class Placement:
    """A relation in a caption, and the characters at which its words begin and end."""

    relation: Relation
    start: int
    end: int


def placement_in(caption: str) -> Placement | None:
    """Return the first relation of space in a caption; None if it names none."""
    found = _RELATION.search(caption)
    return Placement(_RELATIONS[found[1].lower()], *found.span()) if found else None


def position_score(relation: Relation, first: FoundObject, second: FoundObject) -> float:
    """Return how well the first object stands in a relation to the second, from 0 to 1.

    Near: within 150 px along an axis, else 150 px over the longer distance. Beside, above or below: the centres are
    further apart along that axis than across it, on the right side; an overlap of more than a tenth (IoU) counts down.
    """
    corners = np.array([first.box, second.box], np.float64).reshape(2, 2, 2)
    offset = np.subtract(*corners.mean(axis=1)[::-1])
    if relation == "near":
        return 1.0 if np.abs(offset).min() < _NEAR_PX else float(_NEAR_PX / np.abs(offset).max())
    axis, sign = _DIRECTIONS[relation]
    if sign * offset[axis] <= 0 or abs(offset[axis]) <= abs(offset[1 - axis]):
        return 0.0
    overlap = _iou(corners)
    return 1.0 if overlap < _OVERLAP else _OVERLAP / overlap


def _iou(corners: np.ndarray) -> float:
    """Return intersection over union of two boxes (box, corner, axis)."""
    sides = np.maximum(corners[:, 1].min(axis=0) - corners[:, 0].max(axis=0), 0)
    shared = sides.prod()
    union = (corners[:, 1] - corners[:, 0]).prod(axis=1).sum() - shared
    return float(shared / union) if union > 0 else 0.0


def spatial_score(relation: Relation | None, first: FoundObject | None, second: FoundObject | None) -> float:
    """Return a quarter of each object's score and half of their position's; 0 where that is below 0.5."""
    score = sum(0.25 * found.score for found in (first, second) if found)
    if relation and first and second:
        score += position_score(relation, first, second) / 2
    return score if score >= _LEAST_SPATIAL else 0.0
