"""`lightgen import-upstream` and `lightgen inpaint`, as a user calls them, and the functions below them."""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from flows.cli import main
from lightgen_core.config import SamplerConfig
from lightgen_core.encoders.autoencoder import LatentCodec
from lightgen_core.encoders.model_ref import resolve
from lightgen_core.encoders.text_encoder import TextEncoder
from lightgen_core.model.patchify import patchify
from lightgen_core.model.save import load_student
from lightgen_core.model.upstream import upstream_student
from lightgen_core.sampling.inpaint import inpaint
from lightgen_core.sampling.text_to_image import StudentInfo, TextToImage
from lightgen_core.sampling.unmask import sample
from tests.factories import released_formula as released
from tests.factories.tiny_checkpoint import save_tiny_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
WORDS = 12
CAPTIONS = ["a red circle", "four stars beside a blue square"]


@pytest.fixture
def lightgen(monkeypatch, capsys):
    """Run a command in this process; returns exit status, standard output and standard error."""
    monkeypatch.setenv("LIGHTGEN_THREADS", "1")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lightgen", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(tensor) for name, tensor in released.released_state().items()}


@pytest.fixture(scope="module")
def components(tmp_path_factory) -> tuple[str, ...]:
    """Options that name a random AutoencoderKL of SD3.5's geometry and a random T5, each saved to a folder."""
    torch.manual_seed(0)
    codec, text_encoder = tmp_path_factory.mktemp("vae"), tmp_path_factory.mktemp("t5")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sizes = {"block_out_channels": (8, 8, 8, 8), "latent_channels": 16, "norm_num_groups": 4}
    AutoencoderKL(**blocks, **sizes, shift_factor=0.06, scaling_factor=1.5).save_pretrained(codec)
    tokenizer = AutoTokenizer.from_pretrained(resolve("zoo:t5"))
    tokenizer.save_pretrained(text_encoder)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=released.TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=3
    )
    T5EncoderModel(config).save_pretrained(text_encoder)
    return "--codec", str(codec), "--text-encoder", str(text_encoder), "--max-text-tokens", str(WORDS)


@pytest.fixture(scope="module")
def checkpoint_file(state, tmp_path_factory) -> Path:
    """A checkpoint as the released training writes it."""
    path = tmp_path_factory.mktemp("released") / "checkpoint-last.pth"
    averaged = {name: tensor * 1.01 for name, tensor in state.items()}
    torch.save({"model": state, "model_ema": averaged, "epoch": 3, "args": argparse.Namespace(lr=1e-4)}, path)
    return path


@pytest.fixture
def imported(lightgen, checkpoint_file, components, tmp_path) -> Path:
    folder = tmp_path / "student"
    status, out, err = lightgen(
        "import-upstream", checkpoint_file, "-o", folder, "--num-heads", released.HEADS, *components
    )
    assert (status, out) == (0, f"{folder}\n"), err
    return folder


def test_raw_and_averaged_weights_survive_the_import_to_the_bit(imported, state):
    for weights, factor in (("raw", 1.0), ("ema", 1.01)):
        student, _ = load_student(imported, weights)
        expected = upstream_student({name: tensor * factor for name, tensor in state.items()}, released.HEADS)
        pairs = zip(student.state_dict().items(), expected.state_dict().items(), strict=True)
        assert all(name == other and torch.equal(tensor, wanted) for (name, tensor), (other, wanted) in pairs)


def test_the_import_says_what_the_tensors_do_not(imported, components):
    info = StudentInfo.model_validate(json.loads((imported / "config.json").read_text())["info"])
    assert (info.codec, info.text_encoder, info.max_text_tokens) == (components[1], components[3], WORDS)
    assert (info.patch, info.channels, info.latent_height, info.latent_width) == (2, 16, 32, 32)


def test_without_options_the_import_is_the_papers(lightgen, state, tmp_path):
    safetensors.torch.save_file(state, tmp_path / "bare.safetensors")
    status, _, err = lightgen("import-upstream", tmp_path / "bare.safetensors", "-o", tmp_path / "s", "--num-heads", 4)
    assert status == 0, err
    info = json.loads((tmp_path / "s/config.json").read_text())["info"]
    assert (info["codec"], info["text_encoder"], info["max_text_tokens"]) == (
        "stabilityai/stable-diffusion-3.5-large/vae", "google/flan-t5-xxl", 128,
    )  # fmt: skip
    assert (tmp_path / "s/model.safetensors").read_bytes() == (tmp_path / "s/ema.safetensors").read_bytes()


@pytest.mark.parametrize(("weights", "factor"), [("raw", 1.0), ("ema", 1.01)])
def test_one_requested_kind_of_weights_serves_as_both(lightgen, checkpoint_file, state, tmp_path, weights, factor):
    options = ("--num-heads", released.HEADS, "--weights", weights)
    assert lightgen("import-upstream", checkpoint_file, "-o", tmp_path / "s", *options)[0] == 0
    for kind in ("raw", "ema"):
        assert torch.equal(load_student(tmp_path / "s", kind)[0].mar.token_in.weight, factor * state["z_proj.weight"])


class Payload:
    """Unpickling this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def unfit_files(state: dict[str, torch.Tensor], whole: bytes, folder: Path) -> dict[str, tuple[object, str]]:
    """By name, what is in a file and what its refusal must say."""
    shortened = {name: tensor for name, tensor in state.items() if name != "decoder_blocks.1.norm2.bias"}
    return {
        "missing": (shortened, "decoder_blocks.1.norm2.bias missing"),
        "shape": (state | {"z_proj_ln.bias": torch.zeros(5)}, "z_proj_ln.bias has shape (5,): expected (32,)"),
        "extra": (state | {"encoder_blocks.0.ls1.gamma": torch.ones(32)}, "encoder_blocks.0.ls1.gamma"),
        "other": (
            {"conv1.weight": torch.zeros(3, 3)},
            "z_proj.weight is missing: this is not the state dict of a released model. Found conv1.weight",
        ),
        "hostile": ({"model": Payload(folder / "ran")}, "posix.mkdir, which is no tensor and could run code"),
        "no_ema": ({"model": None, "model_ema": None}, "holds no raw or ema weights"),
        "truncated": (whole[:-2000], "cannot be read safely"),
        "empty": (b"", "cannot be read safely"),
        "opcode": (b"h\xff.", "its pickle is damaged or of another kind. Fetch the file again"),
    }


@pytest.mark.parametrize(
    "name", ["missing", "shape", "extra", "other", "hostile", "no_ema", "truncated", "empty", "opcode"]
)
def test_what_does_not_fit_is_refused_in_few_lines_that_say_what(lightgen, state, checkpoint_file, tmp_path, name):
    content, message = unfit_files(state, checkpoint_file.read_bytes(), tmp_path)[name]
    file = tmp_path / f"{name}.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    status, out, err = lightgen("import-upstream", file, "-o", tmp_path / "student", "--num-heads", released.HEADS)
    assert (status, out) == (2, "")
    assert message in err and "Traceback" not in err and len(err.splitlines()) <= 4
    assert str(file) in err
    assert not (tmp_path / "student").exists() and not (tmp_path / "ran").exists()


def test_a_width_that_no_released_model_has_wants_its_heads(lightgen, checkpoint_file, tmp_path):
    status, _, err = lightgen("import-upstream", checkpoint_file, "-o", tmp_path / "student")
    assert status == 2 and "width 32; the released models have 768, 1024, 1280" in err


def test_the_import_replaces_a_student_and_nothing_else(lightgen, imported, checkpoint_file, components, tmp_path):
    def again(folder: Path) -> tuple[int, str, str]:
        return lightgen("import-upstream", checkpoint_file, "-o", folder, "--num-heads", released.HEADS, *components)

    assert again(imported)[0] == 0
    status, _, err = again(Path(components[1]))  # an autoencoder has a config.json too
    assert status == 2 and "something else than a student" in err
    assert (Path(components[1]) / "config.json").exists()


def test_an_imported_student_samples_from_the_command_line(lightgen, imported, tmp_path):
    size = ("--height", 64, "--width", 48, "--steps", 2)
    status, out, err = lightgen("sample", imported, *CAPTIONS, *size, "-o", tmp_path / "out")
    assert status == 0, err
    assert [Image.open(path).size for path in out.split()] == [(48, 64)] * 2


def test_an_imported_student_gets_padding_as_the_released_one(imported, components):
    model, tokenizer = T5EncoderModel.from_pretrained(components[3]), AutoTokenizer.from_pretrained(components[3])
    padded = tokenizer(CAPTIONS, padding="max_length", max_length=WORDS, truncation=True, return_tensors="pt")
    with torch.no_grad():
        text = model.eval()(**padded).last_hidden_state
    assert not padded["attention_mask"].all() and text[padded["attention_mask"] == 0].abs().max() > 0.1
    ours = TextToImage.load(imported, CPU)
    asked = {"grid": (2, 2), "seeds": [0, 1]}
    config = SamplerConfig(iterations=2, head_steps=4, guidance_scale=2)
    expected = sample(load_student(imported)[0], text, None, config=config, **asked)
    found = patchify(ours.sample(CAPTIONS, asked["seeds"], sampler=config, grid=asked["grid"]).latents)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    unpadded = sample(load_student(imported)[0], text[:, :6], None, config=config, **asked)
    assert (unpadded - expected).abs().max() > 1e-2 * expected.abs().max()


def test_components_that_do_not_fit_the_student_are_named(lightgen, checkpoint_file, components, tmp_path):
    options = ("--num-heads", released.HEADS, *components[:2], "--text-encoder", "zoo:t5")
    assert lightgen("import-upstream", checkpoint_file, "-o", tmp_path / "s", *options)[0] == 0
    status, _, err = lightgen("sample", tmp_path / "s", "a star")
    assert status == 2 and "text encoder zoo:t5 has states of width 128" in err and "reads 24" in err


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("student"))


def image_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_tokens_outside_the_mask_are_kept_to_the_bit(student):
    """Those that it touches are new."""
    loaded, picture = TextToImage.load(student, CPU), image_of(48, 64)
    mask = np.zeros((48, 64), bool)
    mask[15, 16:33] = True  # one row of pixels, the last of the first row of tokens, over two tokens' edges
    made = inpaint(loaded, picture, mask, "a star", seed=3)
    assert made.renewed.tolist() == [[False, True, True, False], [False] * 4, [False] * 4]
    known = patchify(torch.from_numpy(LatentCodec.load("zoo:autoencoder").encode(picture[None])))
    changed = (made.tokens != known).any(dim=2).view(3, 4).numpy()
    assert (changed == made.renewed).all()
    outside = ~made.renewed.repeat(16, axis=0).repeat(16, axis=1)
    assert (made.pasted[outside] == picture[outside]).all() and (made.pasted[~outside] == made.decoded[~outside]).all()
    assert (made.decoded[outside] != picture[outside]).any()


def test_inpainting_follows_its_seed(student):
    loaded, picture, mask = TextToImage.load(student, CPU), image_of(32, 32), np.zeros((32, 32), bool)
    mask[:16, :16] = True
    first, again, other = (inpaint(loaded, picture, mask, "a star", seed).tokens for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_inpaint_keeps_the_pixels_outside_the_masks_tokens(lightgen, student, tmp_path):
    """It writes a PNG; with --decode-all it decodes every pixel."""
    picture = image_of(48, 48)
    image = save(tmp_path / "photo.png", picture)
    mask = np.zeros((48, 48), np.uint8)
    mask[20:24, 20:24] = 255
    white = save(tmp_path / "mask.png", mask)
    kept, decoded = tmp_path / "new/kept.png", tmp_path / "decoded.png"
    status, out, err = lightgen("inpaint", student, image, white, "a star", "-o", kept, "--steps", 1, "--cfg", 1)
    assert (status, out) == (0, f"{kept}\n"), err
    assert lightgen("inpaint", student, image, white, "a star", "-o", decoded, "--decode-all", "--seed", 4)[0] == 0
    differs = (np.asarray(Image.open(kept)) != picture).any(axis=2)
    assert differs[16:32, 16:32].any() and differs.sum() == differs[16:32, 16:32].sum()
    assert (np.asarray(Image.open(decoded)) != picture).any(axis=2)[:16].any()


def test_inpaint_names_its_result_after_the_image(lightgen, student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image, mask = save(tmp_path / "photo.png", image_of(32, 32)), np.eye(32, dtype=np.uint8)[:, ::-1] * 255
    mask[:16] = 0
    status, out, err = lightgen("inpaint", student, image, save(tmp_path / "mask.png", mask), "a star")
    assert (status, out) == (0, "photo-inpainted.png\n"), err
    assert Image.open(tmp_path / "photo-inpainted.png").format == "PNG"


@pytest.mark.parametrize(
    ("size", "mask", "message"),
    [
        ((48, 48), np.zeros((48, 48)), "touches 0 of 9 tokens of 16 x 16 px: there is nothing to sample"),
        ((48, 48), np.full((48, 48), 255), "touches 9 of 9 tokens of 16 x 16 px: nothing would be kept"),
        ((48, 48), np.full((32, 48), 255), "the image has 48 x 48 px and the mask 48 x 32"),
        ((40, 60), np.full((40, 60), 255), "resize it and the mask to multiples of 16, for example 64 x 32"),
    ],
    ids=["empty", "full", "sizes", "tokens"],
)
def test_a_mask_or_size_without_sense_is_an_error_with_a_reason(lightgen, student, tmp_path, size, mask, message):
    image = save(tmp_path / "image.png", image_of(*size))
    status, out, err = lightgen("inpaint", student, image, save(tmp_path / "m.png", mask.astype(np.uint8)), "a star")
    assert (status, out) == (2, "") and message in err and "Traceback" not in err


def test_files_that_are_missing_or_no_images_are_named(lightgen, student, tmp_path):
    image, text = save(tmp_path / "image.png", image_of(48, 48)), tmp_path / "notes.png"
    text.write_text("no image")
    for given, message in (
        ((student, tmp_path / "gone.png", image), "gone.png' does not exist"),
        ((student, image, text), "notes.png is not an image"),
        ((student, image, image, "-o", tmp_path / "out.jpg"), "does not end in .png"),
        ((tmp_path, image, image), "holds no student"),
    ):
        status, _, err = lightgen("inpaint", *given[:3], "a star", *given[3:])
        assert status == 2 and message in err


def test_padded_states_are_transformers_own_for_any_batch(components):
    encoder = TextEncoder.load(components[3], max_length=WORDS)
    together = encoder.encode(CAPTIONS, padded=True)
    assert [states.shape for states in together] == [(WORDS, released.TEXT_WIDTH)] * 2
    np.testing.assert_allclose(together[0], encoder.encode(CAPTIONS[:1], padded=True)[0], atol=1e-5)
    words = len(encoder.encode(CAPTIONS[:1])[0])
    np.testing.assert_allclose(together[0][:words], encoder.encode(CAPTIONS[:1])[0], atol=1e-4)
