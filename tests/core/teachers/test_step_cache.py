"""Step caches of diffusers in teachers: what they skip, that they forget, and where they do not work."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lightgen_core.rejected import Reason
from lightgen_core.teachers.base import TeacherError
from lightgen_core.teachers.config import DiffusersConfig, StepCacheConfig
from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher
from tests.factories import tiny_newer_pipelines, tiny_pipelines

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow(rank=20)]

PROMPTS, SEEDS, STEPS = ["a red circle", "a dog on the moon"], [11, 12], 8
RATIOS = [1.0, 1.1, 1.2]  # of no model; none is 1, so that a threshold of 0 skips nothing
FIRST_BLOCK = {"method": "first_block", "threshold": 9.0}
MAG = {"method": "mag", "threshold": 9.0, "magnitude_ratios": RATIOS}
TAYLOR = {"method": "taylorseer", "interval": 3}
COMPUTED = {
    "first_block": {"method": "first_block", "threshold": 0.0},
    "mag": MAG | {"threshold": 0.0},
    "taylorseer": TAYLOR | {"interval": 1},
}
TAKEN = [
    ("flux", FIRST_BLOCK),
    ("flux", MAG),
    ("flux", TAYLOR),
    ("qwen_image", FIRST_BLOCK),
    ("qwen_image", MAG),
    ("qwen_image", TAYLOR),
    ("flux2_klein", MAG),
    ("flux2_klein", TAYLOR),
]


def named(value) -> str:
    return value["method"] if isinstance(value, dict) else str(value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cached_pipelines")
    newer = ("qwen_image", "flux2_klein", "z_image", "sana_sprint", "pixart_sigma")
    made = {name: getattr(tiny_newer_pipelines, f"save_{name}")(root / name) for name in newer}
    made |= {name: getattr(tiny_pipelines, f"save_{name}")(root / name) for name in ("sd3", "sdxl")}
    shallow = tiny_pipelines.save_flux(root / "shallow", (1, 0))
    return made | {"flux": tiny_pipelines.save_flux(root / "flux", (2, 3)), "shallow": shallow}


def load(folders: dict[str, Path], name: str, cache: dict | None = None, **fields) -> DiffusersTeacher:
    plain = {"dtype": "float32", "steps": STEPS, "height": 48, "width": 48, "batch_size": 1, "step_cache": cache}
    return DiffusersTeacher.load(DiffusersConfig(model=str(folders[name]), **plain | fields), "cpu")


def count_evaluations(teacher: DiffusersTeacher) -> list[str]:
    """Return a list to which each evaluation of a block's attention adds its name."""
    evaluations = []
    for name, module in teacher.pipeline.transformer.named_modules():
        if name.endswith((".to_q", ".to_qkv_mlp_proj")):
            module.register_forward_hook(lambda *_, name=name: evaluations.append(name))
    return evaluations


def images(teacher: DiffusersTeacher, prompts=PROMPTS, seeds=SEEDS) -> np.ndarray:
    return np.stack(list(teacher.generate(prompts, seeds)))


@pytest.mark.parametrize(("name", "cache"), TAKEN, ids=named)
def test_a_step_cache_skips_blocks_and_changes_pixels(folders, name, cache):
    plain, cached = load(folders, name), load(folders, name, cache)
    every, some = count_evaluations(plain), count_evaluations(cached)
    difference = images(plain) != images(cached)
    blocks = len(set(every))
    assert len(every) == len(PROMPTS) * STEPS * blocks
    assert len(some) < 0.8 * len(every)
    assert set(some) == set(every), "each block is evaluated at the first steps"
    assert difference.any()
    if cache["method"] == "first_block":  # which is the one that is always evaluated
        first = some.count(every[0])
        assert first == len(PROMPTS) * STEPS
        assert max(some.count(block) for block in set(some) - {every[0]}) < first


@pytest.mark.parametrize(("name", "cache"), TAKEN, ids=named)
def test_a_cache_that_skips_nothing_changes_no_pixel(folders, name, cache):
    plain, cached = load(folders, name), load(folders, name, COMPUTED[cache["method"]])
    assert np.array_equal(images(plain), images(cached))


@pytest.mark.parametrize(("name", "cache"), TAKEN, ids=named)
def test_the_second_batch_knows_nothing_of_the_first(folders, name, cache):
    one, fresh = load(folders, name, cache), load(folders, name, cache)
    images(one)
    assert np.array_equal(images(one, ["a blue house"], [5]), images(fresh, ["a blue house"], [5]))


@pytest.mark.parametrize("cache", [MAG, TAYLOR], ids=named)
@pytest.mark.parametrize("name", ["flux", "qwen_image", "flux2_klein"])
def test_a_cached_image_does_not_depend_on_its_batch(folders, name, cache):
    """Skipped steps are those of the schedule, whatever the images."""
    together, alone = load(folders, name, cache, batch_size=2), load(folders, name, cache)
    assert np.abs(images(together).astype(int) - images(alone)).max() <= 1


@pytest.mark.parametrize("cache", [FIRST_BLOCK, MAG, TAYLOR], ids=named)
def test_a_failed_call_leaves_nothing_in_the_cache(folders, cache, monkeypatch):
    """Memory runs out in the middle of the steps, before the pipeline itself resets its hooks."""
    teacher, fresh = load(folders, "flux", cache), load(folders, "flux", cache)
    step, calls = teacher.pipeline.scheduler.step, []

    def runs_out_once(*arguments, **named):
        calls.append(None)
        if len(calls) == 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(*arguments, **named)

    monkeypatch.setattr(teacher.pipeline.scheduler, "step", runs_out_once)
    first, second = teacher.generate(PROMPTS, SEEDS)
    assert first.reason is Reason.OUT_OF_MEMORY
    assert np.array_equal(second, images(fresh, PROMPTS[1:], SEEDS[1:])[0])


def test_guidance_has_a_cache_of_its_own(folders):
    """The pass without the caption does not read what the pass with it left: skipping nothing is exact."""
    asked = {"negative_prompt": "blurry", "arguments": {"true_cfg_scale": 4.0}}
    plain = images(load(folders, "qwen_image", **asked))
    for cache in COMPUTED.values():
        assert np.array_equal(images(load(folders, "qwen_image", cache, **asked)), plain)
    evaluations = count_evaluations(teacher := load(folders, "qwen_image", MAG, **asked))
    images(teacher)
    assert len(evaluations) < 2 * len(PROMPTS) * STEPS * len(set(evaluations))


@pytest.mark.parametrize("name", ["sd3", "sdxl", "z_image", "sana_sprint", "pixart_sigma"])
def test_a_pipeline_without_a_step_cache_is_named(folders, name):
    with pytest.raises(TeacherError, match=r"Pipeline takes no step cache in diffusers .*; leave step_cache out"):
        load(folders, name, FIRST_BLOCK)


def test_a_cache_that_fails_is_told_from_a_bad_prompt(folders):
    """diffusers' first-block cache does not know that FLUX.2's single blocks return text and image as one."""
    with pytest.raises(TeacherError, match="Flux2KleinPipeline fails with step cache first_block and works without"):
        images(load(folders, "flux2_klein", FIRST_BLOCK))
    bad, good = load(folders, "flux", MAG).generate(["a lone \ud800 surrogate", PROMPTS[0]], SEEDS)
    assert (bad.reason, good.shape) == (Reason.PROMPT_FAILED, (48, 48, 3))
    assert np.array_equal(good, images(load(folders, "flux", MAG), PROMPTS[:1], SEEDS[1:])[0]), "it is on again"


def test_too_few_blocks_for_a_cache_are_an_error(folders):
    with pytest.raises(TeacherError, match="FluxPipeline takes no step cache first_block: "):
        load(folders, "shallow", FIRST_BLOCK)


def test_magnitudes_of_flux_are_for_flux_alone(folders):
    evaluations = count_evaluations(teacher := load(folders, "flux", {"method": "mag", "threshold": 0.1}))
    images(teacher)
    assert len(evaluations) < len(PROMPTS) * STEPS * len(set(evaluations))
    with pytest.raises(TeacherError, match=r"magnitude_ratios is missing.* those of QwenImagePipeline are not known"):
        load(folders, "qwen_image", {"method": "mag", "threshold": 0.1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "first_block"}, "threshold is missing; method first_block needs it"),
        ({"method": "mag"}, "threshold is missing; method mag needs it"),
        ({"method": "taylorseer"}, "interval is missing; method taylorseer needs it"),
        (FIRST_BLOCK | {"interval": 2}, "method first_block takes no interval; leave it out"),
        (TAYLOR | {"threshold": 0.1}, "method taylorseer takes no threshold; leave it out"),
        (FIRST_BLOCK | {"magnitude_ratios": RATIOS}, "method first_block takes no magnitude_ratios"),
        ({"method": "teacache", "threshold": 0.1}, "first_block"),
    ],
)
def test_a_step_cache_has_the_fields_of_its_method(fields, message):
    with pytest.raises(ValidationError, match=message):
        StepCacheConfig(**fields)


def test_a_cache_that_would_tie_images_together_is_refused():
    with pytest.raises(ValidationError, match="batch_size is 4; step_cache first_block decides for a whole batch"):
        DiffusersConfig(model="x", step_cache=FIRST_BLOCK)
    with pytest.raises(ValidationError, match="steps is missing; step_cache mag needs the number of denoising steps"):
        DiffusersConfig(model="x", step_cache=MAG)


def test_recipes_without_the_new_fields_have_their_keys():
    fields = DiffusersConfig(model="x").model_dump(mode="json")
    assert not fields.keys() & {"max_sequence_length", "step_cache", "quantization"}
    cached = DiffusersConfig(model="x", batch_size=1, step_cache=FIRST_BLOCK, max_sequence_length=64)
    assert cached.model_dump(mode="json") == fields | {
        "batch_size": 1,
        "max_sequence_length": 64,
        "step_cache": FIRST_BLOCK | {"magnitude_ratios": [], "interval": None},
    }
