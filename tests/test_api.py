import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cognates
from cognates.config import RunConfig
from cognates.data.sources import open_source
from cognates.errors import ConfigError, DataError, UnreadableWarning
from cognates.recipes import RECIPES, default, names, resolve
from tests.small import write_colour

TINY = ("method.dim=16", "method.hidden=16", "method.predictor_hidden=8")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGNATES_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("colour")
        write_colour(folder)
        yield f"npz:{folder}"


@pytest.fixture(scope="module", params=["vi-simsiam", "simsiam", "ssl-hsic"])
def run(request, source, tmp_path_factory):
    return cognates.train(
        request.param,
        data=source,
        out=tmp_path_factory.mktemp("runs") / request.param,
        encoder="mlp",
        epochs=1,
        batch_size=16,
        device="cpu",
        settings=TINY,
        progress=False,
    )


def pixels(n, size, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


def test_public_names_are_all_reachable_and_torch_waits():
    code = "import sys, cognates\nassert 'torch' not in sys.modules\nprint(cognates.__version__)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert len(cognates.__all__) == 22
    for name in cognates.__all__:
        assert getattr(cognates, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = cognates.trian
    assert cognates.methods.register is not None
    assert cognates.distributions.PowerSpherical is not None


def test_an_embedding_has_one_finite_uncertainty_per_image_for_every_method(run):
    model = run.load()
    found = model.embed(pixels(5, 12))
    assert found.representation.shape == (5, 512)
    assert found.uncertainty.shape == (5,)
    assert torch.isfinite(found.uncertainty).all()
    assert isinstance(model.encoder, nn.Module)
    assert not any(part.training for part in model.method.modules())


def test_an_embedding_is_free_of_batch_and_order(run):
    model, images = run.load(), pixels(7, 12)
    whole = model.embed(images)
    single = [model.embed(images[i : i + 1]) for i in range(7)]
    # float32 sums in another order: a few units in the last place of values of order one
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    for name in ("representation", "uncertainty"):
        parts = torch.cat([getattr(one, name) for one in single])
        torch.testing.assert_close(getattr(whole, name), parts, **tolerance)
    reversed_ = model.embed(images[::-1].copy(), batch_size=2)
    torch.testing.assert_close(reversed_.uncertainty.flip(0), whole.uncertainty, **tolerance)


def test_arrays_tensors_paths_and_pil_images_agree(run, tmp_path):
    model, images = run.load(), pixels(3, 40)
    pictures = [Image.fromarray(np.moveaxis(image, 0, -1)) for image in images]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = model.embed(images)
    for given in (torch.from_numpy(images), pictures, paths, [str(path) for path in paths]):
        found = model.embed(given)
        torch.testing.assert_close(found.representation, expected.representation)
        torch.testing.assert_close(found.uncertainty, expected.uncertainty)
    from_folder = model.embed(f"folder:{tmp_path}")
    torch.testing.assert_close(from_folder.representation, expected.representation)


def test_pil_images_of_any_mode_and_size_are_taken(run):
    model = run.load()
    base = Image.fromarray(np.moveaxis(pixels(1, 30)[0], 0, -1))
    modes = ("1", "L", "P", "RGBA", "CMYK", "LA", "I")
    images = [
        base.convert("L").convert(mode) if mode == "LA" else base.convert(mode) for mode in modes
    ]
    images += [base.resize((1, 1)), base.resize((5, 300))]
    assert model.embed(images).representation.shape == (9, 512)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    base.save(buffer, "PNG", exif=exif)
    turned = model.embed([Image.open(buffer)]).representation
    torch.testing.assert_close(turned, model.embed([base.rotate(-90)]).representation)


def test_an_oblong_array_embeds_as_the_same_source_does(run, tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (4, 3, 12, 18), dtype=np.uint8)
    np.savez(tmp_path / "oblong.npz", images=np.moveaxis(images, 1, -1))
    model = run.load()
    expected = model.embed(f"npz:{tmp_path / 'oblong.npz'}")
    found = model.embed(images)
    torch.testing.assert_close(found.representation, expected.representation)
    torch.testing.assert_close(found.uncertainty, expected.uncertainty)
    middle = model.embed(images[..., 3:15].copy())
    torch.testing.assert_close(found.representation, middle.representation)


def test_images_that_cannot_be_embedded_are_named(run, tmp_path):
    model = run.load()
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(DataError, match=r"text\.jpg"):
        model.embed([tmp_path / "text.jpg"])
    with pytest.raises(DataError, match="uint8"):
        model.embed(np.zeros((2, 3, 12, 12), np.float32))
    with pytest.raises(DataError, match="channels first"):
        model.embed(np.zeros((2, 12, 12, 3), np.uint8))
    with pytest.raises(DataError, match="at least one"):
        model.embed([])
    with pytest.raises(DataError, match="PIL"):
        model.embed([3.0])


def test_the_percentile_is_that_of_the_training_images(run, source):
    model = run.load()
    u = model.embed(source).uncertainty.numpy()[:64]
    percentile = model.percentile(u)
    ranks = np.argsort(np.argsort(u)) / 63 * 100
    # 101 quantiles of 64 values: at most about one rank apart
    assert np.abs(percentile - ranks).max() < 3.5
    assert model.percentile(np.array([-9.0, 9.0])).tolist() == [0.0, 100.0]


def test_evaluate_returns_what_it_writes(run):
    found = cognates.evaluate(run, only=["knn", "retrieval"], device="cpu")
    assert {result.subject for result in found} == {"trained", "untrained", "pixels"}
    assert all(result.error is None for result in found)
    assert (run.path / "results.json").is_file()
    assert (run.path / "gallery.npz").is_file()
    with pytest.raises(ConfigError, match="did you mean 'knn'"):
        cognates.evaluate(run, only=["knnn"])


def test_the_untrained_baseline_has_the_batch_norm_that_it_starts_with(run, monkeypatch):
    from cognates.evaluation import suite

    given = []
    monkeypatch.setattr(suite, "evaluate", lambda *_, **options: given.append(options) or [])
    cognates.evaluate(run, device="cpu")
    parts = given[0]["untrained"].modules()
    norms = [part for part in parts if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) >= 3
    for norm in norms:
        assert not norm.training
        assert (norm.running_mean == 0).all()
        assert (norm.running_var == 1).all()


def test_any_module_is_an_encoder_and_must_be_brought_again(source, tmp_path):
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(3, 20)

        def forward(self, x):
            return self.map(x.mean(dim=(2, 3))).relu()

    run = cognates.train(
        *("simsiam",),
        data=source,
        out=tmp_path / "mine",
        encoder=Mine(),
        epochs=1,
        batch_size=16,
        device="cpu",
        settings=TINY,
        progress=False,
    )
    assert run.config.encoder.name.startswith("custom:Mine-")
    assert cognates.load(run.path, encoder=Mine()).embed(pixels(2, 12)).representation.shape == (
        2,
        20,
    )
    code = f"import cognates; cognates.load({str(run.path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "encoder=module" in done.stderr
    # However it is asked for, the other processes do not have the module.
    two = dataclasses.replace(
        run.config, training=dataclasses.replace(run.config.training, devices=2)
    )
    for options in ({"encoder": Mine(), "devices": 2}, {"config": two}):
        with pytest.raises(ConfigError, match="for 2 processes, got the module 'custom:Mine-"):
            cognates.train("simsiam", data=source, out=tmp_path / "x", batch_size=16, **options)
    assert not (tmp_path / "x").exists()


def test_two_modules_of_one_class_name_are_not_confused(source, tmp_path):
    class Mine(nn.Sequential):
        pass

    def train(width):
        return cognates.train(
            *("simsiam",),
            data=source,
            out=tmp_path / f"{width}",
            encoder=Mine(nn.Flatten(), nn.Linear(3 * 12 * 12, width)),
            epochs=1,
            batch_size=16,
            device="cpu",
            settings=TINY,
            progress=False,
        )

    first, second = train(20), train(24)
    assert first.config.encoder.name != second.config.encoder.name
    for run, width in ((first, 20), (second, 24)):
        assert run.load().embed(pixels(2, 12)).representation.shape == (2, width)
    code = (
        "import cognates\nfrom torch import nn\n"
        "class Mine(nn.Sequential):\n    pass\n"
        f"module = Mine(nn.Flatten(), nn.Linear({3 * 12 * 12}, 24))\n"
        f"cognates.load({str(second.path)!r}, encoder=module)\n"
        f"cognates.load({str(first.path)!r}, encoder=module)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    said = done.stderr.strip().splitlines()[-1]
    assert f"'{first.config.encoder.name}' that the run was started with, got" in said
    assert second.config.encoder.name in said


def test_training_starts_from_the_weights_of_an_earlier_run(run, source, tmp_path):
    on = cognates.train(
        config=run.config,
        init=run.path,
        out=tmp_path / "on",
        learning_rate=1e-12,
        settings=["optimiser.weight_decay=0"],
        progress=False,
    )
    first = dict(run.load().encoder.named_parameters())
    assert len(first) > 2
    for name, parameter in on.load().encoder.named_parameters():
        torch.testing.assert_close(parameter, first[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["simsiam", "vi-simsiam", "ssl-hsic"])
def test_every_recipe_builds_and_survives_its_record(method):
    assert names() == [
        "cifar10",
        "cifar10-generative",
        "cifar10-small",
        "clip",
        "demo",
        "fashion-mnist",
        "fashion-mnist-generative",
        "flickr8k",
        "imagenet",
        "imagenette",
        "imagenette-64",
        "simve-cifar10",
        "simve-fashion-mnist",
    ]
    for recipe in RECIPES.values():
        config = recipe.build(method)
        assert config.method.name == method
        assert RunConfig.from_json(config.to_json()) == config
        assert len(config.views) == 2
        size = config.data.image_size
        second = 20 if recipe.name == "demo" else size
        assert [view.size for view in config.views] == [size, second]
        assert recipe.build.__doc__
        known = recipe.of(method)
        assert all((known.paper, known.data, known.expected, known.cost))
        assert known.build(method) == config


def test_defaults_follow_the_kind_of_source(source, tmp_path):
    small = default("vi-simsiam", open_source(source), spec=source)
    assert (small.encoder.name, small.data.image_size, small.data.channels) == ("convnet", 12, 3)
    assert small.views[0].blur == 0.0
    assert small.views[0].jitter == 0.8
    assert small.training.batch_size == 16
    assert (
        default("simsiam", open_source(source), spec=source, on_gpu=True).encoder.name == "resnet18"
    )
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(40):
        Image.new("RGB", (20, 30), (i, i, i)).save(folder / f"{i}.jpg")
    spec = f"folder:{folder}"
    photos = default("vi-simsiam", open_source(spec), spec=spec)
    assert (photos.encoder.name, photos.data.image_size, photos.method.dim) == ("resnet18", 96, 512)
    assert photos.views[0].blur == 0.5
    assert (photos.training.epochs, photos.training.batch_size) == (100, 8)
    gpu = default("vi-simsiam", open_source(spec), spec=spec, on_gpu=True)
    assert (gpu.data.image_size, gpu.method.dim) == (224, 2048)


def test_options_replace_fields_of_the_start_and_nothing_else():
    base = RECIPES["cifar10"].build("vi-simsiam")
    same = resolve(None, config=base)
    assert same == base
    changed = resolve(
        "simsiam", config=base, epochs=30, image_size=16, seed=5, settings=["views.1.blur=0.25"]
    )
    assert changed.method.name == "simsiam"
    assert changed.method.layers == base.method.layers
    assert [view.size for view in changed.views] == [16, 16]
    assert [view.blur for view in changed.views] == [0.0, 0.25]
    # views smaller than the images stay in proportion
    crops = resolve(None, config=base, settings=["views.0.size=24", "views.1.size=12"])
    crops = resolve(None, config=crops, image_size=16)
    assert [view.size for view in crops.views] == [12, 6]
    assert (changed.training.epochs, changed.training.seed) == (30, 5)
    assert changed.optimiser == base.optimiser


@pytest.fixture
def photos(source, tmp_path):
    """Return a folder of 16 training and 8 test images, 6 of the latter damaged."""
    for split, n in (("train", 16), ("test", 8)):
        (tmp_path / "photos" / split / "a").mkdir(parents=True)
        for i, image in enumerate(pixels(n, 20)):
            path = tmp_path / "photos" / split / "a" / f"{i}.png"
            Image.fromarray(np.moveaxis(image, 0, -1)).save(path)
            if split == "test" and i < 6:
                path.write_bytes(b"not an image")
    return tmp_path / "photos"


@pytest.mark.parametrize("readable", [2, 0])
def test_unreadable_test_images_are_counted_and_listed(photos, tmp_path, readable):
    if not readable:
        for path in (photos / "test" / "a").iterdir():
            path.write_bytes(b"not an image")
    run = cognates.train(
        "simsiam",
        data=f"folder:{photos}",
        out=tmp_path / "run",
        encoder="mlp",
        image_size=12,
        epochs=1,
        batch_size=8,
        device="cpu",
        settings=TINY,
        progress=False,
    )
    data = json.loads((run.path / "data.json").read_text())
    assert data["splits"] == {"train": {"images": 16}, "test": {"images": readable}}
    listed = (run.path / "unreadable.txt").read_text().splitlines()
    assert data["unreadable"] == len(listed) == 8 - readable
    assert all(line.startswith("test/a/") for line in listed)
    if readable:
        found = cognates.evaluate(run, only=["spread"], device="cpu")
        assert found[0].error is None


def test_unreadable_files_of_another_source_are_said(run, photos):
    for path in sorted((photos / "test" / "a").iterdir())[1:]:
        path.write_bytes((photos / "train" / "a" / "0.png").read_bytes())
    for i in range(8, 12):
        (photos / "test" / "a" / f"{i}.png").write_bytes(
            (photos / "train" / "a" / "0.png").read_bytes()
        )
    with pytest.warns(UnreadableWarning, match="Left out 1 of 12"):
        cognates.evaluate(run, f"folder:{photos}", only=["spread"], device="cpu")
