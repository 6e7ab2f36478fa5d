"""The student's masked autoencoder with text (paper Fig. 2): image tokens, some hidden, and a caption to token states.

Reading order: `Mar.forward` = `align` the text, `encode_decode` the image, `read_text`. A sampler calls the three
itself, because between its iterations only the image changes.
"""

from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from lightgen_core.config import MarConfig
from lightgen_core.model.blocks import Block, KeyValue, TextBlock, layer_norm
from lightgen_core.model.positions import positions_for
from lightgen_core.model.text_aligner import TextAligner


def visible_first(hidden: Bool[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """Indices of the visible tokens in their order, then of the hidden ones in theirs; runs without a host sync."""
    return hidden.to(torch.uint8).argsort(dim=1, stable=True)


def take_tokens(
    values: Float[Tensor, "batch tokens width"], index: Int[Tensor, "batch chosen"]
) -> Float[Tensor, "batch chosen width"]:
    """The chosen tokens of every image."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def readable(mask: Bool[Tensor, "batch keys"]) -> Bool[Tensor, "batch keys"]:
    """The mask, with everything readable in rows that would read nothing: attention over nothing is not a number."""
    return mask | ~mask.any(dim=1, keepdim=True)


class Mar(nn.Module):
    """Encoder over visible tokens, decoder over all tokens, text decoder. Dropout acts in training mode only."""

    def __init__(self, config: MarConfig):
        super().__init__()
        self.config = config
        width, places = config.width, config.position_grid**2
        shape = (width, config.heads, round(width * config.mlp_ratio), config.dropout)

        self.aligner = TextAligner(config)
        self.null_word = nn.Parameter(torch.empty(width))

        self.token_in = nn.Linear(config.token_width, width)
        self.token_norm = layer_norm(width)
        self.encoder_positions = nn.Parameter(torch.empty(places, width))
        self.encoder = nn.ModuleList(Block(*shape) for _ in range(config.encoder_depth))
        self.encoder_norm = layer_norm(width)

        self.decoder_in = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.decoder_positions = nn.Parameter(torch.empty(places, width))
        self.decoder = nn.ModuleList(Block(*shape) for _ in range(config.decoder_depth))
        self.decoder_norm = layer_norm(width)

        self.reader_in = nn.Linear(width, width)
        self.reader_positions = nn.Parameter(torch.empty(places, width))
        self.reader = nn.ModuleList(TextBlock(*shape, config.text_self_attention) for _ in range(config.text_depth))
        self.reader_norm = layer_norm(width)
        self.reset_parameters()

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw fresh weights (matrices Xavier, learned vectors normal with std 0.02) from ``generator``."""
        for vectors in self.learned_vectors().values():
            nn.init.normal_(vectors, std=0.02, generator=generator)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def learned_vectors(self) -> dict[str, nn.Parameter]:
        """Parameters that stand for inputs, by name: null word, mask token, positions. Not for weight decay."""
        names = ("null_word", "mask_token", "encoder_positions", "decoder_positions", "reader_positions")
        return {name: getattr(self, name) for name in names}

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens values"],
        hidden: Bool[Tensor, "batch tokens"],
        text: Float[Tensor, "batch words text_width"],
        text_mask: Bool[Tensor, "batch words"] | None,
        grid: tuple[int, int],
        *,
        num_hidden: int | None = None,
        text_dropped: Bool[Tensor, " batch"] | None = None,
        at: Int[Tensor, "batch chosen"] | None = None,
    ) -> Float[Tensor, "batch states width"]:
        """States of all tokens of an (h, w) grid in row-major order.

        ``hidden`` is true where a token's value must not be seen. ``num_hidden`` is the number of hidden tokens of
        each image, where all images hide as many; without it the model reads the mask, which makes the host wait
        for the device. ``text`` holds raw states of the text encoder, ``text_mask`` is true at words (None: read
        padding too, as released). Captions of rows in ``text_dropped`` are replaced by the null text. ``at`` asks for
        the states of these tokens alone (`read_text`).
        """
        aligned = self.align(text, text_mask)
        if text_dropped is not None:
            aligned = torch.where(text_dropped[:, None, None], self.null_word.to(aligned.dtype), aligned)
            text_mask = None if text_mask is None else text_mask | text_dropped[:, None]
        states = self.encode_decode(tokens, hidden, grid, num_hidden)
        return self.read_text(states, aligned, text_mask, grid, at)

    def align(
        self, text: Float[Tensor, "batch words text_width"], text_mask: Bool[Tensor, "batch words"] | None
    ) -> Float[Tensor, "batch words width"]:
        """Text encoder states to the student's space: once per caption, whatever the image."""
        return self.aligner(text, self._word_mask(text_mask))

    def null_text(self, batch: int, words: int = 1) -> Float[Tensor, "batch words width"]:
        """The aligned text of no caption, for guidance. It reads the same with any number of words."""
        return self.null_word.expand(batch, words, -1)

    def text_memory(self, aligned: Float[Tensor, "batch words width"]) -> list[KeyValue]:
        """Keys and values for every text block: once per caption, where many images or iterations read it."""
        return [cast(TextBlock, block).memory(aligned) for block in self.reader]

    def encode_decode(
        self,
        tokens: Float[Tensor, "batch tokens values"],
        hidden: Bool[Tensor, "batch tokens"],
        grid: tuple[int, int],
        num_hidden: int | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Image states before they read the text: the same for a caption and for the null text."""
        if tokens.shape[1] != grid[0] * grid[1]:
            raise ValueError(
                f"{tokens.shape[1]} tokens do not fill a grid of {grid[0]}x{grid[1]}: pass grid=(h, w) in tokens"
            )
        order, key_mask = visible_first(hidden), None
        if num_hidden is None:
            counts = hidden.sum(dim=1)
            num_hidden, most = (int(count) for count in counts.aminmax())
            if num_hidden != most:
                rank = torch.arange(tokens.shape[1] - num_hidden, device=hidden.device)
                key_mask = rank < tokens.shape[1] - counts[:, None]
        visible = order[:, : tokens.shape[1] - num_hidden, None]
        encoded = self._encode(tokens, visible, grid, key_mask)
        return self._decode(encoded, visible, hidden, grid, padded=key_mask is not None)

    def _encode(
        self,
        tokens: Float[Tensor, "batch tokens values"],
        visible: Int[Tensor, "batch visible 1"],
        grid: tuple[int, int],
        key_mask: Bool[Tensor, "batch visible"] | None,
    ) -> Float[Tensor, "batch visible width"]:
        """States of the visible tokens; ``key_mask`` is false at the padding of images that show fewer than others."""
        positions = self._positions(self.encoder_positions, grid)
        seen = tokens.gather(1, visible.expand(-1, -1, tokens.shape[2]))
        states = self.token_norm(self.token_in(seen) + positions[visible[..., 0]])
        key_mask = None if key_mask is None else readable(key_mask)
        for block in self.encoder:
            states = block(states, key_mask)
        return self.encoder_norm(states)

    def _decode(
        self,
        encoded: Float[Tensor, "batch visible width"],
        visible: Int[Tensor, "batch visible 1"],
        hidden: Bool[Tensor, "batch tokens"],
        grid: tuple[int, int],
        padded: bool,
    ) -> Float[Tensor, "batch tokens width"]:
        """States of all tokens: mask tokens where the image is hidden, then the decoder's blocks."""
        embedded = self.decoder_in(encoded)
        blank = self.mask_token.to(embedded.dtype).expand(*hidden.shape, -1)
        states = blank.scatter(1, visible.expand_as(embedded), embedded)
        if padded:
            states = torch.where(hidden[..., None], blank, states)
        states = states + self._positions(self.decoder_positions, grid)
        for block in self.decoder:
            states = block(states)
        return self.decoder_norm(states)

    def read_text(
        self,
        states: Float[Tensor, "batch tokens width"],
        text: Float[Tensor, "batch words width"] | list[KeyValue],
        text_mask: Bool[Tensor, "batch words"] | None,
        grid: tuple[int, int],
        at: Int[Tensor, "batch chosen"] | None = None,
    ) -> Float[Tensor, "batch states width"]:
        """Token states that have read the text: aligned text, or the `text_memory` made from it.

        Of all tokens, or of those ``at`` the given places. Where the text blocks have no self-attention a token reads
        alone, so that only these are computed.
        """
        word_mask = self._word_mask(text_mask)
        states = self.reader_in(states) + self._positions(self.reader_positions, grid)
        if at is not None and not self.config.text_self_attention:
            states, at = take_tokens(states, at), None
        for index, block in enumerate(self.reader):
            states = block(states, text if isinstance(text, Tensor) else text[index], word_mask)
        return self.reader_norm(states if at is None else take_tokens(states, at))

    def _positions(self, table: Float[Tensor, "places width"], grid: tuple[int, int]) -> Float[Tensor, "tokens width"]:
        return positions_for(table, grid, self.config.released_positions)

    def _word_mask(self, text_mask: Bool[Tensor, "batch words"] | None) -> Bool[Tensor, "batch words"] | None:
        return None if text_mask is None or self.config.attend_to_padding else readable(text_mask)
