"""The formulas of docs/theory/generative.md that no room's tests hold already."""

from __future__ import annotations

import math
import re
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from cognates.distributions import DiagonalNormal, GroupNormal, VonMisesFisher
from cognates.random import generator

ROOT = Path(__file__).parents[1]
F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "theory"), dtype=F64)


def unit(x: torch.Tensor) -> torch.Tensor:
    return functional.normalize(x, dim=-1)


def test_every_test_that_the_page_names_exists():
    page = (ROOT / "docs" / "theory" / "generative.md").read_text(encoding="utf8")
    named = set(re.findall(r"`(test_\w+)`", page))
    files = list((ROOT / "tests").rglob("test_*.py"))
    written = "\n".join(file.read_text(encoding="utf8") for file in files)
    assert len(named) >= 17
    assert [name for name in sorted(named) if f"def {name}(" not in written] == []


@pytest.mark.parametrize("views", [2, 3, 7])
def test_the_deviations_are_the_mean_of_the_pairs_distances(views):
    z, within = drawn(views, 4), 0.3
    pairs = list(combinations(range(views), 2))
    assert len(pairs) == views * (views - 1) / 2
    distances = sum((z[i] - z[j]).square().sum() for i, j in pairs) / views
    energy = GroupNormal(views, 4, within, math.inf).energy(z)
    torch.testing.assert_close(energy, distances / (2 * within), rtol=1e-12, atol=0)


@pytest.mark.parametrize("within", [0.05, 0.25])
def test_infonce_on_the_sphere_has_the_temperature_two_sigma_squared(within):
    z, other = unit(drawn(2, 6, 5)).unbind(0)
    pairs = torch.stack(torch.broadcast_tensors(z[:, None], other[None]), dim=-2)
    log_joint = GroupNormal(2, 5, within, math.inf).log_prob(pairs)  # (6, 6)
    similarity = z @ other.T / (2 * within)
    constant = log_joint - similarity
    torch.testing.assert_close(constant, constant[0, 0].expand(6, 6), rtol=0, atol=1e-11)
    labels = torch.arange(6)
    ours = functional.cross_entropy(log_joint, labels)
    torch.testing.assert_close(ours, functional.cross_entropy(similarity, labels))


def test_vicregs_invariance_is_the_normal_pull():
    z, other = drawn(2, 6, 5).unbind(0)
    within = 0.4
    pulls = GroupNormal(2, 5, within, math.inf).energy(torch.stack([z, other], dim=1))
    invariance = (z - other).square().sum(1)
    torch.testing.assert_close(pulls, invariance / (4 * within), rtol=1e-12, atol=0)


def test_without_correlations_a_normal_has_most_entropy():
    x = drawn(40, 5) @ drawn(5, 5, seed=1)
    covariance = x.T @ x / 40

    def entropy(c: torch.Tensor) -> torch.Tensor:
        return 0.5 * (torch.linalg.slogdet(c).logabsdet + 5 * math.log(2 * math.pi * math.e))

    alone = covariance.diagonal().diag()
    shrunk = [entropy(alone + share * (covariance - alone)).item() for share in (1.0, 0.5, 0.0)]
    assert shrunk[0] < shrunk[1] < shrunk[2]
    q = DiagonalNormal(torch.zeros(5, dtype=F64), covariance.diagonal().log())
    assert shrunk[2] == pytest.approx(q.entropy().item(), rel=1e-12)


def test_instance_discrimination_is_a_class_density_over_the_mixture():
    within, z, w = 0.2, unit(drawn(6, 5)), unit(drawn(4, 5, seed=1))
    spread = torch.full((5,), math.log(within), dtype=F64)
    classes = DiagonalNormal(w, spread.expand(4, 5)).log_prob(z[:, None])  # log p(z | y), (6, 4)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    softmax = functional.cross_entropy(z @ w.T / within, labels, reduction="none")
    pull = classes[torch.arange(6), labels]
    log_mixture = classes.logsumexp(1) - math.log(4)  # log p(z), classes of one size
    torch.testing.assert_close(softmax, log_mixture - pull + math.log(4), rtol=1e-11, atol=1e-11)


def test_the_best_similarity_is_the_density_ratio():
    # A joint distribution of two modalities over 4 x 3 states, and the loss with endless negatives.
    joint = drawn(4, 3).exp()
    joint = joint / joint.sum()
    first, second = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)

    def loss(similarity: torch.Tensor) -> torch.Tensor:
        rows = similarity - (second.log() + similarity).logsumexp(1, keepdim=True)
        columns = similarity - (first.log() + similarity).logsumexp(0, keepdim=True)
        return -(joint * (rows + columns)).sum() / 2

    best = (joint / (first * second)).log().requires_grad_()
    (slope,) = torch.autograd.grad(loss(best), best)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-14)
    # any factor c does as well, anything else does worse, and the value is minus the information
    torch.testing.assert_close(loss(best + 3), loss(best))
    assert all(loss(best + 0.1 * drawn(4, 3, seed=seed)) > loss(best) for seed in range(5))
    torch.testing.assert_close(loss(best), -(joint * best).sum())


def test_infonce_reaches_the_mutual_information_and_never_more_than_log_n():
    dim, within, between, repeats = 2, 0.3, 0.7, 400
    pair, one = (GroupNormal(v, dim, within, between) for v in (2, 1))
    rho = between / (between + within)
    information = -dim / 2 * math.log(1 - rho**2)
    assert 2 * one.entropy().item() - pair.entropy().item() == pytest.approx(information, rel=1e-6)
    found = []
    for terms in (4, 64, 256):
        z = pair.rsample((repeats, terms), generator=generator(0, "pairs", terms)).double()
        grid = torch.stack(
            torch.broadcast_tensors(z[:, :1, None, 0], z[:, None, :, 1]), dim=-2
        )  # the first image of each batch against all second views
        ratio = (
            pair.log_prob(grid) - one.log_prob(grid[..., :1, :]) - one.log_prob(grid[..., 1:, :])
        )
        each = math.log(terms) + ratio.log_softmax(-1)[:, 0, 0]
        found.append((each.mean().item(), 4 * each.std().item() / math.sqrt(repeats), terms))
    for value, error, terms in found:
        assert value < min(math.log(terms), information) + error
    assert found[0][0] < found[2][0]
    assert found[2][0] == pytest.approx(information, abs=found[2][1] + 0.02)


@pytest.mark.parametrize("kappa", [0.5, 20.0])
def test_a_cosine_is_the_log_density_of_a_von_mises_fisher_distribution(kappa):
    prediction, target = unit(drawn(2, 6, 5)).unbind(0)
    density = VonMisesFisher(prediction, torch.full((6,), kappa, dtype=F64)).log_prob(target)
    rest = density - kappa * (prediction * target).sum(1)
    torch.testing.assert_close(rest, rest[0].expand(6), rtol=0, atol=1e-11)


def test_a_softmax_over_classes_draws_a_class_to_one_point():
    w = unit(drawn(4, 3, seed=2))
    z = unit(drawn(20, 3)).requires_grad_()  # twenty images of class 0, all different
    labels = torch.zeros(20, dtype=torch.int64)
    optimiser = torch.optim.SGD([z], lr=1.0)
    for _ in range(600):
        optimiser.zero_grad()
        functional.cross_entropy(unit(z) @ w.T / 0.5, labels, reduction="sum").backward()
        optimiser.step()
        with torch.no_grad():
            z.copy_(unit(z))
    assert (z - z[0]).abs().max() < 1e-6
