"""Recaptions: written for each image, kept apart from the images, and read by tokens and training."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from flows.errors import UserError
from flows.load import load_recipe
from lightgen_core.captioning.parse import Answer
from lightgen_core.captioning.scene import held_out_captions
from lightgen_core.data.batches import TokenSource
from lightgen_core.endpoint import EndpointError
from lightgen_core.teachers.scene import SceneTeacher
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.tables import IMAGE, read_table
from tasks.captions import captions
from tasks.config.settings import Settings
from tasks.context.shards import FileShard
from tasks.recaptions import RecaptionWorker
from tasks.synthesis import synthesis
from tasks.tokens import tokens
from tests.factories.tiny_vlm import save_tiny_vlm
from tests.support.local_endpoint import Reply, serving, without_waits

pytestmark = pytest.mark.slow(rank=40)

SMALL = (
    "world.colors=[red, green]",
    "world.shapes=[circle, square, cross]",
    "captions.count=12",
    "synthesis.count=12",
    "synthesis.shard_size=6",
    "tokens.flip=true",
)
ENDPOINT = "synthesis.recaption={backend: endpoint, model: m, long_filters: {min_words: 3}}"


@pytest.fixture(autouse=True)
def quick_loopback(monkeypatch):
    without_waits(monkeypatch)


def make(folder, *lines, until=synthesis, url="http://127.0.0.1:9/v1") -> dict[str, Artifact]:
    """Run the stages up to one of them, in a store that the tests of a folder share."""
    recipe, store, made = load_recipe("smoke", [*SMALL, *lines]), open_store(str(folder / "store")), {}
    settings = Settings(device="cpu", threads=1, vlm_url=url)
    for stage, inputs in ((captions, ()), (synthesis, ("captions",)), (tokens, ("synthesis",))):
        given = tuple(made[name] for name in inputs)
        made[stage.name] = stage.artifact(recipe, store, given)
        stage.run(recipe, settings, given, made[stage.name])
        if stage is until:
            break
    return made


def says(short="a small image", long="a long text about a small image"):
    """Return a server's answers: texts, or functions of how many of that kind came before."""
    turns = {"short": 0, "long": 0}

    def answer(body):
        kind = "short" if "one short sentence" in body["messages"][0]["content"][1]["text"] else "long"
        text = {"short": short, "long": long}[kind]
        text = text(turns[kind]) if callable(text) else text
        turns[kind] += 1
        if isinstance(text, Reply):
            return text
        return Reply({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

    return answer


def hashes(artifact):
    return {file.name: file.sha256 for file in artifact.manifest().files}


def test_a_model_of_transformers_captions_each_image_and_resumes(tmp_path):
    """The same bytes in one go and with the last shard lost."""
    filters = "{min_words: 1, allow_cut: true, max_echoed_words: 0}"
    model = save_tiny_vlm(tmp_path / "vlm")
    recaption = f"synthesis.recaption={{model: {model}, dtype: float32, temperature: 1, max_new_tokens: 10, "
    recaption += f"short_filters: {filters}, long_filters: {filters}}}"
    images = make(tmp_path, recaption)["synthesis"]
    rows = read_table(images, "^recaptions").to_pylist()
    assert [row["id"] for row in rows] == read_table(images, "^images", ["id"])["id"].to_pylist()
    assert len({row["short"] for row in rows} | {row["long"] for row in rows}) > 12
    assert images.manifest().metrics["recaptions"]["short"]["captions"] == 12
    before = hashes(images)
    images.store.remove(f"{images.path}/recaptions-00001.parquet")
    assert hashes(make(tmp_path, recaption)["synthesis"]) == before


def test_a_missing_recaption_has_its_reason(tmp_path):
    held = held_out_captions(load_recipe("smoke", SMALL).world)[0]
    short = {0: "I'm sorry, no", 1: Reply({"error": "no"}, 400), 2: held}
    server = says(short=lambda turn: short.get(turn, f"image of turn {turn}"))
    with serving(server) as asked:
        found = make(tmp_path, ENDPOINT, url=asked.url)["synthesis"].manifest().metrics["recaptions"]
    assert len(asked.bodies) == 24
    assert found == {
        "short": {"captions": 9, "reasons": {"evaluation prompt": 1, "no answer": 1, "refusal": 1}},
        "long": {"captions": 12, "reasons": {}},
    }


class Lengths:
    """Answers with the size of an image."""

    def write(self, images, texts, seeds):
        return [Answer(f"an image of {len(image)} bytes") for image in images]


class AllButTwo:
    """Earlier rows, which lack the first and the last."""

    def complete(self, wanted, columns, make):
        return pa.concat_tables([make([0, len(wanted) - 1])] * (len(wanted) // 2)), len(wanted) - 2


def test_images_beyond_two_gibibytes_are_captioned(monkeypatch):
    """40 views of one image of 64 MiB: a column that cannot be one array."""
    chunk = pa.array([{"bytes": bytes(64 << 20), "path": None}], IMAGE)
    rows = pa.table({"id": range(40), "image": pa.chunked_array([chunk] * 40)})
    rows = rows.append_column("sha256", pa.array(["0"] * 40)).append_column("caption", pa.array(["a"] * 40))
    written = []
    context = SimpleNamespace(
        recipe=load_recipe("smoke", [*SMALL, ENDPOINT]),
        artifact=None,
        earlier_rows=lambda *_: AllButTwo(),
        write_table=lambda name, table, **_: written.append(table),
    )
    monkeypatch.setattr("tasks.recaptions.read_file", lambda *_: rows)
    monkeypatch.setattr("tasks.recaptions.load_vlm", lambda *_: Lengths())
    RecaptionWorker(context, "writer")(FileShard(0, ("recaptions-00000.parquet",), 40, "images-00000.parquet"))
    assert written[0]["long"].to_pylist() == [f"an image of {64 << 20} bytes"] * 40


def test_another_prompt_makes_no_image_and_no_latents_again(tmp_path, monkeypatch):
    with serving(says()) as asked:
        first = make(tmp_path, ENDPOINT, until=tokens, url=asked.url)
        monkeypatch.setattr(SceneTeacher, "generate", None)
        other = ENDPOINT.replace("model: m", "model: m, long_prompt: Say more")
        second = make(tmp_path, other, until=tokens, url=asked.url)
    assert len(asked.bodies) == 48
    for name in ("images", "quarantine"):
        assert {k: v for k, v in hashes(second["synthesis"]).items() if k.startswith(name)} == {
            k: v for k, v in hashes(first["synthesis"]).items() if k.startswith(name)
        }
    reused = {file.name: file.reused for file in second["tokens"].manifest().files if file.name.startswith("tokens")}
    assert sum(reused.values()) == second["tokens"].manifest().counts["rows"]


def test_tokens_with_recaptions_take_over_no_file_without(tmp_path):
    """The images, and so their files, are the same."""
    make(tmp_path, until=tokens)
    with serving(says()) as asked:
        made = make(tmp_path, ENDPOINT, until=tokens, url=asked.url)["tokens"]
    assert set(read_table(made, "^tokens", ["short_id", "long_id"])["short_id"].to_pylist()) == {
        -1 - 2 * n for n in range(12)
    }
    assert (
        sum(file.reused for file in made.manifest().files if file.name.startswith("tokens"))
        == made.manifest().counts["rows"]
    )


def test_an_endpoint_that_stops_is_asked_the_rest(tmp_path):
    turns = iter(range(100))

    def breaks(turn):
        return f"image of turn {turn}" if next(turns) < 9 else Reply({"error": "no money"}, 402)

    with serving(says(short=breaks)) as asked, pytest.raises(EndpointError, match="402"):
        make(tmp_path, ENDPOINT, url=asked.url)
    with serving(says()) as asked:
        make(tmp_path, ENDPOINT, url=asked.url)
    assert len(asked.bodies) == 3 + 6, "the first shard and three short captions of the second are kept"


def test_training_reads_recaptions_or_else_the_originals(tmp_path):
    server = says(
        short=lambda turn: "" if turn % 2 else f"left of turn {turn}", long=lambda turn: f"a long line {turn}"
    )
    with serving(server) as asked:
        made = make(tmp_path, ENDPOINT, until=tokens, url=asked.url)
    rows = read_table(made["tokens"], "^tokens").to_pylist()
    recaptions = {row["id"]: row for row in read_table(made["synthesis"], "^recaptions").to_pylist()}
    texts = {row["id"]: row["caption"] for row in read_table(made["tokens"], "text-", ["id", "caption"]).to_pylist()}
    for row in rows:
        own = recaptions[row["id"]]
        assert texts[row["long_id"]] == own["long"]
        assert texts[row["short_id"]] == (own["short"] or row["caption"])
        assert not (row["flipped"] and own["short"]), "a mirror image is not left of anything"
    assert any(row["flipped"] for row in rows)
    local = [made["tokens"].store.local_path(f"{made['tokens'].path}/{name}") for name in made["tokens"].names("")]
    files, of_texts = (
        [path for path in local if (path.name.startswith("tokens")) is wanted] for wanted in (True, False)
    )
    shares = {"short_id": 1, "long_id": 1}
    source = TokenSource(files, texts=of_texts, patch=2, batch_size=8, seed=0, caption_shares=shares)
    assert len(source.batch(3).ids) == 8


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["pretrain.caption_shares={short: 1}"], "nothing writes them: give synthesis.recaption, with model"),
        (["pretrain.caption_shares={short: 0}"], "original, short and long are all 0"),
        (["pretrain.weights={teachers: {a: 1}}"], "weights.teachers names 'a'; synthesis.teachers are not given"),
        (["synthesis.recaption={model: m, short_prompt: '{mood}'}"], "short_prompt names 'mood'; expected caption"),
        (["pretrain.weights={captions: {a: -1}}"], "a has weight -1; expected 0 or more"),
    ],
)
def test_a_recipe_that_asks_for_what_nothing_gives_is_refused(lines, message):
    with pytest.raises(UserError) as error:
        load_recipe("smoke", lines)
    assert message in str(error.value)
