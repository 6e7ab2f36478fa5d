"""Previews: a few captions sampled while a student trains, which touch neither its weights nor its random numbers."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightgen_core.config import SamplerConfig
from lightgen_core.device import to_device
from lightgen_core.encoders.autoencoder import LatentCodec
from lightgen_core.encoders.dtypes import PRECISIONS
from lightgen_core.encoders.text_encoder import TextEncoder
from lightgen_core.launch.job import PreviewConfig
from lightgen_core.model.mar import Student
from lightgen_core.model.patchify import unpatchify
from lightgen_core.sampling.text_to_image import StudentInfo
from lightgen_core.sampling.unmask import pad_text, sample


def preview_file(folder: Path, step: int) -> Path:
    """Return the file of a step's images, uint8 (captions, height, width, 3)."""
    return folder / f"{step:08d}.npy"


def preview_sampler(objective: str) -> SamplerConfig:
    """Return the sampler of previews, the same for every recipe: few steps, moderate guidance."""
    sampler = "euler" if objective == "flow" else "ddim"
    return SamplerConfig(
        iterations=16, head_steps=20, head_sampler=sampler, guidance_scale=3, guidance_schedule="linear"
    )


class PreviewWriter:
    """Samples a job's captions from weights of a step, and writes the images; the text encoder is loaded once."""

    def __init__(self, config: PreviewConfig, student: Student, info: dict[str, Any], device: torch.device) -> None:
        """student: of the sizes to come; info: contents of its config.json."""
        self._config, self._device = config, device
        self._sizes = student.mar.config, student.head.config
        self._info = StudentInfo.model_validate(info)
        with _own_random_state(device):
            self._text = self._encode(student.mar.config.attend_to_padding)
            self._codec = LatentCodec.load(
                self._info.codec, device=device, dtype=PRECISIONS[self._info.codec_precision]
            )

    def __call__(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Write the images of a step, of complete weights; a file that is there stays."""
        path = preview_file(self._config.folder, step)
        if path.is_file():
            return
        with torch.device("meta"):
            student = Student(*self._sizes)
        student.load_state_dict(tensors, assign=True)
        student = student.to(self._device).eval()
        sampler, (text, mask), info = preview_sampler(student.head.config.objective), self._text, self._info
        with _own_random_state(self._device):
            tokens = sample(student, text, mask, info.grid, sampler, seeds=self._config.seeds)
            images = self._codec.decode(unpatchify(tokens, info.grid, info.channels, info.patch).float())
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            np.save(file, images)
        unfinished.replace(path)

    def _encode(self, padded: bool) -> tuple[Tensor, Tensor]:
        """Return the captions' text states and mask; the encoder, often the largest model, is dropped again."""
        info = self._info
        encoder = TextEncoder.load(
            info.text_encoder,
            max_length=info.max_text_tokens,
            layer=info.text_layer,
            device=self._device,
            dtype=PRECISIONS[info.text_precision],
        )
        states = encoder.encode(list(self._config.captions), padded=padded)
        text, mask = pad_text([torch.from_numpy(rows).float() for rows in states])
        return to_device(text, self._device), to_device(mask, self._device)


def _own_random_state(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Keep torch's global random state as it is: loading a model draws weights that are then replaced."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
