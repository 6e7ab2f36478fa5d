"""Prompts of GenEval's form: its templates over the COCO classes (Ghosh et al. 2023, Sec. 3). Free of torch.

The sizes of the categories are GenEval's, the prompts drawn are not: its own list comes from its authors as
`evaluation_metadata.jsonl`, which `read_metadata` takes. Unlike there, plurals are English and no prompt comes twice.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lightgen_core.evaluation.prompt import Prompt, PromptFileError, numbered_lines
from lightgen_core.scene.vocabulary import NUMBERS, with_article

SIZES = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
"""Prompts of each category: 553 in all."""

Color = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]
COLORS: tuple[Color, ...] = get_args(Color)
"""The colours that prompts name and a judge tells apart."""

Relation = Literal["left of", "right of", "above", "below"]
"""Position of the first object as seen from the second."""

COCO_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""COCO's 80 classes of objects, as detectors name them, in COCO's order."""

DISPLAY_NAMES = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""Classes that GenEval calls by a plainer name."""

NAMES = tuple(DISPLAY_NAMES.get(name, name) for name in COCO_NAMES)
"""The classes as prompts and GenEval's metadata name them."""

_PLURALS = {"person": "people", "sheep": "sheep", "knife": "knives", "computer mouse": "computer mice"}
_UNCOUNTED = ("skis", "scissors", "broccoli")  # one of them is called as two are
_SEED = 553


class Clause(BaseModel):
    """Objects of one class that an image must show or not; `position` is a relation and the earlier clause's index."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str = Field(alias="class")
    count: int = Field(1, ge=1)
    color: Color | None = None
    position: tuple[Relation, int] | None = None


class Requirement(BaseModel):
    """Conditions of a right image: all of `include`, none of `exclude`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    include: tuple[Clause, ...] = Field(min_length=1)
    exclude: tuple[Clause, ...] = ()

    @model_validator(mode="after")
    def _clauses_refer_to_what_there_is(self) -> "Requirement":
        for index, clause in enumerate(self.include):
            if clause.position and not 0 <= clause.position[1] < index:
                raise ValueError(
                    f"{clause.name} is placed by clause {clause.position[1]}, which does not come before it"
                )
        for clause in (*self.include, *self.exclude):
            if clause.name not in NAMES:
                raise ValueError(f"found class {clause.name!r}; GenEval has COCO's 80 classes, such as 'potted plant'")
        return self

    def as_meaning(self) -> str:
        """Return the requirement as JSON for `model_validate_json`."""
        return self.model_dump_json(by_alias=True, exclude_defaults=True)

    def as_metadata(self) -> dict[str, Any]:
        """Return GenEval's own form, counts of one included."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


_PhraseAndRequirement = tuple[str, Requirement]


class _Row(Requirement):
    tag: Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
    prompt: str = Field(min_length=1)


@cache
def geneval_prompts() -> tuple[Prompt, ...]:
    """Return 553 different prompts of GenEval's form, always the same, category by category."""
    countable = NAMES[1:]  # nobody asks for a person of some colour
    pairs, color_pairs = list(permutations(NAMES, 2)), list(permutations(COLORS, 2))
    forms: dict[str, tuple[Callable[..., _PhraseAndRequirement], tuple[Sequence[Any], ...]]] = {
        "single_object": (single, (NAMES,)),
        "two_object": (two, (pairs,)),
        "counting": (counting, ([name for name in NAMES if name not in _UNCOUNTED], tuple(NUMBERS))),
        "colors": (colors, (countable, COLORS)),
        "position": (position, (pairs, get_args(Relation))),
        "color_attr": (attribution, (list(permutations(countable, 2)), color_pairs)),
    }
    prompts: list[Prompt] = []
    for category, (build, choices) in forms.items():
        shape = tuple(map(len, choices))
        rng = np.random.default_rng((_SEED, len(prompts)))
        for combination in rng.choice(int(np.prod(shape)), SIZES[category], replace=False):
            indices = np.unravel_index(combination, shape)
            phrase, requirement = build(*(choice[index] for choice, index in zip(choices, indices, strict=True)))
            prompts.append(Prompt(f"a photo of {phrase}", category, requirement.as_meaning()))
    return tuple(prompts)


def single(name: str) -> _PhraseAndRequirement:
    return with_article(name), _all_of(Clause(name=name))


def two(names: tuple[str, str]) -> _PhraseAndRequirement:
    return " and ".join(map(with_article, names)), _all_of(*(Clause(name=name) for name in names))


def counting(name: str, number: str) -> _PhraseAndRequirement:
    count = NUMBERS[number]
    exactly = Requirement(include=(Clause(name=name, count=count),), exclude=(Clause(name=name, count=count + 1),))
    return f"{number} {plural(name)}", exactly


def colors(name: str, color: Color) -> _PhraseAndRequirement:
    return f"{with_article(color)} {name}", _all_of(Clause(name=name, color=color))


def position(names: tuple[str, str], relation: Relation) -> _PhraseAndRequirement:
    first, second = names
    requirement = _all_of(Clause(name=second), Clause(name=first, position=(relation, 0)))
    return f"{with_article(first)} {relation} {with_article(second)}", requirement


def attribution(names: tuple[str, str], colors: tuple[Color, Color]) -> _PhraseAndRequirement:
    coloured = list(zip(names, colors, strict=True))
    phrase = " and ".join(f"{with_article(color)} {name}" for name, color in coloured)
    return phrase, _all_of(*(Clause(name=name, color=color) for name, color in coloured))


def _all_of(*clauses: Clause) -> Requirement:
    return Requirement(include=clauses)


def plural(name: str) -> str:
    """Return the plural of a class: "buses", "knives", "people"."""
    if name in _PLURALS:
        return _PLURALS[name]
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def read_metadata(path: Path) -> list[Prompt]:
    """Return GenEval's own prompts, from the `evaluation_metadata.jsonl` that its authors publish.

    Raises:
        PromptFileError: no such file, a line that is not of that form, or no prompt at all.
    """
    prompts = [metadata_prompt(line, f"{path}, line {number}") for number, line in numbered_lines(path)]
    if not prompts:
        raise PromptFileError(f"{path} holds no prompt")
    return prompts


def metadata_prompt(line: str, where: str) -> Prompt:
    """Return the prompt of a line of GenEval's metadata. Raises PromptFileError with its place."""
    try:
        row = _Row.model_validate_json(line)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        message = f"{field}: {fault['msg']}" if field else fault["msg"].removeprefix("Value error, ")
        raise PromptFileError(
            f"{where}: {message}; expected GenEval's evaluation_metadata.jsonl, "
            'such as {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "..."}'
        ) from error
    requirement = Requirement(include=row.include, exclude=row.exclude)
    return Prompt(row.prompt, row.tag, requirement.as_meaning())
