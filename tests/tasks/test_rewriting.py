"""Evaluation of rewritten prompts: what is sampled is the answer, what is judged is the prompt."""

import pyarrow.compute as pc
import pytest

from flows.load import load_recipe
from storage.open_store import open_store
from storage.tables import read_table
from tasks.config.settings import Settings
from tasks.evaluation import evaluation
from tasks.report_data import build_report_data
from tasks.report_inputs import RunArtifacts
from tests.factories.made_stages import make_until
from tests.factories.tiny_language_model import save_tiny_language_model
from tests.support.local_endpoint import Reply, serving, without_waits
from tests.tasks.test_evaluation import SMALL


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run whose prompts are as they are, and its store."""
    store = open_store(str(tmp_path_factory.mktemp("rewriting") / "store"))
    recipe = load_recipe("smoke", list(SMALL))
    return store, make_until(store, recipe)


def evaluate(made, *overrides: str, **settings):
    """Evaluate the same students with other prompts."""
    store, artifacts = made
    recipe = load_recipe("smoke", [*SMALL, *overrides])
    inputs = tuple(artifacts[name] for name in ("pretrain", "dpo"))
    artifact = evaluation.artifact(recipe, store, inputs)
    evaluation.run(recipe, Settings(device="cpu", threads=1, **settings), inputs, artifact)
    return recipe, artifact


def reply(body: dict) -> Reply:
    """Writes out every prompt but those about stars, of which it will not speak."""
    prompt = body["messages"][0]["content"].rpartition("Prompt: ")[2]
    text = (
        "I cannot help with stars."
        if "star" in prompt
        else f"A plain picture shows {prompt}, drawn large.\nIt is bright."
    )
    return Reply({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})


def test_answers_are_sampled_and_prompts_are_judged(made, monkeypatch):
    without_waits(monkeypatch)
    with serving(reply) as asked:
        recipe, artifact = evaluate(made, "evaluation.rewrite={model: m, backend: endpoint}", llm_url=asked.url)
        evaluate(made, "evaluation.rewrite={model: m, backend: endpoint}", llm_url=asked.url)
    samples, rewrites = read_table(artifact, "^samples"), read_table(artifact, "^rewrites").to_pylist()
    plain = read_table(made[1]["evaluation"], "^samples")
    assert len(asked.bodies) == len(rewrites) == 12, "each prompt once, whatever the students and images"
    by_prompt = {row["prompt"]: row["caption"] or row["prompt"] for row in rewrites}
    assert samples["sampled_caption"].to_pylist() == [by_prompt[text] for text in samples["caption"].to_pylist()]
    assert samples["caption"].equals(plain["caption"]) and samples["seed"].equals(plain["seed"])
    kept = [row["prompt"] for row in rewrites if row["reason"] == "refusal"]
    counts = {"prompts": 12, "rewritten": 12 - len(kept), "reasons": {"refusal": len(kept)}}
    assert artifact.manifest().metrics["rewritten"] == counts and 0 < len(kept) < 12
    images = [table["image"].combine_chunks().field("bytes") for table in (samples, plain)]
    same = {
        text for text, equal in zip(samples["caption"].to_pylist(), pc.equal(*images).to_pylist(), strict=True) if equal
    }
    assert same == set(kept), "other images where the text was another"
    run = RunArtifacts(made[1] | {"evaluation": artifact}, recipe)
    data = build_report_data(run, "0123")
    assert data.prompts.endswith("rewritten by m")
    assert data.usage.prompt in {*by_prompt.values()} and data.grid.images[0].caption == data.usage.prompt


def test_the_weights_of_a_rewriter_enter_the_key(made, tmp_path):
    model = save_tiny_language_model(tmp_path / "lm")
    filters = "filters: {allow_cut: true}"
    rewrite = f"evaluation.rewrite={{model: {model}, dtype: float32, max_new_tokens: 12, temperature: 1, {filters}}}"
    _, first = evaluate(made, rewrite)
    assert first.manifest().metrics["rewritten"]["rewritten"] > 0
    save_tiny_language_model(model, seed=1)
    recipe = load_recipe("smoke", [*SMALL, rewrite])
    assert evaluation.artifact(recipe, made[0], tuple(made[1][name] for name in ("pretrain", "dpo"))).key != first.key


def test_recipes_that_rewrite_nothing_keep_their_bytes(made):
    samples = read_table(made[1]["evaluation"], "^samples")
    assert "sampled_caption" not in samples.column_names
    assert "rewrite" not in made[1]["evaluation"].manifest().config["evaluation"]
