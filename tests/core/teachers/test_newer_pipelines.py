"""Teachers of the newer pipelines' classes: batches, seeds, and the text tokens that their transformers see."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from lightgen_core.teachers.base import TeacherError
from lightgen_core.teachers.config import DiffusersConfig
from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher
from tests.factories import tiny_newer_pipelines, tiny_pipelines

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = ["a red circle", "a dog on the moon", "two green squares, and a cat"]
SEEDS = [11, 12, 13]
CLASSES = {
    "flux2_klein": "Flux2KleinPipeline",
    "qwen_image": "QwenImagePipeline",
    "z_image": "ZImagePipeline",
    "sana_sprint": "SanaSprintPipeline",
    "pixart_sigma": "PixArtSigmaPipeline",
}
UNBINNED = {"use_resolution_binning": False}  # else sizes that the real models know
ARGUMENTS = {"sana_sprint": UNBINNED, "pixart_sigma": UNBINNED}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("newer_pipelines")
    newer = {name: getattr(tiny_newer_pipelines, f"save_{name}")(root / name) for name in CLASSES}
    return newer | {name: getattr(tiny_pipelines, f"save_{name}")(root / name) for name in ("flux", "sd3", "sdxl")}


def load(folders: dict[str, Path], name: str, **fields) -> DiffusersTeacher:
    plain = {"dtype": "float32", "steps": 2, "height": 64, "width": 64, "batch_size": 3}
    plain["arguments"] = ARGUMENTS.get(name, {})
    return DiffusersTeacher.load(DiffusersConfig(model=str(folders[name]), **plain | fields), "cpu")


@pytest.mark.parametrize("name", CLASSES)
def test_an_image_depends_on_its_prompt_and_seed_alone(folders, name):
    together, alone = load(folders, name), load(folders, name, batch_size=1)
    assert type(together.pipeline).__name__ == DiffusersTeacher.name_of(DiffusersConfig(model=str(folders[name])))
    assert type(together.pipeline).__name__ == CLASSES[name]
    three, one = list(together.generate(PROMPTS, SEEDS)), list(alone.generate(PROMPTS, SEEDS))
    assert [(image.shape, image.dtype) for image in three] == [((64, 64, 3), np.uint8)] * 3
    for a, b in zip(three, one, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1
    (other_seed,) = alone.generate(PROMPTS[:1], [99])
    (other_prompt,) = alone.generate(PROMPTS[1:2], SEEDS[:1])
    assert (other_seed != one[0]).mean() > 0.3
    assert (other_prompt != one[0]).any()


def text_tokens(teacher: DiffusersTeacher, prompt: str) -> set[int]:
    """Return how many text tokens the transformer is given for a prompt, at its steps."""
    seen = set()

    def note(module, arguments, named):
        states = named["encoder_hidden_states"] if "encoder_hidden_states" in named else arguments[2][0][None]
        seen.add(states.shape[1])

    handle = teacher.pipeline.transformer.register_forward_pre_hook(note, with_kwargs=True)
    (image,) = teacher.generate([prompt], [1])
    handle.remove()
    assert isinstance(image, np.ndarray)
    return seen


LONG = "a very long prompt of more than forty letters, each of them a token"
CLIP = 77  # tokens of CLIP before those of T5
LENGTHS = {
    "flux": (512, 16),
    "sd3": (CLIP + 256, CLIP + 16),
    "flux2_klein": (512, 16),
    "sana_sprint": (300, 16),
    "pixart_sigma": (300, 16),
    "qwen_image": (None, 16),
    "z_image": (None, 16),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_max_sequence_length_is_what_the_transformer_sees(folders, name):
    """Qwen-Image and Z-Image do not pad: theirs is the longest."""
    fields = {"guidance_scale": 0.0} if name == "z_image" else {}
    (default,) = text_tokens(load(folders, name, **fields), LONG)
    (short,) = text_tokens(load(folders, name, **fields, max_sequence_length=16), LONG)
    padded, cut = LENGTHS[name]
    assert (default, short) == (padded or default, cut)
    assert default > 40
    if padded is None:
        (few,) = text_tokens(load(folders, name, **fields), "a dog")
        assert few < default


def test_a_shorter_text_is_another_image(folders):
    (default,) = load(folders, "flux").generate([LONG], [1])
    (short,) = load(folders, "flux", max_sequence_length=16).generate([LONG], [1])
    assert (default != short).any()


def test_a_pipeline_without_text_length_is_named(folders):
    with pytest.raises(TeacherError, match="StableDiffusionXLPipeline takes no max_sequence_length; it takes prompt"):
        load(folders, "sdxl", max_sequence_length=77)


@pytest.mark.parametrize(("name", "most"), [("flux", 512), ("sd3", 512), ("qwen_image", 1024)])
def test_a_length_beyond_the_pipelines_most_ends_the_run(folders, name, most):
    """Every prompt would be rejected for it."""
    teacher = load(folders, name, max_sequence_length=most + 1)
    with pytest.raises(TeacherError, match=f"Pipeline: .*max_sequence_length. cannot be greater than {most}"):
        list(teacher.generate(PROMPTS, SEEDS))


def test_a_length_given_twice_is_refused():
    with pytest.raises(ValidationError, match="max_sequence_length is given twice; leave it out of arguments"):
        DiffusersConfig(model="x", max_sequence_length=32, arguments={"max_sequence_length": 64})


def test_guidance_takes_a_second_pass_only_where_asked(folders):
    """As the estimate counts them: Z-Image by its scale, Qwen-Image by its negative prompt, the others never."""

    def rows(name: str, **fields) -> int:
        teacher, seen = load(folders, name, steps=2, **fields), []
        teacher.pipeline.transformer.register_forward_pre_hook(
            lambda module, arguments, named: seen.append(len(arguments[0] if arguments else named["hidden_states"])),
            with_kwargs=True,
        )
        assert isinstance(next(iter(teacher.generate(PROMPTS[:1], [1]))), np.ndarray)
        return sum(seen) // 2

    assert [rows("z_image", guidance_scale=scale) for scale in (0.0, 5.0)] == [1, 2]
    true_cfg = {"arguments": {"true_cfg_scale": 4.0}}
    assert [rows("qwen_image", **fields) for fields in (true_cfg, true_cfg | {"negative_prompt": " "})] == [1, 2]
    for name in ("flux", "flux2_klein", "sana_sprint"):
        assert rows(name, guidance_scale=3.5) == 1
