"""InfoNCE and MCInfoNCE: a slow reference, stored values, symmetries, limits and edges."""

from __future__ import annotations

import inspect
import json
import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.distributions import PowerSpherical, VonMisesFisher
from cognates.errors import ConfigError
from cognates.objectives import contrastive, info_nce, mc_info_nce
from cognates.objectives.dependence import unit_rows
from cognates.random import generator

F64 = torch.float64
FAMILIES = (VonMisesFisher, PowerSpherical)


def points(v: int = 2, n: int = 5, d: int = 4, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(v, n, d, generator=generator(seed, "points"), dtype=F64)


def by_hand(
    z: torch.Tensor, temperature: float, negatives: str, *, decoupled: bool = False
) -> list[list[float]]:
    """Log softmax of every ordered pair of views and image, one exponential at a time."""
    v, n, _ = z.shape
    rows = [[(x / x.norm()).tolist() for x in view] for view in z]

    def power(x: list[float], y: list[float]) -> float:
        return math.exp(sum(a * b for a, b in zip(x, y, strict=True)) / temperature)

    found = []
    for p, other in permutations(range(v), 2):
        each = []
        for i in range(n):
            anchor = rows[p][i]
            total = sum(power(anchor, rows[other][k]) for k in range(n) if k != i or not decoupled)
            if negatives == "all":
                total += sum(power(anchor, rows[p][k]) for k in range(n) if k != i)
            each.append(math.log(power(anchor, rows[other][i]) / total))
        found.append(each)
    return found


def total(terms: dict[str, torch.Tensor]) -> float:
    return sum(terms.values(), torch.zeros((), dtype=F64)).item()


@pytest.mark.parametrize("negatives", ["all", "cross"])
@pytest.mark.parametrize(("v", "n"), [(2, 5), (3, 2), (2, 1)])
def test_info_nce_is_the_mean_log_softmax_of_positives(negatives, v, n):
    z = points(v, n)
    each = by_hand(z, 0.3, negatives)
    assert len(each) == v * (v - 1)
    expected = -sum(map(sum, each)) / (v * (v - 1) * n)
    terms = info_nce(z, temperature=0.3, negatives=negatives)
    assert list(terms) == ["alignment", "uniformity"]
    assert total(terms) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    cosines = [
        torch.cosine_similarity(z[p], z[other], dim=-1).mean().item()
        for p, other in permutations(range(v), 2)
    ]
    assert terms["alignment"].item() == pytest.approx(-sum(cosines) / len(cosines) / 0.3, rel=1e-12)


@pytest.mark.parametrize("negatives", ["all", "cross"])
@pytest.mark.parametrize(("v", "n"), [(2, 5), (3, 2)])
def test_decoupled_info_nce_leaves_the_positive_out_of_the_sum(negatives, v, n):
    z = points(v, n)
    each = by_hand(z, 0.3, negatives, decoupled=True)
    expected = -sum(map(sum, each)) / (v * (v - 1) * n)
    options = {"temperature": 0.3, "negatives": negatives}
    terms = info_nce(z, **options, decoupled=True)
    assert total(terms) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    coupled = info_nce(z, **options)
    assert torch.equal(terms["alignment"], coupled["alignment"])
    assert terms["uniformity"] < coupled["uniformity"]
    z = z.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: tuple(info_nce(z, **options, decoupled=True).values()), [z]
    )


@pytest.mark.parametrize(("negatives", "count"), [("all", 2 * 5 - 2), ("cross", 5 - 1)])
def test_decoupled_info_nce_has_its_value_at_one_point_and_is_bounded_below(negatives, count):
    same = torch.ones(2, 5, 4, dtype=F64)
    found = info_nce(same, temperature=0.5, negatives=negatives, decoupled=True)
    assert total(found) == pytest.approx(math.log(count), rel=1e-12)
    for seed in range(5):
        found = info_nce(points(seed=seed), temperature=0.5, negatives=negatives, decoupled=True)
        assert total(found) >= math.log(count) - 2 / 0.5


def test_the_decoupled_gradient_does_not_vanish_where_the_positive_is_the_nearest_by_far():
    # L falls with the positive's cosine at the rate 1/tau, whatever the others are
    z = torch.eye(4, dtype=F64).expand(2, 4, 4).clone()
    z[1] = z[1].roll(1, 0) * 0.1 + z[1]
    sizes = {}
    for decoupled in (False, True):
        x = z.clone().requires_grad_()
        terms = info_nce(x, temperature=0.05, decoupled=decoupled)
        sum(terms.values()).backward()
        sizes[decoupled] = x.grad.norm().item()
    assert sizes[True] > 100 * sizes[False]


def test_one_image_has_nothing_to_be_compared_with_once_it_is_decoupled():
    with pytest.raises(ConfigError, match="at least two images for the decoupled"):
        info_nce(points(2, 1), decoupled=True)


@pytest.mark.parametrize("tau", [10.0, 2.0, 0.5, 0.1])
def test_info_nce_of_a_population_has_the_stored_value(shared, tau):
    golden = json.loads((shared / "golden" / "ssl_hsic.json").read_text())
    stored = golden["theory_checks_float64"][f"infonce tau={tau}"]["InfoNCE"]
    # The population of golden/README.md: 7 images with 3 equally likely views.
    rng = np.random.default_rng(77)
    z = rng.standard_normal((7, 1, 4)) + 0.5 * rng.standard_normal((7, 3, 4))
    z = torch.tensor(z / np.linalg.norm(z, axis=-1, keepdims=True)).transpose(0, 1)
    # Every point is an anchor and every point a candidate; a positive may be the anchor itself.
    found = [
        total(info_nce(torch.stack([z.flatten(0, 1), z.roll(shift, 0).flatten(0, 1)]),
                       temperature=tau, negatives="cross"))
        for shift in range(3)
    ]  # fmt: skip
    assert sum(found) / 3 - math.log(21) == pytest.approx(stored, rel=1e-10)


@pytest.mark.parametrize("negatives", ["all", "cross"])
def test_info_nce_passes_gradcheck(negatives):
    z = points(3, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: tuple(info_nce(z, temperature=0.5, negatives=negatives).values()), [z]
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    negatives=st.sampled_from(["all", "cross"]),
    decoupled=st.booleans(),
)
def test_info_nce_ignores_order_of_images_and_views_rotation_and_scale(seed, negatives, decoupled):
    z = points(3, 4, 5, seed=seed)
    gen = generator(seed, "change")
    order, views = torch.randperm(4, generator=gen), torch.randperm(3, generator=gen)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=gen, dtype=F64)).Q
    scales = 10 ** torch.randn(3, 4, 1, generator=gen, dtype=F64)
    expected = info_nce(z, negatives=negatives, decoupled=decoupled)
    for other in (z[:, order], z[views], z @ rotation, scales * z):
        found = info_nce(other, negatives=negatives, decoupled=decoupled)
        for name, term in expected.items():
            torch.testing.assert_close(found[name], term, rtol=1e-11, atol=1e-11)
    assert decoupled or total(expected) >= 0


def test_a_hot_softmax_gives_log_of_the_terms_and_a_cold_one_the_gap_to_the_nearest():
    z = points(2, 5, 3)
    for negatives, count in (("all", 9), ("cross", 5)):
        hot = info_nce(z, temperature=1e9, negatives=negatives)
        assert total(hot) == pytest.approx(math.log(count), abs=1e-8)
        cold = 1e-4 * total(info_nce(z, temperature=1e-4, negatives=negatives))
        u = unit_rows(z)
        gaps = []
        for p in (0, 1):
            near = u[p] @ u[1 - p].T
            if negatives == "all":
                inside = (u[p] @ u[p].T).fill_diagonal_(-2)
                near = torch.cat([near, inside], 1)
            gaps.append(near.max(1).values - (u[0] * u[1]).sum(-1))
        # exp(-gap / tau) of the next candidates is below what a float64 holds
        assert cold == pytest.approx(torch.stack(gaps).mean().item(), abs=1e-9)


@pytest.mark.parametrize("negatives", ["all", "cross"])
def test_alignment_and_uniformity_of_the_variational_reading_are_log_terms_minus_info_nce(
    negatives,
):
    # p(z|x) = vMF(z; z_j, 1/tau), a delta at the anchor, the prior estimated by the candidates.
    z, tau = points(2, 4, 6), 0.4
    u = unit_rows(z)
    align, uniform = [], []
    for p in (0, 1):
        for i in range(4):
            candidates = [u[1 - p, k] for k in range(4)]
            if negatives == "all":
                candidates += [u[p, k] for k in range(4) if k != i]
            density = VonMisesFisher(torch.stack(candidates), torch.tensor(1 / tau, dtype=F64))
            log = density.log_prob(u[p, i].expand(len(candidates), -1))
            align.append(log[i])
            uniform.append(-(torch.logsumexp(log, 0) - math.log(len(candidates))))
    value = torch.stack(align).mean() + torch.stack(uniform).mean()
    loss = total(info_nce(z, temperature=tau, negatives=negatives))
    count = 7 if negatives == "all" else 4
    # The densities' normaliser cancels between the two terms.
    assert value.item() == pytest.approx(math.log(count) - loss, abs=1e-10)


def test_degenerate_projections_have_finite_values_and_gradients():
    same = torch.ones(2, 3, 4)
    opposite = torch.stack([same[0], -same[0]])
    for z in (torch.zeros(2, 3, 4), same, opposite, 1e20 * same, same[:, :1]):
        for negatives in ("all", "cross"):
            x = z.clone().requires_grad_()
            terms = info_nce(x, temperature=0.01, negatives=negatives)
            (terms["alignment"] + terms["uniformity"]).backward()
            assert all(term.isfinite() for term in terms.values())
            assert x.grad is not None
            assert x.grad.isfinite().all()
    collapsed = info_nce(same.double())
    assert total(collapsed) == pytest.approx(math.log(5), abs=1e-12)


def test_bfloat16_and_autocast_are_computed_in_float32():
    z = points(2, 16, 32).bfloat16()
    expected = total(info_nce(z.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = info_nce(z)
    assert all(term.dtype == torch.float32 for term in terms.values())
    assert total(terms) == pytest.approx(expected, abs=1e-5)  # logits of 10 in float32


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("negatives", ["all", "cross"])
def test_mc_info_nce_is_the_log_mean_softmax_of_its_draws(family, negatives):
    loc, kappa = unit_rows(points(3, 3)), 1 + 9 * torch.rand(3, 3, dtype=F64)
    q = family(loc, kappa)
    terms = mc_info_nce(
        q, samples=6, temperature=0.5, negatives=negatives, generator=generator(0, "draws")
    )
    draws = q.rsample((6,), generator=generator(0, "draws"))
    each = torch.tensor([by_hand(z, 0.5, negatives) for z in draws], dtype=F64)
    assert each.shape == (6, 6, 3)
    expected = -each.exp().mean(0).log().mean().item()
    assert list(terms) == ["alignment", "uniformity", "sampling"]
    assert total(terms) == pytest.approx(expected, rel=1e-11)
    assert terms["sampling"].item() < 0
    assert total(terms) - terms["sampling"].item() == pytest.approx(-each.mean().item(), rel=1e-11)


@pytest.mark.parametrize("family", FAMILIES)
def test_certain_posteriors_and_single_samples_give_info_nce(family):
    loc = unit_rows(points(2, 6, 8))
    expected = info_nce(loc, temperature=0.2)
    sure = mc_info_nce(
        family(loc, torch.full((2, 6), 1e12, dtype=F64)),
        samples=3, temperature=0.2, generator=generator(0, "sure"),
    )  # fmt: skip
    for name, term in expected.items():
        # deviations of sqrt(d / kappa) = 3e-6 over tau
        torch.testing.assert_close(sure[name], term, rtol=0, atol=1e-4)
    assert abs(sure["sampling"].item()) < 1e-8
    q = family(loc, torch.full((2, 6), 5.0, dtype=F64))
    one = mc_info_nce(q, samples=1, temperature=0.2, generator=generator(0, "one"))
    drawn = info_nce(q.rsample((1,), generator=generator(0, "one"))[0], temperature=0.2)
    assert one["sampling"].item() == pytest.approx(0, abs=1e-14)
    assert total(one) == pytest.approx(total(drawn), rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_uniform_posteriors_leave_only_chance(family):
    q = family(unit_rows(points(2, 4, 3)), torch.zeros(2, 4, dtype=F64))
    each = [
        total(mc_info_nce(q, samples=1000, temperature=1.0, generator=generator(0, "chance", i)))
        for i in range(8)
    ]
    values = torch.tensor(each)
    error = values.std() / math.sqrt(len(each))
    # By symmetry the softmax of seven exchangeable candidates has mean 1/7: log 7, Jensen's bias
    # of 1,000 samples below 2e-3; four standard errors.
    assert abs(values.mean().item() - math.log(7)) < 4 * error + 2e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_mc_info_nce_does_not_depend_on_the_order_of_images_or_the_axes_in_distribution(family):
    loc, kappa = unit_rows(points(2, 4, 3)), 2 + torch.rand(2, 4, dtype=F64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=F64)).Q
    order = torch.tensor([2, 0, 3, 1])

    def estimate(loc: torch.Tensor, kappa: torch.Tensor, name: str) -> tuple[float, float]:
        values = torch.tensor([
            total(mc_info_nce(family(loc, kappa), samples=400, generator=generator(1, name, i)))
            for i in range(6)
        ])  # fmt: skip
        return values.mean().item(), (values.var() / len(values)).item()

    mean, variance = estimate(loc, kappa, "as they are")
    for other in (
        estimate(loc[:, order], kappa[:, order], "reordered"),
        estimate(loc.flip(0), kappa.flip(0), "exchanged"),
        estimate(loc @ rotation, kappa, "rotated"),
    ):
        assert abs(other[0] - mean) < 4 * math.sqrt(variance + other[1])  # four standard errors


def test_gradients_of_mc_info_nce_agree_with_finite_differences_of_the_same_draws():
    # Samplers reject, so draws of one generator are not smooth in kappa: see the next test.
    kappa = torch.full((2, 3), 6.0, dtype=F64)
    for family in FAMILIES:
        free = points(2, 3, 3).requires_grad_()

        def loss(free: torch.Tensor, family: type = family) -> torch.Tensor:
            terms = mc_info_nce(
                family(unit_rows(free), kappa), samples=3, temperature=0.5,
                generator=generator(0, "draws"),
            )  # fmt: skip
            return terms["alignment"] + terms["uniformity"] + terms["sampling"]

        assert torch.autograd.gradcheck(loss, [free])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_in_the_concentration_is_that_of_the_expectation(family):
    loc = unit_rows(points(2, 4, 3))

    def run(value: float, seed: int) -> tuple[float, float]:
        kappa = torch.tensor(value, dtype=F64, requires_grad=True)
        terms = mc_info_nce(
            family(loc, kappa.expand(2, 4)), samples=600, temperature=0.5,
            generator=generator(seed, "slope"),
        )  # fmt: skip
        loss = terms["alignment"] + terms["uniformity"] + terms["sampling"]
        (slope,) = torch.autograd.grad(loss, kappa)
        return loss.item(), slope.item()

    slopes = torch.tensor([run(4.0, seed)[1] for seed in range(6)])
    differences = torch.tensor([(run(5.0, s)[0] - run(3.0, s + 50)[0]) / 2 for s in range(6)])
    error = math.sqrt((slopes.var() / 6 + differences.var() / 6).item())
    # four standard errors; 0.01: the third derivative of the central difference
    assert abs(slopes.mean() - differences.mean()).item() < 4 * error + 0.01
    assert slopes.mean().abs() > 0.02


def test_an_image_that_is_hard_to_tell_apart_is_better_off_with_a_lower_concentration():
    # Image 0's two views are at a right angle, those of the others agree.
    loc = torch.eye(4, dtype=F64).expand(2, 4, 4).clone()
    loc[1, 0] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    loc[:, 3] = torch.tensor([0.0, 0.0, 0.0, -1.0], dtype=F64)
    kappa = torch.full((4,), 20.0, dtype=F64, requires_grad=True)
    terms = mc_info_nce(
        VonMisesFisher(loc, kappa.expand(2, 4)), samples=2000, temperature=0.2,
        generator=generator(0, "hard"),
    )  # fmt: skip
    (slope,) = torch.autograd.grad(sum(terms.values()), kappa)
    assert slope[0] > 0
    assert (slope[1:] < 0).all()


def test_degenerate_posteriors_have_finite_values_and_gradients():
    for family in FAMILIES:
        for kappa in (0.0, 1e-6, 1e7):
            loc = torch.zeros(2, 3, 4)
            loc[..., 0] = 1.0
            loc.requires_grad_()
            scale = torch.full((2, 3), kappa, requires_grad=True)
            terms = mc_info_nce(
                family(loc, scale), temperature=0.01, generator=generator(0, "degenerate")
            )
            sum(terms.values(), torch.zeros(())).backward()
            assert all(term.isfinite() for term in terms.values())
            for x in (loc, scale):
                assert x.grad is not None
                assert x.grad.isfinite().all()


def test_what_does_not_fit_is_refused_in_one_sentence():
    # `make test` checks annotations, which would refuse the shapes before the function does.
    bare = inspect.unwrap(contrastive.info_nce)
    for shape in ((1, 3, 4), (3, 4), (2, 0, 4)):
        with pytest.raises(ConfigError, match="at least two views of at least one image"):
            bare(torch.zeros(shape))
    z = points()
    for tau in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="temperature above 0"):
            info_nce(z, temperature=tau)
    with pytest.raises(ConfigError, match="all or cross"):
        bare(z, negatives="some")
    q = PowerSpherical(unit_rows(z), torch.ones(2, 5, dtype=F64))
    with pytest.raises(ConfigError, match="at least one sample"):
        mc_info_nce(q, samples=0)
    with pytest.raises(ConfigError, match="at least two views"):
        mc_info_nce(PowerSpherical(unit_rows(z[0]), 1.0))
