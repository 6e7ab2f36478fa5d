"""The captions stage through a recipe: every source, what it writes, its key, and its resumption."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
import yaml

from flows.errors import UserError
from flows.load import FOLDER, load_recipe
from lightgen_core.dedup.minhash import near_duplicate_captions
from lightgen_core.endpoint import EndpointError
from lightgen_core.evaluation.geneval_prompts import geneval_prompts
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.tables import read_table
from tasks.captions import captions
from tasks.config.settings import Settings
from tasks.context.digests import ContentNotFound
from tests.factories.tiny_language_model import save_tiny_language_model
from tests.support.local_endpoint import Reply, serving

SMOKE_ROWS = "fdda513d3726af573315094561fda0e34fc845f10dce2f62c1eaba2ee1cce125"
KEY = "sk-do-not-show-me"
SUBJECTS = ("cat", "dog", "boat", "lamp")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_language_model(tmp_path_factory.mktemp("lm") / "model")


def recipe_of(folder, **section):
    """The smoke recipe with another captions section, and few evaluation prompts."""
    world = {"colors": ["red", "green"], "shapes": ["circle", "square", "cross"]}
    raw = yaml.safe_load((FOLDER / "smoke.yaml").read_text()) | {"captions": section, "world": world}
    if section.get("source", "scene") != "scene":
        raw |= {"pairs": {"kind": "teacher", "scorer": "none"}, "evaluation": {"benchmark": "prompts"}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return load_recipe(str(path))


def make(folder, recipe, store="store", **settings) -> Artifact:
    place = open_store(str(folder / store))
    artifact = captions.artifact(recipe, place, ())
    captions.run(recipe, Settings(threads=1, **settings), (), artifact)
    return artifact


def rows(artifact, name):
    return read_table(artifact, f"^{name}").to_pylist()


def from_tiny_model(folder, model, file=None, **changes):
    filters = {"min_words": 1, "allow_cut": True, "max_echoed_words": 0}
    axes = {"subject": SUBJECTS, "style": ["photo", "drawing", "painting"]}
    llm = {
        "model": str(model),
        "dtype": "float32",
        "max_new_tokens": 10,
        "batch_size": 8,
        "shard_size": 16,
        "filters": filters,
        "taxonomy": {"axes": axes, "template": "write a {style} of a {subject}"},
    }
    return recipe_of(
        folder, source="llm", count=40, near_duplicate=0.9, llm=llm | changes, **({"file": file} if file else {})
    )


def test_the_captions_of_the_scene_world_have_not_changed(tmp_path):
    artifact = make(tmp_path, load_recipe("smoke"))
    said = "\n".join(
        f"{row['id']} {row['caption']}, {row['topic']}, {row['meaning']}" for row in rows(artifact, "captions")
    )
    assert hashlib.sha256(said.encode()).hexdigest() == SMOKE_ROWS
    proof = artifact.manifest().metrics["evaluation_prompts"]
    assert (proof["prompts"], proof["captions"], proof["exact"]) == (93_834, 240, 0)


def test_a_file_gives_captions_by_topic_and_reasons_for_dropped(tmp_path):
    leak = geneval_prompts()[5].caption
    lines = [{"caption": f"a {size} {thing} in the {place}", "kind": thing} for thing in ("cat", "boat")
             for size in ("big", "small", "green", "quiet") for place in ("rain", "hall", "sun")]  # fmt: skip
    more = [{"caption": leak, "kind": "shape"}, {"caption": lines[0]["caption"].upper(), "kind": "cat"}]
    text = "\n".join(map(json.dumps, [*lines, *more])) + '\nnot json\n{"text": 1}\n'
    (tmp_path / "c.jsonl").write_text(text)
    source = {"path": str(tmp_path / "c.jsonl"), "format": "jsonl", "topic_column": "kind"}
    artifact = make(tmp_path, recipe_of(tmp_path, source="file", count=20, file=source))
    chosen, figures = rows(artifact, "captions"), artifact.manifest().metrics
    assert figures["captions_by_topic"] == {"cat": 10, "boat": 10}
    assert {row["caption"] for row in chosen} <= {line["caption"] for line in lines} | {more[1]["caption"]}
    assert [row["id"] for row in chosen] == list(range(20))
    assert all((row["meaning"], row["source"]) == (row["caption"], "file") for row in chosen)
    reasons = {"not JSON": 1, "field missing or no text": 1, "evaluation prompt": 1, "repeated words": 1}
    assert figures["dropped_by_reason"] == reasons
    assert artifact.manifest().counts == {"rows": 20, "dropped": 4, "repeated": 1}
    found = {row["reason"]: row for row in rows(artifact, "dropped")}
    assert (found["not JSON"]["caption"], found["not JSON"]["location"]) == ("not json\n", "c.jsonl, line 27")
    assert (found["evaluation prompt"]["caption"], found["evaluation prompt"]["detail"]) == (leak, f"exact: {leak}")
    repeat = found["repeated words"]
    assert chosen[repeat["duplicate_of"]]["caption"].lower() == repeat["caption"].lower()


def test_captions_are_compared_by_meaning_if_the_recipe_wants_it(tmp_path):
    said = ["a red circle and a blue star", "an image of a red circle and a blue star", "three yellow crosses"]
    (tmp_path / "c.txt").write_text("\n".join(said))
    file = {"path": str(tmp_path / "c.txt"), "format": "txt"}
    space = {"near_duplicate": 0.9, "evaluation": 1.0}
    rules = {"ngram": 20, "least_words": 20}
    recipe = recipe_of(tmp_path, source="file", count=3, file=file, embedding=space, decontamination=rules)
    artifact = make(tmp_path, recipe)
    (dropped,) = rows(artifact, "dropped")
    assert dropped["reason"] == "repeated meaning" and 0.9 <= dropped["similarity"] < 1
    proof = artifact.manifest().metrics["evaluation_prompts"]
    assert proof["embedding"] == 0 and proof["nearest"]["similarity"] < 1 and proof["threshold"] == 1.0


def test_the_content_of_a_file_is_part_of_the_key(tmp_path):
    """A missing file is named."""
    path = tmp_path / "c.txt"
    recipe = recipe_of(tmp_path, source="file", file={"path": str(path), "format": "txt"})
    with pytest.raises(ContentNotFound, match="which the recipe names; correct the path"):
        captions.config(recipe)
    path.write_text("a cat\n")
    before = captions.config(recipe)
    path.write_text("a dog\n")
    assert before != captions.config(recipe)
    assert "files" not in captions.config(load_recipe("smoke"))


def test_a_tiny_model_writes_captions_evenly_over_the_taxonomy(tmp_path, model):
    artifact = make(tmp_path, from_tiny_model(tmp_path, model))
    manifest = artifact.manifest()
    assert artifact.names() == [
        "answers-00000.parquet", "answers-00001.parquet", "answers-00002.parquet", "answers-00003.parquet",
        "captions.parquet", "dropped.parquet",
    ]  # fmt: skip
    chosen = rows(artifact, "captions")
    assert len(chosen) == 40 and manifest.counts["rows"] == 40
    assert manifest.metrics["captions_by_topic"] == dict.fromkeys(SUBJECTS, 10)
    assert manifest.metrics["captions_by_axis"]["subject"] == dict.fromkeys(SUBJECTS, 10)
    assert sum(manifest.metrics["captions_by_axis"]["style"].values()) == 40
    assert near_duplicate_captions([row["caption"] for row in chosen], 0.9, seed=1).kept.all()
    answers = rows(artifact, "answers")
    assert len(answers) == 60 and {row["caption"] for row in chosen} < {row["caption"] for row in answers}
    assert answers[0]["instruction"].startswith("write a ")
    assert manifest.device_seconds > 0


def test_the_default_filters_drop_noise_with_reasons(tmp_path, model):
    artifact = make(tmp_path, from_tiny_model(tmp_path, model, filters={"min_words": 3}))
    reasons = artifact.manifest().metrics["dropped_by_reason"]
    assert {"cut off", "too short"} <= reasons.keys()
    rejected = [row for row in rows(artifact, "answers") if row["reason"]]
    assert len(rejected) == reasons["cut off"] + reasons["too short"] + reasons.get("empty", 0)
    assert {row["location"] for row in rows(artifact, "dropped")} >= {f"answer {row['id']}" for row in rejected}


def test_after_a_kill_only_the_shards_that_are_left_are_written(tmp_path, model, monkeypatch):
    """The run ends with the same bytes."""
    from lightgen_core.captioning.hf_captioner import HFCaptioner

    recipe = from_tiny_model(tmp_path, model)
    whole = make(tmp_path, recipe)
    write, calls = HFCaptioner.write, []

    def dies_in_the_third(self, instructions, seeds):
        calls.append(len(instructions))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(self, instructions, seeds)

    monkeypatch.setattr(HFCaptioner, "write", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, recipe, store="other")
    again = make(tmp_path, recipe, store="other")
    assert calls == [16, 16, 16, 16, 12]
    assert [(name, again.open(name).read()) for name in again.names()] == [
        (name, whole.open(name).read()) for name in whole.names()
    ]


def test_more_captions_leave_the_first_answers_as_they_are(tmp_path, model):
    recipe = from_tiny_model(tmp_path, model)
    few = make(tmp_path, recipe)
    more = make(tmp_path, recipe.model_copy(update={"captions": recipe.captions.model_copy(update={"count": 60})}))
    assert rows(more, "answers")[:60] == rows(few, "answers")


def test_seed_captions_are_rewritten(tmp_path, model):
    seeds, styles = ("a red boat", "an old house"), ("photo", "drawing", "painting")
    (tmp_path / "seeds.txt").write_text("a red boat\nan old house\n\n")
    rewrite = {"share": 0.5, "template": "write a {style} : {caption}"}
    file = {"path": str(tmp_path / "seeds.txt"), "format": "txt"}
    artifact = make(tmp_path, from_tiny_model(tmp_path, model, file=file, rewrite=rewrite))
    asked = [row["instruction"] for row in rows(artifact, "answers") if row["topic"] == "captions"]
    assert len(asked) == 30
    assert set(asked) == {f"write a {style} : {seed}" for style in styles for seed in seeds}
    assert [sum(text.endswith(seed) for text in asked) for seed in seeds] == [15, 15]
    assert [sum(f" {style} " in text for text in asked) for style in styles] == [10, 10, 10]
    assert artifact.manifest().metrics["dropped_by_reason"]["empty"] >= 1
    assert "files" in artifact.manifest().config


def over_http(folder, **changes):
    axes = {"subject": list(SUBJECTS), "style": ["sketch", "drawing"]}  # "a photo of a dog" is an evaluation prompt
    llm = {
        "backend": "endpoint",
        "model": "served",
        "shard_size": 8,
        "taxonomy": {"axes": axes, "template": "a {style} of a {subject}"},
    }
    return recipe_of(folder, source="llm", count=16, near_duplicate=1.0, llm=llm | changes)


def told(body):
    """Return the answer of a good model to an instruction."""
    said = f"Caption: {body['messages'][0]['content']} number {body['seed']} in the sun"
    return Reply({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]})


def test_an_endpoint_writes_captions_and_its_key_is_nowhere(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("LIGHTGEN_LLM_KEY", KEY)
    with serving(told) as asked:
        artifact = make(tmp_path, over_http(tmp_path), llm_url=asked.url)
    assert asked.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert len(asked.bodies) == 24
    assert len({body["seed"] for body in asked.bodies}) == 24
    assert artifact.manifest().metrics["captions_by_topic"] == dict.fromkeys(SUBJECTS, 4)
    assert all(" in the sun" in row["caption"] for row in rows(artifact, "captions"))
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in data for data in everything) and KEY not in caplog.text
    assert KEY not in repr(Settings()) + Settings().model_dump_json()
    assert artifact.manifest().device_seconds == 0


def test_where_the_endpoint_is_does_not_enter_the_key(tmp_path, monkeypatch):
    recipe = over_http(tmp_path)
    before = captions.artifact(recipe, open_store(str(tmp_path)), ()).key
    monkeypatch.setenv("LIGHTGEN_LLM_URL", "http://elsewhere/v1")
    assert captions.artifact(recipe, open_store(str(tmp_path)), ()).key == before


def test_an_endpoint_that_goes_down_keeps_its_answers(tmp_path):
    recipe, count = over_http(tmp_path), iter(range(1000))
    gone, message = Reply({"error": "gone"}, 401), "check the address, the model's name and the key"
    flaky = serving(lambda body: told(body) if next(count) < 8 else gone)
    with flaky as asked, pytest.raises(EndpointError, match=message):
        make(tmp_path, recipe, llm_url=asked.url, endpoint_concurrency=1)
    with serving(told) as asked:
        make(tmp_path, recipe, llm_url=asked.url)
    assert len(asked.bodies) == 16


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"source": "file"}, "source file needs a section captions.file with path"),
        ({"source": "llm"}, "source llm needs a section captions.llm with model"),
        ({"source": "llm", "llm": {"model": "m", "rewrite": {"share": 0.5}}},
         "captions.llm.rewrite needs a section captions.file with path"),
        ({"source": "llm", "llm": {"model": "m"}, "file": {"path": "p", "format": "txt"}},
         "source llm does not use the section captions.file; take it out"),
        ({"source": "scene", "llm": {"model": "m"}}, "source scene does not use the section captions.llm"),
        ({"source": "file", "file": {"path": "p", "format": "xlsx"}}, "captions.file.format: found 'xlsx'; input"),
        ({"source": "llm", "llm": {"model": "m", "taxonomy": {"template": "{mood}"}}}, "template names 'mood'"),
    ],
)  # fmt: skip
def test_a_source_without_its_section_is_a_mistake_that_names_it(tmp_path, section, message):
    with pytest.raises(UserError, match=message):
        recipe_of(tmp_path, **section)


def test_a_source_without_a_usable_caption_fails_with_reasons(tmp_path):
    (tmp_path / "c.jsonl").write_text("nothing\n" * 3)
    recipe = recipe_of(tmp_path, source="file", file={"path": str(tmp_path / "c.jsonl"), "format": "jsonl"})
    with pytest.raises(ValueError, match=r"source file gave no usable caption; dropped: \{'not JSON': 3\}"):
        make(tmp_path, recipe)


def test_a_thousand_hostile_lines_are_all_in_the_quarantine(tmp_path):
    rng = np.random.default_rng(0)
    noise = [
        rng.integers(0, 256, rng.integers(1, 300), dtype=np.uint8).tobytes().replace(b"\n", b"") for _ in range(1000)
    ]
    (tmp_path / "c.jsonl").write_bytes(b"\n".join([*noise, b'{"caption": "a cat on a mat"}']))
    recipe = recipe_of(tmp_path, source="file", file={"path": str(tmp_path / "c.jsonl"), "format": "jsonl"})
    artifact = make(tmp_path, recipe)
    dropped = read_table(artifact, "^dropped")
    assert len(rows(artifact, "captions")) == 1 and dropped.num_rows == 1000
    assert set(dropped["reason"].to_pylist()) <= {"not JSON", "not UTF-8", "field missing or no text"}
    assert pa.compute.all(pa.compute.is_valid(dropped["location"])).as_py()
