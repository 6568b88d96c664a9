"""Crop, flip and blur against Pillow and scipy, image by image, and the law that boxes follow."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, stats

from cognates.data import augment
from cognates.data.resample import crop_taps, gaussian_taps
from cognates.data.views import ViewSpec, crop_and_flip
from cognates.errors import ConfigError

PLAIN = {"mean": None, "std": None}


def drawn(spec, n, *, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return augment.draw(spec, n, height=height, width=width, generator=generator)


def noise(n, channels, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, channels, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def pillow_crop(image, parameters, i, size):
    """One float plane through Pillow: crop, antialiased bilinear resize, mirror."""
    top, left = int(parameters.top[i]), int(parameters.left[i])
    bottom, right = top + int(parameters.height[i]), left + int(parameters.width[i])
    planes = []
    for plane in image.numpy().astype(np.float32) / 255:
        cut = Image.fromarray(plane[top:bottom, left:right].copy())
        resized = cut.resize((size, size), Image.Resampling.BILINEAR)
        if parameters.flip[i]:
            resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        planes.append(np.asarray(resized))
    return np.stack(planes)


@pytest.mark.parametrize(
    ("height", "width", "size", "channels"),
    [(32, 32, 32, 3), (110, 110, 96, 3), (96, 96, 24, 3), (28, 28, 28, 1), (37, 53, 20, 3)],
)
def test_crop_and_flip_are_pillows_antialiased_resize(height, width, size, channels):
    images = noise(24, channels, height, width)
    parameters = drawn(crop_and_flip(size), 24, height=height, width=width)
    views = augment.apply(images, parameters, size=size, dtype=torch.float64, **PLAIN)
    assert views.shape == (24, channels, size, size)
    assert bool(parameters.flip.any())
    assert not bool(parameters.flip.all())
    for i in range(24):
        # Pillow's coefficients are in double precision, its planes in float32
        expected = pillow_crop(images[i], parameters, i, size)
        np.testing.assert_allclose(views[i].numpy(), expected, atol=3e-7, rtol=0)


def test_uint8_resize_differs_from_the_exact_one_by_rounding_alone():
    images = noise(8, 3, 110, 110)
    parameters = drawn(crop_and_flip(96), 8, height=110, width=110)
    views = augment.apply(images, parameters, size=96, **PLAIN)
    for i in range(8):
        top, left = int(parameters.top[i]), int(parameters.left[i])
        box = (left, top, left + int(parameters.width[i]), top + int(parameters.height[i]))
        image = Image.fromarray(images[i].permute(1, 2, 0).numpy())
        resized = np.asarray(image.crop(box).resize((96, 96), Image.Resampling.BILINEAR))
        resized = resized[:, ::-1] if parameters.flip[i] else resized
        # Pillow rounds to eight bits after each of its two passes
        assert np.abs(views[i].permute(1, 2, 0).numpy() - resized / 255).max() < 1.1 / 255


def test_a_whole_image_at_its_own_size_is_untouched():
    images = noise(6, 3, 32, 32)
    spec = ViewSpec(size=32, scale=(1, 1), flip=0.5, jitter=0, grey=0)
    parameters = drawn(spec, 6, height=32, width=32)
    views = augment.apply(images, parameters, size=32, dtype=torch.float64, **PLAIN)
    flipped = torch.where(parameters.flip.view(-1, 1, 1, 1), images.flip(3), images)
    assert set(parameters.flip.tolist()) == {True, False}
    torch.testing.assert_close(views, flipped.double() / 255, atol=1e-15, rtol=0)


@given(
    size=st.integers(1, 40),
    start=st.integers(0, 20),
    length=st.integers(1, 60),
    flip=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_crop_matrices_have_rows_of_sum_one_inside_the_box(size, start, length, flip):
    column = torch.tensor([[float(start)]], dtype=torch.float64)
    kind = {"most": length, "flip": torch.tensor([[flip]])}
    taps = crop_taps(column, torch.full_like(column, length), size, **kind)
    assert int(taps.positions.min()) >= start
    assert int(taps.positions.max()) < start + length
    assert bool((taps.weights >= 0).all())
    torch.testing.assert_close(
        taps.weights.sum(-1), torch.ones(1, size, dtype=torch.float64), rtol=1e-12, atol=0
    )
    # a linear ramp is resampled to itself where no window is cut at the ends of the box
    ramp = (taps.weights * (taps.positions + 0.5)).sum(-1)[0]
    scale, middle = length / size, torch.arange(size, dtype=torch.float64) + 0.5
    centre = start + (size - middle if flip else middle) * scale
    reach = max(scale, 1.0)
    whole = (centre - reach >= start - 0.5) & (centre + reach <= start + length + 0.5)
    if scale <= 1:  # two taps; a wider triangle is not normalised exactly by Pillow's rule either
        torch.testing.assert_close(ramp[whole], centre[whole], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("size", "window"), [(32, 3), (96, 9), (224, 23), (5, 3)])
def test_blur_is_scipys_mirrored_correlation(size, window):
    images = noise(6, 3, size, size)
    spec = ViewSpec(size=size, scale=(1, 1), flip=0, jitter=0, grey=0, blur=1.0)
    parameters = drawn(spec, 6, height=size, width=size)
    views = augment.apply(images, parameters, size=size, dtype=torch.float64, **PLAIN)
    assert gaussian_taps(parameters.sigma, size).positions.shape == (6, size, window)
    offset = np.arange(window) - window // 2
    for i in range(6):
        kernel = np.exp(-(offset**2) / (2 * float(parameters.sigma[i]) ** 2))
        kernel /= kernel.sum()
        expected = images[i].double().numpy() / 255
        for axis in (1, 2):
            expected = ndimage.correlate1d(expected, kernel, axis=axis, mode="mirror")
        np.testing.assert_allclose(views[i].numpy(), expected, rtol=1e-12, atol=1e-14)


def test_only_flagged_images_are_blurred_and_others_keep_their_pixels():
    images = noise(40, 3, 32, 32)
    spec = ViewSpec(size=32, blur=0.5)
    parameters = drawn(spec, 40, height=32, width=32)
    blurred = augment.apply(images, parameters, size=32, **PLAIN)
    never = parameters._replace(blur=torch.zeros(40, dtype=torch.bool))
    sharp = augment.apply(images, never, size=32, **PLAIN)
    changed = (blurred != sharp).flatten(1).any(dim=1)
    assert changed.sum() > 10
    assert not bool((changed & ~parameters.blur).any())
    assert bool(changed[parameters.blur & (parameters.sigma > 0.3)].all())


def test_areas_are_uniform_and_ratios_log_uniform_where_boxes_fit():
    spec = ViewSpec(size=32, scale=(0.05, 0.4))  # .4 * 4/3 < 1: every box fits
    parameters = drawn(spec, 4000, height=4000, width=4000)
    area = (parameters.height * parameters.width).numpy() / 4000**2
    ratio = np.log(parameters.width.numpy() / parameters.height.numpy())
    assert stats.kstest(area, "uniform", (0.05, 0.35)).pvalue > 1e-3
    low, high = math.log(3 / 4), math.log(4 / 3)
    assert stats.kstest(ratio, "uniform", (low, high - low)).pvalue > 1e-3
    share = parameters.left.numpy() / (4000 - parameters.width.numpy())
    assert stats.kstest(share, "uniform").pvalue > 1e-3


def test_clipped_boxes_keep_their_area_where_torchvision_would_redraw():
    spec = ViewSpec(size=32, scale=(0.2, 1.0))
    parameters = drawn(spec, 4000, height=1000, width=1000)
    area = (parameters.height * parameters.width).numpy() / 1000**2
    assert stats.kstest(area, "uniform", (0.2, 0.8)).pvalue > 1e-3
    assert abs(area.mean() - 0.6) < 4 * 0.8 / math.sqrt(12 * 4000)
    # the law of torchvision: redraw until a box fits
    redrawn = np.random.default_rng(0)
    tried = redrawn.uniform(0.2, 1.0, 40000)
    ratio = np.exp(redrawn.uniform(math.log(3 / 4), math.log(4 / 3), 40000))
    fits = (tried * ratio <= 1) & (tried / ratio <= 1)
    assert abs((1 - fits.mean()) - 1 / 7) < 0.02
    assert abs(tried[fits].mean() - 0.54) < 0.01


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (7, 3), (32, 32), (110, 40)])
def test_boxes_lie_in_the_image(height, width):
    parameters = drawn(ViewSpec(size=8, scale=(0.01, 1.0)), 500, height=height, width=width)
    assert bool((parameters.top >= 0).all())
    assert bool((parameters.left >= 0).all())
    assert bool((parameters.height >= 1).all())
    assert bool((parameters.width >= 1).all())
    assert int((parameters.top + parameters.height).max()) <= height
    assert int((parameters.left + parameters.width).max()) <= width
    if height > 1:
        assert len(parameters.top.unique()) > 1


def test_a_scale_of_one_takes_the_whole_image():
    parameters = drawn(ViewSpec(size=8, scale=(1, 1)), 200, height=30, width=20)
    assert parameters.height.unique().tolist() == [30]
    assert parameters.width.unique().tolist() == [20]


def test_each_image_takes_the_same_share_of_the_random_numbers():
    few = drawn(ViewSpec(size=8, blur=0.5), 7, height=30, width=30)
    many = drawn(ViewSpec(size=8, blur=0.5), 50, height=30, width=30)
    assert len(few) == 15
    for a, b in zip(few, many.rows(0, 7), strict=True):
        assert torch.equal(a, b)
    other = drawn(ViewSpec(size=8, blur=0.9, jitter=0.1), 50, height=30, width=30)
    assert torch.equal(other.solarise, many.solarise)
    assert torch.equal(other.top, many.top)


def test_factors_flags_and_orders_follow_the_specification():
    spec = ViewSpec(size=8, blur=0.3, solarise=0.1, brightness=0.5, hue=0.2, sigma=(0.5, 1.5))
    parameters = drawn(spec, 20000, height=30, width=30)
    for name, share in (("flip", 0.5), ("jitter", 0.8), ("grey", 0.2), ("blur", 0.3)):
        error = math.sqrt(share * (1 - share) / 20000)
        assert abs(float(getattr(parameters, name).double().mean()) - share) < 4 * error, name
    for name, low, high in (
        ("brightness", 0.5, 1.5),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.6, 1.4),
        ("hue", -0.2, 0.2),
        ("sigma", 0.5, 1.5),
    ):
        values = getattr(parameters, name).numpy()
        assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-4, name
    orders, counts = parameters.order.unique(dim=0, return_counts=True)
    assert orders.shape == (24, 4)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_drawing_leaves_the_global_generator_alone_and_refuses_nonsense():
    before = torch.get_rng_state()
    drawn(ViewSpec(size=8), 3, height=8, width=8)
    augment.fixed_draws(ViewSpec(size=8), 2, height=8, width=8)
    assert torch.equal(before, torch.get_rng_state())
    generator = torch.Generator()
    with pytest.raises(ConfigError, match="Expected n >= 0"):
        augment.draw(ViewSpec(size=8), -1, height=8, width=8, generator=generator)
    with pytest.raises(ConfigError, match="at least 1 shared view"):
        augment.fixed_draws(ViewSpec(size=8), 0, height=8, width=8)
    with pytest.raises(ConfigError, match="of one image to expand"):
        drawn(ViewSpec(size=8), 3, height=8, width=8).expand(4)
