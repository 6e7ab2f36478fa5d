"""A causal language model of transformers that writes captions, each with a seed of its own."""

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

from lightgen_core.captioning.config import LanguageModel
from lightgen_core.captioning.parse import Answer
from lightgen_core.encoders.model_ref import parse_model_ref


class SeededSampling(LogitsProcessor):
    """Draws the next token of each row with the row's own numbers and leaves it as the only one possible.

    The draw inverts the cumulated probabilities of the tokens, the likeliest first, cut at `top_p` (Holtzman et al.
    2020), at one uniform number. So it depends on the row's logits and number, and on nothing else in the batch.

    Args:
        uniform: (rows, steps) numbers in [0, 1), one for each token to come.
        prompt: tokens that are there already.
    """

    def __init__(self, uniform: Float[Tensor, "rows steps"], prompt: int, temperature: float, top_p: float) -> None:
        self._uniform, self._prompt = uniform, prompt
        self._temperature, self._top_p = temperature, top_p

    def __call__(
        self, input_ids: Int[Tensor, "rows words"], scores: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        if self._temperature == 0:
            return scores
        ordered, tokens = scores.double().div(self._temperature).sort(dim=-1, descending=True, stable=True)
        mass = ordered.softmax(dim=-1).cumsum(dim=-1)
        # The tokens before which less than top_p has been gathered: at least one.
        kept = (mass < self._top_p).sum(dim=-1, keepdim=True).clamp(max=mass.shape[-1] - 1)
        number = self._uniform[:, input_ids.shape[1] - self._prompt, None] * mass.gather(-1, kept)
        drawn = torch.minimum((mass <= number).sum(dim=-1, keepdim=True), kept)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens.gather(-1, drawn), 0.0)


class CausalWriter:
    """Writes captions in batches, padded on the left.

    A caption follows from its instruction and its seed. The batch around it changes its logits by the rounding of
    matrix products of another shape and by nothing else. It takes a number within this rounding of the border between
    two tokens to give another caption: rare in float32, less so in bfloat16. Equal batches give equal captions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        asked: LanguageModel,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._asked = asked
        given = model.generation_config
        ends = given.eos_token_id if given.eos_token_id is not None else tokenizer.eos_token_id
        self._ends = [ends] if isinstance(ends, int) else list(ends or [])
        # The model's own habits (top_k, repetition penalty, ...) are no part of the recipe.
        model.generation_config = GenerationConfig(
            eos_token_id=self._ends or None, pad_token_id=tokenizer.pad_token_id, bos_token_id=given.bos_token_id
        )

    @classmethod
    def load(cls, asked: LanguageModel, *, device: torch.device | str = "cpu") -> Self:
        """Load a folder or a hub id (see `encoders.model_ref`); only safetensors, and no code of the repository runs.

        Raises:
            OSError: there is no such model, or its weights are not safetensors.
            ValueError: the model is no causal language model of transformers.
        """
        where = parse_model_ref(asked.model)
        safely = {"trust_remote_code": False, **where.options}
        model = AutoModelForCausalLM.from_pretrained(
            where.source, dtype=getattr(torch, asked.dtype), use_safetensors=True, **safely
        )
        return cls(model, AutoTokenizer.from_pretrained(where.source, **safely), asked, device)

    def write(self, instructions: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        """Answer each instruction with its seed, `batch_size` at a time."""
        answers: list[Answer] = []
        for start in range(0, len(instructions), self._asked.batch_size):
            part = slice(start, start + self._asked.batch_size)
            answers += self._batch(instructions[part], seeds[part])
        return answers

    @torch.inference_mode()
    def _batch(self, instructions: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        chat = self.tokenizer.chat_template is not None
        prompts = [self._prompt(text) if chat else f"{text}\n" for text in instructions]
        given = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=not chat)
        tokens, mask = (given[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        steps = self._asked.max_new_tokens
        uniform = torch.from_numpy(np.stack([np.random.Generator(np.random.Philox(s)).random(steps) for s in seeds]))
        draw = SeededSampling(uniform.to(tokens.device), tokens.shape[1], self._asked.temperature, self._asked.top_p)
        written = self.model.generate(
            input_ids=tokens,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=steps,
            logits_processor=LogitsProcessorList([draw]),
        )[:, tokens.shape[1] :]
        ended = torch.isin(written, torch.tensor(self._ends, device=written.device)).any(dim=1).tolist()
        texts = self.tokenizer.batch_decode(self._until_end(written), skip_special_tokens=True)
        return [Answer(text, cut=not end) for text, end in zip(texts, ended, strict=True)]

    def _prompt(self, instruction: str) -> str:
        """The instruction as a conversation's first turn. Templates that know thinking are told to leave it out."""
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": instruction}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )

    def _until_end(self, written: Int[Tensor, "rows words"]) -> list[list[int]]:
        """Each row's tokens before its first end: what follows is padding, which may be a token of its own."""
        rows = written.tolist()
        places = [next((at for at, token in enumerate(row) if token in self._ends), len(row)) for row in rows]
        return [row[:place] for row, place in zip(rows, places, strict=True)]
