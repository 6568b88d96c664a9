"""An uncertainty for any encoder: runs, names, modules, functions; saved as any other run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import cognates
from cognates.cli.main import main
from cognates.errors import ConfigError
from tests.small import write_colour

FAST = {"epochs": 2, "batch_size": 16, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGNATES_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("colour")
        write_colour(folder)
        yield f"npz:{folder}"


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    return cognates.train(
        "simsiam", data=source, out=tmp_path_factory.mktemp("runs") / "simsiam", encoder="mlp",
        epochs=1, batch_size=16, device="cpu", progress=False,
        settings=("method.dim=16", "method.hidden=16", "method.predictor_hidden=8",
                  "encoder.width=24"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("fitted") / "sure"
    return out, cognates.fit_uncertainty(trained, out=out, **FAST)


def pixels(n=6, size=12):
    return np.random.default_rng(1).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


def encoder():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )  # fmt: skip


def test_the_representation_is_that_of_the_run_and_the_uncertainty_is_new(trained, fitted):
    _, model = fitted
    before, after = trained.load().embed(pixels()), model.embed(pixels(), score="concentration")
    assert torch.equal(before.representation, after.representation)
    assert model.default_score == "distance-ratio"
    assert model.own_score == "concentration"
    assert ((after.uncertainty > 0) & (after.uncertainty <= 1)).all()
    assert not torch.equal(before.uncertainty, after.uncertainty)
    weights = load_file(trained.path / "model" / "weights.safetensors")
    kept = load_file(fitted[0] / "model" / "weights.safetensors")
    names = [name for name in weights if name.startswith("encoder.")]
    assert len(names) > 10
    assert all(torch.equal(weights[name], kept[name]) for name in names)


def test_the_result_is_a_run_like_any_other_without_the_first_one(fitted, tmp_path, capsys):
    out, model = fitted
    copy = shutil.copytree(out, tmp_path / "sure")
    again = cognates.load(copy).embed(pixels())
    assert all(torch.equal(a, b) for a, b in zip(again, model.embed(pixels()), strict=True))
    assert model.percentile(again.uncertainty).min() >= 0
    results = cognates.evaluate(copy, only=["knn", "auroc-error"], device="cpu", grid=1)
    assert any(r.metric == "knn/concentration" and r.error is None for r in results)
    table = tmp_path / "table.parquet"
    source = json.loads((copy / "config.json").read_text())["data"]["source"]
    assert main(["embed", str(copy), "--data", source, "--out", str(table), "--quiet"]) == 0
    assert main(["report", str(copy)]) == 0
    page = (copy / "report.html").read_text(encoding="utf8")
    assert "Post-hoc" in page
    assert "concentration" in page
    capsys.readouterr()
    names = {path.name for path in copy.iterdir()}
    assert names >= {"config.json", "environment.json", "metrics.jsonl", "log.txt", "data.json"}
    # Nothing that is read back is a pickle.
    assert {path.suffix for path in (copy / "model").iterdir()} == {".json", ".safetensors"}


def test_the_record_says_where_the_encoder_and_the_views_come_from(trained, fitted):
    config = json.loads((fitted[0] / "config.json").read_text())
    own = json.loads((trained.path / "config.json").read_text())
    assert config["method"]["name"] == "post-hoc"
    assert config["encoder"] == {**own["encoder"], "init": str(trained.path.resolve())}
    assert config["data"] == own["data"]
    assert config["views"] == [own["views"][0], own["views"][1]] * 2
    lines = [json.loads(line) for line in (fitted[0] / "metrics.jsonl").read_text().splitlines()]
    held = [line["extra"]["held_out"] for line in lines if "held_out" in line["extra"]]
    assert len(held) == 2  # one per epoch
    assert len(list((fitted[0] / "features").glob("views-train-*.npy"))) == 1


def test_a_fit_is_a_function_of_the_seed_and_reuses_the_views(trained, fitted, tmp_path):
    out, model = fitted
    expected = model.embed(pixels(), score="concentration").uncertainty
    cached = {"features": out / "features"}
    stamps = [p.stat().st_mtime_ns for p in (out / "features").glob("views-*")]
    same = cognates.fit_uncertainty(trained.path, **cached, **FAST)
    assert torch.equal(same.embed(pixels(), score="concentration").uncertainty, expected)
    assert stamps == [p.stat().st_mtime_ns for p in (out / "features").glob("views-*")]
    other = cognates.fit_uncertainty(str(trained.path), seed=1, out=tmp_path / "other", **FAST)
    assert not torch.equal(other.embed(pixels(), score="concentration").uncertainty, expected)


def test_the_head_is_that_of_the_best_epoch_on_images_held_out(source, tmp_path):
    from cognates.training.head import split

    kept, held = split(64, seed=0)
    assert (len(kept), len(held)) == (58, 6)
    out = tmp_path / "run"
    # A rate at which a head learns its few images by heart.
    cognates.fit_uncertainty(
        encoder(), data=source, out=out, learning_rate=3.0, **{**FAST, "epochs": 6}
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["extra"]["held_out"] for line in lines if "held_out" in line["extra"]]
    assert len(losses) == 6
    assert (
        f"{min(losses):.4f} nats per dimension at the best epoch" in (out / "log.txt").read_text()
    )


def test_modules_and_functions_get_an_uncertainty_and_only_what_can_be_read_back_is_saved(
    source, tmp_path
):
    module = encoder()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    model = cognates.fit_uncertainty(module, data=source, out=tmp_path / "module", **FAST)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    back = cognates.load(tmp_path / "module", encoder=module)
    for a, b in zip(model.embed(pixels()), back.embed(pixels()), strict=True):
        assert torch.equal(a, b)

    def function(images):
        return module.eval()(images)

    called = cognates.fit_uncertainty(function, data=source, **FAST)
    for a, b in zip(model.embed(pixels()), called.embed(pixels()), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ConfigError, match="an encoder that a run can keep, got a function"):
        cognates.fit_uncertainty(function, data=source, out=tmp_path / "function", **FAST)
    assert not (tmp_path / "function").exists()


def test_a_network_of_timm_is_saved_and_loaded(source, tmp_path, torchvision):
    assert torchvision is not None
    pytest.importorskip("timm")
    out = tmp_path / "timm"
    name = "timm:test_resnet.r160_in1k"  # timm's own tiny network; its weights are random here
    model = cognates.fit_uncertainty(name, data=source, out=out, **{**FAST, "epochs": 1})
    back = cognates.load(out).embed(pixels())
    assert torch.equal(model.embed(pixels()).uncertainty, back.uncertainty)
    assert back.uncertainty.unique().numel() == 6


def test_the_command_fits_and_says_what_comes_next(trained, tmp_path, capsys):
    out = tmp_path / "run"
    rest = ["--epochs", "1", "--batch-size", "16", "--views", "2", "--device", "cpu"]
    assert main(["fit-uncertainty", str(trained.path), "--out", str(out), *rest]) == 0
    said = capsys.readouterr()
    assert f"Next: cognates evaluate {out}" in said.out
    assert "2 views of 64 of 64 images embedded" in said.err
    assert (out / "model" / "model.json").is_file()
    assert main(["fit-uncertainty", str(trained.path), "--out", str(out), *rest]) == 2
    assert "Expected a folder without a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        ("run", {"views": 1}, "at least 2 views"),
        ("run", {"image_size": 8}, "which has its own"),
        ("run", {"init": "weights.pth"}, "which has its own"),
        ("run", {"settings": ("method.dim=3",)}, "Unknown field 'dim'"),
        ("run", {"settings": ("training.accumulate=2",)}, "whole batches"),
        ("convnext", {}, "did you mean 'convnet'"),
        ("nowhere/run", {}, "Expected a known encoder"),
        (3, {}, "Expected a run, the name of an encoder, a module or a function, got a int"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    trained, source, tmp_path, given, options, sentence
):
    encoder = trained if given == "run" else given
    data = None if given == "run" else source
    with pytest.raises(ConfigError, match=sentence):
        cognates.fit_uncertainty(encoder, data=data, out=tmp_path / "out", **FAST, **options)
    assert not (tmp_path / "out").exists()
