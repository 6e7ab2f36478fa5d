"""T2I-CompBench: the authors' files in every form, and rules on boxes and answers made by hand."""

import pytest

from lightgen_core.captioning.parse import Answer
from lightgen_core.evaluation.compbench import (
    FoundObject,
    attribute_score,
    parts_of,
    placement_in,
    position_score,
    read_compbench,
    spatial_score,
)
from lightgen_core.evaluation.compbench_ratings import Phrase, describe_question, rated, rating, rating_questions
from lightgen_core.evaluation.prompt import PromptFileError


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "a green bench and a blue bowl\na red car\n",
        "a green bench and a blue bowl\r\na red car",
        "\ufeffa green bench and a blue bowl\r\n\r\n  \na red car\n\n",
        "a green bench and a blue bowl\tseen\t7\na red car \tunseen\n\tno caption\n",
    ],
    ids=["lines", "crlf", "byte order mark and empty lines", "further fields"],
)
def test_a_file_s_prompts_are_its_first_fields(tmp_path, text):
    prompts = read_compbench(write(tmp_path, "color_val.txt", text))
    assert [prompt.caption for prompt in prompts] == ["a green bench and a blue bowl", "a red car"]
    assert {prompt.category for prompt in prompts} == {"color"}


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("3d_spatial_val.txt", "3d_spatial"),
        ("non_spatial_val.txt", "non_spatial"),
        ("spatial.txt", "spatial"),
        ("texture_val_unseen.txt", "texture"),
    ],
)
def test_the_category_is_the_beginning_of_the_name(tmp_path, name, category):
    assert read_compbench(write(tmp_path, name, "a cat"), 1)[0].category == category


def test_other_files_are_refused(tmp_path):
    with pytest.raises(PromptFileError, match=r"found colors\.txt; expected .* color_val\.txt, shape_val\.txt"):
        read_compbench(tmp_path / "colors.txt")
    with pytest.raises(PromptFileError, match="cannot be read"):
        read_compbench(tmp_path / "color_val.txt")
    with pytest.raises(PromptFileError, match="holds no prompt"):
        read_compbench(write(tmp_path, "color_val.txt", "\r\n\t\n"))


def test_a_complex_prompt_is_scored_by_what_it_holds(tmp_path):
    """The lists beside the file decide by the first sentence, in any case; a prompt of both lists is spatial."""
    path = write(tmp_path, "complex_val.txt", "The hat is on top.\tx\r\nA dog runs. Fast\r\nThe fog.\r\nBoth.\r\n")
    write(tmp_path, "complex_val_spatial.txt", "\nthe hat is on top\r\nBoth.\n")
    with pytest.raises(PromptFileError, match=r"there is no .*complex_val_action\.txt; a complex prompt is scored"):
        read_compbench(path)
    write(tmp_path, "complex_val_action.txt", "A DOG RUNS.\nBoth\n")
    prompts = read_compbench(path)
    assert [prompt.meaning for prompt in prompts] == ["spatial", "action", "both", "spatial"]
    assert [parts_of(prompt) for prompt in prompts[:3]] == [
        ("attributes", "spatial"),
        ("attributes", "action"),
        ("attributes", "spatial", "action"),
    ]


def test_attributes_multiply():
    assert attribute_score([0.5, 0.8, 1.0]) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("caption", "relation", "words"),
    [
        ("a cat on the top of a sofa", "top", "on the top of"),
        ("The hat was on top of the rack.", "top", "on top of"),
        ("a bee On The Right of a cup", "right", "On The Right of"),
        ("a mouse on side of a key", "near", "on side of"),
        ("a bear nearby", None, ""),
    ],
)
def test_a_relation_is_found_in_its_caption(caption, relation, words):
    found = placement_in(caption)
    assert (found and found.relation) == relation
    assert (caption[found.start : found.end] if found else "") == words


def box(left, top, right, bottom, score=1.0):
    return FoundObject(score, (left, top, right, bottom))


LEFT, RIGHT = box(0, 100, 100, 200), box(300, 100, 400, 200)


@pytest.mark.parametrize(
    ("relation", "first", "second", "score"),
    [
        ("left", LEFT, RIGHT, 1),
        ("left", RIGHT, LEFT, 0),
        ("right", RIGHT, LEFT, 1),
        ("top", LEFT, RIGHT, 0),  # no higher than wide apart
        ("top", box(0, 0, 100, 100), box(0, 300, 100, 400), 1),
        ("bottom", box(0, 300, 100, 400), box(0, 0, 100, 100), 1),
        ("bottom", box(0, 0, 100, 100), box(0, 300, 100, 400), 0),
        ("left", box(0, 0, 100, 100), box(50, 0, 150, 100), 0.3),  # IoU 1/3: 0.1 of it counts
        ("left", LEFT, LEFT, 0),
        ("near", LEFT, RIGHT, 1),  # side by side: 0 px along one axis
        ("near", box(0, 0, 10, 10), box(300, 200, 310, 210), 0.5),
    ],
)
def test_a_position_counts_by_its_boxes(relation, first, second, score):
    assert position_score(relation, first, second) == pytest.approx(score)


def test_objects_count_a_quarter_each_and_their_position_half():
    assert spatial_score("left", LEFT, RIGHT) == 1
    assert spatial_score("left", box(0, 100, 100, 200, 0.4), box(300, 100, 400, 200, 0.6)) == pytest.approx(0.75)
    assert spatial_score("right", LEFT, RIGHT) == 0.5
    assert spatial_score("right", LEFT, box(300, 100, 400, 200, 0.9)) == 0  # below a half
    assert spatial_score("left", LEFT, None) == spatial_score(None, None, None) == 0


@pytest.mark.parametrize(
    ("text", "category", "share"),
    [
        ("4", "color", 1.0),
        ("3: mostly", "shape", 0.75),
        ("The score is 2.", "texture", 0.2),
        ('{"score": 1, "explanation": "none"}', "color", 0.1),
        ("5", "color", None),
        ("5", "spatial", 1.0),
        ("1", "complex", 0.2),
        ("3.5", "numeracy", None),
        ("none", "non_spatial", None),
    ],
)
def test_a_level_counts_its_share(text, category, share):
    assert rating(Answer(text), category) == share


def test_ratings_multiply_and_attributes_are_asked_one_by_one():
    assert rated([0.75, 0.2]) == pytest.approx(0.15)
    phrases = [Phrase("a green bench", "bench"), Phrase("a blue bowl", "bowl")]
    first, second = rating_questions("color", "a green bench and a blue bowl", phrases, "A bench.")
    assert "You have described this image so: A bench." in first
    assert '"a green bench"' in first and "4: there is bench, and its color" in first and '"a blue bowl"' in second
    (whole,) = rating_questions("spatial", "a cat on the top of a sofa", [], "A cat.")
    assert '"a cat on the top of a sofa"' in whole and "5: it shows all of it" in whole
    assert "how many there are" in describe_question("numeracy")
