"""Features of frozen encoders for each token: CLIP's towers and timm's models, transformers and convolutions."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from lightgen_core.encoders.clip import Clip
from lightgen_core.encoders.feature_maps import FeatureMaps, resample
from lightgen_core.encoders.model_ref import ModelNotFound, parse_model_ref
from lightgen_core.encoders.timm_model import timm_map, timm_map_channels

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)


def saved(folder: Path, name: str) -> str:
    """A file of random weights of a model, and its reference."""
    torch.manual_seed(0)
    save_file(timm.create_model(name, pretrained=False).state_dict(), folder / f"{name}.safetensors")
    return f"timm:{name}@{folder / name}.safetensors"


def test_clips_patches_are_normed_and_averaged_over_a_token():
    """6 x 6 patches of zoo:clip on a grid of 3 x 3, without the class token."""
    clip = Clip.load("zoo:clip")
    tower, states = clip.model.visual, []
    hook = tower.transformer.resblocks[-1].register_forward_hook(lambda module, given, output: states.append(output))
    with torch.no_grad():
        clip.model.encode_image(clip.preprocess(torch.from_numpy(IMAGES)))
        hook.remove()
        patches = tower.ln_post(states[0])[:, 1:].view(2, 3, 2, 3, 2, 96)
    features = FeatureMaps.load("zoo:clip")
    found = features.encode(IMAGES, (3, 3))
    assert features.channels == 96 and found.shape == (2, 3, 3, 96)
    np.testing.assert_allclose(found, patches.mean(dim=(2, 4)), atol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_resnet"])
def test_timms_map_is_that_of_forward_features(tmp_path, name):
    """Of a transformer without its class and register tokens."""
    reference = saved(tmp_path, name)
    features = FeatureMaps.load(reference)
    model = timm.create_model(name, checkpoint_path=str(tmp_path / f"{name}.safetensors")).eval()
    config = timm.data.resolve_model_data_config(model)
    side = config["input_size"][1]
    images = np.random.default_rng(1).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        values = model.forward_features((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
    if values.ndim == 3:
        grid = model.patch_embed.grid_size
        expected = values[:, model.num_prefix_tokens :].unflatten(1, grid)
    else:
        expected = values.permute(0, 2, 3, 1)
        grid = tuple(expected.shape[1:3])
    assert features.channels == expected.shape[3] == timm_map_channels(reference)
    np.testing.assert_allclose(features.encode(images, grid), expected, atol=1e-4)


def test_images_of_any_shape_are_seen_whole(tmp_path):
    """No crop: only the outer columns of a wide image differ, and so does the map there, with a convolution's reach."""
    features = FeatureMaps.load(saved(tmp_path, "test_resnet"))
    wide = np.zeros((2, 40, 80, 3), np.uint8)
    wide[1, :, :6] = wide[1, :, -6:] = 255
    maps = features.encode(wide, (5, 5))
    changed = np.abs(maps[1] - maps[0]).max(axis=2)
    assert (changed[:, [0, -1]] > 0).all()


def test_a_size_of_ones_own_gives_a_transformer_another_map(tmp_path):
    reference = saved(tmp_path, "test_vit")
    small = FeatureMaps.load(reference, size=64).encode(IMAGES, (4, 4))
    assert small.shape == (2, 4, 4, 64) and timm_map_channels(reference, size=64) == 64
    assert np.abs(small - FeatureMaps.load(reference).encode(IMAGES, (4, 4))).max() > 0.01


def test_a_finer_grid_is_interpolated_and_a_coarser_averaged():
    maps = torch.arange(4.0).view(1, 1, 2, 2)
    assert resample(maps, (1, 1)).item() == 1.5 and resample(maps, (2, 1)).flatten().tolist() == [0.5, 2.5]
    finer = resample(maps, (2, 4))[0, 0]
    assert finer[0].tolist() == [0.0, 0.25, 0.75, 1.0]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("timm:no_such", "found timm model 'no_such'"),
        ("timm:test_vit@/no/such.safetensors", "the weights of timm:test_vit are not here: there is no /no/such"),
        ("timm:test_vit@weights.bin", "weights.bin is not a safetensors file"),
        ("timm:test_vit@{file}", "holds another model than timm:test_vit: it lacks blocks"),
    ],
)
def test_an_encoder_that_is_none_says_why(tmp_path, reference, message):
    file = tmp_path / "weights.safetensors"
    save_file({"norm.weight": torch.zeros(64)}, file)
    with pytest.raises(ModelNotFound, match=message):
        FeatureMaps.load(reference.format(file=file))


class Pooling(torch.nn.Module):
    """An encoder whose features have no place."""

    def forward_intermediates(self, images, **options):
        return [images.mean(dim=(2, 3))]


@pytest.mark.parametrize(
    ("model", "message"),
    [(torch.nn.Identity(), "Identity gives no map of features"), (Pooling(), r"Pooling gives features \(2, 3\)")],
)
def test_a_model_without_a_spatial_map_is_refused(model, message):
    with pytest.raises(ModelNotFound, match=message):
        timm_map(model, torch.zeros(2, 3, 8, 8))


def test_a_clip_has_a_size_of_its_own():
    with pytest.raises(ModelNotFound, match=r"takes images of its own size; leave features\.size out"):
        FeatureMaps.load("zoo:clip", size=96)


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("timm:vit_base_patch14_dinov2.lvd142m@v1.0", "timm/vit_base_patch14_dinov2.lvd142m", "v1.0"),
        ("timm:test_vit.r160_in1k", "timm/test_vit.r160_in1k", None),
    ],
)
def test_a_timm_name_is_its_repository_of_the_hub(text, repository, revision):
    found = parse_model_ref(text)
    assert (found.path, found.repository, found.revision) == (None, repository, revision)
