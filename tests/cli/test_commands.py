import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cognates import load
from cognates.cli.main import COMMANDS, main


def test_a_run_directory_holds_what_the_house_says(run):
    names = {path.name for path in run.iterdir()}
    for name in (
        *("config.json", "environment.json", "metrics.jsonl", "log.txt", "checkpoint", "model"),
        *("data.json", "unreadable.txt", "results.json", "gallery.npz", "features"),
    ):
        assert name in names, name
    summary = json.loads((run / "data.json").read_text())
    assert summary["splits"] == {"train": {"images": 96}, "test": {"images": 40}}
    config = json.loads((run / "config.json").read_text())
    assert config["method"]["dim"] == 16
    assert config["data"]["channels"] == 1
    assert config["views"][0]["hue"] == 0.0  # views of grey arrays change no colour


def test_a_configuration_repeats_a_run_exactly(run, tmp_path, capsys):
    out = tmp_path / "again"
    assert main(["train", "--config", str(run / "config.json"), "--out", str(out)]) == 0
    assert (out / "config.json").read_text() == (run / "config.json").read_text()
    weights = "model/weights.safetensors"
    assert (out / weights).read_bytes() == (run / weights).read_bytes()
    assert "Next: cognates evaluate" in capsys.readouterr().out


def test_seeds_repeat_a_run_and_the_report_groups_them(source, small, tmp_path, capsys):
    out = tmp_path / "many"
    arguments = ["train", "simsiam", "--data", source, "--out", str(out), *small]
    assert main([*arguments, "--seeds", "3", "4"]) == 0
    runs = sorted(map(str, out.iterdir()))
    assert [Path(run).name for run in runs] == ["seed3", "seed4"]
    seeds = [json.loads((Path(r) / "config.json").read_text())["training"]["seed"] for r in runs]
    assert seeds == [3, 4]
    page = out / "report.html"
    assert main(["report", *runs, "--out", str(page)]) == 0
    assert "2 runs of one configuration" in page.read_text(encoding="utf8")
    # a pattern now names the page as well
    assert main(["report", *map(str, out.iterdir()), "--out", str(page)]) == 0


def test_the_command_named_after_several_seeds_can_be_run(tmp_path, capsys, monkeypatch):
    from cognates import api

    monkeypatch.setattr(api, "train", lambda **options: api.Run(Path(options["out"]), None))
    out = tmp_path / "my runs"
    assert main(["train", "simsiam", "--out", str(out), "--seeds", "3", "4"]) == 0
    said = capsys.readouterr().out.strip().splitlines()[-1]
    pattern, page = re.fullmatch(r".*, then cognates report (.+) --out (.+)", said).groups()
    assert pattern == f"'{out}'/seed*"
    assert page == f"'{out}'/report.html"


def test_evaluate_fails_when_every_protocol_fails(run, capsys, monkeypatch):
    from cognates import api
    from cognates.types import Result

    failed = Result(
        protocol="knn", metric="", value=math.nan, low=None, high=None, n=4, error="out of memory."
    )
    monkeypatch.setattr(api, "evaluate", lambda *_, **__: [failed])
    assert main(["evaluate", str(run), "--quiet"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: Every protocol failed, the first with: out of memory.\n"
    good = Result(protocol="spread", metric="spread", value=0.5, low=None, high=None, n=4)
    monkeypatch.setattr(api, "evaluate", lambda *_, **__: [failed, good])
    assert main(["evaluate", str(run), "--quiet"]) == 0


def test_evaluate_prints_every_subject(run, capsys):
    assert main(["evaluate", str(run), "--only", "knn", "spread", "--quiet"]) == 0
    assert main(["evaluate", str(run), "--only", "knn"]) == 0
    out = capsys.readouterr().out
    for word in ("trained", "untrained", "pixels", "knn, accuracy"):
        assert word in out, word
    kept = {row["protocol"] for row in json.loads((run / "results.json").read_text())}
    assert {"knn", "linear", "deciles", "view-retrieval"} <= kept


def test_evaluating_another_source_leaves_the_runs_own_results_alone(run, tmp_path, source):
    before = (run / "results.json").read_bytes()
    folder = Path(source.removeprefix("npz:"))
    shutil.copytree(folder, tmp_path / "other")
    data = f"npz:{tmp_path / 'other'}"
    assert main(["evaluate", str(run), "--data", data, "--only", "knn", "--quiet"]) == 0
    assert (run / "results.json").read_bytes() == before
    assert len(list(run.glob("results-other-*.json"))) == 1


def test_without_labels_evaluate_says_so_and_succeeds(run, tmp_path, source, capsys):
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for name in ("train", "test"):
        with np.load(Path(source.removeprefix("npz:")) / f"{name}.npz") as arrays:
            np.savez(folder / f"{name}.npz", images=arrays["images"])
    assert main(["evaluate", str(run), "--data", f"npz:{folder}"]) == 0
    said = capsys.readouterr()
    assert "no labels" in said.err
    assert "view-retrieval" in said.out
    assert "linear, accuracy" not in said.out


def test_embed_writes_parquet_and_the_least_certain_files(run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    generator = np.random.default_rng(0)
    for number, (width, height) in enumerate([(8, 8), (40, 20), (1, 1), (9, 33)]):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    out = tmp_path / "out" / "photos.parquet"
    arguments = ["embed", str(run), "--data", f"folder:{photos}", "--out", str(out), "--quiet"]
    assert main(arguments) == 0
    table = pq.read_table(out)
    assert table.column_names == ["path", "uncertainty", "percentile", "representation"]
    assert table["path"].to_pylist() == ["0.png", "1.png", "2.png", "3.png"]
    assert str(table.schema.field("representation").type).startswith("fixed_size_list")
    model = load(run)
    paths = [photos / f"{number}.png" for number in range(4)]
    expected = model.embed(paths)
    np.testing.assert_allclose(
        table["representation"].to_pylist(), expected.representation.numpy(), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(table["uncertainty"].to_pylist(), expected.uncertainty, rtol=1e-6)
    with (tmp_path / "out" / "photos-least-certain.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert sorted(row["path"] for row in rows) == table["path"].to_pylist()
    shown = [float(row["uncertainty"]) for row in rows]
    assert shown == sorted(shown, reverse=True)
    assert not list((tmp_path / "out").glob(".*"))


def test_embed_of_a_folder_with_splits_takes_every_image_and_no_label_for_those_outside(
    run, tmp_path, monkeypatch
):
    from cognates.cli import embed

    monkeypatch.setattr(embed, "_BATCH", 2)  # one batch has no label at all
    paths = [
        *("cover.png", "extra/1.png", "extra/2.png", "test/a/1.png", "test/b/1.png"),
        *("train/a/1.png", "train/b/1.png"),
    ]
    for number, path in enumerate(paths):
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), 30 * number).save(tmp_path / "photos" / path)
    out = tmp_path / "photos.parquet"
    source = f"folder:{tmp_path / 'photos'}"
    assert main(["embed", str(run), "--data", source, "--out", str(out), "--quiet"]) == 0
    table = pq.read_table(out)
    assert table["path"].to_pylist() == paths
    assert table["label"].to_pylist() == [None, None, None, "a", "b", "a", "b"]
    assert len(load(run).embed(source).uncertainty) == 7
    with (tmp_path / "photos-least-certain.csv").open() as file:
        rows = {row["path"]: row["label"] for row in csv.DictReader(file)}
    assert rows["cover.png"] == ""
    assert rows["train/b/1.png"] == "b"


def test_embed_of_arrays_has_index_and_label(run, source, tmp_path):
    out = tmp_path / "arrays.parquet"
    assert main(["embed", str(run), "--data", source, "--out", str(out)]) == 0
    table = pq.read_table(out)
    assert table.column_names == ["index", "label", "uncertainty", "percentile", "representation"]
    assert table["index"].to_pylist() == list(range(136))
    percentile = np.array(table["percentile"].to_pylist())
    assert percentile.min() >= 0
    assert percentile.max() <= 100


def test_report_of_one_run_goes_into_its_folder(run, capsys):
    assert main(["report", str(run)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == run / "report.html"
    assert "Linear probe" in path.read_text(encoding="utf8")


def test_methods_lists_and_describes(capsys):
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    assert "vi-simsiam" in listed
    assert "concentration" in listed
    assert "view-disagreement" in listed
    assert main(["methods", "vi-simsiam"]) == 0
    described = capsys.readouterr().out
    assert "arxiv.org/abs/2203.11437" in described
    assert "per_dimension = True" in described
    assert "keeps SimSiam's learning rates" in described


def test_data_describes_a_source(source, capsys):
    assert main(["data", source]) == 0
    out = capsys.readouterr().out
    for text in ("136", "8 px", "train", "96 images in 2 classes", "unreadable"):
        assert text in out, text


def test_doctor_trains_ten_steps(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "torch" in out
    assert "ten steps trained, saved, loaded" in out


def test_export_to_torchvision_needs_a_resnet(run, tmp_path, fails):
    out = tmp_path / "weights.pth"
    said = fails("export", run, "--to", "torchvision", "--out", out)
    assert "ResNet" in said
    assert not out.exists()


def test_export_writes_the_names_that_torchvision_knows(source, tmp_path):
    import torch

    run, out = tmp_path / "run", tmp_path / "weights.pth"
    folder = tmp_path / "rgb"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in ("train", "test"):
        pixels = generator.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=pixels)
    assert (
        main(
            [
                *("train", "simsiam", "--data", f"npz:{folder}", "--out", str(run)),
                *("--encoder", "resnet18", "--epochs", "1", "--batch-size", "8", "--quiet"),
                *("--set", "encoder.stem=standard", "method.dim=8", "method.hidden=8"),
            ]
        )
        == 0
    )
    assert main(["export", str(run), "--to", "torchvision", "--out", str(out)]) == 0
    state = torch.load(out, weights_only=True)
    assert len(state) == 120
    assert state["conv1.weight"].shape == (64, 3, 7, 7)


def test_the_help_of_every_command_is_short_and_exits_with_0(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert len(COMMANDS) == 15
    for name in COMMANDS:
        assert name in overview
        assert main([name, "--help"]) == 0
        assert f"usage: cognates {name}" in capsys.readouterr().out


def test_the_help_of_train_names_every_recipe_and_what_a_method_that_draws_images_needs(capsys):
    from cognates.recipes import RECIPES

    assert main(["train", "--help"]) == 0
    words = set(re.findall(r"[a-z][\w-]*", capsys.readouterr().out))
    assert len(RECIPES) == 13
    assert {*RECIPES, "vae-convnet", "vae-mlp", "vae-resnet"} <= words


def test_the_overview_says_what_each_command_says_of_itself():
    import importlib

    for name, sentence in COMMANDS.items():
        command = importlib.import_module(f"cognates.cli.{name.replace('-', '_')}").Command
        assert command.__doc__.splitlines()[0] == sentence


@pytest.mark.parametrize("epochs", ["1"])
def test_the_demo_replaces_only_an_earlier_demo(tmp_path, epochs, run, fails):
    from cognates.cli.demo import clear

    other = tmp_path / "other"
    shutil.copytree(run, other)
    assert "another run" in fails("demo", "--out", other, "--epochs", epochs)
    assert (other / "model").is_dir()
    config = json.loads((other / "config.json").read_text())
    config["data"]["source"] = "fashion-mnist-mini"
    (other / "config.json").write_text(json.dumps(config))
    (other / "notes.txt").write_text("mine")
    clear(other)
    assert [path.name for path in other.iterdir()] == ["notes.txt"]
