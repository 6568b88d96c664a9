"""Colour against plain references, image by image, with the same parameters and the same order."""

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cognates.data import augment
from cognates.data.colour import LUMA, hue_turn, solarise
from cognates.data.draws import BRIGHTNESS, CONTRAST, HUE, SATURATION
from cognates.data.views import ViewSpec

PLAIN = {"mean": None, "std": None}
STRONG = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.5}


def whole(size, **changes):
    """A specification that leaves the geometry alone."""
    return ViewSpec(size=size, scale=(1, 1), flip=0, **changes)


def drawn(spec, n, *, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return augment.draw(spec, n, height=size, width=size, generator=generator)


def photographs(n, size, seed=0):
    """Smooth colourful images that reach both ends of the range, as uint8."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand((n, 3, 5, 5), generator=generator) * 1.6 - 0.3
    smooth = torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear")
    return smooth.clamp(0, 1).mul(255).round().to(torch.uint8)


def luma(image):
    return np.tensordot(np.array(LUMA), image, axes=1)


def rotated(image, shift):
    """Turned about the axis of greys, red towards green."""
    turn = Rotation.from_rotvec(2 * np.pi * shift * np.ones(3) / np.sqrt(3))
    return np.tensordot(turn.as_matrix(), image, axes=1)


def hexagon(image, shift):
    """Pixel by pixel through the standard library's HSV."""
    out = np.empty_like(image)
    for row, column in np.ndindex(image.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*image[:, row, column])
        out[:, row, column] = colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
    return out


def jittered(image, parameters, i, *, hue=rotated, clamp_each=False):
    """One image, one operation after another; clamped after each as in torchvision, or at last."""
    for operation in parameters.order[i].tolist():
        if operation == BRIGHTNESS:
            image = float(parameters.brightness[i]) * image
        elif operation == CONTRAST:
            factor = float(parameters.contrast[i])
            image = factor * image + (1 - factor) * luma(image).mean()
        elif operation == SATURATION:
            factor = float(parameters.saturation[i])
            image = factor * image + (1 - factor) * luma(image)
        elif operation == HUE:
            image = hue(image, float(parameters.hue[i]))
        image = image.clip(0, 1) if clamp_each else image
    return image


@pytest.mark.parametrize("strength", [{}, STRONG], ids=["usual", "strong"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_jitter_and_grey_are_exact_for_every_image_and_order(strength, dtype, tolerance):
    images = photographs(60, 10)
    spec = whole(10, jitter=0.9, grey=0.3, **strength)
    parameters = drawn(spec, 60, size=10)
    views = augment.apply(images, parameters, size=10, dtype=dtype, **PLAIN)
    assert len(parameters.order.unique(dim=0)) > 18
    for flags in (parameters.jitter, parameters.grey):
        assert set(flags.tolist()) == {True, False}
    for i in range(60):
        expected = images[i].numpy() / 255
        if parameters.jitter[i]:
            expected = jittered(expected, parameters, i)
        if parameters.grey[i]:
            expected = np.stack([luma(expected)] * 3)
        np.testing.assert_allclose(views[i].numpy(), expected.clip(0, 1), atol=tolerance, rtol=0)


def test_jitter_deviates_from_operations_clamped_one_by_one_as_the_docstring_says():
    images = photographs(200, 12)
    parameters = drawn(whole(12, jitter=1.0, grey=0), 200, size=12)
    views = augment.apply(images, parameters, size=12, **PLAIN).numpy()
    plain = images.numpy() / 255
    expected = np.stack(
        [jittered(plain[i], parameters, i, hue=hexagon, clamp_each=True) for i in range(200)]
    )
    deviation = np.abs(views - expected)
    assert deviation.shape == (200, 3, 12, 12)
    assert deviation.mean() == pytest.approx(0.036, abs=1e-3)
    assert np.quantile(deviation, 0.99) < 0.19
    assert np.abs(plain - expected).mean() == pytest.approx(0.129, abs=1e-3)


@given(
    colour=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    shift=st.floats(-0.5, 0.5),
)
@settings(max_examples=200, deadline=None)
def test_hue_turns_about_the_axis_of_greys_and_back(colour, shift):
    pixel, shift = (
        torch.tensor(colour, dtype=torch.float64),
        torch.tensor([shift], dtype=torch.float64),
    )
    turned = hue_turn(shift)[0] @ pixel
    assert float(turned.mean()) == pytest.approx(float(pixel.mean()), abs=1e-14)
    assert float(turned.norm()) == pytest.approx(float(pixel.norm()), abs=1e-14)
    torch.testing.assert_close(hue_turn(-shift)[0] @ turned, pixel, rtol=0, atol=1e-14)


@pytest.mark.parametrize("thirds", [-1, 0, 1, 2])
def test_thirds_of_a_turn_exchange_the_channels_as_in_hsv(thirds):
    pixels = torch.rand((3, 2, 2), generator=torch.Generator().manual_seed(0)).double()
    turned = torch.tensordot(
        hue_turn(torch.tensor([thirds / 3], dtype=torch.float64))[0], pixels, dims=1
    )
    expected = hexagon(pixels.numpy(), thirds / 3)
    np.testing.assert_allclose(turned.numpy(), expected, atol=1e-12, rtol=0)


def test_hue_deviates_from_hsv_as_the_docstring_says():
    draws = np.random.default_rng(0)
    colours, shifts = draws.random((5000, 3)), draws.uniform(-0.1, 0.1, 5000)
    for saturation, stated, change in ((1, 0.038, 0.050), (1 / 3, 0.013, 0.017)):
        mean = colours.mean(axis=1, keepdims=True)
        some = mean + saturation * (colours - mean)
        turns = hue_turn(torch.from_numpy(shifts)).numpy()
        turned = np.einsum("nij,nj->ni", turns, some).clip(0, 1)
        expected = np.stack(
            [hexagon(c.reshape(3, 1, 1), h).ravel() for c, h in zip(some, shifts, strict=True)]
        )
        assert np.abs(turned - expected).mean() == pytest.approx(stated, abs=1e-3)
        assert np.abs(some - expected).mean() == pytest.approx(change, abs=1e-3)


def test_grey_has_three_equal_channels_of_the_right_luma():
    images = photographs(30, 12)
    parameters = drawn(whole(12, jitter=0, grey=0.5), 30, size=12)
    views = augment.apply(images, parameters, size=12, dtype=torch.float64, **PLAIN)
    assert set(parameters.grey.tolist()) == {True, False}
    for i in range(30):
        image = images[i].numpy() / 255
        expected = np.stack([luma(image)] * 3) if parameters.grey[i] else image
        np.testing.assert_allclose(views[i].numpy(), expected, atol=1e-12, rtol=0)
    assert abs(sum(LUMA) - 1) < 1e-12


def test_solarise_inverts_the_upper_half():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(8, 3, 16, 16)
    parameters = drawn(whole(16, jitter=0, grey=0, solarise=0.5), 8, size=16)
    views = augment.apply(images, parameters, size=16, dtype=torch.float64, **PLAIN)
    assert set(parameters.solarise.tolist()) == {True, False}
    values = images[0].numpy() / 255
    expected = np.where(values >= 0.5, 1 - values, values)
    for i in range(8):
        wanted = expected if parameters.solarise[i] else values
        np.testing.assert_allclose(views[i].numpy(), wanted, atol=1e-14, rtol=0)
    assert float(solarise(torch.tensor(0.75))) == 0.25


def test_one_channel_knows_brightness_and_contrast_alone():
    images = photographs(40, 10)[:, :1]
    parameters = drawn(whole(10, jitter=0.8, grey=0.5), 40, size=10)
    views = augment.apply(images, parameters, size=10, dtype=torch.float64, **PLAIN)
    for i in range(40):
        expected = images[i].numpy() / 255
        for operation in parameters.order[i].tolist() if parameters.jitter[i] else []:
            if operation == BRIGHTNESS:
                expected = float(parameters.brightness[i]) * expected
            elif operation == CONTRAST:
                factor = float(parameters.contrast[i])
                expected = factor * expected + (1 - factor) * expected.mean()
        np.testing.assert_allclose(views[i].numpy(), expected.clip(0, 1), atol=1e-12, rtol=0)


def test_operations_come_in_the_order_crop_colour_blur_solarise_normalise():
    images = photographs(20, 16)
    spec = whole(16, jitter=1.0, grey=1.0, blur=1.0, solarise=1.0)
    parameters = drawn(spec, 20, size=16)
    mean, std = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
    views = augment.apply(images, parameters, size=16, mean=mean, std=std, dtype=torch.float64)
    step = images
    for names in (("jitter", "grey"), ("blur",), ("solarise",)):
        only = {
            flag: getattr(parameters, flag) & (flag in names)
            for flag in ("jitter", "grey", "blur", "solarise")
        }
        alone = parameters._replace(**only)
        step = augment.apply(step, alone, size=16, dtype=torch.float64, **PLAIN)
    expected = (step - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(views, expected, atol=2e-7, rtol=0)  # the statistics in float32
