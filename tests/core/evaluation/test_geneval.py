"""GenEval: prompts of its form, each of its rules by hand-made detections, and its judge on a real, tiny detector."""

import json
from collections import Counter
from hashlib import sha256
from typing import ClassVar

import numpy as np
import pytest

from lightgen_core.encoders.clip import Clip
from lightgen_core.evaluation.geneval import ColorNamer, Detector, DetectorError, GenEvalJudge
from lightgen_core.evaluation.geneval_prompts import (
    COCO_NAMES,
    NAMES,
    SIZES,
    Requirement,
    geneval_prompts,
    plural,
    read_metadata,
)
from lightgen_core.evaluation.geneval_rules import DetectedObject, crop_on_grey, group_by_class, relations, satisfies
from lightgen_core.evaluation.prompt import Prompt, PromptFileError
from tests.factories.tiny_geneval import SURE_OF, save_tiny_detector

PICTURE = np.zeros((100, 100, 3), np.uint8)


def test_there_are_553_different_prompts_in_geneval_s_numbers():
    prompts = geneval_prompts()
    assert Counter(prompt.category for prompt in prompts) == SIZES
    assert sum(SIZES.values()) == len({prompt.caption for prompt in prompts}) == 553


def test_the_prompts_are_the_same_for_ever():
    said = "\n".join(f"{prompt.caption} {prompt.meaning}" for prompt in geneval_prompts())
    assert sha256(said.encode()).hexdigest()[:16] == "16f51479a56c286f"


def test_a_prompt_of_each_category_demands_what_it_says():
    first = {}
    for prompt in geneval_prompts():
        first.setdefault(prompt.category, (prompt.caption, json.loads(prompt.meaning)))
    assert first == {
        "single_object": ("a photo of a giraffe", {"include": [{"class": "giraffe"}]}),
        "two_object": (
            "a photo of a handbag and a motorcycle",
            {"include": [{"class": "handbag"}, {"class": "motorcycle"}]},
        ),
        "counting": (
            "a photo of three refrigerators",
            {"include": [{"class": "refrigerator", "count": 3}], "exclude": [{"class": "refrigerator", "count": 4}]},
        ),
        "colors": ("a photo of a green banana", {"include": [{"class": "banana", "color": "green"}]}),
        "position": (
            "a photo of a vase right of a bottle",
            {"include": [{"class": "bottle"}, {"class": "vase", "position": ["right of", 0]}]},
        ),
        "color_attr": (
            "a photo of a brown handbag and a pink donut",
            {"include": [{"class": "handbag", "color": "brown"}, {"class": "donut", "color": "pink"}]},
        ),
    }


def test_every_class_has_a_prompt_of_its_own():
    """No prompt wants a person of some colour."""
    prompts = geneval_prompts()
    names = {json.loads(p.meaning)["include"][0]["class"] for p in prompts if p.category == "single_object"}
    assert names == set(NAMES)
    wanted = [clause for p in prompts for clause in json.loads(p.meaning)["include"]]
    assert not [clause for clause in wanted if clause["class"] == "person" and "color" in clause]


def test_plurals_are_english():
    said = [plural(name) for name in ("person", "bus", "bench", "knife", "sheep", "computer mouse", "toothbrush")]
    assert said == ["people", "buses", "benches", "knives", "sheep", "computer mice", "toothbrushes"]


def test_geneval_s_own_metadata_is_read(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    rows = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
        {
            "tag": "position",
            "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
            "prompt": "a photo of a dog left of a cat",
        },
        {
            "tag": "counting",
            "include": [{"class": "tv remote", "count": 2}],
            "exclude": [{"class": "tv remote", "count": 3}],
            "prompt": "a photo of two tv remotes",
        },
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = read_metadata(path)
    assert [(prompt.caption, prompt.category) for prompt in found] == [(row["prompt"], row["tag"]) for row in rows]
    read = [Requirement.model_validate_json(prompt.meaning) for prompt in found]
    assert read == [Requirement.model_validate(row) for row in rows]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 2: Invalid JSON"),
        ('{"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "mauve"}], "prompt": "x"}', "color"),
        ('{"tag": "taste", "include": [{"class": "cat", "count": 1}], "prompt": "x"}', "line 2: tag: "),
        ('{"tag": "colors", "include": [{"class": "unicorn", "count": 1}], "prompt": "x"}', "found class 'unicorn'"),
        (
            '{"tag": "position", "include": [{"class": "cat", "position": ["above", 0]}], "prompt": "x"}',
            "does not come before it",
        ),
    ],
)
def test_a_line_that_is_not_geneval_s_is_named(tmp_path, line, message):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text('{"tag": "colors", "include": [{"class": "cat"}], "prompt": "a cat"}\n' + line)
    with pytest.raises(PromptFileError, match=message):
        read_metadata(path)


def thing(name: str, left=0, top=0, width=10, height=10, score=0.95) -> DetectedObject:
    mask = np.zeros(PICTURE.shape[:2], bool)
    mask[top : top + height, left : left + width] = True
    return DetectedObject(name, score, (left, top, left + width, top + height), mask)


def right(detected, category="single_object", colors=(), **required) -> bool:
    """The verdict; `colors` are those that the objects of a clause turn out to have, the surest first."""
    wanted = Requirement.model_validate(required)
    return satisfies(PICTURE, group_by_class(detected, category), wanted, lambda _, things: list(colors)[: len(things)])


CAT, DOG = {"class": "cat"}, {"class": "dog"}


def test_an_object_counts_from_above_three_tenths():
    assert right([thing("cat", score=0.3001)], include=[CAT])
    assert not right([thing("cat", score=0.3)], include=[CAT])
    assert not right([thing("dog")], include=[CAT])


def test_what_is_there_besides_does_no_harm():
    assert right([thing("cat"), thing("cat"), thing("dog")], include=[CAT])


def test_all_of_two_objects_must_be_there():
    assert right([thing("dog"), thing("cat")], include=[CAT, DOG])
    assert not right([thing("dog"), thing("dog")], include=[CAT, DOG])


def test_counting_takes_sure_objects_only_and_exactly_as_many():
    two = {"include": [{**CAT, "count": 2}], "exclude": [{**CAT, "count": 3}]}
    cats = [thing("cat"), thing("cat")]
    assert right(cats, "counting", **two)
    assert not right(cats[:1], "counting", **two)
    assert not right([*cats, thing("cat", score=0.91)], "counting", **two)
    assert right([*cats, thing("cat", score=0.9)], "counting", **two)
    assert not right([*cats, thing("cat", score=0.9)], "two_object", **two)


def test_at_most_16_objects_of_a_class_count_the_surest_first():
    found = group_by_class([thing("cat", score=0.4 + place / 100) for place in range(20)], "colors")
    assert [round(cat.score, 2) for cat in found["cat"]] == [round(0.59 - place / 100, 2) for place in range(16)]


def test_a_colour_is_that_of_the_surest_objects():
    red = {"include": [{**CAT, "color": "red"}]}
    assert right([thing("cat")], "colors", ["red"], **red)
    assert not right([thing("cat")], "colors", ["blue"], **red)
    assert not right([thing("cat"), thing("cat", score=0.5)], "colors", ["blue", "red"], **red)


def test_colours_of_too_few_objects_are_not_looked_up():
    def refuse(image, things):
        raise AssertionError("asked")

    wanted = Requirement.model_validate({"include": [{**CAT, "color": "red"}]})
    assert not satisfies(PICTURE, group_by_class([thing("dog")], "colors"), wanted, refuse)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 10, 10), (30, 0, 40, 10), {"left of"}),
        ((30, 0, 40, 10), (0, 0, 10, 10), {"right of"}),
        ((0, 0, 10, 10), (0, 30, 10, 40), {"above"}),
        ((0, 30, 10, 40), (0, 0, 10, 10), {"below"}),
        ((0, 0, 10, 10), (30, 30, 40, 40), {"left of", "above"}),
        ((0, 0, 10, 10), (30, 8, 40, 18), {"left of"}),  # down by 8, less the margin of 2: 6 of 31
        ((0, 0, 10, 10), (0, 0, 10, 10), set()),
        ((0, 0, 10, 10), (2, 0, 12, 10), set()),  # an offset of 2 is a tenth of both widths
        ((0, 0, 10, 10), (3.9, 0, 13.9, 10), set()),  # 1.9 of 3.9 is clear: less than half
        ((0, 0, 10, 10), (4.1, 0, 14.1, 10), {"left of"}),
        ((0, 0, 40, 10), (15, 20, 25, 30), {"above"}),
    ],
)
def test_where_one_box_is_seen_from_another(first, second, expected):
    assert relations(first, second) == expected


def test_a_position_holds_for_the_surest_objects():
    wanted = {"include": [CAT, {**DOG, "position": ["left of", 0]}]}
    cat, left, below = thing("cat", 50), thing("dog", 0, score=0.9), thing("dog", 50, 50, score=0.8)
    assert right([cat, left, below], "position", **wanted)
    assert not right([cat, below], "position", **wanted)
    assert not right([left], "position", **wanted)
    assert not right([thing("cat", 0), thing("dog", 50)], "position", **wanted)


def test_what_is_not_the_object_is_grey_and_cut_off():
    image = np.full((20, 30, 3), 7, np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[5:10, 4:8] = True
    mask[5, 4] = False
    cut = crop_on_grey(image, DetectedObject("cat", 1.0, (4, 5, 8, 10), mask))
    assert cut.shape == (5, 4, 3)
    assert cut[0, 0].tolist() == [153, 153, 153]
    assert (cut.reshape(-1, 3)[1:] == 7).all()


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory) -> str:
    return save_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def colors() -> ColorNamer:
    return ColorNamer(Clip.load("zoo:clip"))


def test_a_detector_gives_masks_of_image_size_and_tight_boxes(detector_folder):
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
    found = list(Detector.load(detector_folder)(list(images)))
    assert len(found) == 3
    things = [thing for of_image in found for thing in of_image]
    assert {thing.name for thing in things} == {"computer mouse"}
    for each in things:
        left, top, right, bottom = each.box
        assert each.mask.shape == (50, 70)
        assert each.score > 0.3
        assert each.mask.sum() == each.mask[top:bottom, left:right].sum() > 0
        assert each.mask[top].any() and each.mask[bottom - 1].any()
        assert each.mask[:, left].any() and each.mask[:, right - 1].any()


def test_a_detector_of_other_classes_is_refused(tmp_path):
    with pytest.raises(DetectorError, match="found a detector of 2 classes without airplane"):
        Detector.load(save_tiny_detector(tmp_path, (SURE_OF, "dog")))


def test_a_model_of_another_type_is_refused():
    with pytest.raises(DetectorError, match="is a model of type t5, expected mask2former"):
        Detector.load("zoo:t5")


class Palette:
    """Stands for a CLIP whose space is colour: an image is its mean colour, a sentence that of its colour word."""

    RGB: ClassVar = {
        "red": (255, 0, 0), "orange": (255, 128, 0), "yellow": (255, 255, 0), "green": (0, 128, 0), "blue": (0, 0, 255),
        "purple": (128, 0, 128), "pink": (255, 128, 192), "brown": (128, 64, 0), "black": (1, 1, 2),
        "white": (255, 255, 255),
    }  # fmt: skip

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.seen: list[np.ndarray] = []

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        self.seen += list(images)
        return unit(images.reshape(len(images), -1, 3).mean(axis=1))

    def embed_texts(self, captions: list[str]) -> np.ndarray:
        self.heard += captions
        said = [next(word for word in self.RGB if f" {word}" in caption) for caption in captions]
        return unit(np.array([self.RGB[word] for word in said], float))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_colour_is_that_of_the_sentences_nearest_to_the_object():
    """Each object is cropped and seen alone, on grey."""
    palette = Palette()
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, :10], image[:, 10:] = (250, 5, 5), (5, 5, 250)
    halves = [np.arange(20) < 10, np.arange(20) >= 10]
    masks = [np.broadcast_to(half, (20, 20)) for half in halves]
    things = [
        DetectedObject("cat", 1.0, (0, 0, 10, 20), masks[0]),
        DetectedObject("cat", 1.0, (8, 0, 20, 20), masks[1]),
    ]
    name_colors = ColorNamer(palette)
    assert name_colors(image, things) == ["red", "blue"]
    assert palette.heard[:3] == ["a photo of a red cat", "a photo of a red-colored cat", "a photo of a red object"]
    assert len(palette.heard) == 10 * 3  # once for both
    assert [seen.shape for seen in palette.seen] == [(20, 10, 3), (20, 12, 3)]
    assert (palette.seen[1][:, :2] == 153).all()


def test_the_judge_reports_the_objects_of_its_detector(detector_folder, colors):
    judge = GenEvalJudge(Detector.load(detector_folder), colors)
    images = list(np.random.default_rng(1).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8))
    mouse = Prompt("a photo of a computer mouse", "single_object", '{"include":[{"class":"computer mouse"}]}')
    bench = Prompt("a photo of a bench", "single_object", '{"include":[{"class":"bench"}]}')
    assert judge(images, [mouse, bench]).tolist() == [True, False]
    assert len(COCO_NAMES) == len(set(NAMES)) == 80
