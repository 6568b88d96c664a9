"""VI-SimSiam's objective: its definition, its gradients, its edges."""

from __future__ import annotations

import inspect
import math
from itertools import permutations

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from cognates.distributions import PowerSpherical, VonMisesFisher, concentration_score, log_area
from cognates.errors import ConfigError
from cognates.networks.heads import ConcentrationHead
from cognates.objectives import negative_cosine, variational, vi_simsiam
from cognates.random import generator

F64 = torch.float64
FAMILIES = {"power-spherical": PowerSpherical, "von-mises-fisher": VonMisesFisher}


def unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def random_inputs(v: int = 2, n: int = 5, d: int = 7, *, seed: int = 0) -> tuple[torch.Tensor, ...]:
    gen = generator(seed, "inputs")
    p, z = (torch.randn(v, n, d, generator=gen, dtype=F64) for _ in range(2))
    return p, torch.rand(v, n, generator=gen, dtype=F64) * 3 * d, z


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("v", [2, 3])
def test_the_loss_is_minus_the_mean_log_density_over_ordered_pairs_of_views(family, v):
    p, kappa, z = random_inputs(v)
    pairs = list(permutations(range(v), 2))
    assert len(pairs) == v * (v - 1)
    each = [-FAMILIES[family](unit(p[i]), kappa[i]).log_prob(unit(z[j])).mean() for i, j in pairs]
    expected = torch.stack(each).mean()
    terms = vi_simsiam(p, kappa, z, family=family, per_dimension=False)
    assert list(terms) == ["alignment"]
    torch.testing.assert_close(terms["alignment"], expected, rtol=1e-12, atol=1e-12)
    scaled = vi_simsiam(p, kappa, z, family=family)["alignment"]
    torch.testing.assert_close(scaled, expected / 6, rtol=1e-12, atol=1e-12)


def test_three_views_give_the_mean_of_the_losses_of_their_pairs():
    p, kappa, z = random_inputs(3)
    whole = vi_simsiam(p, kappa, z)["alignment"]
    rows = [[0, 1], [0, 2], [1, 2]]
    each = [vi_simsiam(p[r], kappa[r], z[r])["alignment"] for r in rows]
    torch.testing.assert_close(whole, torch.stack(each).mean(), rtol=1e-12, atol=0)


def test_one_pair_equals_the_closed_form_with_40_digits():
    for d, kappa, s, density in (
        (3, 0.5, 0.3, -2.3409505969074),
        (8, 5.0, 0.5, -2.3439546380785),
        (128, 300.0, 0.7, 170.07474421614),
        (2048, 18423.5, 0.9, 6598.4632205963),
    ):
        with mpmath.workdps(40):
            b, k = mpmath.mpf(d - 1) / 2, mpmath.mpf(kappa)
            log_p = (
                k * mpmath.log(1 + mpmath.mpf(s))
                - (2 * b + k) * mpmath.log(2)
                - b * mpmath.log(mpmath.pi)
                - mpmath.loggamma(b + k)
                + mpmath.loggamma(2 * b + k)
            )
        assert float(log_p) == pytest.approx(density, rel=1e-11)  # so the table is right, too
        p, t = torch.zeros(2, 1, 1, d, dtype=F64).unbind(0)
        p[..., 0], t[..., 0], t[..., 1] = 1, s, math.sqrt(1 - s * s)
        p, t = p.expand(2, 1, d), t.expand(2, 1, d)
        terms = vi_simsiam(p, torch.full((2, 1), kappa, dtype=F64), t, per_dimension=False)
        assert terms["alignment"].item() == pytest.approx(-density, rel=1e-10)


def test_autograd_gives_the_stated_gradients():
    p, kappa, z = random_inputs(2, 6, 9)
    p, kappa = unit(p).requires_grad_(), kappa.requires_grad_()
    vi_simsiam(p, kappa, z, per_dimension=False)["alignment"].backward()
    t = unit(z).flip(0)  # v = 2: view i predicts view 1 - i
    mu, k = p.detach(), kappa.detach()
    s = (mu * t).sum(-1)
    d = mu.shape[-1]
    along_kappa = (
        math.log(2) + torch.digamma((d - 1) / 2 + k) - torch.digamma(d - 1 + k) - torch.log1p(s)
    )
    along_mu = -(k / (1 + s))[..., None] * (t - s[..., None] * mu)  # on the tangent space
    scale = 2 * 6  # the mean over two directions and six images
    torch.testing.assert_close(kappa.grad * scale, along_kappa, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(p.grad * scale, along_mu, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_pass_gradcheck_and_none_reaches_the_target(family):
    p, kappa, z = (x.requires_grad_() for x in random_inputs(3, 2, 4))

    def loss(p, kappa):
        return vi_simsiam(p, kappa, z, family=family)["alignment"]

    assert torch.autograd.gradcheck(loss, [p, kappa])
    loss(p, kappa).backward()
    assert z.grad is None
    assert (p.grad.norm(dim=-1) > 0).all()
    assert (kappa.grad != 0).all()


@pytest.mark.parametrize("kappa", [0.5, 7.0, 300.0])
def test_a_fixed_von_mises_fisher_concentration_is_simsiam_times_kappa(kappa):
    p, _, z = random_inputs(3)
    grads = []
    for loss in (
        lambda p: vi_simsiam(
            p,
            torch.full((3, 5), kappa, dtype=F64),
            z,
            family="von-mises-fisher",
            per_dimension=False,
        ),
        lambda p: negative_cosine(p, z),
    ):
        leaf = p.clone().requires_grad_()
        loss(leaf)["alignment"].backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[0], kappa * grads[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_parallel_opposite_and_zero_vectors_give_finite_values_and_gradients(family, dtype, sign):
    z, _ = torch.randn(2, 2, 8, 33, generator=generator(0, "edges")).unbind(0)
    z = z.to(dtype)
    p = (sign * z.flip(0)).clone().requires_grad_()
    kappa = torch.full((2, 8), 200.0, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = vi_simsiam(p, kappa, z, family=family)["alignment"]
    loss.backward()
    assert loss.isfinite()
    assert loss.dtype == (F64 if dtype == F64 else torch.float32)
    for x in (p, kappa):
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_a_zero_concentration_is_finite_and_sends_the_encoder_nothing():
    p, _, z = random_inputs()
    p, kappa = p.requires_grad_(), torch.zeros(2, 5, dtype=F64, requires_grad=True)
    loss = vi_simsiam(p, kappa, z, per_dimension=False)["alignment"]
    loss.backward()
    assert loss.item() == pytest.approx(log_area(7), rel=1e-15)
    assert (p.grad == 0).all()
    assert kappa.grad.isfinite().all()


def test_bfloat16_inputs_lose_nothing_but_their_own_rounding():
    p, kappa, z = (x.bfloat16() for x in random_inputs(2, 32, 256))
    exact = vi_simsiam(p.double(), kappa.double(), z.double())["alignment"].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = vi_simsiam(p, kappa, z)["alignment"].item()
    assert value == pytest.approx(exact, rel=1e-6, abs=1e-6)


def test_a_device_without_float64_loses_at_most_1e_6_per_dimension(monkeypatch):
    # The float32 branch of `precise`, forced here; on Apple's devices it is the only one.
    for family, d in (("power-spherical", 2048), ("von-mises-fisher", 128)):
        p, _, _ = random_inputs(2, 16, d)
        z = (p.flip(0) + 0.5 * random_inputs(2, 16, d, seed=1)[0]).float()
        p, kappa = p.float(), torch.full((2, 16), 8.0 * d)
        exact = vi_simsiam(p, kappa, z, family=family)["alignment"].item()
        with monkeypatch.context() as patch:
            patch.setattr(variational, "precise", lambda x: x.float())
            single = vi_simsiam(p, kappa, z, family=family)["alignment"].item()
        assert single == pytest.approx(exact, abs=1e-6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-4, 1e4), family=st.sampled_from([*FAMILIES]))
def test_the_loss_is_invariant_to_scale_rotation_and_order_of_images_and_views(seed, scale, family):
    p, kappa, z = random_inputs(3, seed=seed)
    expected = vi_simsiam(p, kappa, z, family=family)["alignment"].item()
    rotation = torch.linalg.qr(
        torch.randn(7, 7, generator=generator(seed, "rotation"), dtype=F64)
    ).Q
    order = torch.randperm(5, generator=generator(seed, "order"))
    for other in (
        vi_simsiam(scale * p, kappa, z / scale, family=family),
        vi_simsiam(p @ rotation, kappa, z @ rotation, family=family),
        vi_simsiam(p[:, order], kappa[:, order], z[:, order], family=family),
        vi_simsiam(p.flip(0), kappa.flip(0), z.flip(0), family=family),
    ):
        assert other["alignment"].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_bad_arguments_are_refused():
    p, kappa, z = random_inputs()
    # `make test` checks annotations, which would refuse the shapes before the function does.
    plain = inspect.unwrap(vi_simsiam)
    with pytest.raises(ConfigError, match="one concentration per prediction"):
        plain(p, kappa[:, :3], z)
    with pytest.raises(ConfigError, match="'family'"):
        plain(p, kappa, z, family="gaussian")
    with pytest.raises(ConfigError, match="at least two views"):
        plain(p[:1], kappa[:1], z[:1])


def test_a_concentration_head_alone_learns_the_noise_of_synthetic_pairs():
    # Views of a fixed direction, disturbed by a noise that is a function of the input x.
    n, d, gen = 1024, 16, generator(0, "pairs")
    x = torch.randn(2 * n, 6, generator=gen)
    noise = 0.05 + 0.5 * torch.sigmoid(2 * x[:, 0] - x[:, 1])
    mu = unit(torch.randn(2 * n, d, generator=gen))
    views = mu + noise[:, None] * torch.randn(2, 2 * n, d, generator=gen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = ConcentrationHead(6, 32, d)
    optimiser = torch.optim.Adam(head.parameters(), lr=3e-2)
    train, test = slice(None, n), slice(n, None)
    first = last = 0.0
    for step in range(100):
        kappa = head(x[train]).expand(2, n)
        terms = vi_simsiam(mu[train].expand(2, n, d), kappa, views[:, train], coupling="cosine")
        loss = terms["concentration"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < first
    u = concentration_score(head.eval()(x[test]), dim=d).detach()
    assert spearmanr(u.numpy(), noise[test].numpy()).statistic > 0.9
