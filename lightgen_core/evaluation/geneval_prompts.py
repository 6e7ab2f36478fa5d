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
"""Where the first object is, seen from the second."""

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
"""COCO's 80 classes of things, as detectors name them, in COCO's order."""

SPOKEN = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""Classes that GenEval calls by a plainer name."""

NAMES = tuple(SPOKEN.get(name, name) for name in COCO_NAMES)
"""The classes as prompts and GenEval's metadata name them."""

_PLURALS = {"person": "people", "sheep": "sheep", "knife": "knives", "computer mouse": "computer mice"}
_UNCOUNTED = ("skis", "scissors", "broccoli")  # one of them is called as two are
_SEED = 553


class Wanted(BaseModel):
    """Objects of one class that a picture must show, or, with `exclude`, must not: GenEval's clause.

    `position` is a relation and the place, among the clauses before this one, of what it is seen from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str = Field(alias="class")
    count: int = Field(1, ge=1)
    color: Color | None = None
    position: tuple[Relation, int] | None = None


class Requirement(BaseModel):
    """When a picture is right: all of `include`, and none of `exclude`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    include: tuple[Wanted, ...] = Field(min_length=1)
    exclude: tuple[Wanted, ...] = ()

    @model_validator(mode="after")
    def _clauses_refer_to_what_there_is(self) -> "Requirement":
        for place, wanted in enumerate(self.include):
            if wanted.position and not 0 <= wanted.position[1] < place:
                raise ValueError(
                    f"{wanted.name} is placed by clause {wanted.position[1]}, which does not come before it"
                )
        for wanted in (*self.include, *self.exclude):
            if wanted.name not in NAMES:
                raise ValueError(f"found class {wanted.name!r}; GenEval has COCO's 80 classes, such as 'potted plant'")
        return self

    def as_meaning(self) -> str:
        """The requirement as a line of JSON, which `model_validate_json` reads back."""
        return self.model_dump_json(by_alias=True, exclude_defaults=True)

    def as_metadata(self) -> dict[str, Any]:
        """The requirement as GenEval's scripts read it, counts of one included."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


_Said = tuple[str, Requirement]


class _Row(Requirement):
    tag: Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
    prompt: str = Field(min_length=1)


@cache
def geneval_prompts() -> tuple[Prompt, ...]:
    """Return 553 different prompts of GenEval's form, always the same, category by category."""
    things = NAMES[1:]  # nobody asks for a person of some colour
    pairs, tints = list(permutations(NAMES, 2)), list(permutations(COLORS, 2))
    forms: dict[str, tuple[Callable[..., _Said], tuple[Sequence[Any], ...]]] = {
        "single_object": (_single, (NAMES,)),
        "two_object": (_two, (pairs,)),
        "counting": (_counting, ([name for name in NAMES if name not in _UNCOUNTED], tuple(NUMBERS))),
        "colors": (_colors, (things, COLORS)),
        "position": (_position, (pairs, get_args(Relation))),
        "color_attr": (_attribution, (list(permutations(things, 2)), tints)),
    }
    prompts: list[Prompt] = []
    for category, (say, choices) in forms.items():
        shape = tuple(map(len, choices))
        rng = np.random.default_rng((_SEED, len(prompts)))
        for drawn in rng.choice(int(np.prod(shape)), SIZES[category], replace=False):
            places = np.unravel_index(drawn, shape)
            said, wanted = say(*(choice[place] for choice, place in zip(choices, places, strict=True)))
            prompts.append(Prompt(f"a photo of {said}", category, wanted.as_meaning()))
    return tuple(prompts)


def _single(name: str) -> _Said:
    return with_article(name), _all_of(Wanted(name=name))


def _two(names: tuple[str, str]) -> _Said:
    return " and ".join(map(with_article, names)), _all_of(*(Wanted(name=name) for name in names))


def _counting(name: str, number: str) -> _Said:
    count = NUMBERS[number]
    exactly = Requirement(include=(Wanted(name=name, count=count),), exclude=(Wanted(name=name, count=count + 1),))
    return f"{number} {plural(name)}", exactly


def _colors(name: str, color: Color) -> _Said:
    return f"{with_article(color)} {name}", _all_of(Wanted(name=name, color=color))


def _position(names: tuple[str, str], relation: Relation) -> _Said:
    first, second = names
    wanted = _all_of(Wanted(name=second), Wanted(name=first, position=(relation, 0)))
    return f"{with_article(first)} {relation} {with_article(second)}", wanted


def _attribution(names: tuple[str, str], colors: tuple[Color, Color]) -> _Said:
    coloured = list(zip(names, colors, strict=True))
    said = " and ".join(f"{with_article(color)} {name}" for name, color in coloured)
    return said, _all_of(*(Wanted(name=name, color=color) for name, color in coloured))


def _all_of(*wanted: Wanted) -> Requirement:
    return Requirement(include=wanted)


def plural(name: str) -> str:
    """The plural of a class: "buses", "knives", "people"."""
    if name in _PLURALS:
        return _PLURALS[name]
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def read_metadata(path: Path) -> list[Prompt]:
    """Return GenEval's own prompts, from the `evaluation_metadata.jsonl` that its authors publish.

    Raises:
        PromptFileError: no such file, a line that is not of that form, or no prompt at all.
    """
    prompts = []
    for number, line in numbered_lines(path):
        try:
            row = _Row.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(str(part) for part in fault["loc"])
            said = f"{place}: {fault['msg']}" if place else fault["msg"].removeprefix("Value error, ")
            raise PromptFileError(
                f"{path}, line {number}: {said}; expected GenEval's evaluation_metadata.jsonl, "
                'such as {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "..."}'
            ) from error
        wanted = Requirement(include=row.include, exclude=row.exclude)
        prompts.append(Prompt(row.prompt, row.tag, wanted.as_meaning()))
    if not prompts:
        raise PromptFileError(f"{path} holds no prompt")
    return prompts
