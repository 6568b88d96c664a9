"""What a user does in several commands: train on, share a batch, live with unreadable files."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file

from cognates.cli.main import main


def test_init_starts_from_an_earlier_run_and_refuses_another_encoder(
    run, source, small, tmp_path, fails
):
    out = tmp_path / "on"
    arguments = ["train", "vi-simsiam", "--data", source, *small]
    still = ["optimiser.weight_decay=0", "training.seed=5"]
    init = ["--init", str(run)]
    assert main([*arguments, *still, *init, "--learning-rate", "1e-12", "--out", str(out)]) == 0
    recorded = json.loads((out / "config.json").read_text())["encoder"]["init"]
    assert recorded == str(run.resolve())
    first, on = (load_file(each / "model" / "weights.safetensors") for each in (run, out))
    encoder = [name for name in on if name.startswith("encoder.") and on[name].is_floating_point()]
    trained = [name for name in encoder if name.endswith(("weight", "bias"))]
    assert len(trained) > 3
    for name in trained:
        np.testing.assert_allclose(on[name], first[name], rtol=0, atol=1e-6)
    # The heads are another seed's.
    heads = [name for name in on if name.startswith("projector") and on[name].ndim == 2]
    assert all(not np.allclose(on[name], first[name], atol=1e-3) for name in heads)
    assert heads

    other = tmp_path / "other"
    said = fails(*arguments, "encoder.width=24", *init, "--out", other)
    assert "the width that the file was made with" in said
    said = fails(*arguments, "--init", tmp_path / "nowhere.pth", "--out", other)
    assert "nowhere.pth" in said
    assert not other.exists()


@pytest.mark.ddp
def test_two_devices_train_what_one_does(source, small, tmp_path, capfd):
    losses = []
    for devices in ("1", "2"):
        out = tmp_path / devices
        arguments = ["train", "vi-simsiam", "--data", source, "--out", str(out), *small]
        assert main([*arguments, "--precision", "64-true", "--devices", devices]) == 0
        lines = (out / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        assert (out / "model" / "model.json").is_file()
    assert capfd.readouterr() == ("", "")
    assert json.loads((out / "environment.json").read_text())["devices"] == 2
    assert len(losses[0]) == 1
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-9)
    assert main(["evaluate", str(out), "--only", "knn", "--quiet"]) == 0


def test_a_batch_that_two_devices_cannot_share_is_refused(source, small, tmp_path, fails):
    out = tmp_path / "run"
    arguments = ["train", "vi-simsiam", "--data", source, "--out", out, *small]
    assert "divisible" in fails(*arguments, "--devices", "3")
    assert not out.exists()


@pytest.fixture
def damaged(tmp_path):
    """Return a folder of 20 + 12 images, 2 + 1 of which cannot be read, and those three."""
    generator = np.random.default_rng(0)
    root, broken = tmp_path / "photos", ["train/a/0.png", "train/b/1.png", "test/a/2.png"]
    for split, n in (("train", 20), ("test", 12)):
        for i in range(n):
            path = root / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    for path in broken:
        (root / path).write_bytes(b"not an image")
    return f"folder:{root}", broken


@pytest.mark.filterwarnings("default::cognates.errors.UnreadableWarning")
def test_unreadable_files_are_counted_and_their_list_is_named_in_every_command(
    damaged, small, tmp_path, capsys
):
    source, broken = damaged
    out = tmp_path / "run"
    options = [option for option in small if option != "--quiet"]
    options[options.index("--batch-size") + 1] = "8"
    arguments = ["train", "vi-simsiam", "--data", source, "--out", str(out), "--image-size", "8"]
    assert main([*arguments, *options]) == 0
    listed = out / "unreadable.txt"
    sentence = f"Left out, because unreadable: 3 files, listed in {listed}"
    assert sentence in capsys.readouterr().out
    names = [line.split("\t")[0] for line in listed.read_text().splitlines()]
    assert sorted(names) == sorted(broken)

    assert main(["evaluate", str(out), "--only", "knn", "spread", "--grid", "2"]) == 0
    assert sentence in capsys.readouterr().err

    table = tmp_path / "photos.parquet"
    assert main(["embed", str(out), "--data", source, "--out", str(table)]) == 0
    kept = tmp_path / "photos-unreadable.txt"
    assert f"3 files, listed in {kept}" in capsys.readouterr().out
    assert sorted(line.split("\t")[0] for line in kept.read_text().splitlines()) == sorted(broken)
    embedded = pq.read_table(table)["path"].to_pylist()
    assert len(embedded) == 29
    assert not set(embedded) & set(broken)

    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf8")
    assert "3 unreadable files left out, listed in unreadable.txt" in page
    assert all(path in page for path in broken)


def test_too_many_unreadable_files_are_an_error_for_training_and_embedding(
    damaged, run, small, tmp_path, fails
):
    source, _ = damaged
    out = tmp_path / "out"
    arguments = ["--data", source, "--max-unreadable", "0.05", "--out"]
    train, embed = ["train", "simsiam", *arguments, out, *small], ["embed", run, *arguments, out]
    for command in (train, [*embed, "--quiet"]):
        assert "at most 5% unreadable files" in fails(*command)
    assert not out.exists()
    assert not list(tmp_path.glob("out*"))
