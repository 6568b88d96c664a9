"""`cognates reconstruct` and `cognates generate`: grids, single files, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cognates import load
from cognates.cli.main import main
from cognates.errors import ConfigError
from cognates.evaluation.grids import GAP, grid, in_rows, png


@pytest.fixture(scope="module")
def drawing(source, tmp_path_factory):
    """Return the folders of a SimVE and a VAE run of seconds."""
    out = tmp_path_factory.mktemp("drawing")
    for method in ("simve", "vae"):
        options = ["--epochs", "1", "--batch-size", "32", "--device", "cpu", "--quiet"]
        options += ["--set", "method.model.latent_dim=4", "method.model.decoder=mlp"]
        arguments = ["train", method, "--data", source, "--encoder", "mlp", *options]
        assert main([*arguments, "--out", str(out / method)]) == 0
    return {name: out / name for name in ("simve", "vae")}


def size(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_reconstruct_puts_each_test_image_above_its_reconstruction(drawing, capsys):
    run = drawing["simve"]
    assert main(["reconstruct", str(run), "--count", "10", "--device", "cpu"]) == 0
    out = run / "reconstructions.png"
    assert f"10 images, each above its reconstruction: {out}" in capsys.readouterr().out
    # two rows of eight and two more with two: 8 pixels and a gap, enlarged 64 / 8 times
    assert size(out) == (8 * (8 * (8 + GAP) + GAP), 8 * (4 * (8 + GAP) + GAP))
    with Image.open(out) as image:
        page = np.asarray(image)[::8, ::8]
    model = load(run)
    rows = np.linspace(0, 39, 10).round().astype(int)
    from cognates.data import cache

    stored = cache.load(
        model.config.data.source, "test", image_size=8, channels=1, progress=False
    ).pixels[rows]
    seen, drawn = model.reconstruct(stored)
    assert np.array_equal(page[GAP : GAP + 8, GAP : GAP + 8], stored[0, 0])
    below = page[GAP + 10 : GAP + 18, GAP : GAP + 8]
    assert np.abs(below.astype(float) / 255 - drawn[0, 0].numpy()).max() < 0.51 / 255
    torch.testing.assert_close(seen, torch.from_numpy(stored) / 255)


def test_a_folder_gets_single_files_and_another_source_is_taken_whole(
    drawing, source, tmp_path, capsys
):
    out = tmp_path / "single"
    arguments = ["reconstruct", str(drawing["vae"]), "--data", source, "--count", "3"]
    assert main([*arguments, "--out", str(out), "--device", "cpu"]) == 0
    names = sorted(path.name for path in out.iterdir())
    kinds = ("image", "reconstruction")
    assert names == [f"{i:04}-{kind}.png" for i in range(3) for kind in kinds]
    assert {size(path) for path in out.iterdir()} == {(8, 8)}
    capsys.readouterr()


def test_a_folder_with_pictures_of_an_earlier_larger_draw_is_refused(
    drawing, tmp_path, fails, capsys
):
    out = tmp_path / "single"
    arguments = ["generate", str(drawing["vae"]), "--out", str(out), "--device", "cpu"]
    assert main([*arguments, "--count", "4"]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before) == 4
    said = fails(*arguments, "--count", "2", "--seed", "1")
    assert "2 that would stay among the new ones ('0002.png'): take an empty folder" in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert main([*arguments, "--count", "4", "--seed", "1"]) == 0  # all of them anew
    assert {path.name: path.read_bytes() for path in out.iterdir()}.keys() == before.keys()
    (out / "0000.png").unlink()
    (out / "notes.txt").write_text("no picture")
    assert main([*arguments, "--count", "5"]) == 0
    capsys.readouterr()


def test_generate_draws_the_same_pictures_for_the_same_seed(drawing, tmp_path, capsys):
    def draw(*options, name="simve"):
        out = tmp_path / "drawn.png"
        arguments = ["generate", str(drawing[name]), "--out", str(out), "--device", "cpu"]
        assert main([*arguments, *options]) == 0
        return out.read_bytes(), capsys.readouterr().out, size(out)

    samples, said, shape = draw("--count", "12")
    assert "12 samples from the prior" in said
    assert shape == (8 * 82, 8 * 22)
    assert draw("--count", "12")[0] == samples != draw("--count", "12", "--seed", "1")[0]
    assert "a row of one latent each" in draw("--count", "16", "--like", "views")[1]
    given = tmp_path / "given.png"
    Image.fromarray(np.full((20, 30), 90, np.uint8)).save(given)
    for name in drawing:
        assert f"4 views of {given}" in draw("--like", str(given), "--count", "4", name=name)[1]
        assert "64 samples" in draw(name=name)[1]
    assert list(tmp_path.glob(".*")) == []


def test_pictures_without_a_name_of_their_own_leave_earlier_ones_where_they_are(
    drawing, tmp_path, capsys
):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(drawing["vae"], run, ignore=shutil.ignore_patterns("*.png"))
    kept = {}
    for command, stem in (("generate", "generated"), ("reconstruct", "reconstructions")):
        for number, ending in enumerate(("", "-2", "-3")):
            arguments = [command, str(run), "--count", str(number + 2), "--device", "cpu"]
            assert main(arguments) == 0
            out = run / f"{stem}{ending}.png"
            assert str(out) in capsys.readouterr().out
            kept[out] = out.read_bytes()
    assert len({*kept.values()}) == 6
    assert all(path.read_bytes() == data for path, data in kept.items())


def test_views_of_one_latent_are_nearer_to_each_other_than_to_the_next(drawing):
    model = load(drawing["simve"])
    drawn = model.generate(64, like="views").view(8, 8, -1)
    within = (drawn[:, 1:] - drawn[:, :-1]).square().mean()
    between = (drawn[1:] - drawn[:-1]).square().mean()
    assert within < between / 2
    assert model.generate(5).shape == (5, 1, 8, 8)
    assert model.generate(11, like="views").shape == (11, 1, 8, 8)
    picture = Image.fromarray(np.full((20, 30), 90, np.uint8))
    assert torch.equal(model.generate(3, like=picture), model.generate(3, like=picture))
    with pytest.raises(ConfigError, match="at least one picture to draw, got 0"):
        model.generate(0)


def test_what_cannot_be_drawn_is_one_sentence(drawing, run, tmp_path, fails):
    for verb in ("reconstruct", "generate"):
        assert "a method that draws images, got ViSimSiam" in fails(verb, run)
        assert "PNG file or a folder" in fails(verb, drawing["vae"], "--out", "drawn.jpg")
        assert "at least one" in fails(verb, drawing["vae"], "--count", "0")
        assert "no such folder" in fails(verb, tmp_path / "nothing")
    said = fails("generate", drawing["vae"], "--like", "views")
    assert "whose views share a latent, got vae: train simve" in said
    text = tmp_path / "text.png"
    text.write_text("no image")
    assert "Cannot read the image" in fails("generate", drawing["vae"], "--like", text)
    assert "got ViSimSiam" in fails("evaluate", run, "--only", "elbo")
    assert "share a latent" in fails("evaluate", drawing["vae"], "--only", "generated-views")
    itself = ("evaluate", drawing["vae"], "--only", "generation", "--reference", drawing["vae"])
    assert "another run as the reference" in fails(*itself)
    one = ("evaluate", drawing["vae"], "--only", "generation", "--images", "1", "--quiet")
    assert "two samples of at least two rows" in fails(*one)


def test_another_run_is_the_reference_where_it_is_named(drawing, run, capsys):
    arguments = ["evaluate", str(drawing["vae"]), "--only", "generation", "--device", "cpu"]
    assert main([*arguments, "--reference", str(run)]) == 0
    assert "generation, fid-vi-simsiam-" in capsys.readouterr().out


def test_a_reference_of_images_of_another_size_is_refused(run):
    from cognates import api

    data = SimpleNamespace(channels=1, image_size=16)
    model = SimpleNamespace(config=SimpleNamespace(data=data), device="cpu")
    with pytest.raises(ConfigError, match="1 channels and 16 pixels, got 1 and 8: train one with"):
        api._reference(run, model)


def test_a_grid_has_white_between_pictures_and_white_for_what_is_missing():
    images = np.zeros((5, 3, 4, 4), np.uint8)
    rows = in_rows(images, 3)
    assert rows.shape == (2, 3, 3, 4, 4)
    assert (rows[1, 2] == 255).all()
    page = grid(rows)
    assert page.shape == (3, 2 * 6 + 2, 3 * 6 + 2)
    assert (page == 0).sum() == 5 * 3 * 16
    assert grid(rows, enlarge=True).shape == (3, 16 * 14, 16 * 20)
    assert png(page).startswith(b"\x89PNG")
