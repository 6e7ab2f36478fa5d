"""Sampling and frozen components on fake CUDA tensors: one device, and no wait but for the result."""

from pathlib import Path
from typing import ClassVar

import diffusers
import numpy as np
import open_clip
import pytest
import torch
import transformers

from benchmarks.fake_cuda.mode import CUDA, fake_cuda
from benchmarks.fake_cuda.steps import TINY
from lightgen_core import zoo
from lightgen_core.config import HeadConfig, SamplerConfig
from lightgen_core.encoders.autoencoder import LatentCodec
from lightgen_core.encoders.clip import Clip
from lightgen_core.encoders.text_encoder import TextEncoder
from lightgen_core.model.mar import Student
from lightgen_core.sampling import head_samplers, token_sampler
from lightgen_core.sampling.half_weights import with_half_weights
from lightgen_core.sampling.token_sampler import HeadCompileConfig, TokenSampler
from lightgen_core.sampling.unmask import Unmasker, sample

ZOO = Path(zoo.__file__).parent

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked_shapes")


def draw(cuda, head="ddpm", grid=(4, 4), known=False, **sampler):
    """Kernels and waits of the second of two samplings of two images."""
    student = cuda.build(lambda: Student(TINY, HeadConfig(width=48, depth=1, objective=head))).eval()
    text, mask = torch.empty(2, 5, 24, device=CUDA), torch.ones(2, 5, dtype=torch.bool, device=CUDA)
    tokens = grid[0] * grid[1]
    keep = {"known": torch.empty(2, tokens, 8), "keep": torch.ones(tokens, dtype=torch.bool)} if known else {}
    config = SamplerConfig(iterations=2, head_steps=2, **sampler)
    loop = TokenSampler(student.head)
    for _ in range(2):
        watch = cuda.watch(student)
        with watch:
            sampled = sample(student, text, mask, grid, config, seeds=[1, 2], head=loop, **keep)
    assert sampled.device.type == "cuda"
    return watch


@pytest.mark.parametrize(
    "sampling",
    [
        {"precision": "bf16"},
        {"head": "v", "head_sampler": "ddim", "grid": (6, 8), "guidance_schedule": "linear"},
        {"head": "flow", "head_sampler": "euler", "guidance_scale": 1.0, "temperature": 0.5},
    ],
    ids=["ddpm, bf16", "v, another grid, guidance that grows", "flow without guidance"],
)
def test_sampling_never_waits(sampling):
    with fake_cuda() as cuda:
        assert dict(draw(cuda, **sampling).waits) == {}


def test_inpainting_waits_for_nothing_but_its_mask():
    """Known tokens and the mask come from the host, and the order of the masked ones is drawn there."""
    with fake_cuda() as cuda:
        assert dict(draw(cuda, known=True).waits) == {}


def kl():
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(**blocks, block_out_channels=(8, 16), latent_channels=4, norm_num_groups=4)


def dc():
    return diffusers.AutoencoderDC.from_config(diffusers.AutoencoderDC.load_config(ZOO / "autoencoder"))


@pytest.mark.parametrize("make", [kl, dc])
def test_a_codec_waits_for_its_results_alone(make, monkeypatch):
    monkeypatch.setattr("lightgen_core.encoders.autoencoder.PIXELS_AT_ONCE", 2 * 32 * 32)
    with fake_cuda() as cuda:
        codec = LatentCodec(cuda.build(make))
        watch = cuda.watch(codec.model)
        with watch:
            latents = codec.encode(np.zeros((5, 32, 32, 3), np.uint8))
            images = codec.decode(torch.empty(latents.shape, device=CUDA))
    assert images.shape == (5, 32, 32, 3)
    assert [place.split(" ", 1)[1].split(" of ")[0] for place in watch.waits] == ["copy from cuda to cpu"] * 2


def test_clip_waits_for_its_vectors_alone():
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 32, "width": 64, "heads": 1, "layers": 1}
    with fake_cuda() as cuda:
        model = cuda.build(lambda: open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text))
        clip = Clip(model, lambda captions: torch.zeros(len(captions), 8, dtype=torch.long), CUDA, batch_size=2)
        watch = cuda.watch(model)
        with watch:
            clip.embed_image_list([np.zeros((48, 40, 3), np.uint8)] * 3)
            clip.embed_texts(["a", "b", "c"])
    assert sum(watch.waits.values()) == 2 and all("from cuda to cpu of (3, 16)" in place for place in watch.waits)


class Letters:
    """A tokenizer of letters."""

    pad_token_id, eos_token_id = 0, 1

    def __call__(self, texts, **_):
        return {"input_ids": [[2 + ord(letter) % 20 for letter in text] for text in texts]}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (
            transformers.T5EncoderModel,
            transformers.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2),
        ),
        (
            transformers.Qwen3Model,
            transformers.Qwen3Config(
                vocab_size=32,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
            ),
        ),
    ],
    ids=["t5", "qwen3"],
)
def test_a_text_encoder_waits_for_its_states_alone(kind, config):
    with fake_cuda() as cuda:
        encoder = TextEncoder(cuda.build(lambda: kind(config), torch.bfloat16), Letters(), 8, CUDA)
        encoder.encode(["ab"])
        watch = cuda.watch(encoder.model)
        with watch:
            states = encoder.encode(["ab", "cd", "efg"])
    assert [len(state) for state in states] == [2, 2, 3]
    own = {place: count for place, count in watch.waits.items() if "from cuda to cpu of" not in place}
    assert own == {} and sum(watch.waits.values()) == 2


@torch.no_grad()
@pytest.mark.parametrize("objective", ["ddpm", "flow"])
def test_half_weights_are_to_the_bit_what_autocast_computes_with(objective):
    generator = torch.Generator().manual_seed(0)
    student = Student(TINY, HeadConfig(width=48, depth=2, objective=objective))
    for weight in student.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    conditions, time = torch.randn(2, 6, 48, generator=generator), torch.randn(48, generator=generator)
    noisy = torch.randn(6, 8, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        found = with_half_weights(student.head).forward_embedded(noisy, time, conditions)
        expected = student.head.forward_embedded(noisy, time, conditions)
    assert found.equal(expected) and found.dtype == torch.bfloat16


class Watched:
    """Stands for a CUDA graph: watches the run that would be recorded."""

    watches: ClassVar[list] = []

    def __init__(self, function, pool):
        function()
        with self.cuda.watch() as watch:
            function()
        self._function = function
        Watched.watches.append(watch)

    @staticmethod
    def new_pool(device):
        return object()

    def replay(self):
        self._function()


def student_and_texts(cuda):
    """A student, and texts for two images."""
    Watched.cuda = cuda
    student = cuda.build(lambda: Student(TINY, HeadConfig(width=48, depth=2))).eval()
    return student, torch.empty(2, 5, 24, device=CUDA), torch.ones(2, 5, dtype=torch.bool, device=CUDA)


@pytest.fixture
def watches(monkeypatch):
    """Watches of the runs that graphs would record."""
    monkeypatch.setattr("lightgen_core.sampling.graphs.CudaGraph", Watched)
    monkeypatch.setattr(Watched, "watches", [])
    return Watched.watches


@pytest.mark.parametrize("grid", [(4, 4), (6, 8)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_casts_no_weight_and_reads_no_host_memory(watches, precision, grid):
    """Memory of a cast weight belongs to autocast, which frees it while the graph goes on reading it.

    A copy from the host is recorded by its address: page-locked or not, that memory is used for something else by then.
    """
    config = SamplerConfig(iterations=3, head_steps=2, precision=precision)
    with fake_cuda() as cuda:
        student, text, mask = student_and_texts(cuda)
        graphs = TokenSampler(student.head, HeadCompileConfig(graphs=True))
        sample(student, text, mask, grid, config, seeds=[1, 2], head=graphs)
        modules = [student, graphs._in(precision, student.head), graphs.graphs.weights(student.mar, precision)]
        weights = {weight.untyped_storage()._cdata for module in modules for weight in module.parameters()}
        products = [kernel for kernel in watches[-1].kernels if kernel.name == "addmm"]
        watch = cuda.watch(*modules)
        with watch:
            sample(student, text, mask, grid, config, seeds=[3, 4], head=graphs)
    assert len(watches) == 3 and len(products) >= 2 * 8 + 10
    assert all(each.waits == each.uploads == {} and not weights & each.converted for each in watches)
    assert watch.waits == {} and len(watch.uploads) >= 2  # order and noise, outside the graphs


def test_a_copy_planted_in_a_graph_is_named_by_line(watches, monkeypatch):
    """Times embedded anew in every iteration: nobody waits, and the graph reads memory of the host."""
    unmask_tokens = Unmasker.__call__

    def planted(self, index, state, noises):
        self._head.embed_times(self._config, self._iterations[index].steps, state.tokens.device)
        unmask_tokens(self, index, state, noises)

    monkeypatch.setattr(Unmasker, "__call__", planted)
    config = SamplerConfig(iterations=3, head_steps=2)
    with fake_cuda() as cuda:
        student, text, mask = student_and_texts(cuda)
        graphs = TokenSampler(student.head, HeadCompileConfig(graphs=True))
        sample(student, text, mask, (4, 4), config, seeds=[1, 2], head=graphs)
    for watch in watches:
        (place,) = watch.uploads
        assert watch.waits == {} and place.startswith("lightgen_core/sampling/token_sampler.py:")
        assert place.endswith("copy from cpu to cuda of (2,)")


def test_a_schedule_made_among_fakes_is_the_real_one():
    """It is kept for the process, so that other tests would sample with what fakes left."""
    head_samplers.head_steps.cache_clear()
    with fake_cuda():
        among_fakes = token_sampler.head_steps("flow", "euler", 3)
    kept = head_samplers.head_steps("flow", "euler", 3)
    head_samplers.head_steps.cache_clear()
    assert among_fakes == kept == head_samplers.head_steps("flow", "euler", 3)
