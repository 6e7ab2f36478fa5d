"""A student as a pipeline of diffusers: saved, loaded, shared and called as any other."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightgen_core.config import FewStepConfig, HeadConfig, MarConfig, SamplerConfig
from lightgen_core.encoders.autoencoder import LatentCodec
from lightgen_core.encoders.dtypes import PRECISIONS
from lightgen_core.encoders.text_encoder import TextEncoder
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.mar import Student
from lightgen_core.model.save import StudentError
from lightgen_core.sampling.text_to_image import StudentInfo, TextToImage
from lightgen_core.sampling.token_sampler import HeadCompileConfig

MODEL_INDEX = "model_index.json"
PIPELINE_FILE = "pipeline.py"
FROZEN = ("vae", "text_encoder")
"""Frozen components; the tokenizer goes with the text encoder."""

_PIPELINE_CODE = '''"""The pipeline of this model is part of the package lightgen; see README.md."""

try:
    from lightgen_core.sampling.pipeline import FewStepModel, LightGenPipeline, StudentModel
except ImportError as error:
    raise ImportError(
        f"this model needs the package lightgen, and {error}. Install it as README.md says, then load the model again"
    ) from error

__all__ = ["FewStepModel", "LightGenPipeline", "StudentModel"]
'''


class StudentModel(Student, ModelMixin, ConfigMixin):
    """The student with the configuration and the files that diffusers gives its models."""

    @register_to_config
    def __init__(self, mar_config: dict[str, Any], head_config: dict[str, Any]) -> None:
        Student.__init__(self, MarConfig(**mar_config), HeadConfig(**head_config))

    @classmethod
    def of(cls, student: Student) -> "StudentModel":
        """Return a student with the same weights."""
        with torch.device("meta"):
            made = cls(
                student.mar.config.model_dump(mode="json"),
                student.head.config.model_dump(mode="json"),
            )
        made.load_state_dict(student.state_dict(), assign=True)
        return made.eval()


class FewStepModel(FewStepStudent, ModelMixin, ConfigMixin):
    """The few-step student with the configuration and the files that diffusers gives its models."""

    @register_to_config
    def __init__(self, mar_config: dict[str, Any], sizes: dict[str, Any]) -> None:
        FewStepStudent.__init__(self, MarConfig(**mar_config), FewStepConfig(**sizes))

    @classmethod
    def of(cls, student: FewStepStudent) -> "FewStepModel":
        """Return a student with the same weights."""
        with torch.device("meta"):
            made = cls(student.mar.config.model_dump(mode="json"), student.head.sizes.model_dump(mode="json"))
        made.load_state_dict(student.state_dict(), assign=True)
        return made.eval()


class LightGenPipeline(DiffusionPipeline):
    """Text to image with a student.

    A frozen component that is not inside is loaded by the name that `info` gives it when the first image is sampled.

    Args:
        student: masked autoregressive transformer and head.
        info: `StudentInfo`: geometry, names and precisions of the frozen components, default sampler.
        vae: image autoencoder.
        text_encoder: with its `tokenizer`.
        few_step: student that was distilled, if any.
    """

    model_cpu_offload_seq = "text_encoder->student->vae"
    _optional_components = [*FROZEN, "tokenizer", "few_step"]  # noqa: RUF012  diffusers joins it to a list

    def __init__(
        self,
        student: StudentModel,
        vae: ModelMixin | None = None,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        info: Mapping[str, Any] | None = None,
        few_step: FewStepModel | None = None,
    ) -> None:
        super().__init__()
        self.info = StudentInfo.model_validate(dict(info or {}))
        if vae is not None and vae.dtype != (dtype := PRECISIONS[self.info.codec_precision]):
            vae = vae.to(dtype)
        self.register_modules(student=student, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_modules(few_step=few_step)
        self.register_to_config(info=self.info.model_dump(mode="json"))
        self._model: TextToImage | None = None

    @classmethod
    def of(cls, model: TextToImage, inside: Collection[str] = FROZEN) -> "LightGenPipeline":
        """Return a pipeline of a loaded student; frozen components that are not `inside` go by name."""
        frozen: dict[str, Any] = {"vae": model.codec.model} if "vae" in inside else {}
        if "text_encoder" in inside:
            frozen |= {"text_encoder": model.text_encoder.model, "tokenizer": model.text_encoder.tokenizer}
        frozen |= {} if model.few_step is None else {"few_step": FewStepModel.of(model.few_step)}
        info = model.info.model_copy(update={"sampler": model.sampler})
        return cls(StudentModel.of(model.student), **frozen, info=info.model_dump(mode="json"))

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Save all components as safetensors, and the file by which diffusers finds this class.

        options: of `DiffusionPipeline.save_pretrained`.
        """
        folder = Path(save_directory)
        super().save_pretrained(folder, **options)
        for file in (folder / MODEL_INDEX, *folder.glob("*/config.json")):
            config = json.loads(file.read_text())
            config.pop("_name_or_path", None)  # where it lay on this machine
            if file.name == MODEL_INDEX:
                config["_class_name"] = [Path(PIPELINE_FILE).stem, type(self).__name__]
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (folder / PIPELINE_FILE).write_text(_PIPELINE_CODE)

    @classmethod
    def _dict_from_json_file(cls, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a configuration; the class is this one, so that no code of a folder is run."""
        config = super()._dict_from_json_file(*arguments, **options)
        if isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][-1]
        return config

    @property
    def model(self) -> TextToImage:
        """The same student as LightGen itself loads it, on the pipeline's device."""
        if self._model is None or self._model.device != self.device:
            device, info = self.device, self.info
            states = {"max_length": info.max_text_tokens, "layer": info.text_layer}
            if self.vae is None:
                codec = LatentCodec.load(info.codec, device=device, dtype=PRECISIONS[info.codec_precision])
            else:
                codec = LatentCodec(self.vae)
            if self.text_encoder is None:
                dtype = PRECISIONS[info.text_precision]
                encoder = TextEncoder.load(info.text_encoder, **states, device=device, dtype=dtype)
            else:
                encoder = TextEncoder(self.text_encoder, self.tokenizer, device=device, **states)
            self._model = TextToImage(self.student, info, codec, encoder, device, few_step=self.few_step)
        return self._model

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        seed: int = 0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **sampler: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Sample images, prompt after prompt.

        Args:
            height, width: pixels, multiples of a token's side.
            num_inference_steps: iterations of unmasking.
            guidance_scale: 1 is none.
            seed: of a prompt's first image; each further image adds 1. An image depends on prompt and seed alone.
            generator: in place of `seed` the seed that it was given; one, or one for each image.
            output_type: pil, or np: uint8 (n, height, width, 3).
            sampler: other fields of `SamplerConfig`, such as head_steps.

        Raises:
            ValueError: sizes that are not whole tokens, an invalid sampler, an unknown `output_type`.
        """
        if output_type not in ("pil", "np"):
            raise ValueError(f"output_type {output_type!r} is unknown; choose pil or np")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        captions = [text for text in prompts for _ in range(num_images_per_prompt)]
        seeds = _seeds(seed, generator, len(prompts), num_images_per_prompt)
        changes = {"iterations": num_inference_steps, "guidance_scale": guidance_scale}
        changes = sampler | {name: value for name, value in changes.items() if value is not None}
        config = SamplerConfig.model_validate(self.model.sampler.model_dump() | changes)
        images = self.model.sample(captions, seeds, sampler=config, grid=self._grid(height, width)).images
        result = images if output_type == "np" else [Image.fromarray(image) for image in images]
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    def _grid(self, height: int | None, width: int | None) -> tuple[int, int]:
        side, (rows, columns) = self.model.codec.stride * self.info.patch, self.info.grid
        height, width = height or rows * side, width or columns * side
        if height % side or width % side:
            raise ValueError(f"{height} x {width} px are not whole tokens of {side} px: give multiples of {side}")
        return height // side, width // side


def _seeds(
    seed: int, generator: torch.Generator | Sequence[torch.Generator] | None, prompts: int, each: int
) -> list[int]:
    """Return the seed of every image."""
    if generator is None or isinstance(generator, torch.Generator):
        first = seed if generator is None else generator.initial_seed()
        return [first + k for _ in range(prompts) for k in range(each)]
    if len(generator) != prompts * each:
        raise ValueError(f"found {len(generator)} generators for {prompts * each} images: give one, or one for each")
    return [one.initial_seed() for one in generator]


def load_exported(folder: Path, device: torch.device, head_compile: HeadCompileConfig | None = None) -> TextToImage:
    """Load the student of an exported folder. Raises StudentError if a file is missing or damaged."""
    try:
        pipeline = LightGenPipeline.from_pretrained(folder, low_cpu_mem_usage=False, use_safetensors=True).to(device)
    except (OSError, ValueError, SafetensorError) as error:
        raise StudentError(f"{folder} holds no whole exported student: {error}; export or copy it again") from error
    model = pipeline.model
    parts = (pipeline.student, model.info, model.codec, model.text_encoder)
    return TextToImage(*parts, device, head_compile, pipeline.few_step)
