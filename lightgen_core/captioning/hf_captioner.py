"""Captions from a causal language model of transformers, each with its own seed."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lightgen_core.captioning.config import WriterConfig
from lightgen_core.captioning.parse import Answer
from lightgen_core.encoders.model_ref import parse_model_ref


class SeededSampling(LogitsProcessor):
    """Sample the next token of each row with the row's own random numbers.

    Nucleus sampling (top-p, Holtzman et al. 2020) by inversion: one uniform number picks a token from the cumulative
    probabilities, the likeliest first; all other logits become -inf. So the token depends on the row's logits and
    number, and on nothing else in the batch.

    Args:
        uniform: (rows, steps) numbers in [0, 1), one for each new token.
        prompt_length: tokens of the prompt.
    """

    def __init__(
        self, uniform: Float[Tensor, "rows steps"], prompt_length: int, temperature: float, top_p: float
    ) -> None:
        self._uniform, self._prompt_length = uniform, prompt_length
        self._temperature, self._top_p = temperature, top_p

    def __call__(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        if self._temperature == 0:
            return scores
        ordered, tokens = scores.double().div(self._temperature).sort(dim=-1, descending=True, stable=True)
        mass = ordered.softmax(dim=-1).cumsum(dim=-1)
        # The last token of the nucleus: less than top_p precedes it. The nucleus holds at least one token.
        last = (mass < self._top_p).sum(dim=-1, keepdim=True).clamp(max=mass.shape[-1] - 1)
        number = self._uniform[:, input_ids.shape[1] - self._prompt_length, None] * mass.gather(-1, last)
        sampled = torch.minimum((mass <= number).sum(dim=-1, keepdim=True), last)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens.gather(-1, sampled), 0.0)


class HFCaptioner:
    """Write captions in batches, padded on the left.

    A caption follows from its instruction and its seed. The rest of the batch changes its logits by the rounding of
    matrix products, which changes the caption if a random number lies that near the border between two tokens: rare in
    float32, less so in bfloat16. Equal batches give equal captions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: WriterConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._config = config
        defaults = model.generation_config
        eos = defaults.eos_token_id if defaults.eos_token_id is not None else tokenizer.eos_token_id
        self._eos_ids = [eos] if isinstance(eos, int) else list(eos or [])
        # The model's own defaults (top_k, repetition penalty, ...) are no part of the recipe.
        model.generation_config = GenerationConfig(
            eos_token_id=self._eos_ids or None, pad_token_id=tokenizer.pad_token_id, bos_token_id=defaults.bos_token_id
        )

    @classmethod
    def load(cls, config: WriterConfig, *, device: torch.device | str = "cpu") -> Self:
        """Load a folder or a hub id (see `encoders.model_ref`); safetensors only, and no code of the repository.

        Raises:
            OSError: there is no such model, or its weights are not safetensors.
            ValueError: the model is no causal language model of transformers.
        """
        ref = parse_model_ref(config.model)
        options = {"trust_remote_code": False, **ref.options}
        model = AutoModelForCausalLM.from_pretrained(
            ref.source, dtype=getattr(torch, config.dtype), use_safetensors=True, **options
        )
        return cls(model, AutoTokenizer.from_pretrained(ref.source, **options), config, device)

    def write(self, instructions: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        """Answer each instruction with its seed, `batch_size` at a time."""
        answers: list[Answer] = []
        for start in range(0, len(instructions), self._config.batch_size):
            batch = slice(start, start + self._config.batch_size)
            answers += self._batch(instructions[batch], seeds[batch])
        return answers

    @torch.inference_mode()
    def _batch(self, instructions: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        chat = self.tokenizer.chat_template is not None
        prompts = [self._prompt(text) if chat else f"{text}\n" for text in instructions]
        encoded = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=not chat)
        tokens, mask = (encoded[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        steps = self._config.max_new_tokens
        uniform = torch.from_numpy(np.stack([np.random.Generator(np.random.Philox(s)).random(steps) for s in seeds]))
        sampling = SeededSampling(
            uniform.to(tokens.device), tokens.shape[1], self._config.temperature, self._config.top_p
        )
        generated = self.model.generate(
            input_ids=tokens,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=steps,
            logits_processor=LogitsProcessorList([sampling]),
        )[:, tokens.shape[1] :]
        ended = torch.isin(generated, torch.tensor(self._eos_ids, device=generated.device)).any(dim=1).tolist()
        texts = self.tokenizer.batch_decode(self._before_eos(generated), skip_special_tokens=True)
        return [Answer(text, truncated=not end) for text, end in zip(texts, ended, strict=True)]

    def _prompt(self, instruction: str) -> str:
        """Return the instruction as a chat's first turn, thinking turned off."""
        turns, options = [{"role": "user", "content": instruction}], {"enable_thinking": False}
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **options)

    def _before_eos(self, generated: Int[Tensor, "rows steps"]) -> list[list[int]]:
        """Return each row's tokens before its first end of sequence; padding follows."""
        rows = generated.tolist()
        lengths = [next((i for i, token in enumerate(row) if token in self._eos_ids), len(row)) for row in rows]
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]
