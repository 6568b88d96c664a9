"""Terms of several objectives on one encoder: their sum, names, heads and weights."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from cognates.config import RunConfig, decode, encode
from cognates.errors import ConfigError
from cognates.kernels import imq
from cognates.methods.base import MethodConfig
from cognates.methods.combined import CombinedConfig, Weights
from cognates.methods.simclr import SimClrConfig
from cognates.methods.simsiam import SimSiamConfig
from cognates.methods.vicreg import VicRegConfig
from cognates.objectives import ssl_hsic
from cognates.objectives.dependence import unit_rows
from cognates.recipes import resolve
from cognates.testing import check_method
from cognates.types import Batch

PAGE = Path(__file__).parents[2] / "docs" / "combining.md"
NAMES = [field.name for field in dataclasses.fields(Weights)]
F64 = torch.float64


def only(**weights):
    return Weights(**{**dict.fromkeys(NAMES, 0.0), **weights})


def build(config):
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(32, 9), nn.Tanh(), nn.Linear(9, 5))
    complete = config.completed(channels=2, image_size=4, views=2)
    return complete.build(encoder, width=5).double().train()


def combined(weights, **settings):
    small = {"dim": 6, "hidden": 7, "predictor_hidden": 3, "decoder": "mlp", **settings}
    return build(CombinedConfig(weights=weights, **small))


def batch(views=2, n=8, size=4):
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(views, n, 2, size, size, dtype=F64, generator=draw)
    return Batch(views=tuple(images), index=torch.arange(n), step=0, seed=0)


def gradients(method, data):
    loss = method(data)
    loss.total.backward()
    return loss, {n: p.grad for n, p in method.named_parameters() if p.grad is not None}


def project(method, data):
    return torch.stack([method.projector(method.encoder(view)) for view in data.views])


def test_there_are_nine_terms_and_the_page_names_each():
    assert len(NAMES) == 9
    page = PAGE.read_text(encoding="utf8")
    assert all(f"`{name}`" in page for name in NAMES)


@pytest.mark.parametrize("views", [2, 3])
def test_the_cosine_alone_is_simsiam_with_its_gradients(views):
    plain, data = SimSiamConfig(dim=6, hidden=7, predictor_hidden=3), batch(views)
    wanted, expected = gradients(build(plain), data)
    loss, found = gradients(combined(only(cosine=1.0)), data)
    assert loss.terms.keys() == {"cosine"}
    assert torch.equal(loss.total, wanted.total)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (SimClrConfig(dim=6, hidden=7, layers=3), {"nce_alignment": 1.0, "nce_uniformity": 1.0}),
        (
            VicRegConfig(dim=6, hidden=7),
            {"vicreg_invariance": 25.0, "vicreg_variance": 25.0, "vicreg_covariance": 1.0},
        ),
    ],
)
def test_the_terms_of_one_paper_with_its_weights_are_its_method(config, weights):
    data = batch(3)
    wanted, expected = gradients(build(config), data)
    loss, found = gradients(combined(only(**weights)), data)
    assert loss.terms.keys() == weights.keys()
    torch.testing.assert_close(loss.total, wanted.total, rtol=1e-12, atol=0)
    named = sorted(found, key=lambda name: name.partition(".")[2])
    others = sorted(expected, key=lambda name: name.partition(".")[2])
    assert len(named) == len(others) > 8
    for one, two in zip(named, others, strict=True):  # the heads have other names
        torch.testing.assert_close(found[one], expected[two], rtol=1e-9, atol=1e-12)


def test_the_terms_of_ssl_hsic_are_those_of_the_objective_on_unit_rows():
    method, data = combined(only(hsic_dependence=1.0, hsic_variance=3.0)), batch()
    z = unit_rows(project(method, data))
    wanted = ssl_hsic(z, kernel=imq(1.0), gamma=3.0)
    terms = method(data).terms
    assert terms.keys() == {"hsic_dependence", "hsic_variance"}
    for name, value in wanted.items():
        torch.testing.assert_close(terms[f"hsic_{name}"], value, rtol=1e-12, atol=0)


def test_the_decoder_draws_every_view_from_its_representation():
    method, data = combined(only(cosine=1.0, decoder=0.5)), batch(3)
    errors = [(method.decoder(method.encoder(view)) - view).square().mean() for view in data.views]
    expected = 0.5 * sum(errors) / 3
    torch.testing.assert_close(method(data).terms["decoder"], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_scales_its_own_term_and_no_other(name):
    one = Weights(**dict.fromkeys(NAMES, 1.0))
    more = dataclasses.replace(one, **{name: 2.5})
    before, after = (combined(weights)(batch()).terms for weights in (one, more))
    assert list(before) == list(after) == NAMES
    for other, value in before.items():
        factor = 2.5 if other == name else 1.0
        torch.testing.assert_close(after[other], factor * value, rtol=1e-12, atol=0)


def test_a_term_of_weight_0_is_not_logged_and_its_heads_are_not_made():
    method = combined(only(hsic_dependence=1.0))
    assert method.predictor is None
    assert method.decoder is None
    assert method(batch()).terms.keys() == {"hsic_dependence"}
    # the last layer is linear: no batch norm holds the spread of the projections
    assert isinstance(method.projector[-1], nn.Linear)


@pytest.mark.ddp
@pytest.mark.parametrize("views", [2, 3])
def test_the_standard_tests_hold_with_every_term_and_three_views(views):
    weights = Weights(**dict.fromkeys(NAMES, 0.5))
    small = {"dim": 6, "hidden": 7, "predictor_hidden": 3, "decoder": "mlp"}
    check_method(CombinedConfig(weights=weights, **small), views=views)


def test_a_finished_method_keeps_no_decoder_and_embeds_as_before():
    method = combined(Weights()).eval()
    images = batch().views[0]
    before = method.embed(images).representation
    method.finish()
    assert not any("decoder" in name or "predictor" in name for name in method.state_dict())
    assert torch.equal(method.embed(images).representation, before)


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
def test_a_weight_that_is_negative_or_not_finite_is_refused(weight):
    with pytest.raises(ConfigError, match="Expected the weight 'hsic_variance' of at least 0"):
        Weights(hsic_variance=weight)


def test_a_decoder_alone_shares_nothing_between_views_and_is_refused():
    with pytest.raises(ConfigError, match=r"at least one of cosine, .* train 'vae'"):
        only(decoder=1.0)


def test_an_unknown_term_is_an_error_that_names_the_nearest_one():
    record = encode(CombinedConfig())
    assert decode(MethodConfig, record, "method") == CombinedConfig()
    record["weights"]["hsic_varience"] = 0.1
    with pytest.raises(ConfigError, match=r"Unknown field 'hsic_varience' .*hsic_variance"):
        decode(MethodConfig, record, "method")


def test_views_of_another_size_than_the_decoder_draws_are_refused():
    method, data = combined(Weights()), batch()
    small = torch.zeros(8, 2, 3, 3, dtype=F64)
    method.encoder = nn.Sequential(nn.AdaptiveAvgPool2d(4), method.encoder)
    with pytest.raises(ConfigError, match="give all views one size"):
        method(data._replace(views=(data.views[0], small)))
    with pytest.raises(ConfigError, match="Expected the decoder's 'channels'"):
        CombinedConfig().build(nn.Identity(), width=5)


def test_one_image_is_too_few():
    with pytest.raises(ConfigError, match="at least two images"):
        CombinedConfig().require_images(1)


def test_the_command_of_the_page_gives_the_weights_that_it_says():
    page = PAGE.read_text(encoding="utf8")
    command = page.partition("```sh\n")[2].partition("```")[0].replace("\\\n", " ")
    words = shlex.split(command.splitlines()[0])
    assert words[:5] == [".venv/bin/cognates", "train", "combined", "--data", "fashion-mnist-mini"]
    settings = [word for word in words if "=" in word]
    assert len(settings) == 3
    config = resolve("combined", data=words[4], settings=settings)
    assert config.method.weights == only(cosine=1.0, hsic_variance=0.1, decoder=0.5)
    assert RunConfig.from_json(config.to_json()) == config
