"""Teachers that are diffusers pipelines: seeds of their own, memory that runs out, prompts that fail, checkers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lightgen_core.rejected import Reason
from lightgen_core.teachers.base import TeacherError
from lightgen_core.teachers.config import DiffusersConfig
from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher
from tests.factories import tiny_pipelines

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = ["a red circle", "a dog on the moon", "two green squares, and a cat"]
SEEDS = [11, 12, 13]
CLASSES = {"flux": "FluxPipeline", "sd3": "StableDiffusion3Pipeline", "sdxl": "StableDiffusionXLPipeline"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {name: getattr(tiny_pipelines, f"save_{name}")(root / name) for name in CLASSES}


def load(folder: Path, **asked) -> DiffusersTeacher:
    plain = {"dtype": "float32", "steps": 2, "height": 48, "width": 48, "batch_size": 3}
    return DiffusersTeacher.load(DiffusersConfig(model=str(folder), **plain | asked), "cpu")


@pytest.mark.parametrize("name", CLASSES)
def test_an_image_depends_on_prompt_and_seed_not_on_its_batch(folders, name):
    together, alone = load(folders[name]), load(folders[name], batch_size=1)
    assert type(together.pipeline).__name__ == CLASSES[name]
    three, one = list(together.generate(PROMPTS, SEEDS)), list(alone.generate(PROMPTS, SEEDS))
    assert [(picture.shape, picture.dtype) for picture in three] == [((48, 48, 3), np.uint8)] * 3
    for a, b in zip(three, one, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1  # products of another batch size round differently
    (other_seed,) = alone.generate(PROMPTS[:1], [99])
    (other_prompt,) = alone.generate(PROMPTS[1:2], SEEDS[:1])
    assert (other_seed != one[0]).mean() > 0.5
    assert (other_prompt != one[0]).any()


@pytest.mark.parametrize("name", CLASSES)
def test_first_latents_are_the_same_bits_alone_and_in_a_batch(folders, name, monkeypatch):
    drawn = []

    def run(batch_size: int) -> torch.Tensor:
        teacher = load(folders[name], batch_size=batch_size)
        prepare = teacher.pipeline.prepare_latents

        def remembered(*arguments, **named):
            made = prepare(*arguments, **named)
            drawn.append(made[0] if isinstance(made, tuple) else made)
            return made

        monkeypatch.setattr(teacher.pipeline, "prepare_latents", remembered)
        list(teacher.generate(PROMPTS, SEEDS))
        whole = torch.cat(drawn)
        drawn.clear()
        return whole

    assert torch.equal(run(3), run(1))


def test_half_precision_weights_are_loaded_as_requested(folders):
    teacher = load(folders["flux"], dtype="bfloat16")
    assert teacher.pipeline.transformer.dtype == torch.bfloat16
    assert next(iter(teacher.generate(PROMPTS[:1], SEEDS[:1]))).std() > 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory")]
)
def test_when_memory_runs_out_the_batch_is_halved_and_stays_so(folders, monkeypatch, caplog, error):
    teacher = load(folders["flux"], batch_size=8)
    whole = list(load(folders["flux"], batch_size=2).generate(PROMPTS * 4, range(12)))
    sizes = limited(teacher, monkeypatch, 2, error)
    drawn = list(teacher.generate(PROMPTS * 4, range(12)))
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2]
    assert all(np.array_equal(a, b) for a, b in zip(drawn, whole, strict=True))
    assert "out of memory at batch size 8; continuing with 4" in caplog.text


def limited(teacher: DiffusersTeacher, monkeypatch, most: int, error: Exception) -> list[int]:
    """Let a pipeline raise for more than `most` prompts; returns the sizes of all calls."""
    sizes, draw = [], type(teacher.pipeline).__call__

    def call(self, prompt, **named):
        sizes.append(len(prompt))
        if len(prompt) > most:
            raise error
        return draw(self, prompt=prompt, **named)

    monkeypatch.setattr(type(teacher.pipeline), "__call__", call)
    return sizes


def test_a_single_image_that_does_not_fit_is_rejected(folders, monkeypatch):
    teacher = load(folders["flux"])
    limited(teacher, monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    assert [why.reason for why in teacher.generate(PROMPTS, SEEDS)] == [Reason.OUT_OF_MEMORY] * 3


def test_a_failing_prompt_is_rejected_and_the_others_are_drawn(folders):
    teacher = load(folders["sd3"])
    first, failed, last = teacher.generate([PROMPTS[0], "a lone \ud800 surrogate", PROMPTS[2]], SEEDS)
    assert (failed.reason, "Error" in failed.detail) == (Reason.PROMPT_FAILED, True)
    expected = list(load(folders["sd3"], batch_size=1).generate([PROMPTS[0], PROMPTS[2]], [SEEDS[0], SEEDS[2]]))
    assert np.array_equal(first, expected[0])
    assert np.array_equal(last, expected[1])


def test_a_lost_device_ends_the_run_and_not_the_prompts(folders, monkeypatch):
    teacher = load(folders["flux"])
    limited(teacher, monkeypatch, 0, torch.AcceleratorError("CUDA error: device-side assert triggered", 710))
    with pytest.raises(torch.AcceleratorError):
        list(teacher.generate(PROMPTS, SEEDS))


def test_an_image_that_the_safety_checker_blackened_is_rejected(tmp_path):
    folder = tiny_pipelines.save_sd_that_flags_everything(tmp_path / "sd")
    assert [why.reason for why in load(folder).generate(PROMPTS, SEEDS)] == [Reason.UNSAFE_CONTENT] * 3


def test_values_that_are_not_numbers_are_rejected_and_not_black(folders):
    teacher = load(folders["sdxl"])
    with torch.no_grad():
        teacher.pipeline.vae.decoder.conv_out.bias[0] = float("nan")
    assert [why.reason for why in teacher.generate(PROMPTS[:1], SEEDS[:1])] == [Reason.NOT_A_NUMBER]


def test_a_negative_prompt_reaches_pipelines_that_take_one(folders, caplog, tmp_path):
    """Elsewhere the log says that it is left out."""
    (plain,) = load(folders["sdxl"], guidance_scale=5).generate(PROMPTS[:1], SEEDS[:1])
    (other,) = load(folders["sdxl"], guidance_scale=5, negative_prompt="blurry").generate(PROMPTS[:1], SEEDS[:1])
    assert (plain != other).any()

    class NoNegative(type(load(folders["sdxl"]).pipeline)):
        def __call__(self, prompt, generator, output_type="np"):
            raise AssertionError

    NoNegative.__name__ = "NoNegative"
    pipeline = load(folders["sdxl"]).pipeline
    pipeline.__class__ = NoNegative
    DiffusersTeacher(pipeline, DiffusersConfig(model="x", negative_prompt="blurry"))
    assert "NoNegative takes no negative prompt; it is left out" in caplog.text


def test_an_argument_that_the_pipeline_does_not_know_is_named(folders):
    with pytest.raises(TeacherError, match=r"FluxPipeline takes no true_cfg; it takes prompt"):
        load(folders["flux"], arguments={"true_cfg": 2})
    assert list(load(folders["flux"], arguments={"max_sequence_length": 32}).generate(PROMPTS[:1], [1]))


def test_weights_that_are_not_safetensors_are_refused(folders, tmp_path):
    teacher = load(folders["flux"])
    teacher.pipeline.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        load(tmp_path / "pickled")


def test_offloading_without_accelerate_says_what_to_install(folders, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TeacherError, match="LIGHTGEN_OFFLOAD=model needs the package accelerate"):
        DiffusersTeacher.load(DiffusersConfig(model=str(folders["flux"])), "cpu", "model")


def test_what_is_no_text_to_image_pipeline_is_refused(folders):
    class FromImage:
        def __call__(self, image):
            """Take an image."""

    with pytest.raises(TeacherError, match="FromImage takes no prompt and no generator"):
        DiffusersTeacher(FromImage(), DiffusersConfig(model="x"))


def test_a_hub_that_cannot_be_reached_is_not_a_missing_file(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = DiffusersConfig(model="nobody/nothing-of-that-name")
    for load in (lambda: DiffusersTeacher.load(config, "cpu"), lambda: DiffusersTeacher.name_of(config)):
        with pytest.raises(OSError, match=r"the hub cannot be reached.*hf download nobody/nothing-of-that-name"):
            load()
