import dataclasses
import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cognates.cli.main import main
from cognates.recipes import resolve


def test_an_unknown_command_offers_the_nearest(fails):
    assert "did you mean 'train'?" in fails("trian")


def test_an_unknown_option_offers_the_nearest(fails):
    said = fails("train", "vi-simsiam", "--epocs", "3")
    assert "'--epocs'" in said
    assert "did you mean '--epochs'?" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluate"], "Missing RUN"),
        (["embed", "runs/a"], "Missing --data and --out"),
        (["train", "simsiam", "--epochs", "many"], "expected INT, got 'many'"),
        (["train", "simsiam", "--epochs"], "--epochs"),
        (["data", "a", "b"], "Unexpected argument 'b'"),
        (["export", "r", "--to", "onnyx", "--out", "x.pth"], "torchvision"),
        (["train"], "Expected a folder for the run"),
        (["train", "--out", "r"], "Expected a method"),
        (["train", "simsiam", "--out", "r"], "Expected a source"),
        (["train", "--recipe", "cifar", "--out", "r"], "did you mean 'cifar10'?"),
        (["train", "simsiam", "--recipe", "demo", "--config", "c", "--out", "r"], "got both"),
        (["train", "--config", "nowhere.json", "--out", "r"], "no such file"),
        (["train", "--recipe", "demo", "--set", "epochs=3", "--out", "r"], "Unknown field"),
        (["train", "--recipe", "demo", "--device", "cupa", "--out", "r"], "auto, cpu or cuda"),
        (["train", "--recipe", "demo", "--epochs", "0", "--out", "r"], "at least 1"),
        (["train", "--recipe", "demo", "--precision", "8", "--out", "r"], "bf16-mixed"),
        (["train", "--recipe", "demo", "--seeds", "1", "1", "--out", "r"], "different seeds"),
        (["train", "--plugin", "nowhere.py", "--out", "r"], "no such file"),
        (["methods", "simsima"], "did you mean 'simsiam'?"),
        (["evaluate", "nowhere"], "no such folder"),
        (["evaluate", "nowhere", "--grid", "0"], "at least 1 penalty"),
        (["train", "--resume", "nowhere"], "the directory of a run"),
        (["report", "nowhere"], "no config.json"),
        (["report"], "at least one run"),
        (["data", "foldr:x"], "did you mean 'folder'?"),
        (["data", "folder:nowhere"], "nowhere"),
        (["data", "imagenett"], "did you mean 'imagenette'?"),
    ],
)
def test_bad_options_are_one_sentence_and_exit_code_2(
    arguments, expected, fails, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_unknown_methods_and_encoders_offer_the_nearest(source, small, tmp_path, fails):
    out = tmp_path / "run"
    said = fails("train", "vi-simsam", "--data", source, "--out", out, *small)
    assert "did you mean 'vi-simsiam'?" in said
    said = fails(
        "train", "simsiam", "--data", source, "--out", out, *small, "--encoder", "resnet81"
    )
    assert "did you mean 'resnet18'?" in said
    assert not out.exists()


def test_a_batch_larger_than_the_data_set_is_refused(source, small, tmp_path, fails):
    options = [*small[: small.index("--set")], "--batch-size", "128"]
    said = fails("train", "simsiam", "--data", source, "--out", tmp_path / "run", *options)
    assert "128" in said
    assert "96" in said
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_another_run_is_left_alone(run, source, small, fails):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert "another" in fails("train", "simsiam", "--data", source, "--out", run, *small)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_seeds_are_checked_before_the_first_of_them_trains(run, source, small, tmp_path, fails):
    out = tmp_path / "many"
    shutil.copytree(run, out / "seed1")
    said = fails("train", "simsiam", "--data", source, "--out", out, *small, "--seeds", "0", "1")
    assert "seed1" in said
    assert not (out / "seed0").exists()


def test_resuming_with_a_changed_configuration_names_the_field(run, tmp_path, fails):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "model")
    said = fails("train", "--resume", copy, "--learning-rate", "0.5", "--quiet")
    assert "optimiser.learning_rate" in said
    assert "0.5" in said


def test_resuming_a_finished_run_says_how_to_train_on(run, fails):
    assert "--init" in fails("train", "--resume", run, "--quiet")


def test_an_image_array_that_cannot_be_used_is_refused(small, tmp_path, fails):
    good = np.zeros((40, 8, 8), np.uint8)
    for name, arrays, expected in (
        ("missing", {"pictures": good}, "images"),
        ("outside", {"images": np.full((40, 8, 8), 2.0)}, "[0, 1]"),
        ("nan", {"images": np.full((40, 8, 8), np.nan)}, "NaN"),
        ("labels", {"images": good, "labels": np.zeros(3, int)}, "3"),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        data = f"npz:{tmp_path / name}.npz"
        said = fails("train", "simsiam", "--data", data, "--out", tmp_path / "run", *small)
        assert expected.lower() in said.lower(), said
    assert not (tmp_path / "run").exists()


def test_folders_without_images_are_refused(small, tmp_path, fails):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jpg").write_text("not an image")
    for name in ("empty", "text"):
        data = f"folder:{tmp_path / name}"
        fails("train", "simsiam", "--data", data, "--out", tmp_path / "run", *small)
    assert not (tmp_path / "run").exists()


def test_a_bare_name_that_is_not_here_says_what_to_put_where(tmp_path, monkeypatch, fails):
    monkeypatch.setenv("COGNATES_DATA", str(tmp_path))
    said = fails("data", "imagenette")
    assert str(tmp_path / "imagenette") in said
    assert "put" in said


def test_a_damaged_model_is_a_storage_error(run, tmp_path, fails):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    weights = copy / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "checksum" in fails("evaluate", copy, code=4)


def test_a_full_disk_is_exit_code_4_and_leaves_no_half_file(
    run, source, tmp_path, monkeypatch, fails
):
    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    out = tmp_path / "photos.parquet"
    out.write_text("old")
    monkeypatch.setattr("os.fsync", lambda handle: full("x"))
    fails("embed", run, "--data", source, "--out", out, "--quiet", code=4)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["photos.parquet"]


def test_an_error_of_ours_keeps_the_traceback_in_a_file(monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("a defect")

    monkeypatch.setattr("cognates.cli.main.parse", broken)
    monkeypatch.delenv("COGNATES_DEBUG", raising=False)
    assert main(["data", "x"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    path = Path(re.search(r"traceback is in (\S+);", said).group(1))
    assert "a defect" in path.read_text()
    path.unlink()
    monkeypatch.setenv("COGNATES_DEBUG", "1")
    assert main(["data", "x"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interruption_is_exit_code_130(monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("cognates.cli.main.parse", interrupted)
    assert main(["data", "x"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_importing_and_helping_do_not_load_torch():
    code = (
        "import json, sys\n"
        "import cognates\n"
        "heavy = [m for m in ('torch', 'numpy', 'tyro', 'sklearn') if m in sys.modules]\n"
        "from cognates.cli.main import main\n"
        "assert main(['--help']) == 0 and main(['train', '--help']) == 0\n"
        "late = [m for m in ('torch', 'numpy', 'lightning_fabric') if m in sys.modules]\n"
        "print(json.dumps([heavy, late]), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stderr.splitlines()[-1]) == [[], []]


@pytest.mark.parametrize("method", ["simclr", "byol", "vicreg", "combined", "simsiam"])
def test_a_method_that_compares_views_says_so_where_the_record_has_one(
    method, source, tmp_path, fails
):
    settings = ["encoder.name=mlp", "method.dim=16", "method.hidden=16"]
    config = resolve(method, data=source, epochs=1, device="cpu", settings=settings)
    config = dataclasses.replace(config, views=config.views[:1])
    (tmp_path / "one.json").write_text(config.to_json())
    said = fails("train", "--config", tmp_path / "one.json", "--out", tmp_path / "one")
    assert f"Expected more views of an image for '{method}' than one: give the record's" in said
    assert not (tmp_path / "one").exists()
