import shutil
from pathlib import Path

import numpy as np
import pytest

import cognates
from cognates.cli.main import main
from cognates.errors import ConfigError, DataError
from cognates.evaluation import read_results


@pytest.fixture
def unlabelled(source, tmp_path):
    """Return the SOURCE of the run's images without their labels."""
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for name in ("train", "test"):
        with np.load(Path(source.removeprefix("npz:")) / f"{name}.npz") as arrays:
            np.savez(folder / f"{name}.npz", images=arrays["images"])
    return f"npz:{folder}"


def test_two_sources_of_one_name_keep_their_records_apart(run, source, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    own = (copy / "results.json").read_bytes()
    for place in ("a", "b"):
        shutil.copytree(source.removeprefix("npz:"), tmp_path / place / "photos")
        data = f"npz:{tmp_path / place / 'photos'}"
        assert main(["evaluate", str(copy), "--data", data, "--only", "spread"]) == 0
        found = sorted(path.name for path in copy.glob("results-photos-*.json"))
        said = capsys.readouterr().err
        assert any(name in said for name in found)
    assert len(found) == 2
    again = f"npz:{tmp_path / 'a' / '..' / 'b' / 'photos'}"
    assert main(["evaluate", str(copy), "--data", again, "--only", "knn", "--quiet"]) == 0
    assert sorted(path.name for path in copy.glob("results-photos-*.json")) == found
    assert (copy / "results.json").read_bytes() == own


def test_only_protocols_that_need_labels_are_refused_where_there_are_none(run, unlabelled, fails):
    said = fails("evaluate", run, "--data", unlabelled, "--only", "knn", "uncertainty")
    named = "knn, deciles, auroc-error, r-auroc, aurc, augrc, risk, calibration"
    assert f"Expected labels for {named}, got images without" in said
    for free in ("view-retrieval", "spread", "sensitivity"):
        assert free in said, free
    with pytest.raises(DataError, match="Expected labels for linear"):
        cognates.evaluate(run, unlabelled, only=["linear"], device="cpu")


def test_one_protocol_that_needs_no_labels_is_enough(run, unlabelled, capsys):
    arguments = ["evaluate", str(run), "--data", unlabelled, "--only", "knn", "spread"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "no labels: knn not run" in said.err
    assert "spread, effective-rank" in said.out


@pytest.mark.parametrize("grid", [0, -3])
def test_a_grid_without_a_penalty_is_refused_in_python_as_on_the_command_line(run, fails, grid):
    sentence = f"Expected a grid of at least 1 penalty, got {grid}."
    assert sentence in fails("evaluate", run, "--grid", grid)
    with pytest.raises(ConfigError, match=sentence):
        cognates.evaluate(run, grid=grid, device="cpu")


def test_several_label_columns_are_a_matter_of_celeba_and_one_is_not(
    run, source, tmp_path, fails, capsys
):
    folder = tmp_path / "attributes"
    folder.mkdir()
    for name in ("train", "test"):
        with np.load(Path(source.removeprefix("npz:")) / f"{name}.npz") as arrays:
            bright = arrays["images"].reshape(len(arrays["images"]), -1).mean(axis=1)
            labels = np.stack([bright > np.median(bright), np.arange(len(bright)) % 2], axis=1)
            names = np.array(["bright", "odd"])
            np.savez(
                folder / f"{name}.npz",
                images=arrays["images"],
                labels=labels.astype(int),
                label_names=names,
            )
    said = fails("evaluate", run, "--data", f"npz:{folder}", "--only", "linear", "mlp")
    assert "Expected labels for linear, mlp, got images without" in said
    assert "sensitivity, crop and celeba can be measured" in said
    assert "Expected attributes for celeba" in fails("evaluate", run, "--only", "celeba")
    assert "Expected factors for dsprites" in fails("evaluate", run, "--only", "dsprites")
    options = ["--data", f"npz:{folder}", "--only", "celeba", "--grid", "2"]
    assert main(["evaluate", str(run), *options]) == 0
    said = capsys.readouterr()
    assert "celeba, macro/balanced-accuracy/linear" in said.out
    assert "celeba, odd/balanced-accuracy/linear" not in said.out


def test_a_part_of_the_images_is_taken_where_it_is_asked_for(run, tmp_path, fails, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert main(["evaluate", str(copy), "--only", "knn-vote", "mlp", "--images", "30"]) == 0
    assert "knn-vote, accuracy-minus-pixels" in capsys.readouterr().out
    found = {r.protocol: r.n for r in read_results(copy / "results.json")}
    assert found["knn-vote"] == found["mlp"] == 30
    assert found["knn"] == 40
    assert "at least 1 image of each split, got 0" in fails("evaluate", run, "--images", "0")


def test_too_few_images_for_every_protocol_are_an_error_of_the_input(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    wanted = ["--only", "augmentation", "--images", "3", "--device", "cpu", "--quiet"]
    assert main(["evaluate", str(copy), *wanted]) == 2
    said = capsys.readouterr().err
    assert "at least 5 training and 5 test images with a value for 'augmentation', got 3" in said


def test_outsiders_are_brought_to_the_runs_images_and_measured_alone(
    run, source, tmp_path, fails, capsys
):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = {r.protocol for r in read_results(copy / "results.json")}
    generator = np.random.default_rng(0)
    folder = tmp_path / "colour"
    folder.mkdir()
    for name in ("train", "test"):
        pixels = generator.integers(0, 255, (30, 20, 26, 3), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=pixels)
    shutil.copytree(folder, tmp_path / "other" / "colour")
    sets = [f"npz:{folder}", f"npz:{tmp_path / 'other' / 'colour'}"]
    assert main(["evaluate", str(copy), "--ood", *sets, "--grid", "2"]) == 0
    said = capsys.readouterr().out
    assert "ood, colour/auroc/consensus" in said
    assert "ood, colour-2/fpr95/default-minus-best" in said
    assert "mahalanobis" not in said  # of the baselines the best one is enough
    found = read_results(copy / "results.json")
    assert {r.protocol for r in found} == before | {"ood"}
    sizes = {(r.settings["inside"], r.settings["outside"]) for r in found if r.protocol == "ood"}
    assert sizes == {(40, 30)}
    assert "other sources than" in fails("evaluate", run, "--ood", source)
    assert "each once" in fails("evaluate", run, "--ood", sets[0], sets[0])
    assert "name one with --ood SOURCE" in fails("evaluate", run, "--only", "ood")
