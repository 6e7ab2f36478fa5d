"""A bf16 residual stream and fp8 products in pre-training: what they change, how little, and what they refuse."""

import sys
from importlib.util import find_spec

import pytest
import torch

from lightgen_core.config import TrainConfig
from lightgen_core.data.batches import TokenSource
from lightgen_core.model.blocks import Block, LayerNorm, Mlp
from lightgen_core.train.precision import apply_precision
from tests.factories.tiny_student import PATCH, tiny_student, tiny_training, train, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao: pip install lightgen[fp8]")


def losses(folder, **config):
    """The losses of six steps, and the trained student."""
    files = [folder / "tokens.parquet"]
    if not files[0].exists():
        write_rows(files[0], rows=10)
    source, student = TokenSource(files, patch=PATCH, batch_size=4, seed=7), tiny_student("v", dropout=0.0)
    place = {"seed": 7, "device": CPU, "folder": folder / "-".join(["run", *map(str, config.values())])}
    result = train(student, source, tiny_training(precision="bf16", **config), **place)
    return [row["loss"] for row in result.rows], result


@pytest.mark.parametrize(
    "config",
    [{"residual_precision": "bf16"}, pytest.param({"fp8": "emulated"}, marks=needs_torchao)],
    ids=["residual", "fp8"],
)
def test_a_lower_precision_trains_close_to_autocast(tmp_path, config):
    """Other bits and, for six steps at a learning rate of 0.01, losses within 3 %; all weights are saved as fp32."""
    plain, _ = losses(tmp_path)
    lower, result = losses(tmp_path, **config)
    assert lower != plain and lower == pytest.approx(plain, rel=0.03)
    assert result.raw.keys() == tiny_student("v").state_dict().keys()
    assert {tensor.dtype for tensor in result.raw.values()} == {torch.float32}


def test_blocks_pass_bf16_states_on_and_norms_keep_them():
    student, seen = tiny_student("v"), []
    apply_precision(student, tiny_training(precision="bf16", residual_precision="bf16"), CPU)
    for module in student.mar.modules():
        if isinstance(module, Block | LayerNorm):
            module.register_forward_hook(lambda module, _, output: seen.append((type(module), output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        student.mar.decoder[0](torch.randn(2, 9, 16))
    assert seen == [(LayerNorm, torch.bfloat16)] * 2 + [(Block, torch.bfloat16)]


@needs_torchao
def test_fp8_takes_mlps_and_head_but_the_encoder():
    student = tiny_student("v")
    apply_precision(student, tiny_training(precision="bf16", fp8="emulated"), CPU)
    converted = {name for name, layer in student.named_modules() if type(layer).__name__ == "Float8Linear"}
    mlps = {name for name, part in student.mar.named_modules(prefix="mar") if isinstance(part, Mlp)}
    expected = {f"{name}.{layer}" for name in mlps if ".encoder." not in name for layer in ("up", "down")}
    assert len(mlps) == 4
    assert converted == expected | {f"head.blocks.0.{layer}" for layer in ("up", "down", "modulation")}


def test_fp8_without_torchao_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ValueError, match=r"needs the package torchao.*lightgen\[fp8\]"):
        apply_precision(tiny_student("v"), tiny_training(precision="bf16", fp8="tensorwise"), CPU)


@pytest.mark.parametrize(
    ("device", "found"), [("cpu", "the CPU does not"), ("cuda", r"Some A100 \(compute capability 8.0\) does not")]
)
def test_fp8_on_an_unfit_device_is_an_error(monkeypatch, device, found):
    monkeypatch.setitem(sys.modules, "torchao", sys)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some A100")
    with pytest.raises(ValueError, match=f"fp8=tensorwise: {found} multiply fp8"):
        apply_precision(tiny_student("v"), tiny_training(precision="bf16", fp8="tensorwise"), torch.device(device))


@pytest.mark.parametrize("lower", [{"residual_precision": "bf16"}, {"fp8": "emulated"}])
def test_a_lower_precision_beside_fp32_is_refused(lower):
    with pytest.raises(ValueError, match="with precision=fp32: set precision=bf16"):
        TrainConfig(precision="fp32", **lower)


def test_defaults_leave_keys_as_they_were():
    assert not {"residual_precision", "fp8"} & TrainConfig().model_dump().keys()
