"""`lightgen estimate`: against a count by hand, against what a run really wrote, and without loading anything heavy."""

import json
import math
import re
import subprocess
import sys

import pytest

from flows.commands.estimate import Rates, estimate, parse_throughput
from flows.commands.estimate_teachers import estimate_teachers
from flows.errors import UnknownModelSize, UserError
from flows.load import load_recipe
from flows.sizes import codec_stride, embedding_width, token_sizes
from tests.support.paths import ROOT

DOC = ROOT / "docs" / "estimate.md"


def rows(result: dict) -> dict[str, dict]:
    return {row["stage"]: row for row in result["stages"]}


def by_hand() -> dict[str, float]:
    """The steps of docs/estimate.md, with nothing taken from the package."""
    width, image, words, text, values, head = 1024, 256, 128, 4096, 64, 1536

    def block(n: float) -> float:
        return 24 * n * width**2 + 4 * n**2 * width

    def density(z: float) -> float:
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    def below(z: float) -> float:
        return 0.5 * (1 + math.erf(z / math.sqrt(2)))

    masked = image * (1 + 0.25 * (density(-1.2) - density(0)) / (below(0) - below(-1.2))) + 0.5
    visible = image - masked
    aligner = 2 * words * (text * width + width**2) + 6 * block(words)
    encoder = 2 * visible * values * width + 16 * block(visible)
    decoder = 2 * visible * width**2 + 16 * block(image)
    cross = 4 * masked * width**2 + 4 * words * width**2 + 4 * masked * words * width + 16 * masked * width**2
    reader = 2 * image * width**2 + 16 * cross
    once = 2 * (256 * head + head**2 + values * head + 40 * head**2 + 2 * head**2 + 2 * values * head)
    denoiser = masked * (2 * width * head + 4 * once)
    flops = 3 * (aligner + encoder + decoder + reader + denoiser) * 100_000 * 2048
    flux, tokens = 3072, 1024 + 256  # 57 blocks; T5-XXL's 4.63e9 weights; 9.6e6 FLOP a pixel decoded
    teacher = 28 * 57 * (24 * tokens * flux**2 + 4 * tokens**2 * flux) + 2 * 4.63e9 * 256 + 9.6e6 * 512**2
    return {
        "flops": flops,
        "hours": flops / (989e12 * 0.4) / 3600,
        "tokens": 2e6 * (2 * 16 * 32 * 32 + 2 * words * text),
        "pictures": 2e6 * 512 * 512 * 1.6,
        "teacher": 2e6 * teacher,
        "teacher_hours": 2e6 * teacher / (989e12 * 0.4) / 3600,
    }


def test_the_estimate_of_the_papers_recipe_is_the_count_by_hand():
    """Within five percent."""
    command = [sys.executable, "-m", "flows", "estimate", "lightgen-0.7b-256", "--json", "--price", "2.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result, hand = json.loads(done.stdout), by_hand()
    found = rows(result)
    assert result["images"] == 2_000_000
    assert result["tokens_per_image"] == {"256": 256}
    assert found["pretrain"]["items"] == 204_800_000
    assert found["pretrain"]["flops"] == pytest.approx(hand["flops"], rel=0.05)
    assert found["pretrain"]["device_hours"] == pytest.approx(hand["hours"], rel=0.05)
    assert found["pretrain"]["money"] == pytest.approx(2.5 * hand["hours"], rel=0.05)
    assert found["tokens"]["bytes"] == pytest.approx(hand["tokens"], rel=0.05)
    assert found["synthesis"]["bytes"] == pytest.approx(hand["pictures"], rel=0.05)
    assert found["synthesis"]["flops"] == pytest.approx(hand["teacher"], rel=0.01)


def test_the_documentation_says_what_the_count_by_hand_gives():
    said, hand = DOC.read_text(), by_hand()
    assert f"{hand['flops']:.2e}".replace("e+", "e") + " FLOP" in said
    assert f"{hand['hours']:.0f} device-hours" in said
    assert f"{hand['tokens'] / 1e12:.2f} TB" in said
    assert f"{hand['teacher']:.2e}, {hand['teacher_hours']:.0f} hours".replace("e+", "e") in said


def test_a_measured_throughput_replaces_flops():
    result = estimate(load_recipe("smoke"), Rates({"pretrain": 2.0, "embeddings": 4.0}, price=3.0))
    assert rows(result)["pretrain"]["device_hours"] == pytest.approx(40 * 16 / 2 / 3600)
    assert rows(result)["embeddings"]["money"] == pytest.approx(480 / 4 / 3600 * 3)
    assert "embeddings" not in result["total"]["not_counted"]


def test_twice_the_mfu_is_half_the_time():
    slow, fast = (rows(estimate(load_recipe("demo"), Rates(mfu=mfu)))["dpo"]["device_hours"] for mfu in (0.2, 0.4))
    assert slow == pytest.approx(2 * fast)


def test_phases_and_mirrored_rows_add_up():
    plain = estimate(load_recipe("smoke", ["tokens.sizes=[48]"]), Rates())
    changes = ["tokens.sizes=[48,96]", "tokens.flip=true", "pretrain.phases=[{size: 96, steps: 40, batch_size: 16}]"]
    both = estimate(load_recipe("smoke", changes), Rates())
    assert both["tokens_per_image"] == {"48": 9, "96": 36}
    assert rows(both)["pretrain"]["items"] == 2 * rows(plain)["pretrain"]["items"]
    assert rows(both)["pretrain"]["flops"] > 2.5 * rows(plain)["pretrain"]["flops"]
    caption = 200
    texts = 240 * (2 * 64 * 128 + caption)  # once for each, whatever the images, sizes and flips
    assert rows(plain)["tokens"]["bytes"] == 480 * (2 * 16 * 6 * 6 + caption) + texts
    assert rows(both)["tokens"]["bytes"] == 960 * (2 * 16 * (6 * 6 + 12 * 12) + 2 * caption) + texts


def test_fewer_text_tokens_make_smaller_rows_up_to_the_maximum():
    one, two, three = (
        rows(estimate(load_recipe("smoke"), Rates(), words))["tokens"]["bytes"] for words in (10, None, 1000)
    )
    assert one < two == three


def test_recaptions_are_two_more_texts_of_each_image():
    """At the paper's scale their text states are terabytes."""
    lines = ["captions.count=10", "synthesis.count=100"]
    before = rows(estimate(load_recipe("lightgen-0.7b-256", lines), Rates()))
    after = rows(estimate(load_recipe("lightgen-0.7b-256", [*lines, "synthesis.recaption={model: m}"]), Rates()))
    assert after["tokens"]["bytes"] - before["tokens"]["bytes"] == 200 * (2 * 128 * 4096 + 200)
    assert after["synthesis"]["bytes"] - before["synthesis"]["bytes"] == 200 * 200
    assert "without the work of recaptioning" in after["synthesis"]["note"]
    assert "recaptioning" not in before["synthesis"]["note"]


@pytest.mark.parametrize("text", ["pretrain", "pretrain=", "pretrain=-1", "pretrain=nan", "train=3", "=3"])
def test_a_throughput_that_is_none_is_explained(text):
    with pytest.raises(UserError, match="not of the form STAGE=ITEMS_PER_SECOND"):
        parse_throughput([text])


def test_a_shards_minutes_are_its_part_of_the_stage():
    recipe = load_recipe("smoke", ["synthesis.shard_size=120"])
    found = rows(estimate(recipe, Rates({"synthesis": 2.0, "tokens": 4.0, "pairs": 0.5})))
    minutes = [found[stage]["shard_minutes"] for stage in ("synthesis", "tokens", "pairs")]
    assert minutes == pytest.approx([1.0, 0.5, 12 * 2 / 0.5 / 60])
    assert (found["embeddings"]["shard_minutes"], found["pretrain"]["shard_minutes"]) == (None, None)


@pytest.mark.parametrize("name", ["lightgen-0.3b-dcae", "lightgen-0.7b-256", "lightgen-0.7b-512", "lightgen-0.7b-1024"])
def test_a_kill_loses_ten_minutes_of_a_real_teacher(name):
    """At most, in whole batches of it."""
    recipe = load_recipe(name)
    assert recipe.synthesis.shard_size % recipe.synthesis.diffusers.batch_size == 0
    assert rows(estimate(recipe, Rates()))["synthesis"]["shard_minutes"] <= 10


def teachers(recipe: str, changes=(), words=None) -> dict[str, dict]:
    result = estimate_teachers(load_recipe(recipe, list(changes)), Rates(), words)
    return {row["teacher"].rpartition("/")[2]: row for row in result["teachers"]}


def test_a_known_teacher_costs_what_the_recipe_says():
    """In the table of teachers as in the table of stages; the others are as their authors run them."""
    recipe = load_recipe("lightgen-0.7b-512")
    stage, found = rows(estimate(recipe, Rates()))["synthesis"], teachers("lightgen-0.7b-512")
    flux = found["FLUX.1-dev"]
    assert (flux["flops"], flux["device_hours"]) == (stage["flops"], pytest.approx(stage["device_hours"]))
    assert stage["note"] == "1,024 image and 256 text tokens, 28 steps x 1, text encoder and decoder once"
    assert [name for name, row in found.items() if row["of_the_recipe"]] == ["FLUX.1-dev"]
    assert {name: (row["text_tokens"], row["steps"], row["passes"]) for name, row in found.items()} == {
        "FLUX.1-dev": (256, 28, 1),
        "FLUX.2-klein-4B": (256, 4, 1),
        "FLUX.2-klein-9B": (256, 4, 1),
        "Z-Image-Turbo": (128, 8, 1),
        "Qwen-Image": (128, 50, 2),
        "Sana_Sprint_1.6B_1024px_diffusers": (256, 2, 1),
    }


def test_half_the_text_and_half_the_steps_cost_less():
    def flux(*changes: str) -> float:
        return teachers("lightgen-0.7b-512", [f"synthesis.diffusers.{each}" for each in changes])["FLUX.1-dev"]["flops"]

    assert flux("max_sequence_length=null") / flux() == pytest.approx(1.22, abs=0.01)
    assert flux("steps=14") / flux() == pytest.approx(0.5, abs=0.01)
    assert flux("negative_prompt=blurry", "arguments={true_cfg_scale: 2.0}") / flux() == pytest.approx(2, abs=0.01)
    qwen = [teachers("lightgen-0.7b-512", words=words)["Qwen-Image"]["flops"] for words in (32, 128)]
    assert qwen[0] < qwen[1]


def test_a_step_cache_is_not_counted_and_the_note_says_so():
    cache = "synthesis.diffusers.step_cache={method: mag, threshold: 0.06}"
    plain, cached = (
        rows(estimate(load_recipe("lightgen-0.7b-512", changes), Rates()))["synthesis"] for changes in ([], [cache])
    )
    assert cached["flops"] == plain["flops"]
    assert cached["note"] == f"{plain['note']}; its step cache would skip some of it"


def test_an_unknown_teacher_or_unknown_steps_are_not_counted():
    for change in ("steps=null", "model=nobody/nothing"):
        recipe = load_recipe("lightgen-0.7b-512", [f"synthesis.diffusers.{change}"])
        assert rows(estimate(recipe, Rates()))["synthesis"]["flops"] is None


def test_the_documented_table_of_teachers_is_what_is_printed():
    command = [sys.executable, "-m", "flows", "estimate", "lightgen-0.7b-512", "--teachers"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"$ lightgen estimate lightgen-0.7b-512 --teachers\n{printed}```" in DOC.read_text()
    done = subprocess.run([*command, "--json", "--price", "2"], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert (result["images"], result["assumed"]) == (2_000_000, {"tflops": 989.0, "mfu": 0.4, "price": 2.0})
    for row in result["teachers"]:
        assert row["money"] == pytest.approx(2 * row["flops"] / (989e12 * 0.4) / 3600)
        assert 0 < row["denoiser_flops"] < row["flops_per_image"]
        assert row["source"]


def test_lossy_images_are_smaller():
    sizes = [
        rows(estimate(load_recipe("lightgen-0.7b-256", changes), Rates()))["synthesis"]["bytes"]
        for changes in ((), ["synthesis.image_format=jpeg"], ["synthesis.image_quality=90"])
    ]
    assert sizes == [pytest.approx(2e6 * (512**2 * share + 200)) for share in (1.6, 0.4, 0.4)]


def test_sizes_come_from_a_models_configuration_or_a_known_list(tmp_path):
    assert codec_stride("zoo:autoencoder") == 8
    assert codec_stride("mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers@main") == 32
    assert (embedding_width("zoo:clip"), embedding_width("ViT-B-32-SigLIP2-256/webli")) == (64, 768)
    assert embedding_width("org/name") is None
    assert token_sizes(load_recipe("demo"))[None].tokens == 9
    with pytest.raises(UnknownModelSize, match="stride of org/vae is not known before it is here"):
        codec_stride("org/vae")


def test_an_estimate_loads_neither_torch_nor_prefect():
    code = (
        "import sys; from flows.cli import cli; cli(['estimate', 'demo'], standalone_mode=False); "
        "sys.exit(bool({'torch', 'prefect', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert re.search(r"pretrain +249,600 images", done.stdout)


def test_captions_of_a_file_cost_nothing_and_no_language_model(tmp_path):
    (tmp_path / "captions.txt").write_text("a house by the sea\n")
    path = f"{tmp_path / 'captions.txt'}"
    file = ["captions.source=file", f"captions.file={{path: {path}, format: txt}}"]
    asked = ["synthesis.teacher=files", f"synthesis.files={{path: {tmp_path}, format: folder}}"]
    rest = ["pairs.scorer=none", "pairs.kind=teacher", "evaluation.benchmark=prompts", "tokens.sizes=[48]"]
    result = rows(estimate(load_recipe("smoke", [*file, *asked, *rest]), Rates()))["captions"]
    assert (result["flops"], result["note"]) == (0.0, "")


def test_prompts_of_a_file_are_counted(tmp_path):
    """Each is sampled twice by two students; of GenEval's form there are 553, fewer than 100 in a category."""
    (tmp_path / "prompts.txt").write_text("a house by the sea\na boat on a lake\na tree\n")
    unjudged = ["pairs.scorer=none", "pairs.kind=teacher", "evaluation.images=2", "evaluation.benchmark=prompts"]
    file = f"evaluation.prompts={tmp_path / 'prompts.txt'}"
    assert rows(estimate(load_recipe("smoke", [*unjudged, file]), Rates()))["evaluation"]["items"] == 3 * 2 * 2
    paper = rows(estimate(load_recipe("lightgen-0.7b-256"), Rates()))
    assert paper["evaluation"]["items"] == 553 * 4 * 2
