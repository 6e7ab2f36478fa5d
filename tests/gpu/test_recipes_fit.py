"""Every recipe fits the memory that its header names: measured on fake CUDA tensors, nothing computed by a formula.

Training at the rows that `micro_batch: auto` takes on such a GPU, tokens, and sampling beside all that is loaded with
it. Judges are counted by their weights, without their arithmetic. Of a recipe for a CPU the tensors of a step alone are
measured, which leave the rest of the memory to processes, libraries and the database.
"""

import functools
import inspect
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import diffusers
import pytest
import torch
import transformers

from benchmarks.fake_cuda.mode import CUDA, fake_cuda
from benchmarks.fake_cuda.steps import FakeTraining
from flows.known_models import known_model
from flows.load import load_recipe
from flows.sizes import Size, student_config, token_sizes
from lightgen_core import zoo
from lightgen_core.config import DistilConfig, DpoConfig, LoopConfig, TrainConfig
from lightgen_core.encoders.autoencoder import PIXELS_AT_ONCE, LatentCodec
from lightgen_core.encoders.dtypes import PRECISIONS
from lightgen_core.encoders.text_encoder import TextEncoder
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.flops import num_masked_probabilities
from lightgen_core.model.mar import Student
from lightgen_core.model.memory import RESERVED
from lightgen_core.sampling import token_sampler, unmask
from lightgen_core.sampling.head_samplers import sample_head
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.train import distil_head
from tasks.config.recipe import Recipe

pytestmark = [pytest.mark.slow(rank=11), pytest.mark.usefixtures("one_thread", "unchecked_shapes")]

FOLDER = Path(__file__).parents[2] / "flows/recipes"
HARDWARE = re.compile(r"^# hardware  (.*)$", re.MULTILINE)
GPU = re.compile(r"GPUs? of ([0-9]+) GB")
CPU = re.compile(r"CPU cores(?:,| and) ([0-9]+) GB of memory")
ZOO = Path(zoo.__file__).parent
AT_ONCE = inspect.signature(TextToImage.sample).parameters["batch_size"].default
"""Images that are sampled at once."""


def hardware() -> dict[str, str]:
    """The line of each recipe's header that names its hardware."""
    texts = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.yaml"))}
    return {name: HARDWARE.findall(text)[0] for name, text in texts.items()}


def memories(pattern: re.Pattern[str]) -> dict[str, int]:
    """Bytes that the headers of recipes name, those of a GPU or of a CPU."""
    found = {name: pattern.findall(line) for name, line in hardware().items()}
    return {name: int(gigabytes[0]) * 10**9 for name, gigabytes in found.items() if gigabytes}


ON_GPU, ON_CPU = memories(GPU), memories(CPU)
PAPERS = [name for name in ON_GPU if name.startswith("lightgen-0.7b")]


def usable(name: str) -> float:
    """Bytes of a recipe's GPU without what CUDA and its allocator keep."""
    return ON_GPU[name] * (1 - RESERVED)


def test_every_header_names_memory():
    assert ON_GPU == {
        "lightgen-0.3b-dcae": 24 * 10**9,
        "lightgen-0.7b-1024": 80 * 10**9,
        "lightgen-0.7b-256": 80 * 10**9,
        "lightgen-0.7b-512": 80 * 10**9,
        "lightgen-0.7b-512-dpo": 80 * 10**9,
        "scene-64": 8 * 10**9,
    }
    assert ON_GPU.keys() | ON_CPU.keys() == hardware().keys()


def trainings(name: str) -> list[tuple[str, Size, LoopConfig]]:
    """The trainings of a recipe, and the few-step student's, with the size of their images."""
    recipe = load_recipe(name, ["distil_head={}"])
    sizes, head = token_sizes(recipe), recipe.pretrain.head
    assert recipe.distil_head is not None
    last, few_step = sizes[recipe.phases[-1][0]], recipe.distil_head.config(head, recipe.sampler)
    phases = [(f"pretrain {size}", sizes[size], config) for size, config in recipe.phases]
    return [*phases, ("dpo", last, recipe.dpo), ("distil_head", last, few_step)]


def shape_of(config: LoopConfig) -> LoopConfig:
    """Return a configuration without what changes no memory, so that equal steps are measured once."""
    kind = next(kind for kind in (TrainConfig, DpoConfig, DistilConfig) if isinstance(config, kind))
    fields = {name: getattr(config, name) for name in kind.model_fields}
    fields |= {"steps": 1, "ema_decay": 0.9, "checkpoint_every": 1, "log_every": 1}
    fields["optimizer"] = type(config.optimizer)(name=config.optimizer.name)
    return kind(**fields | ({"rounds": 1, "tolerance": 1.0} if kind is DpoConfig else {}))


def step_of(name: str, size: Size, config: LoopConfig, memory: int | None) -> tuple[int, int]:
    """Rows that a training passes through its model together, and the bytes that they take at most."""
    recipe = load_recipe(name)
    grid = (size.height // (size.stride * size.patch), size.width // (size.stride * size.patch))
    assert math.prod(grid) == size.tokens
    mar, head, text_tokens = student_config(recipe), recipe.pretrain.head, recipe.tokens.max_text_tokens
    return measured(mar, head, shape_of(config), grid, text_tokens, recipe.tokens.latents == "moments", memory)


def two_head_steps(module: ModuleType) -> Any:
    """Run two of the head's steps, on the noise of all: the others take no more memory, and minutes."""

    def run(denoiser, objective, config, steps, noises):
        return sample_head(denoiser, objective, config, steps[:2], noises)

    return mock.patch.object(module, "sample_head", run)


@functools.cache
def measured(mar, head, config, grid, text_tokens, moments, memory) -> tuple[int, int]:
    """As `step_of`: the part of a step behind another one, whose gradients are there; every token is masked.

    That is the most: a masked token costs more than a visible one, and the number of either counts linearly.
    """
    with fake_cuda() as cuda, two_head_steps(distil_head):
        options = {"config": config, "grid": grid, "text_tokens": text_tokens, "moments": moments, "memory": memory}
        training = FakeTraining.start(cuda, mar, head, **options)
        training.warm()
        return training.rows.batch_size, training.run(1, masked=math.prod(grid)).peak


@pytest.mark.parametrize(
    ("name", "stage"), [(name, stage) for name in ON_GPU for stage, _, _ in trainings(name)], ids=str
)
def test_training_fits_the_gpu_that_the_header_names(name, stage):
    """With as many rows together as `micro_batch: auto` takes, in the stage's precision, nothing computed twice."""
    ((size, config),) = [(size, config) for label, size, config in trainings(name) if label == stage]
    rows, peak = step_of(name, size, config, ON_GPU[name])
    assert peak <= usable(name), f"{rows} rows take {peak / 1e9:.1f} GB"
    if 8 < rows < config.batch_size and config.optimizer.name == "adamw":  # Muon's updates come after the activations
        assert peak >= 0.8 * usable(name), f"{rows} rows take {peak / 1e9:.1f} GB alone"


@pytest.mark.parametrize("name", ON_CPU)
def test_tensors_of_a_step_take_half_of_a_cpus_memory(name):
    """All rows of a batch together, as on a CPU. The other half is for all that is not measured here."""
    for stage, size, config in trainings(name)[:-1]:
        rows, peak = step_of(name, size, config, None)
        assert rows == config.batch_size and peak <= ON_CPU[name] / 2, f"{stage}: {peak / 1e9:.1f} GB"


@pytest.mark.parametrize("name", PAPERS)
def test_few_steps_mask_all_tokens(name):
    """Rounding the number of masked tokens up to a multiple, for fewer shapes, would make it every second step."""
    recipe = load_recipe(name)
    sizes = token_sizes(recipe)
    for size, config in recipe.phases:
        tokens = sizes[size].tokens
        assert num_masked_probabilities(tokens, config.mask)[tokens] < 0.02


CODECS = {
    "stabilityai/stable-diffusion-3.5-large/vae": lambda: diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ),
    "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers": diffusers.AutoencoderDC,
    "zoo:autoencoder": lambda: diffusers.AutoencoderDC.from_config(
        diffusers.AutoencoderDC.load_config(ZOO / "autoencoder")
    ),
}

TEXT_ENCODERS = {
    "google/flan-t5-xxl": lambda: transformers.T5EncoderModel(
        transformers.T5Config(
            d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
        )
    ),
    "Qwen/Qwen3-0.6B": lambda: transformers.Qwen3Model(
        transformers.Qwen3Config(
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
        )
    ),
    "zoo:t5": lambda: transformers.T5EncoderModel(transformers.T5Config.from_pretrained(ZOO / "t5")),
}


@functools.cache
def encoding(codec: str, precision: str, side: int, images: int) -> tuple[int, int]:
    """Bytes of an autoencoder, and at most while it encodes so many images of a side, px."""
    with fake_cuda() as cuda:
        model = LatentCodec(cuda.build(CODECS[codec], PRECISIONS[precision]))
        watch = cuda.watch(model.model)
        weights = watch.peak
        with watch:
            model.encode(torch.empty(images, side, side, 3, dtype=torch.uint8))
    return weights, watch.peak


@functools.cache
def decoding(codec: str, precision: str, side: int, images: int) -> tuple[int, int]:
    """As `encoding`, while it decodes: two slices of images are decoded here, and of the others the pixels counted."""
    slices = min(images, 2 * max(1, PIXELS_AT_ONCE // side**2))
    with fake_cuda() as cuda:
        model = LatentCodec(cuda.build(CODECS[codec], PRECISIONS[precision]))
        watch = cuda.watch(model.model)
        weights, latent = watch.peak, side // model.stride
        with watch:
            model.decode(torch.empty(slices, model.channels, latent, latent, device=CUDA))
    return weights, watch.peak + 2 * (images - slices) * side**2 * 3  # in slices, and joined


class FullLength:
    """A tokenizer whose texts all have so many tokens."""

    pad_token_id = eos_token_id = 1

    def __init__(self, text_tokens):
        self._text_tokens = text_tokens

    def __call__(self, texts, **_):
        return {"input_ids": [[2] * self._text_tokens] * len(texts)}


@functools.cache
def encoding_texts(text_encoder: str, precision: str, texts: int, text_tokens: int) -> tuple[int, int]:
    """As `encoding`, of a text encoder; all texts have full length."""
    with fake_cuda() as cuda:
        model = cuda.build(TEXT_ENCODERS[text_encoder], PRECISIONS[precision])
        encoder = TextEncoder(model, FullLength(text_tokens), text_tokens, CUDA)
        watch = cuda.watch(model)
        weights = watch.peak
        with watch:
            encoder.encode([str(number) for number in range(texts)])
    return weights, watch.peak


@functools.cache
def sampling(mar, head, few_step, sampler, side, images, text_tokens) -> tuple[int, int]:
    """As `encoding`, of a student: of its iterations the first and the last run, which unmasks most tokens.

    few_step: the head in place of the student's own, or None.
    """
    plan = unmask.plan_iterations
    ends = mock.patch.object(unmask, "plan_iterations", lambda *sizes: [plan(*sizes)[0], plan(*sizes)[-1]])
    with fake_cuda() as cuda, ends, two_head_steps(token_sampler):
        make = (lambda: Student(mar, head)) if few_step is None else (lambda: FewStepStudent(mar, few_step))
        student = cuda.build(make).eval()
        text = torch.empty(images, text_tokens, mar.text_width, device=CUDA)
        mask = torch.ones(images, text_tokens, dtype=torch.bool, device=CUDA)
        weights = cuda.watch(student).peak
        watch = cuda.watch(student, text, mask)
        with watch:
            unmask.sample(student, text, mask, (side, side), sampler, seeds=list(range(images)))
    return weights, watch.peak


def weights_of(models: set[str]) -> float:
    """Bytes of the files of frozen models; those of the zoo, some megabytes, are not counted."""
    facts = [known_model(name) for name in models if not name.startswith("zoo:")]
    assert all(facts)
    return sum(model.gigabytes * 1e9 for model in facts if model)


def judges_of_pairs(recipe: Recipe) -> set[str]:
    """Models that judge what is sampled for pairs."""
    scorers = [*recipe.pairs.all_scorers, *([recipe.pairs.held_out] if recipe.pairs.held_out else [])]
    return {model for scorer in scorers for model in scorer.models(recipe.embeddings.model)}


def judges_of_evaluation(recipe: Recipe) -> set[str]:
    """Models that judge what is sampled for scores."""
    config = recipe.evaluation
    return {config.detector, config.color_model} if config.benchmark == "geneval" else set()


@pytest.mark.parametrize("name", ON_GPU)
def test_tokens_fit_the_gpu_that_the_header_names(name):
    recipe = load_recipe(name)
    config = recipe.tokens
    for size in token_sizes(recipe).values():
        assert size.height == size.width
        _, peak = encoding(config.codec, config.codec_precision, size.height, config.batch_size)
        assert peak <= usable(name), (size.height, peak)
    _, peak = encoding_texts(config.text_encoder, config.text_precision, AT_ONCE, config.max_text_tokens)
    assert peak <= usable(name)


@pytest.mark.parametrize("stage", ["pairs", "evaluation"])
@pytest.mark.parametrize("name", ON_GPU)
def test_sampling_fits_the_gpu_that_the_header_names(name, stage):
    """Students, text encoder, autoencoder and judges are loaded together, and work one after another."""
    recipe = load_recipe(name, ["distil_head={}"] if stage == "evaluation" else [])
    mar, head, config = student_config(recipe), recipe.pretrain.head, recipe.tokens
    size = token_sizes(recipe)[recipe.phases[-1][0]]
    pairs, scores = recipe.pairs.shard_size * recipe.pairs.samples, recipe.evaluation.shard_size
    images = min(AT_ONCE, pairs if stage == "pairs" else scores)
    side, text_tokens = math.isqrt(size.tokens), config.max_text_tokens
    sampled = [sampling(mar, head, None, recipe.sampler, side, images, text_tokens)]
    if stage == "evaluation":
        assert recipe.distil_head is not None
        few_step, sampler = recipe.distil_head.head(head), recipe.distil_head.few_step_sampler(head, recipe.sampler)
        # The pre-trained student, the tuned one, and the tuned one again beside the few-step student.
        sampled += 2 * sampled + [sampling(mar, head, few_step, sampler, side, images, text_tokens)]
    steps = [
        *sampled,
        encoding_texts(config.text_encoder, config.text_precision, images, text_tokens),
        decoding(config.codec, config.codec_precision, size.height, images),
    ]
    judges = weights_of(judges_of_pairs(recipe) if stage == "pairs" else judges_of_evaluation(recipe))
    loaded = judges + sum(weights for weights, _ in steps)
    needed = loaded + max(peak - weights for weights, peak in steps)
    assert needed <= usable(name), (
        f"{loaded / 1e9:.1f} GB loaded, {[round(peak / 1e9, 1) for _, peak in steps]} at work"
    )


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("side", [256, 1024])
def test_a_codec_keeps_to_sixteen_gigabytes_at_any_size(codec, side):
    """In fp32, two slices of images in and two out."""
    images = 2 * PIXELS_AT_ONCE // side**2
    peaks = (encoding(codec, "fp32", side, images)[1], decoding(codec, "fp32", side, images)[1])
    assert max(peaks) < 16 * 2**30
