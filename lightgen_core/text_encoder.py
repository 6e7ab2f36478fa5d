"""The frozen text encoder: captions to the states that a student attends to (transformers T5)."""

from collections import defaultdict
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, T5EncoderModel

from lightgen_core.zoo.paths import resolve

MODEL_TYPES = ("t5",)
"""transformers' `model_type` of encoders that can be loaded (T5, T5 v1.1 and FLAN-T5 share one)."""


class TextEncoderError(ValueError):
    """A reference that holds no text encoder we can use."""


class TextEncoder:
    """Captions to ragged states: one float32 array (words, width) for each, its end-of-sequence token included.

    Captions of equal length are encoded together and not padded, so the states of a caption are those it has alone,
    to the float noise of matrix products of another size.
    """

    def __init__(
        self,
        model: T5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        device: torch.device | str,
        batch_words: int = 16_384,
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.device = torch.device(device)
        self.width = int(model.config.d_model)
        self._batch_words = batch_words

    @classmethod
    def load(
        cls,
        reference: str,
        *,
        max_length: int = 128,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> Self:
        """Load a zoo reference ("zoo:t5"), a local folder, or a hub id at `revision`; safetensors only.

        max_length: tokens of a caption, its end included; what is longer is cut.

        Raises:
            TextEncoderError: the model is of another type.
            OSError: there is no such model, or its weights are not safetensors.
        """
        where = resolve(reference)
        found = AutoConfig.from_pretrained(where, revision=revision).model_type
        if found not in MODEL_TYPES:
            raise TextEncoderError(f"{reference} is a model of type {found}, expected {' or '.join(MODEL_TYPES)}")
        model = T5EncoderModel.from_pretrained(where, revision=revision, dtype=dtype, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision)
        return cls(model, tokenizer, max_length, device)

    @torch.inference_mode()
    def encode(self, captions: list[str], *, padded: bool = False) -> list[NDArray[np.float32]]:
        """States of each caption, in order; equal captions are encoded once and share one array.

        padded: states of `max_length` words for every caption, as the released LightGen caches them. A padding word's
        state is not zero: it has read the caption, though no word reads padding. For students with `attend_to_padding`.
        """
        unique = list(dict.fromkeys(captions))
        if not unique:
            return []
        padding = "max_length" if padded else False
        tokenized = self.tokenizer(unique, truncation=True, max_length=self.max_length, padding=padding)
        ids, masks = tokenized["input_ids"], tokenized["attention_mask"]
        by_length: dict[int, list[int]] = defaultdict(list)
        for row, tokens in enumerate(ids):
            by_length[len(tokens)].append(row)
        states: dict[str, NDArray[np.float32]] = {}
        for length, rows in sorted(by_length.items()):
            step = max(1, self._batch_words // length)
            for start in range(0, len(rows), step):
                chosen = rows[start : start + step]
                batch, mask = (torch.tensor([of[row] for row in chosen], device=self.device) for of in (ids, masks))
                encoded = self.model(input_ids=batch, attention_mask=mask).last_hidden_state.float().cpu().numpy()
                states |= {unique[row]: encoded[i] for i, row in enumerate(chosen)}
        return [states[caption] for caption in captions]
