"""Load a student to sample from: a checkpoint of training, or what was exported for diffusers."""

from pathlib import Path
from typing import Literal

import torch

from lightgen_core.model.save import StudentError
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.sampling.token_sampler import HeadCompileConfig


def load_text_to_image(
    folder: Path,
    device: torch.device,
    weights: Literal["ema", "raw"] = "ema",
    head_compile: HeadCompileConfig | None = None,
    beside: TextToImage | None = None,
) -> TextToImage:
    """Load a checkpoint and the components it names, or what `LightGenPipeline.save_pretrained` wrote.

    beside: a loaded student whose components serve this one too, where both name the same.

    Raises:
        StudentError: the folder holds no student, or a component does not fit it.
        FileNotFoundError: a component that the student names is not there.
    """
    if not (folder / "model_index.json").is_file():
        return TextToImage.load(folder, device, weights, head_compile, beside)
    from lightgen_core.sampling.pipeline import load_exported  # late: diffusers is slow to import

    if weights != "ema":
        raise StudentError(f"{folder} was exported and holds the averaged weights alone, not {weights!r}")
    return load_exported(folder, device, head_compile)
