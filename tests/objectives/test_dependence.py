"""SSL-HSIC's objective: its definition by loops, its invariances, its edges, its two forms."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from cognates.errors import ConfigError
from cognates.kernels import RandomFeatures, hsic, imq, linear, rbf
from cognates.objectives import dependence, ssl_hsic
from cognates.objectives.dependence import unit_rows
from cognates.random import generator

F64 = torch.float64
KERNELS = [imq(1.0), imq(0.5), rbf(0.7), linear()]


def points(v=2, n=5, d=4, *, seed=0, noise=0.5, dtype=F64):
    gen = generator(seed, "points")
    base = torch.randn(1, n, d, generator=gen, dtype=dtype)
    return unit_rows(base + noise * torch.randn(v, n, d, generator=gen, dtype=dtype))


def two_draws(d, count=16, *, kernel=KERNELS[0], seed=0, dtype=F64):
    gen = generator(seed, "draws")
    first, second = (
        RandomFeatures.draw(kernel, d, count, generator=gen, dtype=dtype) for _ in range(2)
    )
    return first, second


def total(z, **options):
    terms = ssl_hsic(z, **options)
    assert list(terms) == ["dependence", "variance"]
    return terms["dependence"] + terms["variance"]


def looped(z, k, *, pairs, gamma=3.0):
    """Return both terms from the definition, pair by pair in Python floats."""
    v, n, _ = z.shape
    spots = [(p, i) for p in range(v) for i in range(n)]
    m = len(spots)
    gram = [[k(z[p, i], z[q, j]) for q, j in spots] for p, i in spots]
    same = [
        gram[a][b]
        for a, (p, i) in enumerate(spots)
        for b, (q, j) in enumerate(spots)
        if i == j and (pairs == "all" or p != q)
    ]
    everything = sum(map(sum, gram)) / m**2
    rows = [sum(row) / m for row in gram]
    squares = sum(x * x for row in gram for x in row) / m**2
    zz = squares - 2 * sum(r * r for r in rows) / m + everything**2
    return -(sum(same) / (n * v * (v - 1)) - everything), gamma * math.sqrt(max(zz, 0.0))


def scalar_kernel(kernel):
    c = kernel.scale
    return {
        "imq": lambda x, y: c / math.sqrt(c * c + sum((a - b) ** 2 for a, b in zip(x, y))),  # noqa: B905
        "rbf": lambda x, y: math.exp(-sum((a - b) ** 2 for a, b in zip(x, y)) / (2 * c * c)),  # noqa: B905
        "linear": lambda x, y: sum(a * b for a, b in zip(x, y)),  # noqa: B905
    }[kernel.name]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k.name}-{k.scale}")
@pytest.mark.parametrize("pairs", ["distinct", "all"])
@pytest.mark.parametrize("v", [2, 3])
def test_the_exact_form_equals_its_definition_pair_by_pair(kernel, pairs, v):
    z = points(v, 4, 3)
    k = scalar_kernel(kernel)
    want = looped(z, lambda x, y: k(x.tolist(), y.tolist()), pairs=pairs, gamma=1.5)
    found = ssl_hsic(z, kernel=kernel, gamma=1.5, pairs=pairs)
    assert found["dependence"].item() == pytest.approx(want[0], abs=1e-13)
    assert found["variance"].item() == pytest.approx(want[1], rel=1e-10)


@pytest.mark.parametrize("pairs", ["distinct", "all"])
@pytest.mark.parametrize("v", [2, 3])
def test_the_random_feature_form_equals_its_definition_pair_by_pair(pairs, v):
    z = points(v, 4, 3)
    first, second = two_draws(3, 7)
    want, _ = looped(z, lambda x, y: float(first(x) @ first(y)), pairs=pairs)
    found = ssl_hsic(z, pairs=pairs, features=(first, second))
    assert found["dependence"].item() == pytest.approx(want, abs=1e-13)
    flat = z.reshape(-1, 3)
    grams = [phi(flat) @ phi(flat).T for phi in (first, second)]
    zz = hsic(*grams).item()  # of one variable, seen through two kernels
    assert found["variance"].item() == pytest.approx(3 * math.sqrt(zz), rel=1e-12)


@pytest.mark.parametrize("form", ["exact", "features"])
@pytest.mark.parametrize("pairs", ["distinct", "all"])
def test_the_gradient_of_each_term_is_that_of_finite_differences(form, pairs):
    z = points(2, 3, 3).requires_grad_()
    features = two_draws(3, 5) if form == "features" else None
    for kernel in KERNELS[:1] if features else KERNELS:
        for term in ("dependence", "variance"):

            def one(z, term=term, kernel=kernel):
                return ssl_hsic(z, kernel=kernel, pairs=pairs, features=features)[term]

            assert torch.autograd.gradcheck(one, [z])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), v=st.integers(2, 4), n=st.integers(1, 6))
def test_the_loss_ignores_the_order_of_views_and_images_and_rotations(seed, v, n):
    z = points(v, n, 4, seed=seed)
    gen = generator(seed, "changes")
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=gen, dtype=F64)).Q
    views, images = torch.randperm(v, generator=gen), torch.randperm(n, generator=gen)
    features = two_draws(4, seed=seed)
    turned = tuple(RandomFeatures(f.weight @ rotation, f.phase) for f in features)
    exact, random = total(z).item(), total(z, features=features).item()
    for other in (z[views], z[:, images], z @ rotation):
        assert total(other).item() == pytest.approx(exact, abs=1e-12)
    assert total(z[views][:, images], features=features).item() == pytest.approx(random, abs=1e-12)
    assert total(z @ rotation, features=turned).item() == pytest.approx(random, abs=1e-12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), gamma=st.floats(0, 10), scale=st.floats(0.1, 10))
def test_terms_are_bounded_and_linear_in_the_kernel_and_gamma(seed, gamma, scale):
    z = points(3, 5, 4, seed=seed)
    found = ssl_hsic(z, kernel=imq(scale), gamma=gamma)
    assert -1 <= found["dependence"].item() <= 1  # a difference of means of numbers in (0, 1]
    assert 0 <= found["variance"].item() <= gamma
    once = ssl_hsic(z, kernel=imq(scale), gamma=1.0)["variance"].item()
    assert found["variance"].item() == pytest.approx(gamma * once, rel=1e-12)
    # both terms are of degree one in the kernel: the linear one scales with the points squared
    one, two = ssl_hsic(z, kernel=linear()), ssl_hsic(2 * z, kernel=linear())
    for name in one:
        assert two[name].item() == pytest.approx(4 * one[name].item(), rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("v", [2, 4])
def test_pairs_of_a_view_with_itself_add_a_constant_and_no_gradient(v):
    for kernel in KERNELS[:3]:
        grads, values = [], []
        for pairs in ("distinct", "all"):
            z = points(v, 5, 4).requires_grad_()
            loss = total(z, kernel=kernel, pairs=pairs)
            loss.backward()
            grads.append(z.grad)
            values.append(loss.item())
        assert values[0] - values[1] == pytest.approx(1 / (v - 1), rel=1e-12)
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-14)


def test_aligned_views_of_orthogonal_images_have_the_stated_terms():
    # spec: k = 1/sqrt(3) between images; hsic_zz = (1 - k)^2 (n - 1)/n^2
    for v, n in ((2, 64), (4, 32)):
        z = torch.eye(n, dtype=F64).expand(v, n, n)
        found = ssl_hsic(z, gamma=1.0)
        away = 1 - 1 / math.sqrt(3)
        assert found["dependence"].item() == pytest.approx(-away * (1 - 1 / n), rel=1e-12)
        assert found["variance"].item() == pytest.approx(away * math.sqrt(n - 1) / n, rel=1e-12)


def test_the_features_of_many_images_are_made_in_parts_with_the_same_value_and_gradient(
    monkeypatch,
):
    features, found = two_draws(4, 16), []
    for elements in (1 << 20, 3 * 16 * 2, 1):  # at once; two images at a time; one at a time
        monkeypatch.setattr(dependence, "_ELEMENTS", elements)
        for pairs in ("distinct", "all"):
            z = points(3, 7, 4).requires_grad_()
            terms = ssl_hsic(z, pairs=pairs, features=features)
            both = [torch.autograd.grad(t, z, retain_graph=True)[0] for t in terms.values()]
            found.append([*terms.values(), *both])
    assert len(found) == 6
    for i, one in enumerate(found):
        for a, b in zip(one, found[i % 2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("pairs", ["distinct", "all"])
def test_the_linear_kernel_is_exact_without_a_gram_matrix(pairs, monkeypatch):
    found, exact = [], dependence._exact
    for form in (dependence._by_features, None):
        z = points(3, 7, 4).requires_grad_()
        if form is None:
            monkeypatch.setattr(
                dependence,
                "_by_features",
                lambda z, a, b, d, distinct: exact(z, linear(), distinct),
            )
        with LiveCrosses(8 * 21 * 21) as grams:
            terms = ssl_hsic(z, kernel=linear(), pairs=pairs)
        grads = [torch.autograd.grad(t, z, retain_graph=True)[0] for t in terms.values()]
        found.append([*terms.values(), *grads])
        assert (grams.most == 0) == (form is not None)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


class LiveCrosses(TorchDispatchMode):
    """Counts the tensors of a given size that are alive at once, at every operation."""

    def __init__(self, size):
        super().__init__()
        self.size, self.most, self.live = size, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, torch.Tensor) and one.untyped_storage().nbytes() == self.size:
                ref = StorageWeakRef(one.untyped_storage())
                self.live[ref.cdata] = ref
        self.live = {key: ref for key, ref in self.live.items() if not ref.expired()}
        self.most = max(self.most, len(self.live))
        return out


def test_the_memory_of_random_features_does_not_grow_with_the_parts(monkeypatch):
    count, most = 32, []
    features = two_draws(4, count)
    monkeypatch.setattr(dependence, "_ELEMENTS", 2 * count)  # one image at a time
    for images in (4, 40):
        z = points(2, images, 4).requires_grad_()
        with LiveCrosses(8 * count * count) as crosses:
            total(z, features=features).backward()
        most.append(crosses.most)
    assert most[0] == most[1]  # of the (D, D) products, of which every part makes one
    assert 2 <= most[1] <= 6


DEGENERATE = {
    "identical": torch.ones(2, 6, 4) / 2,
    "zero": torch.zeros(2, 6, 4),
    "one image": points(2, 1, 4, dtype=torch.float32),
    "one image, equal views": points(2, 1, 4, noise=0.0, dtype=torch.float32),
    "two images": points(2, 2, 4, dtype=torch.float32),
    "two points on a line": torch.tensor([[[1.0], [-1.0]], [[1.0], [-1.0]]]),
    "half zero": torch.cat([torch.zeros(2, 3, 4), points(2, 3, 4, dtype=torch.float32)], dim=1),
    "almost identical": torch.ones(2, 6, 4) / 2 + 1e-7 * torch.arange(48.0).view(2, 6, 4),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("form", ["exact", "features"])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_degenerate_batches_have_a_finite_loss_and_gradient(name, form, dtype):
    assert len(DEGENERATE) == 8
    raw = DEGENERATE[name].to(dtype).clone()
    features = two_draws(raw.shape[-1], dtype=dtype) if form == "features" else None
    kernels = KERNELS[:1] if features else [*KERNELS, imq(1e-3), rbf(1e-2)]
    for kernel in kernels:
        for pairs in ("distinct", "all"):
            for normalise in (False, True):
                z = raw.clone().requires_grad_()
                z_ = unit_rows(z) if normalise else z
                loss = total(z_, kernel=kernel, pairs=pairs, features=features)
                loss.backward()
                assert loss.isfinite()
                assert z.grad is not None
                assert z.grad.isfinite().all()


def test_a_collapsed_batch_has_no_dependence_and_no_variance():
    terms = ssl_hsic(torch.ones(2, 6, 4, dtype=F64) / 2)
    assert terms["dependence"].item() == pytest.approx(0, abs=1e-15)
    assert terms["variance"].item() == pytest.approx(0, abs=1e-15)


def test_only_the_dependence_keeps_images_apart():
    spread = points(2, 32, 16, noise=0.1)
    collapsed = spread[:, :1].expand(2, 32, 16)
    assert total(spread).item() < total(collapsed).item()
    assert ssl_hsic(spread)["variance"] > ssl_hsic(collapsed)["variance"]


@pytest.mark.parametrize("form", ["exact", "features"])
def test_bfloat16_inputs_and_autocast_are_computed_in_float32(form):
    z = points(2, 16, 32).bfloat16()
    features = two_draws(32, 64) if form == "features" else None
    expected = total(z.double(), features=features).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = z.requires_grad_()
        value = total(z, features=features)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, abs=2e-6)
    assert z.grad is not None
    assert z.grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert unit_rows(z.detach()).dtype == torch.float32


def test_what_the_objective_cannot_use_is_refused():
    # `make test` checks annotations, which would refuse shapes before the function does
    objective = inspect.unwrap(ssl_hsic)
    z = points()
    for bad in (z[0], z[:1], z[:, :0]):
        with pytest.raises(ConfigError, match="at least two views and one image"):
            objective(bad)
    with pytest.raises(ConfigError, match="'gamma'"):
        ssl_hsic(z, gamma=-1.0)
    with pytest.raises(ConfigError, match="'gamma'"):
        ssl_hsic(z, gamma=math.nan)
    with pytest.raises(ConfigError, match="'gamma'"):
        ssl_hsic(z, gamma=math.inf)
    with pytest.raises(ConfigError, match="'pairs'"):
        inspect.unwrap(dependence.ssl_hsic)(z, pairs="some")


def test_one_draw_may_not_stand_for_both():
    first, second = two_draws(4)
    ssl_hsic(points(), features=(first, second))
    for twice in ((first, first), (first, RandomFeatures(first.weight, second.phase))):
        with pytest.raises(ConfigError, match="two independent draws"):
            ssl_hsic(points(), features=twice)
    with pytest.raises(ConfigError, match="dimension 3"):
        inspect.unwrap(ssl_hsic)(points(), features=two_draws(3))
