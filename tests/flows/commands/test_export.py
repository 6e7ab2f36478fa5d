"""`lightgen export`: the folder, its images, its cards, the hub, and the way back."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from diffusers import DiffusionPipeline
from PIL import Image

import lightgen
from flows.cli import cli
from flows.commands.cards import CardData, data_card, model_card
from flows.commands.export import export
from flows.commands.licences import Source, sources_of, student_licence
from flows.commands.lineage import Lineage
from flows.commands.sample import sample_to_files
from flows.errors import UserError
from lightgen_core.sampling.load import load_text_to_image
from lightgen_core.sampling.pipeline import LightGenPipeline
from storage.manifest import Manifest
from tests.factories.finished_run import finished_run
from tests.support.local_endpoint import Reply, serving, without_waits
from tests.support.model_hub import model_hub
from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow(rank=15), pytest.mark.usefixtures("one_thread")]

PROMPTS = ["a red circle", "two blue stars"]


@pytest.fixture(scope="module")
def made():
    return finished_run()


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "tiny"
    export(made.student, folder)
    return folder


@pytest.fixture(scope="module")
def sampled(made):
    """Images of the prompts with seed 3, as `lightgen sample` writes them."""
    return [np.asarray(image) for image in lightgen.Student.from_pretrained(made.student)(PROMPTS, seed=3)]


def lightgen_command(*arguments: object):
    return CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)


def test_the_pipeline_gives_the_images_of_sample(exported, sampled):
    images = LightGenPipeline.from_pretrained(exported)(PROMPTS, seed=3).images
    assert [np.array_equal(image, other) for image, other in zip(images, sampled, strict=True)] == [True, True]


def test_diffusers_loads_the_folder_where_its_code_is_trusted(exported, sampled, monkeypatch, tmp_path):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(exported)
    pipeline = DiffusionPipeline.from_pretrained(exported, trust_remote_code=True)
    generator = torch.Generator().manual_seed(3)
    assert type(pipeline) is LightGenPipeline
    alone = np.asarray(pipeline(PROMPTS[0], generator=generator).images[0]).astype(int)
    assert np.abs(alone - sampled[0]).max() <= 1  # of two in a batch, where the text is padded: equal but for rounding


def test_without_lightgen_the_folder_says_what_is_needed(exported):
    code = f"import runpy, sys; sys.modules['lightgen_core'] = None; runpy.run_path({str(exported / 'pipeline.py')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "this model needs the package lightgen" in done.stderr.splitlines()[-1]


def writes(text: str) -> list[Reply]:
    return [Reply({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})]


def test_a_rewritten_prompt_is_sampled_as_it_was_written_out(exported, tmp_path, monkeypatch):
    without_waits(monkeypatch)
    long = "A red circle beside a blue square, both large. The ground is plain."
    options = ("--seed", 3, "-o", tmp_path)
    with serving(writes(long)) as asked:
        monkeypatch.setenv("LIGHTGEN_LLM_URL", asked.url)
        lightgen_command("sample", exported, PROMPTS[0], *options, "--rewrite", "writer")
    lightgen_command("sample", exported, long, *options)
    short, written_out = sorted(tmp_path.glob("*.png"), key=lambda path: len(path.name))
    assert short.name == "000-a-red-circle.png" and short.read_bytes() == written_out.read_bytes()
    assert asked.bodies[0]["model"] == "writer" and PROMPTS[0] in asked.bodies[0]["messages"][0]["content"]


def test_a_rewriter_that_refuses_is_an_error(exported, monkeypatch):
    without_waits(monkeypatch)
    with serving(writes("I'm sorry.")) as asked:
        monkeypatch.setenv("LIGHTGEN_LLM_URL", asked.url)
        with pytest.raises(UserError, match="the answer to 'a red circle' is no caption: refusal"):
            sample_to_files(exported, (PROMPTS[0],), None, 0, 1, None, None, None, None, rewrite="writer")


def test_the_command_samples_from_the_exported_folder(exported, sampled, tmp_path):
    result = lightgen_command("sample", exported, *PROMPTS, "--seed", 3, "-o", tmp_path)
    images = [np.asarray(Image.open(path)) for path in result.stdout.split()]
    assert all(np.array_equal(image, other) for image, other in zip(images, sampled, strict=True))


def test_an_export_of_an_export_is_the_same_but_for_the_cards(exported, tmp_path):
    export(exported, tmp_path / "tiny")
    cards = {"README.md", "DATA_CARD.md", "lineage.json"}
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()} - cards
    assert len(names) == 10
    assert all((tmp_path / "tiny" / name).read_bytes() == (exported / name).read_bytes() for name in names)


def test_no_path_of_this_machine_is_in_the_folder(made, exported):
    texts = [path.read_text() for path in exported.rglob("*") if path.suffix in (".json", ".md", ".py")]
    assert [text for text in texts if str(ROOT) in text or made.store in text] == []


def test_half_precision_components_keep_their_images(made, tmp_path):
    """An autoencoder and a text encoder in bfloat16 are exported and loaded as such."""
    student = tmp_path / "student"
    student.mkdir()
    config = json.loads((made.student / "config.json").read_text())
    config["info"] |= {"codec_precision": "bf16", "text_precision": "bf16"}
    from lightgen_core.model.save import load_student, save_student

    loaded, _ = load_student(made.student)
    save_student(student, loaded, loaded.state_dict(), config["info"])
    expected = load_text_to_image(student, torch.device("cpu")).sample(PROMPTS, [0, 1]).images
    export(student, tmp_path / "tiny")
    pipeline = LightGenPipeline.from_pretrained(tmp_path / "tiny")
    assert (pipeline.vae.dtype, pipeline.text_encoder.dtype) == (torch.bfloat16, torch.bfloat16)
    assert np.array_equal(
        pipeline(PROMPTS, generator=[torch.Generator().manual_seed(n) for n in (0, 1)], output_type="np").images,
        expected,
    )
    again = load_text_to_image(tmp_path / "tiny", torch.device("cpu")).sample(PROMPTS, [0, 1]).images
    assert np.array_equal(again, expected)
    assert "Not known: the student was exported from a folder" in (tmp_path / "tiny/README.md").read_text()


def test_the_model_card_says_what_the_manifests_say(made, exported):
    card = (exported / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["library_name"], metadata["pipeline_tag"], metadata["license"]) == (
        "diffusers",
        "text-to-image",
        "apache-2.0",
    )
    overall = made.artifact("evaluation").manifest().metrics["scores"]["dpo"]["overall"]
    assert (
        f"| overall | {overall['value']:.3f} | {overall['low']:.3f} to {overall['high']:.3f} | {overall['n']} |" in card
    )
    rows = re.findall(r"^\| (\w+) \| `(\w+)`", card, re.M)
    assert rows == [(stage, made.artifact(stage).key) for stage, _ in rows] and len(rows) == 10
    seconds = sum(made.artifact(stage).manifest().timings["seconds"] for stage, _ in rows)
    assert f"| all | | | | | {seconds:,.1f} |" in card
    assert 'lightgen sample tiny "a prompt"' in card and "too small to learn" in card


def test_the_data_card_counts_what_was_dropped(made, exported):
    card = (exported / "DATA_CARD.md").read_text()
    captions, dedup = made.artifact("captions").manifest().counts, made.artifact("dedup").manifest().counts
    assert f"{captions['rows']} captions of 6 topics" in card
    assert f"{dedup['kept']} of {dedup['rows']} images are trained on" in card
    assert f"Dropped: {dedup['dropped']} (" in card or dedup["dropped"] == 0


def manifest(stage: str, **config) -> Manifest:
    """The manifest of a stage whose metrics do not matter."""
    counts = {"rows": 1, "dropped": 0, "quarantined": 0}
    metrics = {"captions_by_topic": {"cats": 1}, "quarantine": {}}
    made = {"timings": {"seconds": 1.0}, "device_seconds": 0, "software": {}, "host": {}, "created_at": "2026-01-01"}
    return Manifest(
        stage=stage,
        key="0" * 20,
        stage_version=1,
        config=config,
        inputs={},
        files=(),
        counts=counts,
        metrics=metrics,
        **made,
    )


def test_licences_travel_from_teacher_and_data_to_the_student(tmp_path):
    """Of hub models that are known, of a folder's own card, and not of an endpoint."""
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A set\n")
    captions = {"source": "file", "file": {"path": str(tmp_path / "captions.txt")}, "llm": None}
    (tmp_path / "captions.txt").write_text("a cat\n")
    synthesis = {"teacher": "diffusers", "diffusers": {"model": "black-forest-labs/FLUX.1-dev@0123"}}
    manifests = {
        "captions": manifest("captions", captions=captions),
        "synthesis": manifest("synthesis", synthesis=synthesis),
    }
    info = {"codec": "stabilityai/stable-diffusion-3.5-large/vae", "text_encoder": "someone/unheard-of"}
    found = sources_of(Lineage("dpo", manifests, ()), info)
    assert [source.licence for source in found] == [
        "cc-by-4.0", "FLUX.1 [dev] Non-Commercial License", "Stability AI Community License", "not known: see its page",
    ]  # fmt: skip
    assert student_licence(found) == "other"
    data = CardData("x", "other", info, 1, (48, 48), (), found, Lineage("dpo", manifests, ("pairs/1",)))
    card = model_card(data)
    assert (
        "not known to allow any use: " in card
        and "FLUX.1-dev@0123](https://huggingface.co/black-forest-labs/FLUX.1-dev)" in card
    )
    assert "No longer in the store, so not counted: pairs/1" in card
    assert "not part of this folder: `stabilityai/stable-diffusion-3.5-large/vae`, `someone/unheard-of`" in card
    assert data_card(data).count("| captions | ") == 1


def test_the_data_card_tells_what_validation_put_aside():
    dedup, pretrain = manifest("dedup"), manifest("pretrain")
    dedup.counts.update(rows=9, kept=8, dropped=1)
    dedup.metrics.update(reasons={"copy": 1}, certificate={"recall": None})
    pretrain.counts.update(held_out=2)
    made = {"captions": manifest("captions"), "synthesis": manifest("synthesis"), "dedup": dedup, "pretrain": pretrain}
    data = CardData("x", "other", {}, 1, (48, 48), (), (), Lineage("dpo", made, ()))
    card = data_card(data)
    assert "6 of 9 images are trained on, 2 are put aside for the held-out loss of pre-training." in card
    assert "1 caption of 1 topic." in card and "1 image." in card


def test_a_source_of_two_parts_is_named_once_among_the_terms():
    sources = [Source(role, "my/set", "not known") for role in ("captions", "images")]
    info = {"codec": "zoo:autoencoder", "text_encoder": "zoo:t5"}
    card = model_card(CardData("x", "other", info, 1, (48, 48), ("vae", "text_encoder"), sources, None))
    assert "not known to allow any use: my/set.\n" in card


def test_an_endpoints_images_have_its_providers_terms():
    synthesis = {"teacher": "endpoint", "endpoint": {"model": "dall-e-3"}}
    lineage = Lineage("dpo", {"synthesis": manifest("synthesis", synthesis=synthesis)}, ())
    source = sources_of(lineage, {"codec": "zoo:autoencoder", "text_encoder": "zoo:t5"})[0]
    assert (source.name, source.licence) == ("dall-e-3 behind an endpoint", "not known: the terms of its provider")


def test_recaptions_judges_and_heads_are_sources_too(tmp_path):
    """A model that wrote captions or chose images has terms as a teacher has."""
    recaption = {"model": "Qwen/Qwen2-VL-7B-Instruct", "backend": "transformers"}
    judge = {"model": "gpt-4o", "backend": "endpoint"}
    head = {"name": "aesthetic", "weights": str(tmp_path / "aesthetic.safetensors")}
    scorers = [{"kind": "pickscore", "model": "yuvalkirstain/PickScore_v1"}, {"kind": "judge", "judge": judge}]
    manifests = {
        "synthesis": manifest("synthesis", synthesis={"teacher": "scene", "recaption": recaption}),
        "dedup": manifest("dedup", dedup={"filters": {"heads": [head], "judge": judge}}),
        "pairs": manifest("pairs", pairs={"scorers": [*scorers, {"kind": "head", "head": head}]}),
    }
    found = sources_of(Lineage("dpo", manifests, ()), {"codec": "zoo:autoencoder", "text_encoder": "zoo:t5"})
    rows = [(source.role, source.name) for source in found]
    assert ("captions of the images, by a vision-language model", "Qwen/Qwen2-VL-7B-Instruct") in rows
    assert ("choice of images, by a judge", "gpt-4o behind an endpoint") in rows
    assert ("choice of images, by a head on CLIP", "aesthetic.safetensors (local)") in rows, "no path of this machine"
    assert ("choice of images, by a scorer", "yuvalkirstain/PickScore_v1") in rows
    assert len(rows) == len(set(rows)), "each once"


def test_the_data_card_has_the_share_of_each_source():
    several = {"captions_by_source": {"written": 3, "found": 1}}, {"images_by_teacher": {"flux": 1, "sd3": 1}}
    captions, synthesis = manifest("captions"), manifest("synthesis")
    written = {"short": {"captions": 2, "reasons": {}}, "long": {"captions": 1, "reasons": {"too short": 1}}}
    captions = captions.model_copy(update={"metrics": captions.metrics | several[0]})
    synthesis = synthesis.model_copy(update={"metrics": synthesis.metrics | several[1] | {"recaptions": written}})
    lineage = Lineage("dpo", {"captions": captions, "synthesis": synthesis}, ())
    card = data_card(CardData("x", "other", {}, 1, (48, 48), (), [], lineage))
    assert "By source: written: 3 (75%); found: 1 (25%)." in card
    assert "By source: flux: 1 (50%); sd3: 1 (50%)." in card
    assert "1 long captions were written for them.\n\nOf no use: 1 (too short: 1)." in card


def test_permissive_sources_alone_make_a_permissive_card():
    assert student_licence([Source("a", "b", "Apache-2.0"), Source("c", "d", "MIT")]) == "apache-2.0"
    assert student_licence([Source("a", "b", "Apache-2.0"), Source("c", "d", "CC-BY-NC-4.0")]) == "other"


def test_a_folder_with_other_things_is_refused_and_kept(made, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds something else than an exported student"):
        export(made.student, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"push": "tiny"}, "expected ORG/NAME"),
        ({"components": "none"}, "zoo:autoencoder, zoo:t5 have no name on the hub"),
    ],
)
def test_an_export_that_nobody_could_use_is_refused(made, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        export(made.student, tmp_path / "tiny", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub for this process, with a cache of its own."""
    with model_hub() as served:
        for name, value in (("ENDPOINT", served.url), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield served


def test_a_pushed_model_comes_back_with_the_same_images(made, hub, sampled, tmp_path):
    pushed = lightgen_command("export", made.student, tmp_path / "tiny", "--push", "someone/tiny", "--private")
    assert pushed.stdout == f"{hub.url}/someone/tiny\n"
    assert hub.repositories["someone/tiny"]["visibility"] == "private" and hub.tokens == {"Bearer hf_secret"}
    files = [path for path in (tmp_path / "tiny").rglob("*") if path.is_file()]
    written = {path.relative_to(tmp_path / "tiny").as_posix(): path.read_bytes() for path in files}
    assert hub.files == written
    assert 'lightgen sample someone/tiny "a prompt"' in hub.files["README.md"].decode()
    images = lightgen.Student.from_pretrained("someone/tiny")(PROMPTS, seed=3)
    assert [np.array_equal(image, other) for image, other in zip(images, sampled, strict=True)] == [True, True]


def test_a_hub_that_refuses_leaves_the_folder_and_says_why(made, hub, tmp_path):
    hub.refused = 403
    with pytest.raises(UserError, match=r"refuses someone/tiny with status 403; log in with .* is complete"):
        export(made.student, tmp_path / "tiny", push="someone/tiny")
    assert (tmp_path / "tiny/model_index.json").is_file()


def test_a_name_that_the_hub_does_not_know_is_an_error(hub):
    with pytest.raises(UserError, match=r"someone/else holds no student: .* hub gives no model of that name"):
        lightgen.Student.from_pretrained("someone/else")
