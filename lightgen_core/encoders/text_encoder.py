"""The frozen text encoder: captions to the states that a student attends to (transformers)."""

from collections import defaultdict
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lightgen_core.device import to_device
from lightgen_core.encoders.model_ref import parse_model_ref


class TextEncoderError(ValueError):
    """A reference that holds no text encoder we can use."""


class TextEncoder:
    """Captions to ragged states: one float32 array (text tokens, width) for each, special tokens included.

    Captions of equal length are encoded together and not padded, so the states of a caption are those it has alone,
    to the float noise of matrix products of another size.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        device: torch.device | str,
        layer: int = -1,
        batch_words: int = 16_384,
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.model.config.use_cache = False  # a causal model would keep keys and values for tokens that never come
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.device = torch.device(device)
        sizes = model.config.get_text_config()
        self.width = int(sizes.hidden_size)
        self.layer = layer
        if not -sizes.num_hidden_layers - 1 <= layer <= sizes.num_hidden_layers:
            raise TextEncoderError(
                f"found text layer {layer}; {sizes.num_hidden_layers} layers give states "
                f"{-sizes.num_hidden_layers - 1} to {sizes.num_hidden_layers}: 0 is before the first, -1 after the last"
            )
        self._batch_words = batch_words

    @classmethod
    def load(
        cls,
        reference: str,
        *,
        max_length: int = 128,
        layer: int = -1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load "zoo:t5", a folder, or a hub id (see `lightgen_core.encoders.model_ref`); safetensors only.

        Of a model with encoder and decoder (T5 and its kin) the encoder is used, of a causal language model (Qwen,
        Llama, Gemma, ...) everything below its output layer.

        Args:
            max_length: tokens of a caption, its special ones included; a longer one is cut.
            layer: as in transformers' `hidden_states`: 0 the embeddings, -1 the last, with the final norm; the others
                come without it, and can be too large for float16.
            dtype: of weights and arithmetic. T5 overflows in float16.

        Raises:
            TextEncoderError: the model encodes no text, or has no such layer.
            ModelNotFound: nothing is at the path.
            OSError: there is no such model on the hub, or its weights are not safetensors.
        """
        where = parse_model_ref(reference)
        config = AutoConfig.from_pretrained(where.source, **where.options)
        if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
            kind = AutoModelForTextEncoding
        elif not config.is_encoder_decoder and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            kind = AutoModel
        else:
            raise TextEncoderError(
                f"{reference} is a model of type {config.model_type}; expected a T5 or a causal language model"
            )
        model = kind.from_pretrained(where.source, dtype=dtype, use_safetensors=True, **where.options)
        tokenizer = AutoTokenizer.from_pretrained(where.source, **where.options)
        return cls(model, tokenizer, max_length, device, layer)

    @torch.inference_mode()
    def encode(self, captions: list[str], *, padded: bool = False) -> list[NDArray[np.float32]]:
        """Return the states of each caption, in order; equal captions are encoded once and share one array.

        padded: `max_length` states of every caption, those of padding not zero, for students with `attend_to_padding`.
        """
        unique = list(dict.fromkeys(captions))
        if not unique:
            return []
        captions_ids = self.tokenizer(unique, truncation=True, max_length=self.max_length)["input_ids"]
        # A decoder's tokenizer may add nothing to an empty caption, and may have no token for padding.
        captions_ids = [tokens or [self.tokenizer.eos_token_id] for tokens in captions_ids]
        longest = self.max_length if padded else 0
        padding = self.tokenizer.eos_token_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        ids = [tokens + [padding] * (longest - len(tokens)) for tokens in captions_ids]
        masks = [[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens in captions_ids]
        by_length: dict[int, list[int]] = defaultdict(list)
        for row, tokens in enumerate(ids):
            by_length[len(tokens)].append(row)
        states: dict[str, NDArray[np.float32]] = {}
        for length, rows in sorted(by_length.items()):
            step = max(1, self._batch_words // length)
            for start in range(0, len(rows), step):
                chosen = rows[start : start + step]
                rows_of = (torch.tensor([of[row] for row in chosen]) for of in (ids, masks))
                batch, mask = (to_device(tensor, self.device) for tensor in rows_of)
                encoded = self._states(batch, mask).float().cpu().numpy()
                states |= {unique[row]: encoded[i] for i, row in enumerate(chosen)}
        return [states[caption] for caption in captions]

    def count_truncated(self, captions: list[str]) -> int:
        """Return how many captions have more text tokens than `encode` keeps."""
        lengths = map(len, self.tokenizer(captions, verbose=False)["input_ids"] if captions else ())
        return sum(length > self.max_length for length in lengths)

    def _states(
        self, tokens: Int[Tensor, "rows text_tokens"], mask: Int[Tensor, "rows text_tokens"]
    ) -> Float[Tensor, "rows text_tokens width"]:
        if self.layer == -1:
            return self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        return self.model(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states[self.layer]
