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
        text = self._processor.tokenizer(
            [question.lower() for question in questions],
            padding=True,
            truncation=True,
            max_length=_LONGEST,
            return_tensors="pt",
        ).to(device)
        ids, mask = text["input_ids"], text["attention_mask"]
        ids[:, 0] = self._encoder_start
        seen = self.model.vision_model(pixel_values=pixels).last_hidden_state.expand(len(ids), -1, -1)
        read = self.model.text_encoder(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=device),
        ).last_hidden_state
        answer = self.model.text_decoder(
            input_ids=torch.full((len(ids), 1), self._decoder_start, device=device),
            encoder_hidden_states=read,
            encoder_attention_mask=mask,
        )
        return answer.logits[:, 0, self._yes_and_no].float().softmax(1)[:, 0].tolist()
