"""The back half of the pipeline for captions of any kind: who judges, and what is said where nobody can."""

import json

import numpy as np
import pytest

from flows.commands.console import describe_run
from flows.commands.evaluate import evaluate
from flows.commands.evaluate_tables import describe_evaluation
from flows.load import load_recipe
from flows.plan import plan
from lightgen_core.evaluation.preference import Lead, choose_pairs
from lightgen_core.evaluation.prompt import (
    Prompt,
    PromptFileError,
    limit_per_category,
    mismatched_prompts,
    read_prompts,
)
from lightgen_core.evaluation.scene import judge_scenes, scene_prompts
from lightgen_core.evaluation.scores import score_table
from lightgen_core.images.codec import decode_image
from lightgen_core.scene.config import World
from lightgen_core.scene.split import split
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store
from storage.tables import read_table
from tasks.config.recipe import Recipe
from tasks.evaluation_prompts import evaluation_captions, evaluation_prompts
from tests.factories.made_stages import make_until
from tests.factories.tiny_geneval import save_tiny_detector

CATEGORIES = ["single_object", "two_object", "counting", "colors", "position", "color_attr"]
SMALL = (
    "captions.count=48",
    "synthesis.count=64",
    "synthesis.shard_size=32",
    "dedup.clusters=4",
    "pretrain.steps=10",
    "pairs.count=8",
    "pairs.shard_size=5",
    "dpo.steps=4",
    "evaluation.per_category=2",
    "evaluation.shard_size=9",
    "evaluation.resamples=50",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def make(store):
    """Makes all that a recipe lacks in one store, without Prefect, and returns the recipe and its artifacts."""

    def run(*overrides: str) -> tuple[Recipe, dict[str, Artifact]]:
        recipe = load_recipe("smoke", [*SMALL, *overrides])
        return recipe, make_until(store, recipe)

    return run


@pytest.fixture(scope="module")
def scene(make):
    return make()


@pytest.fixture(scope="module")
def unjudged(make, tmp_path_factory):
    """A run whose evaluation prompts are from a file and whose pairs are the paper's."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a red bus\n\nan old man who mends his nets\na red bus in the rain\n")
    return make("evaluation.benchmark=prompts", f"evaluation.prompts={path}", "pairs.kind=teacher", "pairs.scorer=none")


@pytest.fixture(scope="module")
def geneval(make, tmp_path_factory):
    """A run judged by GenEval's rules, whose detector sees computer mice everywhere, and paired by CLIP."""
    folder = save_tiny_detector(tmp_path_factory.mktemp("detector"))
    judge = (f"evaluation.detector={folder}", "evaluation.color_model=zoo:clip")
    return make("evaluation.benchmark=geneval", *judge, "pairs.scorer=clip", "pairs.margin=0.05")


def scores_of(made: dict[str, Artifact]) -> dict:
    return made["evaluation"].manifest().metrics["scores"]


def test_scene_prompts_are_held_out_captions():
    held_out = {meaning.canonical for meaning in split(World())[1]}
    prompts = scene_prompts(World(), 5, seed=1)
    assert [sum(prompt.category == name for prompt in prompts) for name in CATEGORIES] == [5] * 6
    assert {prompt.meaning for prompt in prompts} <= held_out
    assert {prompt.meaning for prompt in scene_prompts(World(), None, seed=1)} == held_out


def test_shuffled_prompts_mean_something_else():
    prompts = scene_prompts(World(), 20, seed=0)
    other = mismatched_prompts(prompts, seed=3)
    assert all(prompts[a].meaning != prompts[b].meaning for a, b in enumerate(other))
    with pytest.raises(ValueError, match="nothing to shuffle"):
        mismatched_prompts([prompts[0], prompts[0]], seed=0)


def test_a_score_is_the_share_of_right_images():
    """Overall is the mean of the categories."""
    prompts = [Prompt("a", "colors", "a"), Prompt("b", "colors", "b"), Prompt("c", "counting", "c")]
    scores = score_table(np.array([[1, 1], [1, 0], [0, 0]], bool), prompts, seed=0, resamples=200)
    assert list(scores) == ["overall", "colors", "counting"]
    assert (scores["colors"]["value"], scores["colors"]["n"]) == (0.75, 4)
    assert (scores["counting"]["value"], scores["overall"]["value"], scores["overall"]["n"]) == (0.0, 0.375, 6)


def test_prompts_come_from_lines_of_text_or_json(tmp_path):
    text, rows = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    text.write_text("a red bus\n\n  a cat \n")
    rows.write_text('{"caption": "a red bus", "category": "things"}\n{"prompt": "a cat", "seed": 3}\n')
    assert [(prompt.caption, prompt.category) for prompt in read_prompts(text)] == [
        ("a red bus", "captions"),
        ("a cat", "captions"),
    ]
    assert [(prompt.caption, prompt.category) for prompt in read_prompts(rows)] == [
        ("a red bus", "things"),
        ("a cat", "captions"),
    ]
    assert [prompt.caption for prompt in limit_per_category(read_prompts(text), 1)] == ["a red bus"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("prompts.csv", "a", "expected a .txt"),
        ("prompts.txt", " \n", "holds no prompt"),
        ("prompts.jsonl", '{"caption": "a"}\n{"text": "b"}', 'line 2: found \'{"text": "b"}\'; expected'),
        ("prompts.jsonl", '["a"]', "line 1: found list, expected a JSON object"),
        ("prompts.jsonl", "{", "line 1 is not JSON"),
    ],
)
def test_a_file_that_holds_no_prompts_is_explained(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(PromptFileError, match=message):
        read_prompts(tmp_path / name)


def test_a_file_of_prompts_is_read_early_and_enters_the_key(store, tmp_path):
    """It is read before anything runs, and its content counts."""
    path = tmp_path / "prompts.txt"
    overrides = ["evaluation.benchmark=prompts", f"evaluation.prompts={path}"]
    with pytest.raises(PromptFileError, match="cannot be read"):
        plan(load_recipe("smoke", overrides), store)
    keys = []
    for content in ("a cat", "a dog", "a cat"):
        path.write_text(content)
        found = plan(load_recipe("smoke", overrides), store).statuses
        keys.append((found["pretrain"][0].key, found["evaluation"][0].key))
    assert keys[0] == keys[2]
    assert keys[0][0] == keys[1][0] and keys[0][1] != keys[1][1]


def test_what_training_must_not_see_is_the_whole_benchmark():
    few = load_recipe("smoke", ["evaluation.benchmark=geneval", "evaluation.per_category=1"])
    assert (len(evaluation_prompts(few)), len(evaluation_captions(few))) == (6, 553)
    recipe = load_recipe("smoke")
    assert {prompt.caption for prompt in evaluation_prompts(recipe)} < set(evaluation_captions(recipe))


@pytest.mark.parametrize(
    ("samples", "teacher", "kind", "expected"),
    [
        ([1, 0, 1], 1, "both", (0, 1)),
        ([1, 0, 1], 1, "teacher", (None, 1)),
        ([1, 0, 1], 1, "best_worst", (0, 1)),
        ([0, 0, 0], 1, "both", (None, 0)),
        ([0, 0, 0], 1, "best_worst", None),
        ([1, 1, 1], 1, "both", None),
        ([1, 1, 1], 1, "teacher", None),
        ([0.30, 0.28, 0.31], 0.5, "both", (None, 1)),
        ([0.30, 0.28, 0.31], 0.3, "both", None),
        ([0.1, 2.1], 0.5, "both", (1, 0)),
    ],
)
def test_a_pair_is_the_worst_sample_and_a_winner_by_the_margin(samples, teacher, kind, expected):
    margin = 1.0 if 1 in samples or 0 in samples else 0.2
    assert choose_pairs(Lead(np.array(samples, float), teacher, margin), kind) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ([1, 0, 1, 0], 9, {(0, 1), (0, 3), (2, 1), (2, 3)}),
        ([0, 0, 1], 9, {(2, 0), (2, 1)}),
        ([1, 1], 9, set()),
        ([0.1, 0.5, 0.75], 9, {(1, 0), (2, 0)}),
    ],
)
def test_ranked_pairs_are_all_that_differ_by_the_margin(scores, count, expected):
    """The teacher's score, the highest, is not looked at."""
    assert set(choose_pairs(Lead(np.array(scores, float), 2.0, 0.3), "ranked", count=count)) == expected


def test_fewer_ranked_pairs_are_drawn_by_a_seed():
    score = Lead(np.repeat([0.0, 1.0], 10), 0.0, 1.0)
    drawn = [choose_pairs(score, "ranked", count=5, seed=seed) for seed in range(20)]
    assert all(len(set(pairs)) == 5 for pairs in drawn)
    assert all(winner >= 10 > loser for pairs in drawn for winner, loser in pairs)
    assert len({winner for pairs in drawn for winner, _ in pairs}) == 10
    assert drawn[3] == choose_pairs(score, "ranked", count=5, seed=3) != drawn[4]


@pytest.mark.parametrize(
    ("kind", "margin", "expected"),
    [
        ("ranked", 0.0, {(0, 2)}),
        ("ranked", -1.0, {(0, 2), (1, 2)}),
        ("best_worst", 0.0, {(0, 2)}),
        ("best_worst", 0.5, set()),
        ("teacher", 0.5, {(None, 2)}),
        ("both", 0.5, {(None, 2)}),
    ],
)
def test_winners_lead_in_a_second_score_where_it_has_a_margin(kind, margin, expected):
    """In the second score sample 0 leads the loser by 0.25, sample 1 is behind it, and the teacher leads by 0.75."""
    score = Lead(np.array([1.0, 1.0, 0.0]), 1.0, 1.0)
    second = Lead(np.array([0.5, 0.0, 0.25]), 1.0, margin)
    assert set(choose_pairs(score, kind, count=9, agreement=[second])) == expected


def test_the_papers_pairs_prefer_the_teacher_to_the_only_sample(unjudged):
    """The teacher's image wins over the student's one sample."""
    _, made = unjudged
    pairs = read_table(made["pairs"], "^pairs")
    assert set(pairs["kind"].to_pylist()) == {"teacher"}
    assert (len(pairs), made["pairs"].manifest().counts["samples"]) == (8, 8)
    tokens = {row["id"]: row for row in read_table(made["tokens"], "^tokens").to_pylist()}
    images = {row["id"]: row["image"] for row in read_table(made["synthesis"], "^images").to_pylist()}
    for row in pairs.to_pylist():
        assert row["winner"] == tokens[row["id"]]["latents"]
        assert row["winner_image"]["bytes"] == images[row["id"]]["bytes"]
        assert row["caption"] == tokens[row["id"]]["caption"]


def test_pairs_of_clip_lead_by_the_margin_and_others_are_counted(geneval):
    from lightgen_core.encoders.clip import Clip

    recipe, made = geneval
    counts, pairs = made["pairs"].manifest().counts, read_table(made["pairs"], "^pairs").to_pylist()
    assert counts["rows"] + counts["without_pair"] == 8
    assert 0 < counts["rows"] == counts["teacher"] + counts["best_worst"]
    clip, captions = Clip.load("zoo:clip"), [row["caption"] for row in pairs]
    winner, loser = (
        clip.scores([decode_image(row[f"{side}_image"]["bytes"]) for row in pairs], captions)
        for side in ("winner", "loser")
    )
    assert (winner - loser >= recipe.pairs.margin - 1e-6).all()


def test_scene_scores_are_those_of_the_images(scene):
    _, made = scene
    samples = read_table(made["evaluation"], "^samples")
    pictures = [decode_image(image["bytes"]) for image in samples["image"].to_pylist()]
    right = judge_scenes(pictures, samples["caption"].to_pylist())
    assert samples["correct"].to_pylist() == right.tolist()
    half = len(right) // 2
    scores = scores_of(made)
    assert list(scores) == ["pretrain", "sft", "dpo", "shuffled"] and scores.pop("sft") is None
    assert [scores[name]["overall"]["value"] for name in ("pretrain", "dpo")] == pytest.approx(
        [right[:half].mean(), right[half:].mean()]
    )
    assert all(table.keys() == {"overall", *CATEGORIES} for table in scores.values())


def test_without_a_judge_every_score_is_null(unjudged):
    """Images and CLIP's cosine remain."""
    _, made = unjudged
    figures, samples = made["evaluation"].manifest().metrics, read_table(made["evaluation"], "^samples")
    assert figures["scores"] == dict.fromkeys(("pretrain", "sft", "dpo", "shuffled"))
    assert figures["judge"] is None
    assert samples["correct"].null_count == len(samples) == 2 * 2  # two students, the first two of three prompts
    assert figures["clip_score"].keys() == {"pretrain", "dpo"}
    assert all(-1 <= score["low"] <= score["value"] <= score["high"] <= 1 for score in figures["clip_score"].values())


def test_where_nobody_judges_the_run_and_its_report_say_so(unjudged, store):
    recipe, made = unjudged
    scores = plan(recipe, store).scores()
    said = describe_run({"stages": [], "scores": scores, "seconds": 1, "store": "here", "report": None})
    assert "no scorer applies" in said
    with made["report"].open("report.html") as file:
        page = file.read().decode()
    assert "No scorer applies" in page
    assert 'id="scores"' not in page
    assert "2 captions of prompts.txt, drawn by the student before and after DPO." in page
    assert page.count('alt="Pre-trained: ') == page.count('alt="After DPO: ') == 2


def test_geneval_s_scores_are_those_of_its_judge(geneval):
    _, made = geneval
    samples = read_table(made["evaluation"], "^samples").to_pylist()
    assert [sum(row["category"] == name for row in samples) for name in CATEGORIES] == [4] * 6
    # The detector is sure of mice and of nothing else, and none of these prompts is about mice.
    assert not any(row["correct"] for row in samples)
    assert scores_of(made)["dpo"]["overall"]["value"] == 0
    with made["report"].open("report.html") as file:
        page = file.read().decode()
    assert "Share of images in which GenEval-HF finds" in page
    assert "12 captions of GenEval\N{RIGHT SINGLE QUOTATION MARK}s form (not its own list)" in page


def test_evaluating_a_student_by_its_recipe_gives_equal_scores(scene, tmp_path, store):
    """The scores of the run."""
    recipe, made = scene
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(recipe.model_dump(mode="json")))
    student = store.local_path(f"{made['dpo'].path}/student")
    result = evaluate(str(student), recipe=str(path), output=tmp_path / "out")
    assert result["scores"] == scores_of(made)["dpo"]
    assert "the scene detector" in describe_evaluation(result)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    samples = [row for row in read_table(made["evaluation"], "^samples").to_pylist() if row["student"] == "dpo"]
    for line, row in zip(lines, samples, strict=True):
        assert (line["prompt"], line["correct"], line["seed"]) == (row["caption"], row["correct"], row["seed"])
        assert (tmp_path / "out" / line["filename"]).read_bytes() == row["image"]["bytes"]


def test_other_captions_need_a_scorer_and_a_benchmark_for_them():
    other = {"source": "file", "file": {"path": "captions.txt", "format": "txt"}}
    with pytest.raises(
        ValueError, match=r"captions.source is file.*set it to clip, or to none with pairs.kind=teacher.*geneval"
    ):
        Recipe(name="x", captions=other)
    fine = {"pairs": {"kind": "teacher", "scorer": "none"}, "evaluation": {"benchmark": "prompts"}}
    assert Recipe(name="x", captions=other, **fine).pairs.kind == "teacher"
    with pytest.raises(ValueError, match="scorer none goes with kind teacher"):
        Recipe(name="x", pairs={"scorer": "none"})
    with pytest.raises(ValueError, match=r"only; evaluation.benchmark is scene"):
        Recipe(name="x", captions=other, pairs={"scorer": "clip"})
