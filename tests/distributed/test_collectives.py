"""Value and gradient of the collectives in real processes with different data."""

import pytest
import torch

from cognates import distributed
from cognates.errors import ConfigError

ROWS = {2: (3, 2), 3: (2, 0, 4)}


def _rows(world):
    generator = torch.Generator().manual_seed(world)
    return torch.randn(sum(ROWS[world]), 3, dtype=torch.float64, generator=generator)


def _local(x, rank, world):
    start = sum(ROWS[world][:rank])
    return x[start : start + ROWS[world][rank]].clone()


def _loss(y):
    # Couples all rows with each other, so that a missing part of the gradient shows.
    return (y @ y.T).exp().mean() + (y * torch.arange(y.numel()).view_as(y)).sum()


def _gather(rank, world):
    x = _local(_rows(world), rank, world).requires_grad_()
    y = distributed.gather(x)
    (gradient,) = torch.autograd.grad(_loss(y), x, create_graph=True)
    (second,) = torch.autograd.grad(distributed.all_reduce_sum(gradient.square().sum()), x)
    assert (distributed.rank(), distributed.world_size()) == (rank, world)
    return y.detach(), gradient.detach(), second


def _weighted(rank, world):
    # Processes that see different losses: the adjoint sums them.
    x = _local(_rows(world), rank, world).requires_grad_()
    (gradient,) = torch.autograd.grad((rank + 1) * _loss(distributed.gather(x)), x)
    return gradient


def _dtypes(rank, world):
    out = {}
    for dtype in (
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.uint8,
        torch.bool,
    ):
        x = (torch.arange(2 * (rank + 1)).view(-1, 2) + rank).to(dtype)
        out[dtype] = distributed.gather(x)
    out["nothing"] = distributed.gather(torch.zeros(0, 4))
    out["integers"] = distributed.all_reduce_sum(torch.tensor([rank, 1]))
    half = torch.tensor([1.0 if rank else 256.0], dtype=torch.bfloat16, requires_grad=True)
    total = distributed.all_reduce_sum(half)
    total.sum().backward()
    out["half"] = (total.detach(), half.grad)
    out["strided"] = distributed.gather(torch.arange(6.0).view(2, 3).T + rank)
    return out


def _reduce(rank, world):
    x = (_rows(world)[rank] * 0.3).requires_grad_()
    y = distributed.all_reduce_sum(x)
    (gradient,) = torch.autograd.grad(y.exp().prod() * (1.0 + rank), x)
    kept = x.detach().clone()
    distributed.all_reduce_sum(kept)
    return y.detach(), gradient, torch.equal(kept, x)


def _everything(rank, world):
    return {
        "gather": _gather(rank, world),
        "weighted": _weighted(rank, world),
        "reduce": _reduce(rank, world),
        "dtypes": _dtypes(rank, world),
    }


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, run_processes):
    results = run_processes(_everything, world=request.param)
    assert len(results) == request.param
    return results


@pytest.mark.ddp
def test_gather_returns_all_rows_in_rank_order_on_every_process(ranks):
    expected = _rows(len(ranks))
    assert all(torch.equal(result["gather"][0], expected) for result in ranks)


@pytest.mark.ddp
def test_the_mean_gradient_over_processes_is_that_of_one_process(ranks):
    x = _rows(len(ranks)).requires_grad_()
    (whole,) = torch.autograd.grad(_loss(x), x)
    # The processes' gradients are those of world losses; DDP's average takes the factor out again.
    parts = torch.cat([result["gather"][1] for result in ranks]) / len(ranks)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.ddp
def test_gather_adds_the_gradients_of_different_losses(ranks):
    x = _rows(len(ranks)).requires_grad_()
    (whole,) = torch.autograd.grad(_loss(x), x)
    parts = torch.cat([result["weighted"] for result in ranks])
    weight = sum(range(1, len(ranks) + 1))
    torch.testing.assert_close(parts, weight * whole, rtol=1e-12, atol=1e-12)


@pytest.mark.ddp
def test_gather_has_a_second_derivative(ranks):
    world = len(ranks)
    x = _rows(world).requires_grad_()
    (first,) = torch.autograd.grad(world * _loss(x), x, create_graph=True)
    # Every process differentiates the sum of squares, whose own reduction counts it world times.
    (second,) = torch.autograd.grad(world * first.square().sum(), x)
    parts = torch.cat([result["gather"][2] for result in ranks])
    torch.testing.assert_close(parts, second, rtol=1e-11, atol=1e-11)


@pytest.mark.ddp
def test_all_reduce_sum_and_its_adjoint(ranks):
    world = len(ranks)
    x = _rows(world)[:world] * 0.3
    total = x.sum(0).requires_grad_()
    (gradient,) = torch.autograd.grad(total.exp().prod() * sum(range(1, world + 1)), total)
    for value, local, untouched in (result["reduce"] for result in ranks):
        torch.testing.assert_close(value, total.detach(), rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(local, gradient, rtol=1e-12, atol=1e-12)
        assert untouched


@pytest.mark.ddp
def test_gather_takes_any_dtype_and_uneven_or_empty_parts(ranks):
    world = len(ranks)
    for result in ranks:
        out = result["dtypes"]
        kinds = [key for key in out if isinstance(key, torch.dtype)]
        assert len(kinds) == 6
        for dtype in kinds:
            parts = [(torch.arange(2 * (r + 1)).view(-1, 2) + r).to(dtype) for r in range(world)]
            assert torch.equal(out[dtype], torch.cat(parts))
        assert out["nothing"].shape == (0, 4)
        strided = [torch.arange(6.0).view(2, 3).T + r for r in range(world)]
        assert torch.equal(out["strided"], torch.cat(strided))


@pytest.mark.ddp
def test_all_reduce_sum_adds_half_precision_in_float32(ranks):
    world = len(ranks)
    for result in ranks:
        out = result["dtypes"]
        assert out["integers"].tolist() == [sum(range(world)), world]
        total, gradient = out["half"]
        # bfloat16 counts 256 + 1 = 256: one after the other, the ones would be lost.
        exact = torch.tensor([256.0 + world - 1], dtype=torch.bfloat16)
        assert torch.equal(total, exact)
        assert torch.equal(gradient, torch.tensor([float(world)], dtype=torch.bfloat16))


def test_in_one_process_the_collectives_return_their_argument():
    x = torch.randn(4, 2, requires_grad=True)
    assert distributed.gather(x) is x
    assert distributed.all_reduce_sum(x) is x
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_a_scalar_cannot_be_gathered():
    with pytest.raises(ConfigError, match="add an axis"):
        distributed.gather(torch.tensor(1.0))
