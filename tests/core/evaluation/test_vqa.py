"""Rules of DPG-Bench and GenEval 2 on answers made by hand."""

import json
import math

import pytest

from lightgen_core.captioning.parse import Answer
from lightgen_core.evaluation.prompt import PromptFileError
from lightgen_core.evaluation.vqa import (
    Question,
    answer_probability,
    asked,
    dpg_score,
    geometric_mean,
    is_right,
    questions_of,
    read_dpg,
    read_geneval2,
    vqa_scores,
    with_dependencies,
)

HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language"
)
ROWS = [
    'p0,"A cat, asleep",,1,0,entity,whole,entity - whole (cat),Is there a cat?',
    'p0,"A cat, asleep",,2,1,attribute,state,"attribute - state (cat, asleep)",Is the cat asleep?',
    "p1,A dog,,1,0,entity,whole,entity - whole (dog),Is there a dog?",
]


def test_a_question_below_a_no_counts_as_no_at_any_distance():
    chain = [Question("c", parents=(1,)), Question("b", parents=(2,)), Question("a"), Question("free")]
    assert with_dependencies([True, True, False, True], chain) == [False, False, False, True]
    assert dpg_score([True, True, False, True], chain) == 0.25
    assert dpg_score([True, True, True, True], chain) == 1


def test_dpg_s_file_is_read_with_its_dependencies(tmp_path):
    path = tmp_path / "dpg_bench.csv"
    path.write_text("\n".join([HEADER, *ROWS]))
    prompts = read_dpg(path)
    assert [prompt.caption for prompt in prompts] == ["A cat, asleep", "A dog"]
    assert questions_of(prompts[0]) == [
        Question("Is there a cat?", skill="entity"),
        Question("Is the cat asleep?", skill="attribute", parents=(0,)),
    ]


def test_another_file_than_dpg_s_is_named(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(PromptFileError, match="has no column item_id"):
        read_dpg(path)
    path.write_text("\n".join([HEADER, ROWS[0].replace(",1,0,", ",1,7,")]))
    with pytest.raises(PromptFileError, match="item p0: 7 is no proposition_id"):
        read_dpg(path)


def test_geneval2_s_file_is_read_with_its_skills(tmp_path):
    path = tmp_path / "geneval2_data.jsonl"
    pairs = [["How many cows are in the image?", "three"], ["Are the cows plastic?", "Yes"]]
    row = {"prompt": "three plastic cows", "atom_count": 3, "vqa_list": pairs, "skills": ["count", "attribute"]}
    path.write_text(json.dumps(row))
    (prompt,) = read_geneval2(path)
    assert (prompt.caption, prompt.category) == ("three plastic cows", "3 atoms")
    assert [(question.answer, question.skill) for question in questions_of(prompt)] == [
        ("three", "count"),
        ("Yes", "attribute"),
    ]
    path.write_text(json.dumps(row | {"skills": ["count"]}))
    with pytest.raises(PromptFileError, match="line 1: ValueError"):
        read_geneval2(path)


@pytest.mark.parametrize(
    ("text", "wanted", "right"),
    [
        ("Yes.", "yes", True),
        ("yes, there is", "Yes", True),
        ("No", "yes", False),
        ("maybe", "yes", None),
        ("", "yes", None),
        ("3", "three", True),
        ("Three cows", "three", True),
        ("four", "three", False),
    ],
)
def test_an_answer_counts_by_its_first_word(text, wanted, right):
    assert is_right(Answer(text), Question("?", wanted)) is right


def test_a_failed_request_is_no_answer():
    assert is_right(Answer("yes", error="refused"), Question("?")) is None


def test_questions_say_which_answer_is_wanted():
    assert asked(Question("Is it?")).endswith("Answer with yes or no alone.")
    assert asked(Question("How many?", "three")).endswith("Answer with one word alone.")


def likeliest(**tokens: float):
    return [(token, math.log(p)) for token, p in tokens.items()]


def test_a_soft_answer_is_the_probability_of_its_tokens():
    assert answer_probability(likeliest(Yes=0.5, yes=0.25, No=0.2), "yes") == pytest.approx(0.75)
    assert answer_probability(likeliest(**{"3": 0.5, " three": 0.25, "th": 0.2}), "three") == pytest.approx(0.75)
    assert answer_probability(likeliest(No=0.9), "yes") == 0


def test_one_wrong_atom_costs_more_in_the_geometric_mean():
    assert geometric_mean([0.9, 0.9]) == pytest.approx(0.9)
    assert geometric_mean([1.0, 0.25]) == pytest.approx(0.5)
    assert geometric_mean([1.0, 0.0]) < 1e-5


def test_scores_are_means_of_images_and_of_answers_by_skill(tmp_path):
    path = tmp_path / "dpg_bench.csv"
    path.write_text("\n".join([HEADER, *ROWS]))
    verdicts = [[{"score": 0.5, "answers": [True, False]}], [{"score": 0.0, "answers": [False]}]]
    scores = vqa_scores(read_dpg(path), verdicts, 0, 100)
    assert {name: score["value"] for name, score in scores.items()} == {"overall": 0.25, "entity": 0.5, "attribute": 0}
    assert scores["entity"]["n"] == 2
