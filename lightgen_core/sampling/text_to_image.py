"""From captions to images with a student: encode the text, sample tokens, decode them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from lightgen_core.config import Positive, SamplerConfig, Section
from lightgen_core.device import to_device
from lightgen_core.encoders.autoencoder import LatentCodec
from lightgen_core.encoders.dtypes import PRECISIONS
from lightgen_core.encoders.text_encoder import TextEncoder
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.flops import few_step_head, sampling_flops
from lightgen_core.model.mar import Student
from lightgen_core.model.patchify import unpatchify
from lightgen_core.model.save import StudentError, load_few_step, load_student
from lightgen_core.sampling.token_sampler import HeadCompileConfig, TokenSampler
from lightgen_core.sampling.unmask import pad_text, sample


class StudentInfo(Section):
    """A student's metadata: its frozen components, geometry and default sampler."""

    renamed: ClassVar = {"max_words": "max_text_tokens"}

    codec: str
    codec_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    text_encoder: str
    text_precision: Literal["fp32", "bf16"] = "fp32"
    text_layer: int = -1
    max_text_tokens: Positive
    patch: Positive
    channels: Positive
    latent_height: Positive
    latent_width: Positive
    sampler: SamplerConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_release(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = cls.with_new_names(values)
        if isinstance(sampler := values.get("sampler"), Mapping):
            values["sampler"] = SamplerConfig.with_new_names(sampler)
        return values

    @property
    def components(self) -> tuple[Any, ...]:
        """Everything that decides which codec and text encoder are loaded."""
        codec = (self.codec, self.codec_precision)
        return (*codec, self.text_encoder, self.text_precision, self.text_layer, self.max_text_tokens)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in training."""
        return self.latent_height // self.patch, self.latent_width // self.patch


@dataclass(frozen=True)
class Sampled:
    """latents (n, channels, height, width) float32, and the images they decode to (n, height, width, 3) uint8.

    flops: of the student, without text encoder and decoder.
    """

    latents: Tensor
    images: np.ndarray
    flops: float


class TextToImage:
    """A student with the components that turn captions into its input and its tokens into images."""

    def __init__(
        self,
        student: Student,
        info: StudentInfo,
        codec: LatentCodec,
        text_encoder: TextEncoder,
        device: torch.device,
        head_compile: HeadCompileConfig | None = None,
        few_step: FewStepStudent | None = None,
    ) -> None:
        self.student = student.to(device).eval()
        self.few_step = None if few_step is None else few_step.to(device).eval()
        students: list[Student | FewStepStudent] = [self.student]
        if self.few_step is not None:
            students.append(self.few_step)
        self._heads = {each: TokenSampler(each.head, head_compile) for each in students}
        self.info, self.codec, self.text_encoder, self.device = info, codec, text_encoder, device

    @classmethod
    def load(
        cls,
        folder: Path,
        device: torch.device,
        weights: Literal["ema", "raw"] = "ema",
        head_compile: HeadCompileConfig | None = None,
        beside: Self | None = None,
    ) -> Self:
        """Load a student checkpoint and the components it names; `load_text_to_image` also loads exported ones.

        beside: a loaded student whose components serve this one too, where both name the same.

        Raises:
            StudentError: the folder holds no student, or a component does not fit it.
            FileNotFoundError: a component that the student names is not there.
        """
        student, raw = load_student(folder, weights=weights, device=device)
        info = StudentInfo.model_validate(raw)
        if beside is not None and beside.info.components == info.components and beside.device == device:
            codec, text_encoder = beside.codec, beside.text_encoder
        else:
            codec = LatentCodec.load(info.codec, device=device, dtype=PRECISIONS[info.codec_precision])
            states = {"max_length": info.max_text_tokens, "layer": info.text_layer}
            dtype = PRECISIONS[info.text_precision]
            text_encoder = TextEncoder.load(info.text_encoder, **states, device=device, dtype=dtype)
        width = student.mar.config.text_width
        for component, found, expected in (
            (f"autoencoder {info.codec} has latent channels", codec.channels, info.channels),
            (f"text encoder {info.text_encoder} has states of width", text_encoder.width, width),
        ):
            if found != expected:
                raise StudentError(
                    f"{component} {found}, the student in {folder} reads {expected}: it was trained on another"
                )
        few_step = load_few_step(folder, device) if weights == "ema" else None  # made from the averaged weights
        return cls(student, info, codec, text_encoder, device, head_compile, few_step)

    @property
    def sampler(self) -> SamplerConfig:
        """Default sampler of this student."""
        if self.info.sampler:
            return self.info.sampler
        euler = self.student.head.config.objective == "flow"
        return SamplerConfig(head_sampler="euler" if euler else "ddpm")

    def sample(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        *,
        sampler: SamplerConfig | None = None,
        grid: tuple[int, int] | None = None,
        batch_size: int = 256,
    ) -> Sampled:
        """Sample one image for each caption; it depends on caption and seed, not on the batch."""
        parts = [
            self._sample_batch(captions[start : start + batch_size], seeds[start : start + batch_size], sampler, grid)
            for start in range(0, len(captions), batch_size)
        ]
        latents, images = torch.cat([part.latents for part in parts]), np.concatenate([part.images for part in parts])
        return Sampled(latents, images, sum(part.flops for part in parts))

    def _sample_batch(
        self, captions: Sequence[str], seeds: Sequence[int], sampler: SamplerConfig | None, grid: tuple[int, int] | None
    ) -> Sampled:
        text, mask = self.encode_text(captions)
        grid, sampler = grid or self.info.grid, sampler or self.sampler
        student = self.sampled(sampler)
        tokens = sample(student, text, mask, grid, sampler, seeds=list(seeds), head=self._heads[student])
        latents = unpatchify(tokens, grid, self.info.channels, self.info.patch).float()
        flops = len(captions) * self._flops(sampler, grid[0] * grid[1], text.shape[1])
        return Sampled(latents.cpu(), self.codec.decode(latents), flops)

    def sampled(self, sampler: SamplerConfig) -> Student | FewStepStudent:
        """Return the student that a sampler is for; `sample` refuses few_step where there is no few-step student."""
        return self.few_step if sampler.head_sampler == "few_step" and self.few_step is not None else self.student

    def _flops(self, sampler: SamplerConfig, tokens: int, text_tokens: int) -> float:
        """Count the sampling of one image."""
        student = self.sampled(sampler)
        head = few_step_head(student.head.sizes) if isinstance(student, FewStepStudent) else student.head.config
        return sampling_flops(student.mar.config, head, sampler, tokens=tokens, text_tokens=text_tokens)

    def encode_text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return text states (n, text tokens, width) and mask, on the device; padded for students that attend to it."""
        states = self.text_encoder.encode(list(captions), padded=self.student.mar.config.attend_to_padding)
        text, mask = pad_text([torch.from_numpy(rows).float() for rows in states])
        return to_device(text, self.device), to_device(mask, self.device)
