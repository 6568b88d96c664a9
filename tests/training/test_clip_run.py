"""A run on images with captions: the tokenizer it keeps, resuming, several processes, retrieval."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from cognates import api
from cognates.config import DataConfig, EncoderConfig, OptimiserConfig, RunConfig, TrainingConfig
from cognates.data.tokens import Tokenizer
from cognates.data.views import crop_and_flip
from cognates.errors import ConfigError, DataError, Interrupted, StorageError
from cognates.methods.clip import Clip, ClipConfig, _Projected

pytest.importorskip("tokenizers")
COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "grey": (90,) * 3}
PLACES = ("sky", "sea")


@pytest.fixture
def pairs(tmp_path):
    """40 plain pictures, 32 of them for training, and two or three captions of each."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    captions = {}
    for i in range(40):
        colour, place = list(COLOURS)[i % 4], PLACES[i // 4 % 2]
        pixels = np.full((8, 8, 3), COLOURS[colour], np.uint8)
        pixels[4 * (place == "sea") :][:4] //= 2
        name = f"{i}.png"
        Image.fromarray(pixels).save(folder / name)
        captions[name] = [f"a {colour} {place}", f"the {place} is {colour}", colour][: 2 + i % 2]
    (folder / "captions.json").write_text(json.dumps({"captions": captions}))
    return folder


@pytest.fixture
def clip_config(pairs):
    return RunConfig(
        method=ClipConfig(
            dim=8, vocabulary=280, length=8, text_width=8, text_layers=1, text_heads=2
        ),
        encoder=EncoderConfig(name="mlp", width=16),
        data=DataConfig(source=f"pairs:{pairs}", image_size=8),
        views=(crop_and_flip(8, (0.8, 1.0)),),
        optimiser=OptimiserConfig(name="adamw", learning_rate=0.3, weight_decay=0.01),
        training=TrainingConfig(epochs=2, batch_size=16, device="cpu"),
    )


def test_a_run_learns_keeps_its_tokenizer_and_finds_captions(
    clip_config, changed, pairs, tmp_path, fit
):
    out = tmp_path / "run"
    config = fit(changed(clip_config, training__epochs=30), out)
    kept = (out / "tokenizer.json").read_text(encoding="utf8")
    assert Tokenizer.from_json(kept).vocabulary <= 280
    assert (out / "model" / "tokenizer.json").read_text(encoding="utf8") == kept
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["terms"]["image_to_text"] < 0.7 * math.log(16) / 2
    assert 0.01 <= logged[-1]["extra"]["temperature"] < 1
    assert RunConfig.from_json((out / "config.json").read_text()) == config

    found = {
        (r.metric, r.subject): r.value
        for r in api.evaluate(out, only=["retrieval"])
        if r.protocol == "caption-retrieval"
    }
    assert len(found) == 2 * (3 * 3 + 2)
    assert found["image-to-text-r-at-5", "trained"] > found["image-to-text-r-at-5", "untrained"]
    assert len(list((out / "features").glob("*caption-test*.npz"))) == 2

    # Somebody's own pictures and words, in another format: the run's tokenizer reads them.
    rows = [f"{i}.png,some {list(COLOURS)[i % 4]} thing" for i in range(40)]
    (pairs / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    theirs = api.evaluate(out, f"pairs:{pairs / 'captions.csv'}", only=["caption-retrieval"])
    assert len(theirs) == 2 * (3 * 3 + 2)
    assert {r.settings["queries"] for r in theirs} == {8}
    assert (out / "results.json").read_text().count("caption-retrieval") == len(found)
    with pytest.raises(DataError, match="captions that the method reads"):
        api.evaluate(out, f"folder:{pairs}", only=["caption-retrieval"])

    model = api.load(out)
    said = model.embed_text(["a red sky", "a red sky", "the sea is blue"])
    assert said.shape == (3, 8)
    assert torch.equal(said[0], said[1])
    torch.testing.assert_close(said.norm(dim=1), torch.ones(3))
    for wrong in ("a red sky", [3]):
        with pytest.raises(DataError, match="Expected a list of captions"):
            model.embed_text(wrong)
    pixels = np.zeros((2, 3, 8, 8), np.uint8)
    seen = model.embed_paired(pixels)
    with pytest.raises(ConfigError, match="embed_text embeds the captions"):
        model.embed_paired(pixels, kind="second")
    assert seen.shape == (2, 8)
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(2))
    assert model.embed(pixels).uncertainty.shape == (2,)
    assert model.bank is not None  # of images alone: captions have no part in a score
    assert {"view-disagreement", "relative"} <= set(model.scores)
    assert model.embed(pixels, score="relative").uncertainty.isfinite().all()
    assert np.isfinite(model.percentile(np.zeros(2), score="relative")).all()

    (out / "model" / "tokenizer.json").write_text(kept.replace("red", "der"))
    with pytest.raises(StorageError, match="checksum"):
        api.load(out)


def test_two_kinds_of_image_are_paired_by_an_encoder_each(
    clip_config, changed, pairs, tmp_path, fit, monkeypatch
):
    """Colour pictures and grey ones, of which only the second encoder sees the grey."""
    config = changed(clip_config, data__source=f"folder:{pairs}", training__epochs=20)
    colour = crop_and_flip(8, (0.8, 1.0))
    config = dataclasses.replace(
        config,
        method=ClipConfig(dim=8, second="image"),
        views=(colour, dataclasses.replace(colour, grey=1.0)),
        optimiser=dataclasses.replace(config.optimiser, learning_rate=0.1),
    )
    kinds = {"first": [], "second": []}
    project, forward = Clip.project_images, _Projected.forward

    def first(self, images):
        kinds["first"].append(images)
        return project(self, images)

    def second(self, images):
        kinds["second"].append(images)
        return forward(self, images)

    monkeypatch.setattr(Clip, "project_images", first)
    monkeypatch.setattr(_Projected, "forward", second)
    out = tmp_path / "run"
    config = fit(config, out)
    assert len(kinds["first"]) == len(kinds["second"]) == 40 + 1  # one step is tried before
    assert not any(is_grey(images, config.data) for images in kinds["first"])
    assert all(is_grey(images, config.data) for images in kinds["second"])
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    # Eight kinds of picture, 32 images: log 4 / 2 is what is left at best, about.
    assert logged[-1]["terms"]["first_to_second"] < 0.9 * math.log(16) / 2
    assert not (out / "tokenizer.json").exists()
    model = api.load(out)
    assert model.embed(np.zeros((2, 3, 8, 8), np.uint8)).representation.shape == (2, 16)
    with pytest.raises(ConfigError, match="reads captions"):
        model.embed_text(["a red sky"])
    check_both_kinds(model, config)
    check_kinds_are_found(out)


def check_both_kinds(model, config):
    """Both encoders are reached, each with its kind of image, and agree on which is which."""
    pixels = np.stack([plain(colour, i) for colour in COLOURS for i in range(2)])
    sides = {kind: model.embed_paired(pixels, kind=kind) for kind in ("first", "second")}
    assert torch.equal(model.embed_paired(pixels), sides["first"])
    for side in sides.values():
        assert side.shape == (8, 8)
        assert side.dtype == torch.float32
        torch.testing.assert_close(side.norm(dim=1), torch.ones(8))
    assert not torch.allclose(sides["first"], sides["second"], atol=0.01)
    mean, std = (torch.tensor(x)[:, None, None] for x in (config.data.mean, config.data.std))
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # of ITU-R BT.601
    colour = torch.from_numpy(pixels) / 255
    grey = (colour * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    with torch.no_grad():
        want = {
            "first": model.method.project_images((colour - mean) / std),
            "second": model.method.second((grey - mean) / std),
        }
    for kind, z in want.items():
        unit = torch.nn.functional.normalize(z, dim=1)
        torch.testing.assert_close(sides[kind], unit, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="'first' or 'second', got 'grey'"):
        model.embed_paired(pixels, kind="grey")
    with pytest.raises(DataError, match="at least one image"):
        model.embed_paired([], kind="second")


def check_kinds_are_found(out):
    every = api.evaluate(out, only=["retrieval"])
    assert {r.protocol for r in every} == {"view-retrieval", "kind-retrieval"}
    found = {(r.metric, r.subject): r for r in every if r.protocol == "kind-retrieval"}
    assert len(found) == 2 * (3 * 5 + 3)
    for direction in ("first-to-second", "second-to-first"):
        r = found[f"{direction}-r-at-5", "trained"]
        assert r.value > r.settings["chance"] == pytest.approx(5 / 8)
    assert (out / "results.json").read_text().count('"kind-retrieval"') == len(found)


def plain(colour, place):
    pixels = np.full((3, 8, 8), np.reshape(COLOURS[colour], (3, 1, 1)), np.uint8)
    pixels[:, 4 * place :][:, :4] //= 2
    return pixels


def is_grey(images, data):
    """Return whether normalised images have no colour."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (data.mean, data.std))
    pixels = images * std + mean
    return bool((pixels.amax(1) - pixels.amin(1)).max() < 1e-5)


@pytest.mark.parametrize("captions", [1, 2])
def test_a_resumed_run_reads_the_captions_of_the_undisturbed_one(
    captions, clip_config, changed, tmp_path, fit, stop_at, assert_same_weights
):
    omitted = 0.2 * (captions - 1)
    clip_config = changed(clip_config, method__captions=captions, method__omitted=omitted)
    fit(clip_config, tmp_path / "whole")
    stop_at(3)
    with pytest.raises(Interrupted):
        fit(clip_config, tmp_path / "part")
    stop_at(1000)
    fit(clip_config, tmp_path / "part", resume=True)
    assert_same_weights(tmp_path / "part", tmp_path / "whole")


def test_without_captions_the_run_is_refused_before_a_folder_exists(config, tmp_path, fit):
    config = dataclasses.replace(config, method=ClipConfig(dim=8))
    with pytest.raises(ConfigError, match="pairs:DIR"):
        fit(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_single_pair_asks_for_more_and_not_for_a_smaller_batch(
    clip_config, changed, pairs, tmp_path, fit
):
    (pairs / "captions.json").write_text(json.dumps({"captions": {"0.png": ["a red sky"]}}))
    with pytest.raises(ConfigError, match="got 1: give more images"):
        fit(changed(clip_config, training__batch_size=2), tmp_path / "run")
