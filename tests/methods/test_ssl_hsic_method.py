"""SSL-HSIC as a module: its wiring, its target, its kernel scale, what it keeps and embeds."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math

import pytest
import torch
from torch import nn

from cognates.config import decode, encode
from cognates.errors import ConfigError
from cognates.kernels import RandomFeatures, imq, steepness_slope
from cognates.methods import MethodConfig, get, names
from cognates.methods.ssl_hsic import SslHsic, SslHsicConfig
from cognates.networks.ema import cosine_decay
from cognates.objectives import ssl_hsic
from cognates.objectives.dependence import unit_rows
from cognates.random import generator
from cognates.testing import check_method
from cognates.types import Batch

SMALL = {"dim": 12, "hidden": 10}
CONFIGS = [
    SslHsicConfig(**SMALL),
    SslHsicConfig(**SMALL, target=False),
    SslHsicConfig(**SMALL, exact_up_to=0, features=32, pairs="all"),
    SslHsicConfig(**SMALL, kernel="rbf", learn_scale=False, average=0.0, predictor_hidden=6),
    SslHsicConfig(**SMALL, kernel="linear", exact_up_to=0),
]
F64 = torch.float64


def build(config: SslHsicConfig, *, width: int = 9) -> SslHsic:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(32, width), nn.BatchNorm1d(width))
        return config.build(encoder, width=width)


def batch(v: int = 2, n: int = 6, *, step: int = 0, dtype: torch.dtype = F64) -> Batch:
    gen = generator(0, "batch", step)
    x = torch.randn(n, 2, 4, 4, generator=gen, dtype=dtype)
    views = tuple(x + 0.5 * torch.randn(x.shape, generator=gen, dtype=dtype) for _ in range(v))
    return Batch(views=views, index=torch.arange(n), step=step, seed=0)


def train(method: SslHsic, steps: range, *, rate: float = 0.1) -> list[float]:
    method.train()
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=rate)
    losses = []
    for step in steps:
        loss = method(batch(step=step)).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        method.after_step(step)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@pytest.mark.parametrize("views", [2, 3])
def test_the_standard_tests_of_a_method_hold(config, views):
    check_method(config, views=views)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_it_is_registered_and_its_configuration_survives_json(config):
    assert get("ssl-hsic") is SslHsicConfig
    assert "ssl-hsic" in names()
    assert decode(MethodConfig, json.loads(json.dumps(encode(config))), "method") == config


def test_the_defaults_are_those_of_the_released_code():
    config = SslHsicConfig()
    assert (config.dim, config.hidden, config.gamma, config.scale) == (256, 4096, 3.0, 1.0)
    assert (config.target_decay, config.average, config.kernel) == (0.99, 0.999, "imq")
    method = build(SslHsicConfig(**SMALL))
    for head in (method.projector, method.predictor):
        assert [type(part).__name__ for part in head] == [  # pyright: ignore
            *("Linear", "BatchNorm1d", "ReLU", "Linear")
        ]
        assert head[0].bias is not None  # pyright: ignore
        assert head[3].bias is None  # pyright: ignore


@pytest.mark.parametrize("v", [2, 3])
def test_the_loss_is_the_objective_of_predictions_and_targets_of_every_view(v):
    method, data = build(CONFIGS[0]).double().eval(), batch(v)
    assert method.predictor is not None
    assert method.target is not None
    with torch.no_grad():  # a target that differs from the online network
        for parameter in method.target.parameters():
            parameter.add_(0.1)
    h = [method.encoder(x) for x in data.views]
    p = [method.predictor(method.projector(x)) for x in h]
    t = [method.target["projector"](method.target["encoder"](x)) for x in data.views]
    z = unit_rows(torch.stack([*p, *t]))
    loss = method(data)
    for name, want in ssl_hsic(z).items():
        torch.testing.assert_close(loss.terms[name], want, rtol=1e-12, atol=1e-14)
    assert list(loss.terms) == ["dependence", "variance"]
    assert torch.equal(loss.monitored, z[0])
    loss.total.backward()
    assert all(parameter.grad is None for parameter in method.target.parameters())


def test_without_a_target_the_sets_are_the_projections_and_there_is_no_predictor():
    method, data = build(CONFIGS[1]).double().eval(), batch()
    assert method.predictor is None
    assert method.target is None
    z = unit_rows(torch.stack([method.projector(method.encoder(x)) for x in data.views]))
    want = ssl_hsic(z)
    found = method(data).terms
    for name in want:
        torch.testing.assert_close(found[name], want[name], rtol=1e-12, atol=1e-14)


def test_above_the_limit_the_loss_uses_two_draws_that_change_with_the_step():
    config = SslHsicConfig(**SMALL, exact_up_to=23, features=16, scale=0.7)
    method = build(config).double().eval()
    exact = dataclasses.replace(config, exact_up_to=24)
    points = unit_rows(_sets(method, batch()))
    gens = [generator(0, "ssl-hsic", "features", name, 0) for name in "AB"]
    draws = [RandomFeatures.draw(imq(0.7), 12, 16, generator=g, dtype=F64) for g in gens]
    want = ssl_hsic(points, features=(draws[0], draws[1]))
    found = method(batch()).terms  # 4 sets of 6 images: 24 points
    for name in want:
        # the scale passed through float32
        torch.testing.assert_close(found[name], want[name], rtol=1e-6, atol=1e-7)
    again = method(batch()._replace(step=1)).terms["dependence"]
    assert not torch.allclose(again, found["dependence"])
    one, two = (build(exact).double().eval()(batch()._replace(step=s)).total for s in (0, 1))
    assert torch.equal(one, two)
    assert not torch.allclose(one, method(batch()).total)


def _sets(method, data):
    p = [method.predictor(method.projector(method.encoder(x))) for x in data.views]
    t = [method.target["projector"](method.target["encoder"](x)) for x in data.views]
    return torch.stack([*p, *t])


def test_the_target_normalises_each_view_by_the_view_as_the_online_network_does():
    method = build(SslHsicConfig(**SMALL)).train()
    assert method.target is not None
    data = batch(dtype=torch.float32)
    before = {name: value.clone() for name, value in method.target.named_buffers()}
    method(data)
    after = dict(method.target.named_buffers())
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert after["encoder.2.num_batches_tracked"] == 2  # one pass per view, in training mode
    moved = data._replace(views=(data.views[0], 3 * data.views[1]))
    one, two = method(data).total, method(moved).total
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


def test_the_target_follows_the_online_weights_on_a_cosine_from_its_start_to_one():
    method = build(SslHsicConfig(**SMALL, target_decay=0.9)).double()
    method.total_steps = 8
    assert method.target is not None
    expected = {name: p.clone() for name, p in method.target.named_parameters()}
    for step in range(8):
        train(method, range(step, step + 1), rate=0.5)
        tau = cosine_decay(step, start=0.9, total=8)
        assert tau == pytest.approx(1 - 0.1 * (1 + math.cos(math.pi * step / 8)) / 2)
        online = {
            **{f"encoder.{k}": p for k, p in method.encoder.named_parameters()},
            **{f"projector.{k}": p for k, p in method.projector.named_parameters()},
        }
        for name in expected:
            expected[name] = tau * expected[name] + (1 - tau) * online[name].detach()
            found = method.target.get_parameter(name)
            torch.testing.assert_close(found, expected[name], rtol=1e-10, atol=1e-12)


def test_the_average_is_the_debiased_mean_of_the_weights_and_takes_their_place():
    method = build(SslHsicConfig(**SMALL, average=0.6)).double()
    assert method.average is not None
    seen, scales = [], []
    for step in range(5):
        train(method, range(step, step + 1), rate=0.5)
        seen.append(method.encoder[1].weight.detach().clone())  # pyright: ignore
        scales.append(method.log_scale.clone())
    shares = [0.6 ** (4 - i) for i in range(5)]
    want = sum(s * w for s, w in zip(shares, seen, strict=True)) / sum(shares)
    scale = sum(s * w for s, w in zip(shares, scales, strict=True)) / sum(shares)
    statistics = method.encoder[2].running_mean.clone()  # pyright: ignore
    method.finish()
    torch.testing.assert_close(method.encoder[1].weight.detach(), want)  # pyright: ignore
    torch.testing.assert_close(method.log_scale, scale)
    assert torch.equal(method.encoder[2].running_mean, statistics)  # pyright: ignore
    kept = {name.split(".")[0] for name in method.state_dict()}
    assert kept == {"encoder", "projector", "log_scale", "scale_moments"}


def test_the_average_reaches_back_over_a_tenth_of_the_run_at_most():
    method = build(SslHsicConfig(**SMALL)).double()
    method.total_steps = 20
    first = method.encoder[1].weight.detach().clone()  # pyright: ignore
    train(method, range(20), rate=0.5)
    last = method.encoder[1].weight.detach().clone()  # pyright: ignore
    method.finish()
    kept = method.encoder[1].weight.detach()  # pyright: ignore
    assert (kept - last).norm() < 0.25 * (first - last).norm()


def test_the_kernel_scale_climbs_to_where_the_mean_squared_kernel_is_a_third():
    method = build(SslHsicConfig(**SMALL, scale=1.0, target=False)).double().eval()
    points = unit_rows(torch.stack([method.projector(method.encoder(x)) for x in batch().views]))
    flat = points.reshape(-1, 12)
    squared = (flat[:, None] - flat[None]).square().sum(-1)
    for factor in (0.9, 1.1):  # of the scale where it rests
        rest = _resting_scale(squared)
        method.log_scale.fill_(math.log(factor * rest))
        method.scale_moments.zero_()
        scales = []
        for step in range(900):
            kernel = imq(method.log_scale.exp())
            method._slopes = [steepness_slope(kernel, squared)]
            scales.append(float(method.after_step(step)["kernel_scale"]))
        assert abs(math.log(scales[1] / scales[0])) == pytest.approx(3e-4, rel=0.05)  # Adam's rate
        assert imq(scales[-1]).of_squared(squared).square().mean().item() == pytest.approx(
            1 / 3, abs=1e-3
        )


def _resting_scale(squared):
    low, high = 1e-2, 1e2
    for _ in range(100):
        middle = (low * high) ** 0.5
        rising = steepness_slope(imq(middle), squared).item() > 0
        low, high = (middle, high) if rising else (low, middle)
    return low


def test_the_slope_is_taken_between_two_samples_of_all_sets(monkeypatch):
    method = build(CONFIGS[0]).double().train()
    seen = []
    monkeypatch.setattr(
        "cognates.methods.ssl_hsic.steepness_slope",
        lambda kernel, squared: seen.append(squared) or steepness_slope(kernel, squared),
    )
    data = batch()
    with torch.no_grad():
        method(data)
        method(data)
        method(data._replace(step=1))
    assert [tuple(squared.shape) for squared in seen] == [(1024, 1024)] * 3
    assert torch.equal(seen[0], seen[1])  # a function of seed and step
    assert not torch.equal(seen[0], seen[2])
    method.eval()
    method(data)
    assert len(seen) == 3
    # exact repeats are drawn with replacement from 24 points, of which 256 of each of four sets
    repeats = (seen[0] < 1e-12).double().mean().item()
    assert repeats == pytest.approx(1 / 24, abs=0.01)


def test_the_scale_enters_the_loss_as_a_constant_and_may_be_fixed():
    method = build(CONFIGS[0])
    assert "log_scale" not in dict(method.named_parameters())
    fixed = build(SslHsicConfig(**SMALL, learn_scale=False, scale=0.5))
    fixed(batch(dtype=torch.float32))
    assert float(fixed.after_step(0)["kernel_scale"]) == pytest.approx(0.5)
    assert "kernel_scale" not in build(CONFIGS[4]).after_step(0)


def test_accumulated_parts_move_the_scale_once_by_their_mean_slope():
    parts, whole = (build(CONFIGS[1]).double().train() for _ in range(2))
    for _ in range(3):
        parts(batch())
    parts.after_step(0)
    whole(batch())
    whole.after_step(0)
    torch.testing.assert_close(parts.log_scale, whole.log_scale)
    assert parts.after_step(1)["kernel_scale"] == pytest.approx(float(parts.log_scale.exp()))


@pytest.mark.parametrize("config", CONFIGS[:3], ids=repr)
def test_a_method_restored_from_its_state_goes_on_bit_by_bit(config):
    whole = build(config)
    whole.total_steps = 9
    whole = whole.double()
    losses = train(whole, range(9))
    first = build(config).double()
    first.total_steps = 9
    assert train(first, range(4)) == losses[:4]
    second = build(config).double()
    second.total_steps = 9
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert train(second, range(4, 9)) == losses[4:]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("kernel", ["imq", "rbf", "linear"])
def test_the_disagreement_is_one_minus_the_mean_kernel_over_pairs_of_views(kernel):
    method = build(SslHsicConfig(**SMALL, kernel=kernel, scale=0.5)).double().eval()
    h = torch.randn(8, 5, 9, dtype=F64)
    z = unit_rows(method.projector(h.flatten(0, 1))).view(8, 5, 12).detach()
    found = method.disagreement(h).detach()
    assert found.shape == (5,)
    for i in range(5):
        values = []
        for p, q in itertools.permutations(range(8), 2):
            r2 = float((z[p, i] - z[q, i]).square().sum())
            values.append(
                {
                    "imq": 0.5 / math.sqrt(0.25 + r2),
                    "rbf": math.exp(-r2 / 0.5),
                    "linear": float(z[p, i] @ z[q, i]),
                }[kernel]
            )
        assert found[i].item() == pytest.approx(1 - sum(values) / 56, abs=1e-7)
    same = method.disagreement(h[:1].expand(8, 5, 9)).detach()
    torch.testing.assert_close(same, torch.zeros(5, dtype=F64), rtol=0, atol=1e-12)
    # half the mean squared distance in the kernel's space: at least 0, larger for views further off
    near = method.disagreement(h[:1] + 0.01 * h)
    assert (near < found).all()
    assert (near > 0).all()


def test_its_uncertainty_is_measured_on_the_eight_fixed_views():
    import numpy as np

    from cognates.data.images import Images
    from cognates.data.views import ViewSpec
    from cognates.evaluation.features import by_views, extract

    method = build(SslHsicConfig(**SMALL)).eval()
    assert by_views(method)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    images = Images(pixels=pixels, dataset="made", split="test")
    method.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 9)).eval()
    options = {"views": [ViewSpec(size=8)], "size": 8, "mean": None, "std": None}
    whole = extract(method, images, **options)
    assert whole.default_score == "kernel-disagreement"
    assert {"norm", "view-disagreement", "kernel-disagreement"} <= set(whole.scores)
    u = whole.scores["kernel-disagreement"]
    assert np.isfinite(u).all()
    assert ((u >= 0) & (u <= 1)).all()
    parts = extract(method, images, batch_size=1, **options).scores["kernel-disagreement"]
    np.testing.assert_allclose(parts, u, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dim", 0),
        ("predictor_hidden", 0),
        ("features", 0),
        ("gamma", -1.0),
        ("gamma", math.nan),
        ("gamma", math.inf),
        ("features", 2.5),
        ("dim", 2.5),
        ("exact_up_to", 2.5),
        ("scale", 1e-30),
        ("target_decay", 1.5),
        ("average", 1.0),
        ("scale", 0.0),
        ("exact_up_to", -1),
        ("pairs", "some"),
        ("kernel", "laplace"),
    ],
)
def test_bad_hyperparameters_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        SslHsicConfig(**{field: value})


@pytest.mark.parametrize(("gamma", "least"), [(3.0, 11), (2.0, 6), (0.5, 2), (0.0, 2)])
def test_batches_in_which_a_collapse_has_the_lower_loss_are_refused(gamma, least):
    config = SslHsicConfig(gamma=gamma)
    config.require_images(least)
    with pytest.raises(ConfigError, match=r"more than gamma\^2 \+ 1 = .* got .*lower 'gamma'"):
        config.require_images(least - 1)


def test_one_view_is_refused_without_a_target_in_one_sentence():
    with pytest.raises(ConfigError, match="at least two views"):
        build(CONFIGS[1]).double()(batch(1))


def test_the_scale_of_the_gaussian_kernel_is_learnt_as_well():
    method = build(SslHsicConfig(**SMALL, kernel="rbf", scale=2.0)).double().train()
    for step in range(3):
        method(batch(step=step))
        method.after_step(step)
    assert method.log_scale.item() != pytest.approx(math.log(2.0), abs=1e-6)
