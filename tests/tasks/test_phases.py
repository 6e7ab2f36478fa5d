"""Pre-training in phases on larger and larger images, starts from another student, and tokens of several sizes."""

import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan
from lightgen_core.encoders.model_ref import ModelNotFound
from lightgen_core.images.codec import decode_image, resize_square
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.tables import layout_metadata, read_file, read_table
from tasks.report_data import loss_curve, preference_curves
from tasks.token_files import token_files_regex
from tests.factories.made_stages import UNTIL_TOKENS, make_stages
from tests.support.contents import contents
from tests.support.paths import PROGRAMS

pytestmark = [pytest.mark.slow(rank=9), pytest.mark.usefixtures("stages_on_one_thread")]

SMALL = (
    "captions.count=48",
    "synthesis.count=64",
    "synthesis.shard_size=32",
    "pretrain.steps=6",
    "pretrain.batch_size=8",
    "pretrain.log_every=1",
    "pretrain.checkpoint_every=3",
)
PHASED = (
    *SMALL,
    "tokens.sizes=[32,48]",
    "pretrain.phases=[{size: 48, steps: 9, batch_size: 4, learning_rate: 1.0e-4, "
    "mask: {distribution: uniform, min_ratio: 0.5}}]",
)
PHASE = {"steps": 1, "batch_size": 1}


@pytest.fixture(scope="module")
def phased(tmp_path_factory) -> tuple[Path, dict[str, Artifact]]:
    """A store in which a recipe of two phases has been made up to the pairs."""
    folder = tmp_path_factory.mktemp("phased") / "store"
    small = ("pairs.count=4", "pairs.shard_size=4")
    return folder, make_stages(
        open_store(str(folder)), load_recipe("smoke", [*PHASED, *small]), *UNTIL_TOKENS, "pretrain", "pairs"
    )


def test_tokens_of_each_size_lie_in_files_of_their_own(phased):
    _, artifacts = phased
    names = [f"tokens-{size}px-0000{shard}.parquet" for size in (32, 48) for shard in (0, 1)]
    assert artifacts["tokens"].names() == ["text-00000.parquet", *names]
    layouts = {
        size: layout_metadata(read_file(artifacts["tokens"], f"tokens-{size}px-00000.parquet").schema)
        for size in (32, 48)
    }
    assert [(layout["height"], layout["width"]) for layout in layouts.values()] == [(4, 4), (6, 6)]


def test_sizes_share_rows_and_text_and_differ_in_latents(phased):
    _, artifacts = phased
    small, large = (read_table(artifacts["tokens"], token_files_regex(size)) for size in (32, 48))
    for column in ("id", "caption_id", "caption", "topic", "sha256", "flipped"):
        assert small[column].equals(large[column]), column
    texts = read_table(artifacts["tokens"], "^text")
    assert texts["text_length"].type == "int32"
    assert set(small["caption_id"].to_pylist()) == set(texts["id"].to_pylist())
    assert {len(data) for data in small["latents"].to_pylist()} == {2 * 16 * 4 * 4}
    captions = read_table(artifacts["synthesis"], "^images", ["caption_id"])["caption_id"]
    assert artifacts["tokens"].manifest().counts["captions_encoded"] == pc.count_distinct(captions).as_py()


def test_latents_of_a_size_are_those_of_the_resized_image(phased):
    from lightgen_core.encoders.autoencoder import LatentCodec

    _, artifacts = phased
    row = read_table(artifacts["tokens"], token_files_regex(32)).slice(5, 1).to_pylist()[0]
    images = read_table(artifacts["synthesis"], "^images").to_pylist()
    (picture,) = (decode_image(image["image"]["bytes"]) for image in images if image["id"] == row["id"])
    by_hand = np.array(Image.fromarray(picture).resize((32, 32), Image.Resampling.LANCZOS))
    expected = LatentCodec.load("zoo:autoencoder").encode(by_hand[None])[0]
    found = np.frombuffer(row["latents"], np.float16).reshape(16, 4, 4)
    assert np.abs(found - expected).max() < 0.01


def test_tokens_without_sizes_are_those_of_unchanged_images(phased, tmp_path):
    _, artifacts = phased
    store = open_store(str(tmp_path))
    for stage in ("captions", "synthesis", "embeddings", "dedup"):
        shutil.copytree(artifacts[stage].store.local_path(artifacts[stage].path), tmp_path / artifacts[stage].path)
    plain = make_stages(store, load_recipe("smoke", SMALL), "tokens")["tokens"]
    assert plain.names() == ["text-00000.parquet", "tokens-00000.parquet", "tokens-00001.parquet"]
    # The teacher draws 48 px: its images, and the same images "resized" to 48 px, give the same bytes.
    assert [plain.open(name).read() for name in plain.names("^tokens")] == [
        artifacts["tokens"].open(name).read() for name in artifacts["tokens"].names(token_files_regex(48))
    ]


def test_the_student_learns_in_both_phases_and_has_the_last_size(phased):
    _, artifacts = phased
    with artifacts["pretrain"].open("log.json") as file:
        rows = json.load(file)
    assert [(row["step"], row["phase"]) for row in rows] == [(step, 1 + (step > 6)) for step in range(1, 16)]
    assert [max(row["learning_rate"] for row in rows if row["phase"] == phase) for phase in (1, 2)] == [1.5e-3, 1e-4]
    with artifacts["pretrain"].open("student/config.json") as file:
        info = json.load(file)["info"]
    assert (info["latent_height"], info["latent_width"]) == (6, 6)
    assert artifacts["pretrain"].manifest().counts["steps"] == 15


def test_a_later_phase_goes_on_from_the_weights_of_the_earlier(phased, tmp_path):
    """With a rate of nearly nothing the second phase ends where the first one did."""
    from lightgen_core.model.save import load_student

    folder, _ = phased
    store = open_store(str(shutil.copytree(folder, tmp_path / "store")))
    still = [override.replace("1.0e-4", "1.0e-12") for override in PHASED]
    ends = {
        name: make_stages(store, load_recipe("smoke", overrides), "pretrain")["pretrain"]
        for name, overrides in (("one", [*SMALL, "tokens.sizes=[32,48]"]), ("two", still))
    }
    one, two = (
        load_student(store.local_path(end.path) / "student", weights="raw")[0].state_dict() for end in ends.values()
    )
    assert all((one[name] - two[name]).abs().max() < 1e-8 for name in one)


def test_pairs_are_of_the_size_that_the_student_samples(phased):
    _, artifacts = phased
    pairs = read_table(artifacts["pairs"], "^pairs")
    assert layout_metadata(pairs.schema)["height"] == 6
    values = {len(row[name]) for row in pairs.to_pylist() for name in ("winner", "loser")}
    assert values == {2 * 16 * 6 * 6}
    teacher = read_table(artifacts["tokens"], token_files_regex(48), ["id", "latents"]).to_pylist()
    latents = {row["id"]: row["latents"] for row in teacher}
    assert all(row["winner"] == latents[row["id"]] for row in pairs.to_pylist() if row["kind"] == "teacher")


@pytest.mark.parametrize(
    ("last", "message"),
    [("7", "going on from step 6"), ("10", "going on from step 3")],
    ids=["between phases", "in the second phase"],
)
def test_killed_pretraining_ends_with_the_same_bytes(phased, tmp_path, last, message):
    """It may be killed within a phase or between two."""
    folder, artifacts = phased
    store = Path(shutil.copytree(folder, tmp_path / "store"))
    shutil.rmtree(store / artifacts["pretrain"].path)
    command = [sys.executable, str(PROGRAMS / "make_stage.py"), str(store), "pretrain"]
    assert subprocess.run([*command, last, *PHASED]).returncode == -signal.SIGKILL
    again = subprocess.run([*command, "0", *PHASED], capture_output=True, text=True, check=True)
    assert message in again.stderr
    steps = [line for line in again.stderr.splitlines() if "step 1 of 15" in line]
    assert not steps, "a finished phase was repeated"
    found = Artifact(open_store(str(store)), "pretrain", artifacts["pretrain"].key)
    assert contents(found) == contents(artifacts["pretrain"])


class NoLog:
    """Stands for a tuning without a log."""

    def open(self, name: str) -> io.BytesIO:
        return io.BytesIO(b"[]")


def test_the_report_shows_one_loss_curve_and_where_phases_begin(phased):
    _, artifacts = phased
    curve = loss_curve(artifacts["pretrain"])
    assert preference_curves(NoLog()) == ()
    assert list(curve.steps) == list(range(1, 16)) and set(curve.lines) == {"loss"}
    assert curve.meaning.endswith("the next phase begins after step 6")


def student_of(artifact: Artifact) -> Path:
    return Path(artifact.store.local_path(f"{artifact.path}/student"))


def test_a_start_gives_its_averaged_weights_and_enters_the_key(phased, tmp_path):
    from lightgen_core.model.save import load_student

    folder, artifacts = phased
    start = shutil.copytree(student_of(artifacts["pretrain"]), tmp_path / "start")
    store = open_store(str(shutil.copytree(folder, tmp_path / "store")))
    still = [*PHASED[:-1], "pretrain.optimizer.learning_rate=1.0e-12", f"pretrain.init_from={start}"]
    made = make_stages(store, load_recipe("smoke", still), "pretrain")["pretrain"]
    found = load_student(student_of(made), weights="raw")[0].state_dict()
    wanted = load_student(start, weights="ema")[0].state_dict()
    assert all((found[name] - wanted[name]).abs().max() < 1e-8 for name in wanted)
    with (start / "ema.safetensors").open("r+b") as file:
        file.seek(-1, io.SEEK_END)
        file.write(b"x")
    changed = plan(load_recipe("smoke", still), store).statuses["pretrain"][0]
    assert changed.key != made.key


def test_a_start_of_another_shape_is_refused_naming_the_field(phased, tmp_path):
    """Before anything runs."""
    _, artifacts = phased
    start = f"pretrain.init_from={student_of(artifacts['pretrain'])}"
    store = open_store(str(tmp_path))
    with pytest.raises(ModelNotFound, match=r"pretrain\.model\.width is 64, the student has 48"):
        plan(load_recipe("smoke", [*PHASED, start, "pretrain.model.width=64"]), store)
    with pytest.raises(ModelNotFound, match=r"pretrain\.head\.depth is 1, the student has 2"):
        plan(load_recipe("smoke", [*PHASED, start, "pretrain.head.depth=1"]), store)
    plan(load_recipe("smoke", [*PHASED, start, "pretrain.model.dropout=0.5"]), store)
    with pytest.raises(ModelNotFound, match="holds no student"):
        plan(load_recipe("smoke", [*PHASED, f"pretrain.init_from={tmp_path}"]), store)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pretrain.phases=[{size: 64, steps: 1, batch_size: 1}]"], "images of 64 px, tokens.sizes are"),
        (
            [f"tokens.sizes={[32, 48]}", f"pretrain.phases={[PHASE | {'size': 48}, PHASE | {'size': 32}]}"],
            "expected each as large as the one before",
        ),
        (["tokens.sizes=[48,32]"], "expected ascending sides"),
        (["pretrain.model.attend_to_padding=true"], "set both or neither"),
        (["tokens.pad_text=true"], "set both or neither"),
    ],
)  # fmt: skip
def test_phases_and_tokens_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load_recipe("smoke", overrides)


def test_a_size_without_whole_tokens_stops_before_any_stage(phased, tmp_path):
    store = open_store(str(shutil.copytree(phased[0], tmp_path / "store")))
    with pytest.raises(UserError, match="an image of 40 x 40 px is not made of whole tokens of 16 px"):
        make_stages(store, load_recipe("smoke", [*SMALL, "tokens.sizes=[32,40]"]), "tokens")


def test_padded_text_is_stored_with_all_tokens_and_trained_on(phased, tmp_path):
    store = open_store(str(shutil.copytree(phased[0], tmp_path / "store")))
    padded = ["tokens.pad_text=true", "tokens.max_text_tokens=20", "pretrain.model.attend_to_padding=true"]
    artifacts = make_stages(store, load_recipe("smoke", [*SMALL, *padded]), "tokens", "pretrain")
    rows = read_table(artifacts["tokens"], "^text").to_pylist()
    assert {(row["text_length"], len(row["text"])) for row in rows} == {(20, 20 * 128 * 2)}


def test_images_are_cropped_to_their_middle_square_and_filtered():
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, :32] = wide[:, 96:] = 255  # outside the middle square
    wide[1::2, 64:96] = 200  # stripes that a filter must average, not pick
    small = resize_square(wide, 16)
    assert small.shape == (16, 16, 3)
    assert small[:, :5].max() == 0 and np.abs(small[2:-2, 10:].astype(int) - 100).max() <= 2
    same = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (resize_square(same, 16) == same).all()
