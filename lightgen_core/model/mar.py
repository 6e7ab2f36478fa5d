"""The student: a masked autoregressive transformer with text, and its per-token head (paper Fig. 2).

Reading order: `Student.forward` = `Mar.forward`, then the head. `Mar.forward` = `align` the text, `encode_decode` the
image, `cross_attend`. A sampler calls the three itself, because between its iterations only the image changes.
"""

from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from lightgen_core.config import HeadConfig, MarConfig
from lightgen_core.model.blocks import Block, CrossAttentionBlock, KeyValue, init_layers, layer_norm
from lightgen_core.model.head import TokenDenoiser
from lightgen_core.model.positions import positions_for
from lightgen_core.model.text_aligner import TextAligner


def visible_first(mask: Bool[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """Return indices of the visible tokens, then of the masked ones, each in order; no host sync."""
    return mask.to(torch.uint8).argsort(dim=1, stable=True)


def gather_tokens(
    values: Float[Tensor, "batch tokens width"], index: Int[Tensor, "batch chosen"]
) -> Float[Tensor, "batch chosen width"]:
    """Gather chosen tokens of every image."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def unmask_empty_rows(mask: Bool[Tensor, "batch keys"]) -> Bool[Tensor, "batch keys"]:
    """Unmask rows that mask every key: attention over nothing is not a number."""
    return mask | ~mask.any(dim=1, keepdim=True)


class GridPositions(NamedTuple):
    """The learned positions of an (h, w) grid, row-major, or of each image's tokens where some are left out."""

    encoder: Float[Tensor, "*images tokens width"]
    decoder: Float[Tensor, "*images tokens width"]
    cross: Float[Tensor, "*images tokens width"]


class Mar(nn.Module):
    """Encoder over visible tokens, decoder over all, cross-attention to the text."""

    def __init__(self, config: MarConfig):
        super().__init__()
        self.config = config
        width, positions = config.width, config.position_grid**2
        shape = (width, config.heads, round(width * config.mlp_ratio), config.dropout, config.qk_norm)

        self.aligner = TextAligner(config)
        self.null_text = nn.Parameter(torch.empty(width))

        self.token_in = nn.Linear(config.token_width, width)
        self.token_norm = layer_norm(width)
        self.encoder_positions = nn.Parameter(torch.empty(positions, width))
        self.encoder = nn.ModuleList(Block(*shape) for _ in range(config.encoder_depth))
        self.encoder_norm = layer_norm(width)

        self.decoder_in = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.decoder_positions = nn.Parameter(torch.empty(positions, width))
        self.decoder = nn.ModuleList(Block(*shape) for _ in range(config.decoder_depth))
        self.decoder_norm = layer_norm(width)

        self.cross_in = nn.Linear(width, width)
        self.cross_positions = nn.Parameter(torch.empty(positions, width))
        self.cross_blocks = nn.ModuleList(
            CrossAttentionBlock(*shape, self_attention=config.text_self_attention) for _ in range(config.text_depth)
        )
        self.cross_norm = layer_norm(width)
        self.reset_parameters()

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise from ``generator``: matrices Xavier, learned vectors normal with std 0.02."""
        positions = (self.encoder_positions, self.decoder_positions, self.cross_positions)
        for vectors in (self.null_text, self.mask_token, *positions):
            nn.init.normal_(vectors, std=0.02, generator=generator)
        init_layers(self, generator)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens values"],
        mask: Bool[Tensor, "batch tokens"],
        text: Float[Tensor, "batch text_tokens text_width"],
        text_mask: Bool[Tensor, "batch text_tokens"] | None,
        grid: tuple[int, int],
        *,
        num_masked: int | None = None,
        text_dropped: Bool[Tensor, " batch"] | None = None,
        at: Int[Tensor, "batch chosen"] | None = None,
        places: Int[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch states width"]:
        """Compute the states of all tokens of an (h, w) grid, in row-major order.

        Args:
            tokens: values of all tokens; those of masked ones do not matter.
            places: where in the grid the tokens lie, where some are left out; None: all are there, in order.
            text: raw states of the text encoder.
            text_mask: true at text tokens, false at padding; None attends to padding too, as released.
            num_masked: masked tokens of each image, if equal for all. Without it the host reads the mask and waits
                for the device.
            text_dropped: rows whose caption is replaced by the null text.
            at: indices of the tokens whose states are wanted, or None for all (`cross_attend`).
        """
        aligned = self.align(text, text_mask)
        if text_dropped is not None:
            aligned = torch.where(text_dropped[:, None, None], self.null_text.to(aligned.dtype), aligned)
            text_mask = None if text_mask is None else text_mask | text_dropped[:, None]
        positions = self.positions(grid, places)
        states = self.encode_decode(tokens, mask, grid, num_masked, positions)
        return self.cross_attend(states, aligned, text_mask, grid, at, positions)

    def align(
        self, text: Float[Tensor, "batch text_tokens text_width"], text_mask: Bool[Tensor, "batch text_tokens"] | None
    ) -> Float[Tensor, "batch text_tokens width"]:
        """Project text encoder states to the student's width, once per caption."""
        return self.aligner(text, self._text_mask(text_mask))

    def null_states(self, batch: int, length: int = 1) -> Float[Tensor, "batch text_tokens width"]:
        """Return the aligned null text, for guidance; its length does not matter."""
        return self.null_text.expand(batch, length, -1)

    def text_kv(self, aligned: Float[Tensor, "batch text_tokens width"]) -> list[KeyValue]:
        """Compute keys and values of every cross-attention block, once per caption."""
        return [cast(CrossAttentionBlock, block).keys_and_values(aligned) for block in self.cross_blocks]

    def encode_decode(
        self,
        tokens: Float[Tensor, "batch tokens values"],
        mask: Bool[Tensor, "batch tokens"],
        grid: tuple[int, int],
        num_masked: int | None = None,
        positions: GridPositions | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Compute image states before cross-attention: the same for a caption and the null text.

        positions: those of the tokens (`positions`), if the caller has them already, or some tokens are left out.
        """
        positions = positions or self.positions(grid)
        if tokens.shape[1] != positions.encoder.shape[-2]:
            raise ValueError(
                f"{tokens.shape[1]} tokens do not fill a grid of {grid[0]}x{grid[1]}: pass grid=(h, w) in tokens"
            )
        order, key_mask = visible_first(mask), None
        if num_masked is None:
            counts = mask.sum(dim=1)
            num_masked, most = (int(count) for count in counts.aminmax())
            if num_masked != most:
                rank = torch.arange(tokens.shape[1] - num_masked, device=mask.device)
                key_mask = rank < tokens.shape[1] - counts[:, None]
        visible = order[:, : tokens.shape[1] - num_masked, None]
        encoded = self._encode(tokens, visible, positions.encoder, key_mask)
        return self._decode(encoded, visible, mask, positions.decoder, padded=key_mask is not None)

    def _encode(
        self,
        tokens: Float[Tensor, "batch tokens values"],
        visible: Int[Tensor, "batch visible 1"],
        positions: Float[Tensor, "*images tokens width"],
        key_mask: Bool[Tensor, "batch visible"] | None,
    ) -> Float[Tensor, "batch visible width"]:
        """Encode visible tokens; ``key_mask`` is false at the padding of images with fewer."""
        seen = tokens.gather(1, visible.expand(-1, -1, tokens.shape[2]))
        index = visible[..., 0]
        seen_at = positions[index] if positions.dim() == 2 else gather_tokens(positions, index)
        states = self.token_norm(self.token_in(seen) + seen_at)
        key_mask = None if key_mask is None else unmask_empty_rows(key_mask)
        for block in self.encoder:
            states = block(states, key_mask)
        return self.encoder_norm(states)

    def _decode(
        self,
        encoded: Float[Tensor, "batch visible width"],
        visible: Int[Tensor, "batch visible 1"],
        mask: Bool[Tensor, "batch tokens"],
        positions: Float[Tensor, "*images tokens width"],
        padded: bool,
    ) -> Float[Tensor, "batch tokens width"]:
        """Decode all tokens, with the mask token at masked ones."""
        embedded = self.decoder_in(encoded)
        blank = self.mask_token.to(embedded.dtype).expand(*mask.shape, -1)
        states = blank.scatter(1, visible.expand_as(embedded), embedded)
        if padded:
            states = torch.where(mask[..., None], blank, states)
        states = states + positions
        for block in self.decoder:
            states = block(states)
        return self.decoder_norm(states)

    def cross_attend(
        self,
        states: Float[Tensor, "batch tokens width"],
        text: Float[Tensor, "batch text_tokens width"] | list[KeyValue],
        text_mask: Bool[Tensor, "batch text_tokens"] | None,
        grid: tuple[int, int],
        at: Int[Tensor, "batch chosen"] | None = None,
        positions: GridPositions | None = None,
    ) -> Float[Tensor, "batch states width"]:
        """Attend from token states, all or those ``at`` the given indices, to the text, aligned or as its `text_kv`."""
        text_mask, positions = self._text_mask(text_mask), positions or self.positions(grid)
        states = self.cross_in(states) + positions.cross
        if at is not None and not self.config.text_self_attention:  # then tokens do not read each other
            states, at = gather_tokens(states, at), None
        for index, block in enumerate(self.cross_blocks):
            states = block(states, text if isinstance(text, Tensor) else text[index], text_mask)
        return self.cross_norm(states if at is None else gather_tokens(states, at))

    def positions(self, grid: tuple[int, int], places: Int[Tensor, "batch tokens"] | None = None) -> GridPositions:
        """Interpolate the learned positions to a grid, or to some of its places; a sampler does so once for a call."""
        tables = (self.encoder_positions, self.decoder_positions, self.cross_positions)
        on_grid = (positions_for(table, grid, self.config.released_positions) for table in tables)
        return GridPositions(*(each if places is None else each[places] for each in on_grid))

    def _text_mask(
        self, text_mask: Bool[Tensor, "batch text_tokens"] | None
    ) -> Bool[Tensor, "batch text_tokens"] | None:
        return None if text_mask is None or self.config.attend_to_padding else unmask_empty_rows(text_mask)


class Student(nn.Module):
    """Transformer ``mar`` for token states, ``head`` to denoise tokens given their states."""

    def __init__(self, mar: MarConfig, head: HeadConfig):
        super().__init__()
        self.mar = Mar(mar)
        self.head = TokenDenoiser(head, mar.token_width, mar.width)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise all weights from ``generator``."""
        self.mar.reset_parameters(generator)
        self.head.reset_parameters(generator)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens values"],
        text: Float[Tensor, "batch text_tokens text_width"],
        text_mask: Bool[Tensor, "batch text_tokens"] | None,
        grid: tuple[int, int],
        *,
        mask: Bool[Tensor, "batch tokens"],
        masked_index: Int[Tensor, "batch num_masked"],
        text_dropped: Bool[Tensor, " batch"] | None,
        noisy: Float[Tensor, "noise_samples rows values"],
        timestep: Float[Tensor, "noise_samples rows"] | Int[Tensor, "noise_samples rows"],
        places: Int[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "noise_samples rows outputs"]:
        """Compute the head's outputs at several noisy versions of each masked token; rows = batch x num_masked.

        One call, so that wrappers which hook ``forward`` (DDP, FSDP, compile) see the whole trained function.
        Cross-attention and head run on masked tokens only; a token's state is embedded once for all its noise samples.
        """
        states = self.mar(
            tokens,
            mask,
            text,
            text_mask,
            grid,
            num_masked=masked_index.shape[1],
            text_dropped=text_dropped,
            at=masked_index,
            places=places,
        )
        return self.head(noisy, timestep, states.flatten(0, 1))


def new_student(mar: MarConfig, head: HeadConfig, seed: int) -> Student:
    """Create a student on the CPU with fresh weights from ``seed``; global randomness is untouched."""
    with torch.device("meta"):
        student = Student(mar, head)
    student.to_empty(device="cpu")
    student.reset_parameters(torch.Generator().manual_seed(seed))
    return student
