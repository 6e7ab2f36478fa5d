"""All ten stages on models as users have them, with random weights: a Llama, a FluxPipeline, a DC-AE and a T5."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from diffusers import FluxPipeline

from flows.distill import NAMES
from lightgen_core.images.codec import encode_png
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.tables import iter_tables, read_table
from tasks.config.recipe import Recipe
from tasks.report_data import build_report_data
from tasks.report_inputs import RunArtifacts
from tests.factories.tiny_language_model import save_tiny_language_model
from tests.factories.tiny_pipelines import WIDTH, dcae, save_flux, t5, t5_tokenizer
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow(rank=4)

UNDRAWABLE = "painting"
"""A word that the pipeline's tokenizer knows and its text encoder does not: a prompt with it fails."""
CAPTIONS, EACH, SHARD = 8, 3, 1  # one image a shard: one that fails empties it


def recipe_of(models: Path) -> dict:
    """The recipe as a user writes it."""
    small = {"steps": 2, "batch_size": 4, "noise_samples_per_token": 1, "log_every": 1, "checkpoint_every": 1}
    small |= {"precision": "fp32", "mask": {"distribution": "uniform", "min_ratio": 0}}
    blocks = dict.fromkeys(("aligner_depth", "encoder_depth", "decoder_depth", "text_depth"), 1)
    student = {"token_width": 16, "text_width": WIDTH, "width": 32, "heads": 2, "position_grid": 3, **blocks}
    return {
        "smoke_test": True,
        "captions": {
            "source": "llm",
            "count": CAPTIONS,
            "llm": {
                "model": str(models / "llama"),
                "dtype": "float32",
                "max_new_tokens": 8,
                "filters": {"allow_cut": True, "max_echoed_words": 0},
            },
        },
        "synthesis": {
            "teacher": "diffusers",
            "diffusers": {
                "model": str(models / "flux"), "dtype": "float32", "steps": 2, "height": 48, "width": 48,
            },
            "count": CAPTIONS * EACH,
            "balance": "captions",
            "shard_size": SHARD,
        },
        "embeddings": {"model": "zoo:clip"},
        "dedup": {"threshold": 0.93, "recall_queries": 24, "diversity_sample": 24, "clusters": 4, "centres": 2},
        "tokens": {"codec": str(models / "dcae"), "text_encoder": str(models / "t5")},
        "pretrain": small | {"model": student, "head": {"width": 32, "depth": 1, "objective": "flow"}},
        "sampler": {"iterations": 3, "head_steps": 2, "head_sampler": "euler"},
        "pairs": {"count": CAPTIONS, "kind": "teacher", "scorer": "none", "shard_size": 3},
        "dpo": small,
        "evaluation": {"benchmark": "prompts", "prompts": str(models / "prompts.txt"), "images": 1, "resamples": 20},
    }  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_language_model(folder / "llama")
    flux = FluxPipeline.from_pretrained(save_flux(folder / "flux"))
    flux.text_encoder.resize_token_embeddings(len(flux.tokenizer))
    flux.tokenizer.add_tokens([UNDRAWABLE])
    flux.save_pretrained(folder / "flux")
    dcae().save_pretrained(folder / "dcae")
    t5().save_pretrained(folder / "t5")
    t5_tokenizer().save_pretrained(folder / "t5")
    (folder / "prompts.txt").write_text("a photo of a bench\ntwo cups and a green pear\n")
    return folder


@pytest.fixture(scope="module")
def run(models, tmp_path_factory):
    """Run the recipe by the command line; every call is another process on the same store."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe_of(models)))
    place = {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "prefect")}
    environment = os.environ | place | {"LIGHTGEN_THREADS": "1", "OMP_NUM_THREADS": "1"}

    def run() -> dict:
        command = [sys.executable, "-m", "flows", "run", "mine.yaml", "--store", "store", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run.store = open_store(str(folder / "store"))
    return run


@pytest.fixture(scope="module")
def first(run) -> dict:
    return run()


@pytest.fixture(scope="module")
def made(run, first) -> dict[str, Artifact]:
    """Artifacts of the first run, by stage."""
    return {row["stage"]: Artifact(run.store, row["stage"], row["key"]) for row in first["stages"]}


def test_ten_stages_finish_and_nobody_scores(first):
    assert [(row["stage"], row["state"]) for row in first["stages"]] == [(name, "ran") for name in NAMES]
    assert first.keys() == {"recipe", "store", "seconds", "stages", "scores", "report"}
    assert first["scores"] == dict.fromkeys(("pretrain", "sft", "dpo", "shuffled"))


def test_the_report_says_that_no_scorer_applies(made):
    page = made["report"].store.read(f"{made['report'].path}/report.html").decode()
    assert "No scorer applies" in page


def test_a_second_run_is_ten_times_cached(run, first):
    again = run()
    assert [row["state"] for row in again["stages"]] == ["cached"] * 10
    assert [row["key"] for row in again["stages"]] == [row["key"] for row in first["stages"]]


def test_a_failing_prompt_leaves_a_gap_and_an_empty_shard(made):
    said = read_table(made["captions"], "^captions")["caption"].to_pylist()
    failing = [place for place, text in enumerate(said) if UNDRAWABLE in text.split()]
    gone = read_table(made["synthesis"], "^quarantine")
    assert failing and 0 < failing[0] <= failing[-1] < CAPTIONS - 1
    assert gone["id"].to_pylist() == [CAPTIONS * turn + place for turn in range(EACH) for place in failing]
    assert set(gone["reason"].to_pylist()) == {"the teacher failed on the prompt"}
    rows = [len(shard) for shard in iter_tables(made["synthesis"], "^images")]
    assert {0, 1} == set(rows) and 0 < rows.index(0) < len(rows) - 1


def test_every_later_stage_refers_to_an_image_by_its_id(made):
    pictures = {row["id"]: row for row in read_table(made["synthesis"], "^images").to_pylist()}
    assert max(pictures) >= len(pictures)
    assert read_table(made["embeddings"], "^embeddings")["id"].to_pylist() == list(pictures)
    verdict = read_table(made["dedup"], "^keep").to_pylist()
    assert [row["id"] for row in verdict] == list(pictures)
    tokens = {row["id"]: row for row in read_table(made["tokens"], "^tokens").to_pylist()}
    assert list(tokens) == list(pictures)
    kept = {row["id"] for row in verdict if row["kept"]}
    assert all(row["caption"] == pictures[number]["caption"] for number, row in tokens.items())
    pairs = read_table(made["pairs"], "^pairs").to_pylist()
    assert {pair["caption"] for pair in pairs} == {tokens[number]["caption"] for number in kept}
    assert {pair["id"] for pair in pairs} <= kept
    for pair in pairs:
        image = pictures[pair["id"]]
        assert (pair["caption"], pair["winner_image"]["bytes"]) == (image["caption"], image["image"]["bytes"])
        assert pair["winner"] == tokens[pair["id"]]["latents"]


def test_the_report_shows_of_two_copies_the_very_images(made, models):
    pictures = {row["id"]: row for row in read_table(made["synthesis"], "^images").to_pylist()}
    copies = [row for row in read_table(made["dedup"], "^keep").to_pylist() if row["duplicate_of"] is not None]
    recipe = Recipe.model_validate({"name": "mine", **recipe_of(models)})
    told = build_report_data(RunArtifacts({name: made[name] for name in NAMES if name != "report"}, recipe)).dedup
    gap = min(set(range(max(pictures))) - pictures.keys())
    assert told.examples and any(row["id"] > gap for row in copies)
    for example in told.examples:
        (row,) = [row for row in copies if row["similarity"] == example.similarity]
        for shown, caption, number in (
            (example.dropped, example.dropped_caption, row["id"]),
            (example.kept, example.kept_caption, row["duplicate_of"]),
        ):
            assert (encode_png(shown), caption) == (pictures[number]["image"]["bytes"], pictures[number]["caption"])
