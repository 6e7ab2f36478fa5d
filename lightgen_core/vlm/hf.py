"""A vision-language model of transformers, such as Qwen2-VL or LLaVA; each answer with its own seed."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
)

from lightgen_core.captioning.hf_captioner import SeededSampling
from lightgen_core.captioning.parse import Answer
from lightgen_core.encoders.model_ref import parse_model_ref
from lightgen_core.images.codec import decode_image
from lightgen_core.vlm.config import VlmConfig
from lightgen_core.vlm.endpoint import shrink
from lightgen_core.vlm.vlm import FirstTokens

_LIKELIEST = 20
"""First tokens that are told, as many as endpoints tell."""


class VlmError(ValueError):
    """A model that is no image-text-to-text model with a chat template."""


class HFVlm:
    """Answer texts about images in batches, padded on the left; see `HFCaptioner` on what a batch changes."""

    def __init__(
        self, model: PreTrainedModel, processor: Any, config: VlmConfig, device: torch.device | str = "cpu"
    ) -> None:
        tokenizer: Any = getattr(processor, "tokenizer", None)
        if tokenizer is None or not (processor.chat_template or tokenizer.chat_template):
            raise VlmError(
                f"{config.model} is a {type(model).__name__} without a chat template; expected a model that is asked "
                "about an image, such as Qwen2-VL or LLaVA"
            )
        self.model = model.eval().requires_grad_(False).to(device)
        self._processor, self._tokenizer, self._config = processor, tokenizer, config
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        defaults = model.generation_config
        eos = defaults.eos_token_id if defaults.eos_token_id is not None else tokenizer.eos_token_id
        self._eos_ids = [eos] if isinstance(eos, int) else list(eos or [])
        # The model's own defaults (top_k, repetition penalty, ...) are no part of the recipe.
        model.generation_config = GenerationConfig(
            eos_token_id=self._eos_ids or None,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=defaults.bos_token_id,
        )

    @classmethod
    def load(cls, config: VlmConfig, *, device: torch.device | str = "cpu") -> Self:
        """Load a folder or a hub id (see `encoders.model_ref`); safetensors only, and no code of the repository.

        Raises:
            OSError: there is no such model, or its weights are not safetensors.
            ValueError: the model is no image-text-to-text model of transformers; VlmError without a chat template.
        """
        ref = parse_model_ref(config.model)
        options = {"trust_remote_code": False, **ref.options}
        model = AutoModelForImageTextToText.from_pretrained(
            ref.source, dtype=getattr(torch, config.dtype), use_safetensors=True, **options
        )
        return cls(model, AutoProcessor.from_pretrained(ref.source, **options), config, device)

    def write(self, images: Sequence[bytes], texts: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        """Answer each text about its encoded image with its seed, `batch_size` at a time."""
        answers: list[Answer] = []
        for start in range(0, len(images), self._config.batch_size):
            batch = slice(start, start + self._config.batch_size)
            answers += self._batch(images[batch], texts[batch], seeds[batch])
        return answers

    def first_tokens(self, images: Sequence[bytes], texts: Sequence[str]) -> list[FirstTokens]:
        """Return the likeliest first tokens of each answer, `batch_size` at a time."""
        found: list[FirstTokens] = []
        for start in range(0, len(images), self._config.batch_size):
            batch = slice(start, start + self._config.batch_size)
            found += self._first_tokens(images[batch], texts[batch])
        return found

    @torch.inference_mode()
    def _first_tokens(self, images: Sequence[bytes], texts: Sequence[str]) -> list[FirstTokens]:
        generated: Any = self.model.generate(
            **self._inputs(images, texts),
            do_sample=False,
            max_new_tokens=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        values, ids = generated.logits[0].float().log_softmax(1).topk(min(_LIKELIEST, len(self._tokenizer)))
        return [
            [(self._tokenizer.decode([token]), value) for token, value in zip(*row, strict=True)]
            for row in zip(ids.tolist(), values.tolist(), strict=True)
        ]

    def _inputs(self, images: Sequence[bytes], texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return what the model takes, on its device and in its type."""
        shrunk = [Image.fromarray(decode_image(shrink(image, self._config.max_image_side))) for image in images]
        prompts = [self._prompt(text) for text in texts]
        encoded = self._processor(images=shrunk, text=prompts, padding=True, return_tensors="pt")
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in encoded.items()
        }

    @torch.inference_mode()
    def _batch(self, images: Sequence[bytes], texts: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        config, steps, inputs = self._config, self._config.max_new_tokens, self._inputs(images, texts)
        length = inputs["input_ids"].shape[1]
        uniform = torch.from_numpy(np.stack([np.random.Generator(np.random.Philox(s)).random(steps) for s in seeds]))
        sampling = SeededSampling(uniform.to(self.model.device), length, config.temperature, config.top_p)
        generated = self.model.generate(
            **inputs, do_sample=False, max_new_tokens=steps, logits_processor=LogitsProcessorList([sampling])
        )[:, length:].tolist()
        ends = [next((n for n, token in enumerate(row) if token in self._eos_ids), None) for row in generated]
        written = self._tokenizer.batch_decode(
            [row[:end] for row, end in zip(generated, ends, strict=True)], skip_special_tokens=True
        )
        return [Answer(text, truncated=end is None) for text, end in zip(written, ends, strict=True)]

    def _prompt(self, text: str) -> str:
        """Return an image and a text about it as a chat's first turn."""
        content = [{"type": "image"}, {"type": "text", "text": text}]
        turns = [{"role": "user", "content": content}]
        return self._processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
