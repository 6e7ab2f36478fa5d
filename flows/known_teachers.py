"""Facts about text-to-image teachers, for the estimate. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from lightgen_core.encoders.model_ref import parse_model_ref
from lightgen_core.teachers.config import DiffusersConfig


@dataclass(frozen=True)
class PassFlops:
    """FLOPs of one evaluation of a denoiser for one image, attention included.

    once: whatever the tokens; image, text: of each such token; image_image, image_text, text_text: of each pair.
    """

    once: int
    image: int
    text: int
    image_image: int = 0
    image_text: int = 0
    text_text: int = 0

    def count(self, image: int, text: int) -> int:
        """Return FLOPs at so many image and text tokens."""
        pairs = self.image_image * image**2 + self.image_text * image * text + self.text_text * text**2
        return self.once + self.image * image + self.text * text + pairs


@dataclass(frozen=True)
class KnownTeacher:
    """A pipeline of the hub, as its authors run it.

    parameters: of the denoiser, counted, as are all FLOPs (`python -m benchmarks.teacher_flops`).
    text_encoder: weights that its text encoder applies to each token; decoder: FLOPs of the autoencoder's, per pixel.
    stride: px of an image token's side.
    steps: denoising steps of its page; negative_prompt, guidance_scale: the page's, where they take a second pass.
    max_sequence_length: text tokens where the recipe sets none; pads: to that length, whatever the caption.
    multiple: text and image tokens are rounded up to a multiple of it.
    second_pass: a second evaluation at each step, for guidance: never (distilled into the model), if guidance_scale is
    above 0, or if there is a negative prompt and true_cfg_scale is above 1.
    source: where steps and sizes are from.
    """

    parameters: int
    flops: PassFlops
    text_encoder: int
    decoder: float
    stride: int
    steps: int
    max_sequence_length: int
    pads: bool
    second_pass: Literal["never", "guidance_scale", "negative_prompt"]
    source: str
    guidance_scale: float | None = None
    default_scale: float = 0.0
    negative_prompt: str | None = None
    multiple: int = 1

    def image_tokens(self, height: int, width: int) -> int:
        """Return tokens of an image, px."""
        return self._rounded(height // self.stride * (width // self.stride))

    def text_tokens(self, caption: int, max_sequence_length: int | None) -> int:
        """Return tokens of a caption that has so many, if it is padded or cut to a length."""
        longest = max_sequence_length or self.max_sequence_length
        return longest if self.pads else self._rounded(min(caption, longest))

    def passes(self, config: DiffusersConfig) -> int:
        """Return evaluations at each step."""
        if self.second_pass == "guidance_scale":
            scale = self.default_scale if config.guidance_scale is None else config.guidance_scale
            return 2 if scale > 0 else 1
        if self.second_pass == "negative_prompt" and config.negative_prompt is not None:
            return 2 if float(config.arguments.get("true_cfg_scale", self.default_scale)) > 1 else 1
        return 1

    def _rounded(self, tokens: int) -> int:
        return -(-tokens // self.multiple) * self.multiple


KNOWN_TEACHERS = {
    "black-forest-labs/FLUX.1-dev": KnownTeacher(
        parameters=11_901_408_320,
        flops=PassFlops(6_557_270_016, 12_910_854_144, 12_935_233_536, 700_416, 1_400_832, 700_416),
        text_encoder=4_630_714_368,
        decoder=9.6e6,
        stride=16,
        steps=28,
        max_sequence_length=512,
        pads=True,
        second_pass="negative_prompt",
        source="FluxPipeline's default steps (the page's example takes 50); sizes: FluxTransformer2DModel's defaults",
        default_scale=1.0,
    ),
    "black-forest-labs/FLUX.2-klein-4B": KnownTeacher(
        parameters=3_875_544_576,
        flops=PassFlops(341_311_488, 6_135_742_464, 6_181_355_520, 307_200, 614_400, 307_200),
        text_encoder=4_022_468_096,
        decoder=9.6e6,
        stride=16,
        steps=4,
        max_sequence_length=512,
        pads=True,
        second_pass="never",
        source="its page; sizes: Klein4BParams of github.com/black-forest-labs/flux2",
    ),
    "black-forest-labs/FLUX.2-klein-9B": KnownTeacher(
        parameters=9_078_581_248,
        flops=PassFlops(606_076_928, 13_960_740_864, 14_059_307_008, 524_288, 1_048_576, 524_288),
        text_encoder=7_568_405_504,
        decoder=9.6e6,
        stride=16,
        steps=4,
        max_sequence_length=512,
        pads=True,
        second_pass="never",
        source="its page; sizes: Klein9BParams of github.com/black-forest-labs/flux2",
    ),
    "Tongyi-MAI/Z-Image-Turbo": KnownTeacher(
        parameters=6_154_908_736,
        flops=PassFlops(254_672_896, 11_325_603_840, 11_344_773_120, 491_520, 921_600, 491_520),
        text_encoder=3_633_511_936,
        decoder=9.6e6,
        stride=16,
        steps=8,
        max_sequence_length=512,
        pads=False,
        second_pass="guidance_scale",
        source="its page, 8 evaluations and guidance 0; sizes: ZImageTransformer2DModel's defaults",
        guidance_scale=0.0,
        default_scale=5.0,
        multiple=32,
    ),
    "Qwen/Qwen-Image": KnownTeacher(
        parameters=20_430_401_088,
        flops=PassFlops(13_647_740_928, 13_590_331_392, 13_611_565_056, 737_280, 1_474_560, 737_280),
        text_encoder=7_070_619_136,
        decoder=10.8e6,
        stride=16,
        steps=50,
        max_sequence_length=512,
        pads=False,
        second_pass="negative_prompt",
        source="its page, a negative prompt and true_cfg_scale 4; sizes: QwenImageTransformer2DModel's defaults",
        default_scale=4.0,
        negative_prompt=" ",
    ),
    "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers": KnownTeacher(
        parameters=1_610_237_472,
        flops=PassFlops(82_575_360, 2_719_736_320, 421_765_120, image_text=179_200),
        text_encoder=2_024_517_888,
        decoder=8.0e6,
        stride=32,
        steps=2,
        max_sequence_length=300,
        pads=True,
        second_pass="never",
        source="its page; sizes: SanaSprint_1600M_P1_D20 of diffusers' scripts/convert_sana_to_diffusers.py",
    ),
}


def known_teacher(name: str) -> KnownTeacher | None:
    """Return the facts about a pipeline of the hub, at any revision; None if unknown."""
    return KNOWN_TEACHERS.get(parse_model_ref(name).repository or "")
