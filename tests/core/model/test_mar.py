"""Dependences of the student's states: those that they must have, and those that they must not have."""

import pytest
import torch

from lightgen_core.config import HeadConfig, MarConfig
from lightgen_core.model.blocks import attention
from lightgen_core.model.mar import Mar, new_student
from lightgen_core.model.patchify import patchify, unpatchify
from lightgen_core.model.positions import interpolation_matrix, positions_for

GRID, TOKENS, WORDS = (3, 4), 12, 5
SIZES = {
    "token_width": 6,
    "text_width": 10,
    "width": 32,
    "heads": 4,
    "aligner_depth": 1,
    "encoder_depth": 2,
    "decoder_depth": 2,
    "text_depth": 2,
    "position_grid": 4,
}


def mar_of(**changes) -> Mar:
    """A small student in evaluation mode, with biases that are not zero."""
    mar = new_student(MarConfig(**{**SIZES, **changes}), HeadConfig(width=16, depth=1), seed=3).mar
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in mar.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return mar.eval().requires_grad_(False)


def batch_of(counts=(7, 7, 7), seed=0):
    """Tokens, mask with that many hidden tokens in each image, text, and a text mask with padding."""
    generator = torch.Generator().manual_seed(seed)
    batch = len(counts)
    order = torch.rand(batch, TOKENS, generator=generator).argsort(dim=1).argsort(dim=1)
    mask = order < torch.tensor(counts)[:, None]
    tokens = torch.randn(batch, TOKENS, SIZES["token_width"], generator=generator)
    text = torch.randn(batch, WORDS, SIZES["text_width"], generator=generator)
    text_mask = torch.arange(WORDS) < torch.arange(2, 2 + batch)[:, None]
    return tokens, mask, text, text_mask


@pytest.mark.parametrize("self_attention", [False, True])
def test_values_of_masked_tokens_never_reach_a_state(self_attention):
    mar = mar_of(text_self_attention=self_attention)
    tokens, mask, text, text_mask = batch_of()
    states = mar(tokens, mask, text, text_mask, GRID)
    other = torch.where(mask[..., None], torch.full_like(tokens, 1e6), tokens)
    assert torch.equal(mar(other, mask, text, text_mask, GRID), states)


def test_every_visible_token_reaches_every_state():
    mar = mar_of()
    tokens, mask, text, text_mask = batch_of()
    states = mar(tokens, mask, text, text_mask, GRID)
    for place in (~mask[0]).nonzero()[:, 0].tolist():
        changed = tokens.clone()
        changed[0, place] += 1.0
        moved = (mar(changed, mask, text, text_mask, GRID) - states).abs().amax(dim=2)
        assert (moved[0] > 1e-6).all() and (moved[1:] == 0).all()


def test_padded_text_tokens_never_reach_a_state():
    mar = mar_of()
    tokens, mask, text, text_mask = batch_of()
    states = mar(tokens, mask, text, text_mask, GRID)
    other = torch.where(text_mask[..., None], text, torch.full_like(text, 9.0))
    assert torch.equal(mar(tokens, mask, other, text_mask, GRID), states)


def test_padding_is_the_same_as_a_shorter_text():
    mar = mar_of()
    tokens, mask, text, text_mask = batch_of()
    states = mar(tokens, mask, text, text_mask, GRID)
    for image, words in enumerate(text_mask.sum(dim=1).tolist()):
        one = slice(image, image + 1)
        alone = mar(tokens[one], mask[one], text[one, :words], None, GRID)
        assert (alone - states[one]).abs().max() <= 1e-5


def test_no_mask_and_the_released_switch_both_read_padding():
    tokens, mask, text, text_mask = batch_of()
    unmasked = mar_of()(tokens, mask, text, None, GRID)
    switched = mar_of(attend_to_padding=True)(tokens, mask, text, text_mask, GRID)
    assert torch.equal(switched, unmasked)
    assert (mar_of()(tokens, mask, text, text_mask, GRID) - unmasked).abs().max() > 1e-3


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_nothing_to_read_gives_finite_states(precision):
    tokens, mask, text, text_mask = batch_of(counts=(3, 12, 7))
    with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        states = mar_of()(tokens, mask, text, torch.zeros_like(text_mask), GRID)
    assert states.isfinite().all()


def test_dropped_captions_are_ignored_and_read_as_the_null_text():
    mar = mar_of()
    tokens, mask, text, text_mask = batch_of()
    dropped = torch.tensor([False, True, False])
    states = mar(tokens, mask, text, text_mask, GRID, text_dropped=dropped)
    other_text, other_mask = text.clone(), text_mask.clone()
    other_text[1] += 5.0
    other_mask[1] = ~other_mask[1]
    assert torch.equal(mar(tokens, mask, other_text, other_mask, GRID, text_dropped=dropped), states)
    null = mar.cross_attend(mar.encode_decode(tokens, mask, GRID), mar.null_states(3), None, GRID)
    assert (null[1] - states[1]).abs().max() <= 1e-5
    assert torch.equal(states[[0, 2]], mar(tokens, mask, text, text_mask, GRID)[[0, 2]])


def test_null_text_is_the_same_with_any_number_of_tokens():
    mar = mar_of()
    tokens, mask, *_ = batch_of()
    image = mar.encode_decode(tokens, mask, GRID)
    one, many = (mar.cross_attend(image, mar.null_states(3, words), None, GRID) for words in (1, 40))
    assert (one - many).abs().max() <= 1e-5


def test_unequal_mask_counts_equal_runs_of_one_image():
    mar = mar_of()
    tokens, mask, text, text_mask = batch_of(counts=(3, 12, 7, 0))
    together = mar(tokens, mask, text, text_mask, GRID)
    for image, count in enumerate((3, 12, 7, 0)):
        one = slice(image, image + 1)
        alone = mar(tokens[one], mask[one], text[one], text_mask[one], GRID, num_masked=count)
        assert (alone - together[one]).abs().max() <= 1e-5


def test_unequal_mask_counts_have_finite_gradients():
    mar = mar_of().requires_grad_(True)
    tokens, mask, text, text_mask = batch_of(counts=(3, 12, 7))
    mar(tokens, mask, text, text_mask, GRID).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for name, parameter in mar.named_parameters() if name != "null_text")


@pytest.mark.parametrize("count", [0, 7, 12])
def test_a_given_count_changes_nothing(count):
    mar = mar_of()
    tokens, mask, text, text_mask = batch_of(counts=(count,) * 3)
    read = mar(tokens, mask, text, text_mask, GRID)
    assert torch.equal(mar(tokens, mask, text, text_mask, GRID, num_masked=count), read)


def test_a_full_mask_still_gives_every_parameter_a_gradient():
    mar = mar_of().requires_grad_(True)
    tokens, mask, text, text_mask = batch_of(counts=(12, 12, 12))
    dropped = torch.tensor([True, False, False])
    states = mar(tokens, mask, text, text_mask, GRID, num_masked=TOKENS, text_dropped=dropped)
    states.square().sum().backward()
    assert states.isfinite().all()
    assert [name for name, parameter in mar.named_parameters() if parameter.grad is None] == []


def test_the_order_of_images_in_a_batch_does_not_matter():
    mar = mar_of()
    tokens, mask, text, text_mask = batch_of()
    states = mar(tokens, mask, text, text_mask, GRID)
    flipped = mar(tokens.flip(0), mask.flip(0), text.flip(0), text_mask.flip(0), GRID)
    assert (flipped.flip(0) - states).abs().max() <= 1e-5


@pytest.mark.parametrize("self_attention", [False, True])
def test_cached_text_gives_the_same_states(self_attention):
    mar = mar_of(text_self_attention=self_attention)
    tokens, mask, text, text_mask = batch_of()
    memory = mar.text_kv(mar.align(text, text_mask))
    cached = mar.cross_attend(mar.encode_decode(tokens, mask, GRID, 7), memory, text_mask, GRID)
    assert torch.equal(cached, mar(tokens, mask, text, text_mask, GRID))


def test_self_attention_adds_parameters_only_to_the_text_blocks():
    plain, added = (dict(mar_of(text_self_attention=on).named_parameters()) for on in (False, True))
    extra = {name for name in added if name not in plain}
    assert plain.keys() <= added.keys()
    assert extra and all(
        name.startswith(("cross_blocks.0.self_attention.", "cross_blocks.1.self_attention.")) for name in extra
    )


def test_normalised_queries_and_keys_bound_the_scores():
    """Written out for a block's self-attention; however large the states' projections, a score is at most sqrt(d)."""
    block = mar_of(qk_norm=True).encoder[0].attention
    with torch.no_grad():
        block.qkv.weight *= 100
        block.query_norm.weight.fill_(1.0)
        block.key_norm.weight.fill_(1.0)
    states = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    query, key, value = block.qkv(block.norm(states)).view(2, 5, 3, 4, 8).permute(2, 0, 3, 1, 4)
    query, key = (part / (part.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() for part in (query, key))
    scores = query @ key.mT / 8**0.5
    mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
    assert scores.abs().max() <= 8**0.5 + 1e-4
    assert torch.allclose(block(states), states + block.out(mixed), rtol=1e-4, atol=1e-4)


def test_normalised_keys_and_values_are_cached_as_computed():
    mar = mar_of(qk_norm=True, text_self_attention=True)
    tokens, mask, text, text_mask = batch_of()
    memory = mar.text_kv(mar.align(text, text_mask))
    cached = mar.cross_attend(mar.encode_decode(tokens, mask, GRID, 7), memory, text_mask, GRID)
    assert torch.equal(cached, mar(tokens, mask, text, text_mask, GRID))
    assert not torch.allclose(cached, mar_of(text_self_attention=True)(tokens, mask, text, text_mask, GRID))


def test_qk_norm_adds_two_scales_to_each_attention_alone():
    plain, added = (dict(mar_of(qk_norm=on).named_parameters()) for on in (False, True))
    extra = {name: weight.shape for name, weight in added.items() if name not in plain}
    assert plain.keys() <= added.keys()
    assert set(extra.values()) == {(8,)} and len(extra) == 2 * (1 + 2 + 2 + 2)


def test_places_of_all_tokens_change_nothing():
    mar = mar_of()
    tokens, mask, text, text_mask = batch_of()
    everywhere = torch.arange(TOKENS).expand(len(tokens), -1)
    states = mar(tokens, mask, text, text_mask, GRID, places=everywhere)
    assert (states - mar(tokens, mask, text, text_mask, GRID)).abs().max() <= 1e-5


def test_dropout_acts_in_training_only():
    mar = mar_of(dropout=0.5)
    given = (*batch_of(), GRID)
    assert torch.equal(mar(*given), mar(*given))
    mar.train()
    assert not torch.equal(mar(*given), mar(*given))


def test_without_dropout_training_is_deterministic():
    mar = mar_of(dropout=0.0)
    given = (*batch_of(), GRID)
    states = mar(*given)
    assert torch.equal(mar.train()(*given), states)


def test_bf16_autocast_stays_close():
    mar, given = mar_of(), (*batch_of(), GRID)
    exact = mar(*given)
    with torch.autocast("cpu", torch.bfloat16):
        states = mar(*given)
    assert (states - exact).abs().max() <= 0.05 * exact.abs().max()


@pytest.mark.parametrize("masked", [False, True])
def test_bf16_attention_on_a_cpu_equals_fp32_to_bf16_precision(masked):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 9, 8, generator=generator).bfloat16()
    key_mask = torch.arange(9) < torch.tensor([[4], [9]]) if masked else None
    mixed = attention(query, key, value, key_mask)
    exact = attention(query.float(), key.float(), value.float(), key_mask)
    assert mixed.dtype == torch.bfloat16
    assert (mixed - exact).abs().max() <= 0.02


def test_a_grid_that_the_tokens_do_not_fill_is_refused():
    tokens, mask, text, text_mask = batch_of()
    with pytest.raises(ValueError, match="12 tokens do not fill a grid of 4x4"):
        mar_of()(tokens, mask, text, text_mask, (4, 4))


def test_positions_of_the_tables_own_grid_are_the_table():
    table = torch.randn(16, 8)
    assert positions_for(table, (4, 4)) is table
    assert positions_for(table, (4, 4), released=True) is table


def test_positions_follow_rows_and_columns_of_any_grid():
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    table = torch.stack([row, column], dim=-1).reshape(64, 2)
    places = positions_for(table, (4, 16)).view(4, 16, 2)
    assert (places[1:3, :, 0] - torch.tensor([2.5, 4.5])[:, None]).abs().max() <= 1e-5
    assert (places[:, 4:12, 1] - (torch.arange(4, 12) - 0.5) / 2).abs().max() <= 0.05


@pytest.mark.parametrize("released", [False, True])
def test_interpolation_is_a_product_with_a_constant_matrix(released):
    """That is how a GPU computes it, so that its gradient has one order of sums."""
    table = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    product = interpolation_matrix(4, (6, 10), released, torch.device("cpu")) @ table
    torch.testing.assert_close(product, positions_for(table, (6, 10), released), rtol=0, atol=1e-5)


def test_released_positions_are_swapped_on_oblong_grids():
    table = torch.randn(16, 8)
    released = positions_for(table, (2, 6), released=True)
    upright = positions_for(table.view(4, 4, 8).transpose(0, 1).reshape(16, 8), (2, 6), released=True)
    assert (released.view(6, 2, 8).transpose(0, 1).reshape(12, 8) - upright).abs().max() > 1e-3
    swapped = torch.nn.functional.interpolate(
        table.view(1, 4, 4, 8).permute(0, 3, 1, 2), scale_factor=(6.1 / 4, 2.1 / 4), mode="bicubic"
    )
    assert torch.equal(released, swapped[0].permute(1, 2, 0).reshape(12, 8))


def test_patches_are_row_major_and_channel_major_inside():
    latents = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    tokens = patchify(latents, 2)
    assert tokens.shape == (2, 6, 12)
    for channel, row, column in [(0, 0, 0), (1, 1, 0), (2, 0, 1), (2, 1, 1)]:
        value = latents[1, channel, 2 * 1 + row, 2 * 2 + column]
        assert tokens[1, 1 * 3 + 2, channel * 4 + row * 2 + column] == value


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_unpatchify_undoes_patchify(patch):
    latents = torch.randn(2, 5, 6, 12)
    assert torch.equal(unpatchify(patchify(latents, patch), (6 // patch, 12 // patch), 5, patch), latents)


def test_latents_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(ValueError, match="5x4"):
        patchify(torch.zeros(1, 1, 5, 4), 2)
    with pytest.raises(ValueError, match="expected 9 tokens of 4 values"):
        unpatchify(torch.zeros(1, 8, 4), (3, 3), 1, 2)


def test_fresh_weights_follow_from_the_seed_alone():
    """No other randomness is touched."""
    before = torch.random.get_rng_state()
    first, second, other = (new_student(MarConfig(**SIZES), HeadConfig(width=16, depth=1), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.mar.token_in.weight, other.mar.token_in.weight)
    assert first.mar.mask_token.std().item() == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize(("objective", "outputs"), [("ddpm", 12), ("v", 6), ("flow", 6)])
def test_a_fresh_head_gives_zeros_of_the_objectives_width(objective, outputs):
    head = new_student(MarConfig(**SIZES), HeadConfig(width=16, depth=2, objective=objective), 0).head
    output = head(torch.randn(5, 6), torch.zeros(5), torch.randn(5, 32))
    assert torch.equal(output, torch.zeros(5, outputs))


def test_head_outputs_equal_those_of_embedded_conditions():
    """Times that rows share change nothing either."""
    head = new_student(MarConfig(**SIZES), HeadConfig(width=16, depth=2), 0).head.requires_grad_(False)
    for parameter in head.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    noisy, condition = torch.randn(2, 5, 6), torch.randn(5, 32)
    times = torch.tensor([[3] * 5, [998] * 5])
    together = head(noisy, times, condition)
    embedded = head.condition(condition)
    for index, time in enumerate((3, 998)):
        alone = head.denoise(noisy[index], torch.tensor([time]), embedded)
        assert (together[index] - alone).abs().max() <= 1e-6


@torch.no_grad()
def test_blocks_of_a_fresh_head_pass_their_input_on():
    """The condition does not matter."""
    head = new_student(MarConfig(**SIZES), HeadConfig(width=16, depth=2), seed=0).head
    states, activated = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(block(states, activated), states) for block in head.blocks)
