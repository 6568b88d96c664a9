"""Views of a batch: independence of images, slices, devices' shares, formats and odd inputs."""

import numpy as np
import pytest
import torch

from cognates.data import augment
from cognates.data.images import Images
from cognates.data.views import ViewSpec, simsiam_imagenet
from cognates.errors import ConfigError, DataError

PLAIN = {"mean": None, "std": None}
FULL = {"blur": 0.5, "solarise": 0.3}
NORMAL = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}


def noise(n, channels, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def drawn(spec, n, *, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return augment.draw(spec, n, height=size, width=size, generator=generator)


@pytest.mark.parametrize(("stored", "size"), [(32, 32), (55, 48), (110, 96)])
def test_any_slice_of_the_batch_gives_exactly_that_slice_of_the_views(stored, size):
    spec = ViewSpec(size=size, **FULL)
    images = noise(61, 3, stored)
    parameters = drawn(spec, 61, size=stored)
    views = augment.apply(images, parameters, size=size, **NORMAL)
    for start, stop in ((0, 61), (0, 30), (30, 61), (17, 18), (60, 61), (5, 44)):
        local = parameters.rows(start, stop)
        part = augment.apply(images[start:stop], local, size=size, **NORMAL)
        assert torch.equal(part, views[start:stop]), (start, stop)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("chances", [{}, {"jitter": 0.1, "grey": 0.1}, {"jitter": 0, "grey": 0}])
def test_single_rows_of_black_and_white_images_are_those_of_the_batch(value, chances):
    # rounding takes such values out of [0, 1], whether or not another image changes its colours
    spec = ViewSpec(size=24, blur=0.5, **chances)
    images = noise(40, 3, 37)
    images[::2] = value
    parameters = drawn(spec, 40, size=37)
    changed = parameters.jitter | parameters.grey
    assert bool(changed.any()) == (chances.get("jitter") != 0)
    assert not bool(changed.all())
    views = augment.apply(images, parameters, size=24, **PLAIN)
    assert float(views.min()) >= 0
    assert float(views.max()) <= 1
    for start in range(40):
        local = parameters.rows(start, start + 1)
        part = augment.apply(images[start : start + 1], local, size=24, **PLAIN)
        assert torch.equal(part, views[start : start + 1]), start


def test_the_size_of_the_working_chunk_changes_no_bit(monkeypatch):
    spec = ViewSpec(size=24, **FULL)
    images = noise(40, 3, 32)
    parameters = drawn(spec, 40, size=32)
    views = augment.apply(images, parameters, size=24, **NORMAL)
    for values, fewest in ((1, 1), (1, 7), (50_000, 1), (10**9, 1)):
        monkeypatch.setattr(augment, "_CHUNK", values)
        monkeypatch.setattr(augment, "_FEWEST", fewest)
        assert torch.equal(augment.apply(images, parameters, size=24, **NORMAL), views)


def test_a_view_depends_on_no_other_image():
    spec = ViewSpec(size=32, **FULL)
    images = noise(20, 3, 32)
    parameters = drawn(spec, 20, size=32)
    views = augment.apply(images, parameters, size=32, **NORMAL)
    others = noise(20, 3, 32, seed=1)
    others[7] = images[7]
    assert torch.equal(augment.apply(others, parameters, size=32, **NORMAL)[7], views[7])
    changed = drawn(spec, 20, size=32, seed=1)
    mixed = type(changed)(*(field.clone() for field in changed))
    for field, source in zip(mixed, parameters, strict=True):
        field[7] = source[7]
    assert torch.equal(augment.apply(others, mixed, size=32, **NORMAL)[7], views[7])


def test_processes_that_share_a_batch_make_the_views_of_one():
    specs = (ViewSpec(size=32), ViewSpec(size=16, **FULL))
    images = noise(24, 3, 36)
    kind = {"seed": 3, "step": 11, "n_global": 24, **NORMAL}
    together = augment.make_views(images, specs, start=0, **kind)
    assert [tuple(view.shape) for view in together] == [(24, 3, 32, 32), (24, 3, 16, 16)]
    for start, stop in ((0, 8), (8, 16), (16, 24)):
        shared = augment.make_views(images[start:stop], specs, start=start, **kind)
        assert len(shared) == 2
        for part, view in zip(shared, together, strict=True):
            assert torch.equal(part, view[start:stop])


def test_views_steps_and_seeds_are_drawn_apart():
    images = noise(8, 3, 32)
    spec = ViewSpec(size=32)
    kind = {"n_global": 8, "start": 0, **NORMAL}
    first, second = augment.make_views(images, (spec, spec), seed=0, step=0, **kind)
    (later,) = augment.make_views(images, (spec,), seed=0, step=1, **kind)
    (other,) = augment.make_views(images, (spec,), seed=1, step=0, **kind)
    (again,) = augment.make_views(images, (spec,), seed=0, step=0, **kind)
    assert torch.equal(first, again)
    for different in (second, later, other):
        assert not torch.equal(first, different)
    same = images[:1].expand(8, -1, -1, -1)
    (views,) = augment.make_views(same, (spec,), seed=0, step=0, **kind)
    assert len({view.numpy().tobytes() for view in views}) == 8


def test_no_global_random_number_is_used():
    images = noise(8, 3, 32)
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    specs = (simsiam_imagenet(32), ViewSpec(size=16, **FULL))
    augment.make_views(images, specs, seed=0, step=0, n_global=8, start=0, **PLAIN)
    augment.test_view(images, size=28, **PLAIN)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize(("stored", "size"), [(1, 1), (1, 32), (32, 1), (2, 3), (20, 20)])
def test_constant_and_tiny_images_stay_finite_and_constant(channels, value, stored, size):
    images = torch.full((30, channels, stored, stored), value, dtype=torch.uint8)
    spec = ViewSpec(size=size, jitter=0.5, **FULL)
    parameters = drawn(spec, 30, size=stored)
    views = augment.apply(images, parameters, size=size, **PLAIN)
    assert views.shape == (30, channels, size, size)
    assert bool(views.isfinite().all())
    assert float((views.amax((2, 3)) - views.amin((2, 3))).max()) < 1e-6
    # weights sum to 1 up to rounding, and every operation ends in [0, 1]
    assert float(views.min()) >= 0
    assert float(views.max()) <= 1


def test_random_images_stay_in_range_before_normalisation():
    spec = ViewSpec(size=24, brightness=1, contrast=1, saturation=1, hue=0.5, **FULL)
    images = noise(64, 3, 32)
    views = augment.apply(images, drawn(spec, 64, size=32), size=24, **PLAIN)
    assert float(views.min()) >= 0
    assert float(views.max()) <= 1


def test_dtypes_agree_to_their_precision():
    spec = ViewSpec(size=24, **FULL)
    images = noise(32, 3, 32)
    parameters = drawn(spec, 32, size=32)
    exact = augment.apply(images, parameters, size=24, dtype=torch.float64, **NORMAL)
    assert exact.dtype == torch.float64
    single = augment.apply(images, parameters, size=24, **NORMAL)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, atol=1e-4, rtol=0)
    half = augment.apply(images, parameters, size=24, dtype=torch.bfloat16, **NORMAL)
    assert torch.equal(half, single.to(torch.bfloat16))  # rounded once, at the end
    floats = augment.apply(images / 255, parameters, size=24, **NORMAL)
    torch.testing.assert_close(floats, single, atol=1e-4, rtol=0)


def test_views_are_channels_last_and_carry_no_gradient():
    images = noise(4, 3, 32)
    (view,) = augment.make_views(
        images, (ViewSpec(size=24),), seed=0, step=0, n_global=4, start=0, **NORMAL
    )
    assert view.is_contiguous(memory_format=torch.channels_last)
    assert not view.requires_grad
    assert not view.is_inference()
    whole = augment.test_view(images, size=28, **NORMAL)
    assert whole.is_contiguous(memory_format=torch.channels_last)


def test_the_layout_of_the_input_does_not_matter():
    images = noise(6, 3, 32)
    parameters = drawn(ViewSpec(size=24, **FULL), 6, size=32)
    views = augment.apply(images, parameters, size=24, **NORMAL)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augment.apply(last, parameters, size=24, **NORMAL), views)
    wide = torch.zeros(6, 3, 40, 40, dtype=torch.uint8)
    wide[:, :, 4:36, 4:36] = images
    cut = wide[:, :, 4:36, 4:36]
    assert torch.equal(augment.apply(cut, parameters, size=24, **NORMAL), views)
    assert torch.equal(images, noise(6, 3, 32))  # and the input is left as it was


def test_an_empty_batch_gives_empty_views():
    spec = ViewSpec(size=24, **FULL)
    views = augment.apply(noise(0, 3, 32), drawn(spec, 0, size=32), size=24, **NORMAL)
    assert views.shape == (0, 3, 24, 24)


def test_shared_views_are_the_same_for_every_image_and_batch():
    spec = ViewSpec(size=24)
    images = noise(10, 3, 32)
    sets = augment.fixed_draws(spec, 8, height=32, width=32)
    assert len(sets) == 8
    again = augment.fixed_draws(spec, 8, height=32, width=32)
    boxes = set()
    for shared, repeated in zip(sets, again, strict=True):
        views = augment.apply(images, shared.expand(10), size=24, **NORMAL)
        alone = augment.apply(images[4:5], repeated.expand(1), size=24, **NORMAL)
        assert torch.equal(views[4:5], alone)
        boxes.add((int(shared.top), int(shared.left), int(shared.height), int(shared.width)))
    assert len(boxes) > 5
    other = augment.fixed_draws(spec, 8, height=32, width=32, seed=1)
    assert not torch.equal(other[0].brightness, sets[0].brightness)


def test_the_test_view_is_the_normalised_centre():
    images = noise(5, 3, 110)
    mean, std = torch.tensor(NORMAL["mean"]).double(), torch.tensor(NORMAL["std"]).double()
    view = augment.test_view(images, size=96, dtype=torch.float64, **NORMAL)
    centre = images[:, :, 7:103, 7:103].double() / 255
    expected = (centre - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(view, expected, atol=1e-6, rtol=0)  # mean and std from float32
    whole = augment.test_view(images, size=110, **PLAIN)
    torch.testing.assert_close(whole, images / 255, atol=1e-7, rtol=0)
    floats = augment.test_view(images / 255, size=96, dtype=torch.bfloat16, **PLAIN)
    assert floats.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="Expected a test view of 1 to 110 pixels, got 128"):
        augment.test_view(images, size=128, **PLAIN)


def test_statistics_are_those_of_all_pixels():
    pixels = noise(300, 3, 9).numpy()
    pixels[:, 1] //= 2
    mean, std = augment.channel_statistics(Images(pixels=pixels, dataset="noise", split="train"))
    values = pixels.transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(mean, values.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(axis=1), rtol=1e-12)
    assert all(type(value) is float for value in (*mean, *std))
    flat = Images(pixels=np.full((5, 1, 4, 4), 51, np.uint8), dataset="flat", split="train")
    assert augment.channel_statistics(flat) == ((0.2,), (0.001,))


def test_statistics_of_many_images_take_an_even_sample():
    pixels = np.repeat(np.arange(200, dtype=np.uint8), 4).reshape(200, 1, 2, 2)
    images = Images(pixels=pixels, dataset="ramp", split="train")
    mean, _ = augment.channel_statistics(images, limit=50)
    assert abs(mean[0] * 255 - 99.5) < 1.0
    with pytest.raises(DataError, match="at least one image"):
        augment.channel_statistics(Images(pixels=pixels[:0], dataset="none", split="train"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": noise(4, 2, 32)}, "1 or 3 channels"),
        ({"images": noise(4, 3, 32)[0]}, "Expected images"),
        ({"images": noise(4, 3, 32).int()}, "uint8 or floating point"),
        ({"images": noise(3, 3, 32)}, "Expected parameters of 3 images, got 4"),
        ({"images": noise(4, 3, 8)}, "crop boxes inside images of 8 x 8"),
        ({"size": 0}, "at least 1 pixel"),
        ({"mean": (0.5,), "std": (0.5,)}, "for each of 3 channel"),
        ({"mean": (0.5,) * 3, "std": (0.5, 0.0, 0.5)}, "positive deviation"),
    ],
)
def test_misuse_is_answered_in_one_sentence(change, sentence):
    parameters = drawn(ViewSpec(size=24), 4, size=32)
    call = {"images": noise(4, 3, 32), "size": 24, **PLAIN, **change}
    images = call.pop("images")
    with pytest.raises(ConfigError, match=sentence):
        augment.apply(images, parameters, **call)


def test_rows_outside_the_global_batch_are_refused():
    images = noise(4, 3, 32)
    with pytest.raises(ConfigError, match="inside the global batch of 6"):
        augment.make_views(
            images, (ViewSpec(size=8),), seed=0, step=0, n_global=6, start=3, **PLAIN
        )
