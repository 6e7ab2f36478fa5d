"""A student to call: images from prompts, and inpainting, with the defaults of the commands. Torch loads late."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from flows.checkpoint import find_student
from flows.errors import UserError
from flows.folders import require_student
from flows.openmp import bound_spinning
from lightgen_core.config import SamplerConfig
from tasks.config.settings import Settings

if TYPE_CHECKING:
    from lightgen_core.sampling.text_to_image import TextToImage

log = logging.getLogger("lightgen")

MASK_THRESHOLD = 128
"""Lowest grey value of a mask's pixel that counts as white."""


class Student:
    """A text-to-image student with its autoencoder and text encoder.

    student = Student.from_pretrained("demo")
    student("a red circle", seed=0)[0].save("circle.png")
    """

    def __init__(self, model: "TextToImage") -> None:
        self.model = model

    @classmethod
    def from_pretrained(
        cls, checkpoint: str | Path, *, store: str | None = None, device: str | None = None
    ) -> "Student":
        """Load a student.

        Args:
            checkpoint: a folder (STORE/report/KEY/model, or what `lightgen export` wrote), the short key of an artifact
                ("report/8cf2"), or a recipe ("demo"), which means its newest student.
            store: where keys and recipes are looked for; LIGHTGEN_STORE by default.
            device: "cpu", "cuda", "cuda:1"; LIGHTGEN_DEVICE by default, which takes a GPU where there is one.

        Raises:
            UserError: there is no such student, or its folder is damaged.
        """
        folder = find_student(checkpoint, store).folder
        require_student(folder)
        bound_spinning()
        from lightgen_core.device import pick_device
        from lightgen_core.model.save import StudentError
        from lightgen_core.sampling.load import load_text_to_image
        from lightgen_core.sampling.token_sampler import HeadCompileConfig

        settings = Settings()
        head_compile = HeadCompileConfig(settings.compile_head, settings.cuda_graphs)
        on = pick_device(device or settings.device, settings.threads)
        try:
            return cls(load_text_to_image(folder, on, head_compile=head_compile))
        except StudentError as error:
            raise UserError(str(error)) from error

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        seed: int = 0,
        num_images: int = 1,
        steps: int | None = None,
        cfg: float | None = None,
        height: int | None = None,
        width: int | None = None,
        **sampler: Any,
    ) -> list[Image.Image]:
        """Sample images: `num_images` of each prompt, prompt after prompt.

        Args:
            prompts: one, or several.
            seed: of a prompt's first image; each further image adds 1. An image depends on prompt and seed alone.
            steps: sampling iterations.
            cfg: classifier-free guidance; 1 is none.
            height, width: pixels, multiples of a token's side.
            sampler: any other field of the recipe's section `sampler`, such as head_steps=12.

        Raises:
            UserError: an empty prompt, a size that is no multiple of a token's, a sampler that is not valid.
        """
        texts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        given = {"iterations": steps, "guidance_scale": cfg}
        changes = sampler | {name: value for name, value in given.items() if value is not None}
        return [Image.fromarray(image) for image in self.sample(texts, seed, num_images, changes, height, width)]

    def sample(
        self,
        prompts: Sequence[str],
        seed: int = 0,
        num_images: int = 1,
        changes: Mapping[str, Any] | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> np.ndarray:
        """Return the same images as uint8 (n, height, width, 3). changes: fields of the sampler."""
        require_prompts(prompts)
        from lightgen_core.sampling.head_samplers import IncompatibleSamplerError

        self._name_unknown_words(prompts)
        sampler, grid = changed_sampler(self.model.sampler, changes or {}), self.grid(height, width)
        captions = [prompt for prompt in prompts for _ in range(num_images)]
        seeds = [seed + k for _ in prompts for k in range(num_images)]
        try:
            return self.model.sample(captions, seeds, sampler=sampler, grid=grid).images
        except IncompatibleSamplerError as error:
            raise UserError(str(error)) from error

    def inpaint(
        self,
        image: Image.Image | np.ndarray,
        mask: Image.Image | np.ndarray,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        cfg: float | None = None,
        decode_all: bool = False,
        **sampler: Any,
    ) -> Image.Image:
        """Sample the masked part of an image anew.

        Args:
            image: of the student's size, or one of whole tokens; an array is uint8 (height, width, 3).
            mask: of the same size; white, or true in a bool array (height, width), is sampled, in whole tokens.
            decode_all: give the autoencoder's version of the other pixels instead of the image's own.
            seed, steps, cfg, sampler: as of a call.

        Raises:
            UserError: an empty prompt, an image and a mask that do not fit, a sampler that is not valid.
        """
        require_prompts([prompt])
        self._name_unknown_words([prompt])
        from lightgen_core.sampling.inpaint import InpaintError, inpaint

        given = {"iterations": steps, "guidance_scale": cfg}
        changes = sampler | {name: value for name, value in given.items() if value is not None}
        pixels = np.array(image.convert("RGB")) if isinstance(image, Image.Image) else np.array(image)
        masked = np.asarray(mask.convert("L")) >= MASK_THRESHOLD if isinstance(mask, Image.Image) else mask
        try:
            result = inpaint(self.model, pixels, masked, prompt, seed, changed_sampler(self.model.sampler, changes))
        except InpaintError as error:
            raise UserError(str(error)) from error
        return Image.fromarray(result.decoded if decode_all else result.pasted)

    def grid(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Return rows and columns of tokens of a size in pixels. Raises UserError for a part of a token."""
        side = self.model.codec.stride * self.model.info.patch
        rows, columns = self.model.info.grid
        height, width = height or rows * side, width or columns * side
        if height % side or width % side:
            raise UserError(
                f"an image of {height} x {width} px is not made of whole tokens of {side} px: "
                f"give multiples of {side} for height and width"
            )
        return height // side, width // side

    def _name_unknown_words(self, prompts: Sequence[str]) -> None:
        """Say which words of the prompts a student of the scene world cannot know."""
        from lightgen_core.zoo.tokenizer import unknown_words

        for prompt in dict.fromkeys(prompts):
            if unknown := unknown_words(self.model.text_encoder.tokenizer, prompt):
                log.warning(
                    "this student knows the words of the scene world only (coloured shapes), and not %s: do not expect "
                    "them in the image of %r",
                    ", ".join(unknown),
                    prompt,
                )

    def __repr__(self) -> str:
        info = self.model.info
        side = self.model.codec.stride * info.patch
        size = f"{info.grid[0] * side} x {info.grid[1] * side} px"
        million = sum(weight.numel() for weight in self.model.student.parameters()) / 1e6
        return f"Student({million:.1f}M parameters, {size}, {info.text_encoder}, {info.codec}, {self.model.device})"


def require_prompts(prompts: Sequence[str]) -> None:
    """Raise UserError if there is no prompt, or an empty one."""
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise UserError("a prompt is empty: say what to draw")


def changed_sampler(sampler: SamplerConfig, changes: Mapping[str, Any]) -> SamplerConfig:
    """Return the sampler with changed fields. Raises UserError if one does not accept its value."""
    try:
        return SamplerConfig.model_validate(sampler.model_dump() | dict(changes))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise UserError(f"this sampler is not valid: {faults}") from error
