"""Every recipe fits the memory that its header names: training by phases, codec, sampling beside the text encoder."""

import re
from pathlib import Path

import diffusers
import pytest
import torch

from benchmarks.fake_cuda.mode import CUDA, fake_cuda
from flows.known_models import known_model
from flows.load import load_recipe
from flows.sizes import student_config, token_sizes
from lightgen_core.config import HeadConfig, SamplerConfig
from lightgen_core.encoders.autoencoder import PIXELS_AT_ONCE, LatentCodec
from lightgen_core.model.flops import num_masked_probabilities, student_parameters
from lightgen_core.model.mar import Student
from lightgen_core.model.memory import RESERVED, row_bytes, rows_that_fit, static_bytes
from lightgen_core.sampling import unmask

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked_shapes")

FOLDER = Path(__file__).parents[2] / "flows/recipes"
GPU = re.compile(r"^# hardware .*?GPUs? of ([0-9]+) GB", re.MULTILINE)
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml") if GPU.search(path.read_text()))
PAPERS = [name for name in RECIPES if name.startswith("lightgen-0.7b")]
SHARED_OUT = 256
"""Images that `TextToImage.sample` draws at once."""


def memory_of(recipe: str) -> int:
    """Bytes of the smallest GPU that the header of a recipe names."""
    (gigabytes,) = GPU.findall((FOLDER / f"{recipe}.yaml").read_text())
    return int(gigabytes) * 10**9


def test_these_recipes_name_a_gpu():
    assert {"lightgen-0.3b-dcae", "lightgen-0.7b-256", "lightgen-0.7b-512", "lightgen-0.7b-1024"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_training_fits_the_gpu_that_the_header_names(name):
    """With the micro-batch that auto chooses: at least one row, every token masked, text of full length."""
    recipe, memory = load_recipe(name), memory_of(name)
    mar, sizes = student_config(recipe), token_sizes(recipe)
    phases = [*recipe.phases, (recipe.phases[-1][0], recipe.dpo)]
    for size, config in phases:
        static = static_bytes(mar, recipe.pretrain.head, config)
        row = row_bytes(
            mar,
            recipe.pretrain.head,
            config,
            tokens=sizes[size].tokens,
            text_tokens=recipe.tokens.max_text_tokens,
            checkpointing=False,
        )
        rows = min(config.batch_size, rows_that_fit(memory, static, row))
        assert static + rows * row <= memory * (1 - RESERVED), (size, type(config).__name__)


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
}


@pytest.mark.parametrize("reference", CODECS)
@pytest.mark.parametrize("side", [256, 1024])
def test_a_codec_keeps_to_sixteen_gigabytes_at_any_size(reference, side):
    """64 images in and 200 out, in fp32, as the stages tokens and pairs ask for them."""
    with fake_cuda() as cuda:
        codec = LatentCodec(cuda.build(CODECS[reference]))
        watch = cuda.watch(codec.model)
        count = 2 * PIXELS_AT_ONCE // side**2
        with watch:
            codec.encode(torch.empty(count, side, side, 3, dtype=torch.uint8))
            latent = side // codec.stride
            codec.decode(torch.empty(count, codec.channels, latent, latent, device=CUDA))
    assert watch.peak < 16 * 2**30


@pytest.mark.parametrize("name", PAPERS)
def test_sampling_fits_beside_the_text_encoder(name, monkeypatch):
    """Blocks and head run one after another, so a student of one block each has the activations of the whole one."""
    recipe = load_recipe(name)
    mar, size = student_config(recipe), list(token_sizes(recipe).values())[-1]
    shallow = mar.model_copy(
        update={"aligner_depth": 1, "encoder_depth": 1, "decoder_depth": 1, "text_depth": 1, "token_width": 64}
    )
    batch = min(SHARED_OUT, recipe.pairs.shard_size * recipe.pairs.samples)
    side, counts = round(size.tokens**0.5), unmask.cosine_unmask_schedule(size.tokens, recipe.sampler.iterations)
    with fake_cuda() as cuda:
        student = cuda.build(lambda: Student(shallow, HeadConfig(depth=1))).eval()
        text = torch.empty(batch, recipe.tokens.max_text_tokens, mar.text_width, device=CUDA)
        watch = cuda.watch(student, text)
        with watch:
            config = SamplerConfig(iterations=1, head_steps=2, precision="bf16")
            monkeypatch.setattr(unmask, "cosine_unmask_schedule", lambda *_: [max(counts)])
            unmask.sample(student, text, None, (side, side), config, seeds=list(range(batch)))
    text_kv = mar.text_depth * batch * recipe.tokens.max_text_tokens * 2 * mar.width * 2
    encoder = known_model(recipe.tokens.text_encoder)
    students = 2 * student_parameters(mar, recipe.pretrain.head) * (4 + 2)
    assert watch.peak + text_kv + 2 * encoder.parameters + students <= memory_of(name) * (1 - RESERVED)
