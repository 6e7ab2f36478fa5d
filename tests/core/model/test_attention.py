"""Attention on a CPU by two products: that of the fused kernel up to rounding, and nothing from behind the mask."""

import pytest
import torch

from lightgen_core.model.blocks import FEW_SCORES, attention, few_scores_by_products


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(9, 9), (9, 12), (9, 1), (20, 33)])
def test_bf16_attention_on_cpu_is_fp32_attention_up_to_rounding(queries, keys, masked):
    """Values and gradients, with scores in columns (fewer than 16 keys) and in rows."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, 2, length, 8, generator=generator).bfloat16() for length in (queries, keys, keys)]
    mask = torch.arange(keys) < torch.tensor([[1], [keys], [max(1, keys // 2)]]) if masked else None
    upstream = torch.randn(3, queries, 16, generator=generator)
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        query, key, value = (part.detach().to(dtype).requires_grad_() for part in inputs)
        mixed = attention(query, key, value, mask)
        assert mixed.dtype == dtype
        mixed.float().mul(upstream).sum().backward()
        results.append([mixed.float(), *(part.grad.float() for part in (query, key, value))])
    for rough, exact in zip(*results, strict=True):
        torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.03)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(9, 9), (2, 20), (16, 16), (23, 22), (23, 23), (3, 0)])
def test_few_scores_in_sampling_are_the_fused_ones(monkeypatch, queries, keys, masked):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, length, 8, generator=generator) for length in (queries, keys, keys))
    mask = torch.arange(keys) < torch.tensor([[1], [keys], [max(1, keys // 2)]]) if masked else None
    fused, functional = [], torch.nn.functional
    kernel = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda *a, **k: (fused.append(1), kernel(*a, **k))[1]
    )
    expected = attention(query, key, value, mask)
    with few_scores_by_products():
        torch.testing.assert_close(attention(query, key, value, mask), expected, rtol=1e-5, atol=1e-6)
    assert len(fused) == (1 if queries * keys <= FEW_SCORES else 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@few_scores_by_products()
def test_attention_by_products_reads_nothing_behind_the_mask(dtype):
    query, key, value = (torch.randn(1, 2, 9, 8).to(dtype) for _ in range(3))
    mask = torch.arange(9)[None] < 4
    other_key, other_value = key.clone(), value.clone()
    other_key[:, :, 4:], other_value[:, :, 4:] = 7.0, -3.0
    assert attention(query, key, value, mask).equal(attention(query, other_key, other_value, mask))
