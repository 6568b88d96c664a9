"""The variational terms at each epoch's end: what is read, and that reading changes nothing."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from cognates.evaluation.features import view_pair
from cognates.evaluation.theory import fitted_concentration, view_terms
from cognates.training import prepare, theory


@pytest.fixture
def reads_all(monkeypatch):
    monkeypatch.setattr(theory, "SHARE", 1)


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_epoch_ends_with_the_terms_and_the_weights_are_those_without(
    config, tmp_path, fit, assert_same_weights, monkeypatch
):
    fit(config, tmp_path / "without")
    assert not any("theory" in line for line in lines(tmp_path / "without"))  # 64 images: too few
    monkeypatch.setattr(theory, "SHARE", 1)
    fit(config, tmp_path / "with")
    assert_same_weights(tmp_path / "with", tmp_path / "without")
    ends = [line for line in lines(tmp_path / "with") if "theory" in line]
    assert [line["step"] for line in ends] == [4, 8, 12, 16]
    for line in ends:
        assert set(line["theory"]) == {"j-align", "j-uniform", "j", "concentration"}
        assert line["theory"]["j"] <= np.log(32)
    values = [line["theory"]["j-align"] for line in ends]
    assert len(set(values)) == 4


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_the_reading_is_the_protocols_of_other_images_than_those_it_fits(
    config, reads_all, precision
):
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, mean=(0.5,), std=(0.25,))
    )
    images = prepare.load_images(config)
    method = prepare.build_method(config).to(precision)
    method.train()
    method.concentration.eval()  # a part that stays in eval mode stays so
    monitor = theory.TheoryMonitor(config, images, device=torch.device("cpu"))
    found = monitor.read(method)["theory"]
    modes = {name: part.training for name, part in method.named_modules()}
    assert modes["encoder"]
    assert not modes["concentration"]
    pair = view_pair(
        method.float().eval(), images, views=config.views, size=8, mean=(0.5,), std=(0.25,),
    )  # fmt: skip
    z = torch.from_numpy(np.stack([side.representation for side in pair]))
    kappa = fitted_concentration(z[:, ::2])
    want = view_terms(z[:, 1::2], kappa) | {"concentration": kappa}
    # the images are those of the run's seed, all of them here: their order is kept
    assert found == pytest.approx(want, rel=1e-5)
    assert monitor.read(method)["theory"] == pytest.approx(found, rel=1e-5)


def test_sets_of_a_few_images_are_not_read(config, monkeypatch):
    images = prepare.load_images(config)
    assert len(images) == 64
    monitor = theory.TheoryMonitor(config, images, device=torch.device("cpu"))
    assert monitor.read(torch.nn.Identity()) == {}
    # at least every 60th image, at most 256: under 1 % of an epoch's passes
    assert theory.LEAST * theory.SHARE == 1920
    assert 1 / (3 * theory.SHARE) < 0.01
