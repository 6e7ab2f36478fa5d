"""BLIP that answers questions about images (Li et al. 2022, arXiv 2201.12086), asked for the probability of yes."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import UInt8
from transformers import AutoConfig, AutoProcessor, BlipForQuestionAnswering

from lightgen_core.encoders.model_ref import parse_model_ref

_LONGEST = 35
"""Tokens of a question, as in BLIP's own code."""


class BlipError(ValueError):
    """Reference without a BLIP that answers questions."""


class BlipVqa:
    """BLIP's encoders and its answer decoder, whose first token is read."""

    def __init__(self, model: Any, processor: Any, device: torch.device | str) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self._processor = processor
        tokenizer = processor.tokenizer
        self._yes_and_no = tokenizer.convert_tokens_to_ids(["yes", "no"])
        if tokenizer.unk_token_id in self._yes_and_no:
            raise BlipError("BLIP's vocabulary has no yes and no; expected that of BERT, bert-base-uncased")
        # BLIP adds [DEC] and then [ENC] to BERT's words; its text encoder reads [ENC] in place of the first token.
        self._decoder_start = model.decoder_start_token_id
        self._encoder_start = min(self._decoder_start + 1, model.config.text_config.vocab_size - 1)

    @classmethod
    def load(cls, reference: str, *, device: torch.device | str = "cpu") -> Self:
        """Load a folder or hub id such as Salesforce/blip-vqa-capfilt-large; safetensors only.

        Raises:
            BlipError: a model of another kind, which includes BLIPs that write captions.
            OSError: there is no such model, or its weights are not safetensors.
        """
        ref = parse_model_ref(reference)
        config = AutoConfig.from_pretrained(ref.source, **ref.options)
        kinds = list(config.architectures or [config.model_type])
        if BlipForQuestionAnswering.__name__ not in kinds:
            raise BlipError(f"{reference} is a {', '.join(kinds)}; expected a {BlipForQuestionAnswering.__name__}")
        model = BlipForQuestionAnswering.from_pretrained(ref.source, use_safetensors=True, **ref.options)
        return cls(model, AutoProcessor.from_pretrained(ref.source, **ref.options), device)

    @torch.inference_mode()
    def yes(self, image: UInt8[np.ndarray, "_ _ 3"], questions: Sequence[str]) -> list[float]:
        """Return for each question about an image P(yes) / (P(yes) + P(no)) of the answer's first token."""
        device = self.model.device
        pixels = self._processor.image_processor([np.array(image)], return_tensors="pt")["pixel_values"].to(device)
        seen = self.model.vision_model(pixel_values=pixels).last_hidden_state
        return [self._yes(seen, question.lower()) for question in questions]

    def _yes(self, seen: torch.Tensor, question: str) -> float:
        """Answer one question about an encoded image, alone: beside padding the answer would be another."""
        ids = self._processor.tokenizer([question], truncation=True, max_length=_LONGEST, return_tensors="pt")
        ids = ids["input_ids"].to(seen.device)
        ids[:, 0] = self._encoder_start
        read = self.model.text_encoder(input_ids=ids, encoder_hidden_states=seen).last_hidden_state
        start = torch.full((1, 1), self._decoder_start, device=seen.device)
        answer = self.model.text_decoder(input_ids=start, encoder_hidden_states=read)
        return float(answer.logits[0, 0, self._yes_and_no].float().softmax(0)[0])
