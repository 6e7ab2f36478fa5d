"""Released weights give the released function, and what is not released weights is refused by name."""

import argparse
import json

import numpy as np
import pytest
import safetensors.torch
import torch

from lightgen_core.model.upstream import UpstreamError, load_upstream, upstream_student
from lightgen_core.model.upstream_file import read_kinds
from tests.factories import released_formula as released


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(tensor) for name, tensor in released.released_state().items()}


@pytest.fixture(scope="module")
def loaded(state):
    return load_upstream(state, num_heads=released.HEADS)


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@torch.no_grad()
@pytest.mark.parametrize("grid", released.GRIDS)
def test_states_equal_the_formula_to_1e_5(loaded, grid):
    mar, _ = loaded
    given = released.inputs(grid)
    states = mar(**tensors(given), text_mask=None, grid=grid).numpy()
    formula = released.Released(released.released_state()).states(**given, grid=grid)
    assert np.abs(states - formula).max() <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("grid", released.GRIDS)
def test_states_equal_the_golden_values_to_1e_5(loaded, grid):
    mar, _ = loaded
    states = mar(**tensors(released.inputs(grid)), text_mask=None, grid=grid).numpy()
    golden = json.loads(released.GOLDEN.read_text())[f"{grid[0]}x{grid[1]}"]
    assert np.abs(np.array(released.sampled(states)) - golden).max() <= 1e-5


@torch.no_grad()
def test_head_equals_formula_and_golden_values_to_1e_5(loaded):
    _, head = loaded
    given = released.head_inputs()
    output = head(**tensors(given)).numpy()
    assert output.shape == (32, 2 * released.TOKEN_WIDTH)
    golden = json.loads(released.GOLDEN.read_text())["head"]
    assert np.abs(output - released.Released(released.released_state()).head(**given)).max() <= 1e-5
    assert np.abs(np.array(released.sampled(output)) - golden).max() <= 1e-5


def test_sizes_are_read_off_the_tensors(loaded):
    mar, head = loaded
    config = mar.config
    assert (config.token_width, config.text_width, config.width, config.mlp_ratio) == (64, 24, 32, 4.0)
    depths = (config.aligner_depth, config.encoder_depth, config.decoder_depth, config.text_depth)
    assert depths == (2, 2, 2, 2)
    assert (config.heads, config.position_grid, config.released_positions) == (4, 16, True)
    assert (head.config.width, head.config.depth, head.config.objective) == (48, 2, "ddpm")


def test_loaded_weights_are_copies(state, loaded):
    mar, _ = loaded
    assert mar.token_in.weight.data_ptr() != state["z_proj.weight"].data_ptr()


@torch.no_grad()
def test_the_released_student_reads_padding_whatever_the_mask(state, loaded):
    student = upstream_student(state, num_heads=released.HEADS)
    given = tensors(released.inputs((16, 16)))
    mask = torch.arange(released.WORDS).expand(2, -1) < 3
    unmasked = loaded[0](**given, text_mask=None, grid=(16, 16))
    assert torch.equal(student.mar(**given, text_mask=mask, grid=(16, 16)), unmasked)
    assert not student.training and not any(parameter.is_meta for parameter in student.parameters())


@pytest.mark.parametrize(
    "name", ["fake_latent", "z_proj.weight", "encoder_blocks.1.attn.qkv.bias", "diffloss.net.res_blocks.0.mlp.2.weight"]
)
def test_a_missing_tensor_is_named(state, name):
    without = {key: tensor for key, tensor in state.items() if key != name}
    with pytest.raises(UpstreamError, match=name.replace(".", r"\.")):
        load_upstream(without, num_heads=4)


def test_a_tensor_left_over_is_named(state):
    with pytest.raises(UpstreamError, match=r"encoder_blocks\.0\.ls1\.gamma"):
        load_upstream({**state, "encoder_blocks.0.ls1.gamma": torch.ones(32)}, num_heads=4)


@pytest.mark.parametrize("shape", [(32, 31), (31,), (1, 32, 32)])
def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(state, shape):
    changed = {**state, "decoder_blocks.1.attn.proj.weight": torch.zeros(shape)}
    with pytest.raises(UpstreamError) as refusal:
        load_upstream(changed, num_heads=4)
    assert "decoder_blocks.1.attn.proj.weight" in str(refusal.value)
    assert str(shape) in str(refusal.value) and "(32, 32)" in str(refusal.value)


def test_heads_that_do_not_divide_the_width_are_refused(state):
    with pytest.raises(UpstreamError, match="num_heads"):
        load_upstream(state, num_heads=12)


def test_a_checkpoint_gives_averaged_or_raw_weights(state, tmp_path):
    averaged = {name: tensor + 1 for name, tensor in state.items()}
    path = tmp_path / "checkpoint-last.pth"
    torch.save({"model": state, "model_ema": averaged, "epoch": 3, "args": argparse.Namespace(lr=1e-4)}, path)
    assert torch.equal(read_kinds(path)["ema"]["fake_latent"], averaged["fake_latent"])
    assert torch.equal(read_kinds(path)["raw"]["fake_latent"], state["fake_latent"])


def test_a_bare_state_dict_is_read_from_pth_and_safetensors(state, tmp_path):
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "bare.pth")
    safetensors.torch.save_file(state, tmp_path / "bare.safetensors")
    for name in ("bare.pth", "bare.safetensors"):
        read = read_kinds(tmp_path / name)["ema"]
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], state[key]) for key in state)


def test_a_checkpoint_without_averaged_weights_gives_raw_ones(state, tmp_path):
    torch.save({"model": state, "model_ema": None}, tmp_path / "raw.pth")
    assert list(read_kinds(tmp_path / "raw.pth")) == ["raw"]


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    torch.save({"model": Payload(tmp_path / "ran")}, tmp_path / "hostile.pth")
    with pytest.raises(UpstreamError, match=r"hostile\.pth"):
        read_kinds(tmp_path / "hostile.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_refused_by_name(content, tmp_path):
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    with pytest.raises(UpstreamError, match=r"damaged\.pth"):
        read_kinds(path)
    path.with_suffix(".safetensors").write_bytes(content)
    with pytest.raises(UpstreamError, match=r"damaged\.safetensors"):
        read_kinds(path.with_suffix(".safetensors"))


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(UpstreamError, match="no state dict"):
        read_kinds(tmp_path / "list.pth")
