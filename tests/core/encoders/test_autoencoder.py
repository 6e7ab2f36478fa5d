"""The image codec: normalised latents of any AutoencoderKL and AutoencoderDC, loaded safely."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny

from lightgen_core.encoders.autoencoder import CodecError, LatentCodec

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def kl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AutoencoderKL of stride 4, with a shift and a scale."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    sizes = {"block_out_channels": (8, 8, 16), "latent_channels": 4, "norm_num_groups": 4}
    model = AutoencoderKL(**blocks, **sizes, shift_factor=0.25, scaling_factor=1.5)
    folder = tmp_path_factory.mktemp("kl")
    model.save_pretrained(folder)
    return folder


def test_kl_latents_are_the_mean_less_shift_times_scale(kl_folder: Path) -> None:
    codec = LatentCodec.load(str(kl_folder))
    values = torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        mean = AutoencoderKL.from_pretrained(kl_folder).encode(values).latent_dist.mean
    latents = codec.encode(PICTURES)
    assert (codec.stride, codec.channels, latents.shape, latents.dtype) == (4, 4, (3, 4, 8, 12), np.float32)
    np.testing.assert_allclose(latents, (mean.numpy() - 0.25) * 1.5, atol=1e-5)


def test_kl_decoding_undoes_shift_and_scale(kl_folder: Path) -> None:
    codec = LatentCodec.load(str(kl_folder))
    raw = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        decoded = AutoencoderKL.from_pretrained(kl_folder).decode(raw).sample
    expected = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    images = codec.decode((raw - 0.25) * 1.5)
    assert images.dtype == np.uint8 and images.shape == (2, 32, 32, 3)
    assert np.abs(images.astype(int) - expected).max() <= 1


def test_dc_latents_are_scaled_without_a_shift() -> None:
    codec = LatentCodec.load("zoo:autoencoder")
    values = torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        raw = codec.model.encode(values).latent
    np.testing.assert_allclose(codec.encode(PICTURES), raw.numpy() * codec.model.config.scaling_factor, atol=1e-5)


def test_tensors_and_arrays_encode_alike() -> None:
    codec = LatentCodec.load("zoo:autoencoder")
    np.testing.assert_array_equal(codec.encode(PICTURES), codec.encode(torch.from_numpy(PICTURES)))


def test_images_and_latents_that_do_not_fit_are_refused() -> None:
    """The error names the dtype or the shape that was given."""
    codec = LatentCodec.load("zoo:autoencoder")
    with pytest.raises(CodecError, match=r"found images of torch.float32 \(1, 8, 8, 3\), expected uint8"):
        codec.encode(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(CodecError, match="found images of 20 x 16 px, expected sides that are multiples of 8 px"):
        codec.encode(np.zeros((1, 20, 16, 3), np.uint8))
    with pytest.raises(CodecError, match=r"found latents \(1, 4, 2, 2\), expected \(n, 16, height, width\)"):
        codec.decode(np.zeros((1, 4, 2, 2), np.float32))


def test_an_autoencoder_of_another_class_is_refused_by_name(tmp_path: Path) -> None:
    widths = (8, 8, 8, 8)
    AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths).save_pretrained(tmp_path)
    with pytest.raises(CodecError, match="class AutoencoderTiny, expected AutoencoderKL or AutoencoderDC"):
        LatentCodec.load(str(tmp_path))
    with pytest.raises(CodecError, match=r"has no config.json"):
        LatentCodec.load(str(tmp_path.parent))


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    model = AutoencoderDC.from_pretrained(LatentCodec.load("zoo:autoencoder").model.config._name_or_path)
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert not list(tmp_path.glob("*.safetensors"))
    with pytest.raises(OSError, match="safetensors"):
        LatentCodec.load(str(tmp_path))


def test_a_copied_folder_encodes_the_same(tmp_path: Path) -> None:
    codec = LatentCodec.load("zoo:autoencoder")
    shutil.copytree(codec.model.config._name_or_path, tmp_path / "copy")
    np.testing.assert_array_equal(LatentCodec.load(str(tmp_path / "copy")).encode(PICTURES), codec.encode(PICTURES))


def test_arithmetic_in_bf16_stays_near_that_in_fp32(kl_folder: Path) -> None:
    exact, rounded = (LatentCodec.load(str(kl_folder), dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    a, b = exact.encode(PICTURES), rounded.encode(PICTURES)
    assert b.dtype == np.float32 and 0 < np.abs(a - b).max() < 0.1 * np.abs(a).max()


def test_an_autoencoder_in_a_pipeline_folder_is_loaded_by_path(kl_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(kl_folder, tmp_path / "pipeline" / "vae")
    np.testing.assert_array_equal(
        LatentCodec.load(str(tmp_path / "pipeline" / "vae")).encode(PICTURES),
        LatentCodec.load(str(kl_folder)).encode(PICTURES),
    )
