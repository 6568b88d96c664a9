"""SimVE, VAE, beta-VAE and CR-VAE as modules: what they compute, embed, draw and refuse."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from cognates.config import decode, encode
from cognates.distributions import DiagonalNormal, GroupNormal
from cognates.errors import ConfigError
from cognates.methods import Method, MethodConfig, get, names
from cognates.methods.beta_vae import BetaVAEConfig
from cognates.methods.cr_vae import CRVAEConfig
from cognates.methods.simve import SimVEConfig
from cognates.methods.vae import VAEConfig
from cognates.networks.image_model import ImageModelConfig
from cognates.objectives import consistency_elbo, elbo, group_elbo
from cognates.random import generator
from cognates.testing import check_method
from cognates.types import Batch

F64 = torch.float64
MODEL = ImageModelConfig(latent_dim=4, decoder="mlp")
KINDS = {"simve": SimVEConfig, "vae": VAEConfig, "beta-vae": BetaVAEConfig, "cr-vae": CRVAEConfig}
FAST = ImageModelConfig(latent_dim=4)
CONFIGS = [
    *(kind(model=MODEL) for kind in KINDS.values()),
    SimVEConfig(model=FAST, prior="flat"),
    SimVEConfig(model=dataclasses.replace(FAST, likelihood="tempered-bernoulli"), parity="head"),
    VAEConfig(model=dataclasses.replace(FAST, learn_variance=True)),
    BetaVAEConfig(model=dataclasses.replace(FAST, likelihood="continuous-bernoulli"), beta=0.0),
    CRVAEConfig(model=dataclasses.replace(FAST, likelihood="bernoulli"), weight=1.0),
]


def build(config: MethodConfig, *, views: int = 2, size: int = 4) -> Method:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(2 * size**2, 9), nn.ReLU())
        return config.completed(channels=2, image_size=size, views=views).build(encoder, width=9)


def batch(v: int = 2, n: int = 6, dtype: torch.dtype = F64, size: int = 4) -> Batch:
    gen = generator(0, "batch")
    views = tuple(torch.rand(n, 2, size, size, generator=gen, dtype=dtype) for _ in range(v))
    return Batch(views=views, index=torch.arange(n) + 100, step=3, seed=1)


def values(method: Method, data: Batch) -> dict[str, float]:
    return {name: term.item() for name, term in method(data).terms.items()}


@pytest.mark.parametrize("config", CONFIGS[4:], ids=repr)
@pytest.mark.parametrize("views", [2, 3])
def test_the_standard_tests_of_a_method_hold(config, views):
    check_method(config, views=views)


def test_the_defaults_keep_the_promises_too_and_a_vae_with_one_view():
    for name, kind in KINDS.items():
        check_method(kind(), views=10 if name == "simve" else 2)
    check_method(VAEConfig(model=FAST), views=1)


def test_the_methods_are_registered_under_their_names_and_survive_json():
    assert {name: get(name) for name in KINDS} == KINDS
    assert set(KINDS) <= set(names())
    for config in CONFIGS:
        assert decode(MethodConfig, json.loads(json.dumps(encode(config))), "method") == config
        assert "https://" in config.paper
        assert config.models_pixels


def test_the_methods_compute_their_objectives_at_the_mean_in_eval_mode_and_at_a_draw_in_training():
    data = batch(3)
    x = torch.stack(data.views)
    for config in CONFIGS[:4]:
        method = build(config, views=3).double()
        h = method.encoder(x.flatten(0, 1))
        mean, s = (part.view(3, 6, 4) for part in method.model.head(h))
        q = DiagonalNormal(mean, s)
        for training in (False, True):
            method.train(training)
            z = method.model.draw(q, data, config.name)
            assert torch.equal(z, mean) != training
            arguments = (x, method.model.likelihood(z), q)
            expected = {
                "simve": lambda a, z: group_elbo(*a, z, prior=GroupNormal(3, 4, 0.15, 0.95)),
                "vae": lambda a, z: elbo(*a, None),
                "beta-vae": lambda a, z: elbo(*a, None, beta=4.0),
                "cr-vae": lambda a, z: consistency_elbo(*a, None, weight=1e-3),
            }[config.name](arguments, z)
            loss = method(data)
            assert list(loss.terms) == list(expected)
            for name, value in expected.items():
                torch.testing.assert_close(loss.terms[name], value, rtol=1e-12, atol=1e-12)
            assert torch.equal(loss.monitored, mean[0])


@pytest.mark.parametrize("config", CONFIGS[:4], ids=repr)
def test_the_loss_is_a_function_of_each_images_own_views(config):
    method = build(config, views=3).double().train()
    data = batch(3)
    same = values(method, data)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    moved = data._replace(views=tuple(x[order] for x in data.views), index=data.index[order])
    assert values(method, moved) == pytest.approx(same, rel=1e-12)
    # two parts of the batch, as on two processes or with accumulation: the draws are the same
    parts = [
        values(
            method, data._replace(views=tuple(x[rows] for x in data.views), index=data.index[rows])
        )
        for rows in (slice(0, 3), slice(3, 6))
    ]
    halves = {name: (parts[0][name] + parts[1][name]) / 2 for name in same}
    assert halves == pytest.approx(same, rel=1e-12)
    other = values(method, data._replace(step=4))
    assert other["reconstruction"] != same["reconstruction"]
    eval_mode = build(config, views=3).double().eval()
    exchanged = data._replace(views=(data.views[0], data.views[1].roll(1, dims=0), data.views[2]))
    mixed, right = (sum(values(eval_mode, b).values()) for b in (exchanged, data))
    couples = config.name in ("simve", "cr-vae")
    assert (mixed == pytest.approx(right, rel=1e-12)) != couples


def test_draws_in_training_have_the_posteriors_moments_and_differ_between_views_and_methods():
    n, model = 4000, build(CONFIGS[0]).model.double().train()
    q = DiagonalNormal(torch.ones(2, n, 4, dtype=F64), torch.full((2, n, 4), -1.0, dtype=F64))
    data = Batch((), torch.arange(n), 0, 0)
    z, other = model.draw(q, data, "simve"), model.draw(q, data, "vae")
    error = 4.5 / math.sqrt(n)  # standard errors, of 64 numbers
    standard = ((z - 1) * math.exp(0.5)).movedim(1, 0).flatten(1)  # (n, v d)
    assert standard.mean(0).abs().max() < error
    correlation = standard.T @ standard / n - torch.eye(8, dtype=F64)
    assert correlation.abs().max() < error * math.sqrt(2)
    assert not (z == other).any()


def test_views_of_simve_may_come_in_any_order():
    method = build(CONFIGS[0], views=3).double().eval()
    data = batch(3)
    turned = data._replace(views=data.views[::-1])
    assert values(method, turned) == pytest.approx(values(method, data), rel=1e-12)


def test_the_representation_is_the_mean_and_the_uncertainty_its_posteriors_entropy():
    images = batch().views[0]
    for config in CONFIGS[:4]:
        method = build(config).double().eval()
        assert method.default_score == "posterior-entropy"
        mean, s = method.model.head(method.encoder(images))
        h, u = method.embed(images)
        assert torch.equal(h, mean)
        expected = 0.5 * (s + math.log(2 * math.pi * math.e)).sum(1)
        torch.testing.assert_close(u, expected, rtol=1e-12, atol=1e-12)


def test_the_further_scores_are_the_bound_and_the_reconstruction_of_each_image():
    images = batch().views[0]
    prior = {"simve": GroupNormal(1, 4, 0.15, 0.925), "vae": GroupNormal(1, 4, 1.0, 0.0)}
    for config in CONFIGS[:4]:
        method = build(config).double().eval()
        found = method.further_scores(images)
        assert sorted(found) == ["negative-elbo", "reconstruction"]
        mean, s = method.model.head(method.encoder(images))
        for row in range(len(images)):
            one, q = (
                images[row][None, None],
                DiagonalNormal(mean[None, row, None], s[None, row, None]),
            )
            terms = group_elbo(
                one,
                method.model.likelihood(q.mean),
                q,
                None,
                prior=prior["simve" if config.name == "simve" else "vae"],
            )
            parts = {name: value.item() for name, value in terms.items()}
            assert found["reconstruction"][row].item() == pytest.approx(parts["reconstruction"])
            assert found["negative-elbo"][row].item() == pytest.approx(sum(parts.values()))


def test_the_variance_of_the_groups_mean_follows_the_number_of_views():
    for views in (2, 6, 10):
        config = SimVEConfig(model=MODEL).completed(channels=1, image_size=8, views=views)
        assert config.between == 1 - 0.15 / views
        assert (config.model.channels, config.model.image_size) == (1, 8)
        # the mean over the views then has variance 1
        assert config.between + config.within / views == pytest.approx(1)
    given_ = SimVEConfig(between=2.0, model=dataclasses.replace(MODEL, image_size=16))
    kept = given_.completed(channels=1, image_size=8, views=2)
    assert (kept.between, kept.model.image_size) == (2.0, 16)
    assert SimVEConfig(prior="flat", between=0.5).prior_of(3).flat


def test_the_released_form_is_the_sum_and_takes_the_same_adam_steps_with_eps_over_n():
    n, steps = 6, []
    data = batch(n=n)
    for parity, eps in (("first", 1e-4), (None, 1e-4 / n)):
        method = build(SimVEConfig(model=MODEL, parity=parity)).double().train()
        adam = torch.optim.Adam(method.parameters(), lr=8e-5, eps=eps)
        for step in range(5):
            adam.zero_grad()
            method(data._replace(step=step)).total.backward()
            adam.step()
        steps.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
    # constants have no gradient, and with the default prior nothing else differs
    torch.testing.assert_close(*steps, rtol=1e-10, atol=1e-13)


def test_a_learnt_variance_gets_a_gradient_and_starts_where_it_is_told():
    model = dataclasses.replace(MODEL, learn_variance=True, variance=0.25)
    method = build(VAEConfig(model=model)).train()
    method(batch(dtype=torch.float32)).total.backward()
    parameter = method.model.pixel_log_variance
    assert parameter.exp().item() == pytest.approx(0.25)
    assert parameter.grad.item() != 0


def test_one_view_other_sizes_and_images_outside_the_unit_range_are_refused():
    for config in CONFIGS[:4]:
        method = build(config).double()
        data = batch()
        small = tuple(x[..., :3, :3] for x in data.views)
        with pytest.raises(ConfigError, match=r"which the decoder draws, got \(6, 2, 3, 3\)"):
            method(data._replace(views=small))
        with pytest.raises(ConfigError, match="which the decoder draws"):
            method(data._replace(views=(data.views[0], small[0])))
        for change in (lambda x: 2 * x, lambda x: x - 0.5):
            with pytest.raises(ConfigError, match=r"images in \[0, 1\].*without normalisation"):
                method(data._replace(views=tuple(map(change, data.views))))
            with pytest.raises(ConfigError, match=r"images in \[0, 1\]"):
                method.further_scores(change(data.views[0]))
        method(
            data._replace(
                views=tuple(x * 0 + bound for x, bound in zip(data.views, (0, 1), strict=True))
            )
        )
    for config in (CONFIGS[0], CONFIGS[3]):
        with pytest.raises(ConfigError, match="at least 2 views"):
            build(config).double()(batch(1))


def test_a_view_axis_in_the_wrong_place_is_refused():
    data = batch()
    wrong = torch.stack(data.views, dim=1)  # (n, v, c, h, w)
    with pytest.raises(ConfigError, match=r"(?i)expected"):
        build(CONFIGS[0]).double()(data._replace(views=(wrong,)))
    # unstacked along the images it is six "views" of shape (2, ...), which would mix groups
    for config in CONFIGS[:4]:
        method = build(config).double()
        for training in (False, True):
            method.train(training)
            with pytest.raises(ConfigError, match=r"6 rows.*'batch.index'.*6 views and 2 rows"):
                method(data._replace(views=tuple(wrong)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SimVEConfig(within=0.0), "'within'"),
        (lambda: SimVEConfig(between=-1.0), "'between'"),
        (lambda: BetaVAEConfig(beta=-1.0), "'beta'"),
        (lambda: CRVAEConfig(weight=math.nan), "'weight'"),
        (lambda: ImageModelConfig(latent_dim=0), "'latent_dim'"),
        (lambda: ImageModelConfig(variance=0.0), "'variance'"),
        (lambda: ImageModelConfig(likelihood="bernoulli", learn_variance=True), "to learn"),
        (
            lambda: SimVEConfig(model=ImageModelConfig(learn_variance=True), parity="head"),
            "no 'parity' with 'learn_variance', got 'head'",
        ),
        (
            lambda: SimVEConfig(within=3.0).completed(channels=1, image_size=8, views=2),
            "of at most 2",
        ),
        (lambda: SimVEConfig().prior_of(2), "'between', got none"),
        (lambda: VAEConfig().build(nn.Flatten(), width=4), "'channels' and 'image_size'"),
    ],
)
def test_bad_hyperparameters_are_refused_by_name(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_a_few_steps_lower_every_loss_and_make_reconstructions_better_than_the_mean_image():
    gen = generator(0, "dots")
    where = torch.randint(0, 64, (256,), generator=gen)
    images = torch.nn.functional.one_hot(where, 64).float().view(256, 1, 8, 8)
    images = torch.nn.functional.avg_pool2d(images, 3, 1, 1) * 9  # a 3 x 3 square somewhere
    for name, kind in KINDS.items():
        torch.manual_seed(0)
        config = kind(model=dataclasses.replace(FAST, latent_dim=8))
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        complete = config.completed(channels=1, image_size=8, views=2)
        method = complete.build(encoder, width=64).train()
        method.model.decoder = nn.Sequential(  # 1 ms a step instead of 100
            nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8))
        )
        adam = torch.optim.Adam(method.parameters(), lr=5e-3)
        losses = []
        for step in range(150):
            loss = method(Batch((images, images), torch.arange(256), step, 0)).total
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        assert sum(losses[-5:]) < sum(losses[:5]), name
        method.eval()
        with torch.no_grad():
            h = method.embed(images).representation
            drawn = method.model.likelihood(h[None]).mean[0]
        error = (drawn - images).square().mean()
        assert error < 0.8 * (images - images.mean(0)).square().mean(), name
