"""`lightgen doctor` on the heads of a recipe's filters."""

import numpy as np
from safetensors.numpy import save_file

from flows.commands.doctor_heads import check_heads
from flows.load import load_recipe


def test_a_head_for_another_clip_and_a_missing_file_are_found(tmp_path):
    for name, width in (("good", 64), ("wide", 768)):
        save_file(
            {"weight": np.ones((1, width), np.float32), "bias": np.ones(1, np.float32)},
            tmp_path / f"{name}.safetensors",
        )
    heads = ", ".join(
        f"{{name: {name}, weights: {tmp_path}/{name}.safetensors, min: 0}}" for name in ("good", "wide", "gone")
    )
    rows = check_heads(load_recipe("smoke", [f"dedup.filters.heads=[{heads}]"]))
    assert [state for _, state, _ in rows] == ["ok", "missing", "missing"]
    assert rows[1][2].endswith("of embeddings of 768 values; zoo:clip gives 64")
    assert "gone.safetensors cannot be read" in rows[2][2]
    assert check_heads(load_recipe("smoke")) == []
