"""Muon: what its update is made of, and that it can be skipped and resumed like AdamW."""

import pytest
import torch
from torch import nn

from lightgen_core.config import OptimizerConfig
from lightgen_core.train import muon
from lightgen_core.train.muon import ADAMW_RMS, Muon, _iterate, _iterate_on_gram, orthogonalize
from lightgen_core.train.optimizer import make_optimizer


def matrices(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("shape", [(2, 16, 48), (2, 48, 16)])
def test_an_orthogonalised_matrix_has_singular_values_near_one(shape):
    """Its singular vectors stay."""
    given = matrices(*shape)
    found = orthogonalize(given)
    values = torch.linalg.svdvals(found)
    assert found.shape == given.shape
    assert values.min() > 0.6 and values.max() < 1.3
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    assert torch.einsum("nij,nij->n", found, left @ right).min() / min(shape[1:]) > 0.8


def with_singular_values(smallest: float) -> torch.Tensor:
    left, _, right = torch.linalg.svd(matrices(2, 16, 48), full_matrices=False)
    return left @ torch.diag_embed(torch.logspace(0, smallest, 16).expand(2, 16)) @ right


@pytest.mark.parametrize(("smallest", "gap"), [(0, 1e-5), (-3, 1e-3), (-6, 1e-3)])
def test_iterating_on_gram_matrices_gives_the_same_update(smallest, gap):
    """Up to a thousandth where squares of singular values span more than float32 resolves; the iteration is rougher."""
    given = with_singular_values(smallest)
    given = given / given.norm(dim=(1, 2), keepdim=True)
    assert (_iterate_on_gram(given) - _iterate(given)).abs().max() < gap


def optimizer_of(weight: nn.Parameter, **changes) -> Muon:
    settings = {"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.5} | changes
    return Muon([weight], [], **settings)


def test_an_update_has_the_size_of_an_adamw_update():
    """The size of the gradient does not matter."""
    for size in (1e-6, 1e6):
        weight = nn.Parameter(torch.zeros(16, 48))
        weight.grad = matrices(16, 48) * size
        optimizer_of(weight).step()
        assert weight.detach().square().mean().sqrt() == pytest.approx(0.1 * ADAMW_RMS, rel=0.25)


def test_weights_decay_by_learning_rate_times_decay():
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    optimizer_of(weight).step()
    assert torch.allclose(weight, torch.full((4, 4), 1 - 0.1 * 0.5))


def test_a_flag_on_the_device_skips_weights_and_momentum():
    """Gradients that are no numbers leave no trace."""
    weight = nn.Parameter(matrices(8, 8))
    before = weight.detach().clone()
    optimizer = optimizer_of(weight)
    weight.grad = torch.full((8, 8), torch.nan)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert weight.equal(before)
    assert optimizer.state[weight]["average"].eq(0).all()


def test_equal_shapes_are_updated_as_if_alone():
    together = [nn.Parameter(matrices(8, 16)), nn.Parameter(matrices(8, 16) + 1)]
    alone = [nn.Parameter(weight.detach().clone()) for weight in together]
    for weight in (*together, *alone):
        weight.grad = weight.detach() ** 2 - 1
    Muon(together, [], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0).step()
    for weight in alone:
        Muon([weight], [], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0).step()
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(together, alone, strict=True))


def test_vectors_go_to_adamw_and_matrices_do_not():
    layer = nn.Linear(4, 4)
    optimizer = make_optimizer(layer, dict(layer.named_parameters()), OptimizerConfig(name="muon"))
    layer(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert optimizer.state[layer.weight].keys() == {"average"}
    assert optimizer.state[layer.bias].keys() == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize(("count", "shape"), [(14, (96, 96)), (5, (288, 96)), (5, (96, 384)), (3, (384, 128))])
def test_a_share_of_the_matrices_is_made_to_the_same_bits(one_thread, count, shape):
    """So processes that share the matrices of the demo's student train the bytes of those that do not."""
    whole = matrices(count, *shape)
    together = orthogonalize(whole)
    for rank in (0, 1):
        assert torch.equal(orthogonalize(whole[rank::2]), together[rank::2])


def test_fewer_iterations_leave_smaller_singular_values():
    """Each iteration multiplies a small one by 3.4 at most."""
    given = with_singular_values(-3)
    given = given / given.norm(dim=(1, 2), keepdim=True)
    smallest = [torch.linalg.svdvals(orthogonalize(given, steps)).min().item() for steps in (1, 3, 5)]
    assert smallest[0] < smallest[1] < smallest[2]
    assert smallest[1] / smallest[0] == pytest.approx(3.4445**2, rel=0.05)


@pytest.mark.parametrize("values", [1, 40, 10**6])
def test_groups_of_any_size_give_the_same_update(one_thread, monkeypatch, values):
    monkeypatch.setattr(muon, "GROUP_VALUES", values)
    weights = [nn.Parameter(matrix.clone()) for shape in ((4, 6), (6, 6), (4, 6)) for matrix in matrices(2, *shape)]
    before = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.grad = weight.detach().roll(1, 0)
    Muon(weights, [], lr=0.1, betas=(0.9, 0.95), weight_decay=0.01).step()
    scale = 0.1 * ADAMW_RMS * 6**0.5
    for weight, old in zip(weights, before, strict=True):
        momentum = old.roll(1, 0) * (1 - 0.95 + 0.05 * 0.95)
        expected = old * (1 - 0.1 * 0.01) - scale * orthogonalize(momentum[None])[0]
        assert torch.allclose(weight, expected, atol=1e-5)
