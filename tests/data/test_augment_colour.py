"""Colour against plain references, image by image, with the same parameters and the same order."""

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from cognates.data import augment
from cognates.data.colour import LUMA, grey, solarise, turn_hue_
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


def hue_shifted(image, shift):
    """Pixel by pixel through the standard library's HSV, in double precision."""
    out = np.empty_like(image)
    for row, column in np.ndindex(image.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*image[:, row, column])
        out[:, row, column] = colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
    return out


def jittered(image, parameters, i):
    """One image, one operation after another, clamped after each, as torchvision has it."""
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
            image = hue_shifted(image, float(parameters.hue[i]))
        image = image.clip(0, 1)
    return image


@pytest.mark.parametrize("strength", [{}, STRONG], ids=["usual", "strong"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_jitter_is_exact_for_every_image_and_order(strength, dtype, tolerance):
    # hue divides by the chroma: where it is small, rounding in float32 turns the colour a little
    images = photographs(60, 10)
    spec = whole(10, jitter=0.9, grey=0, **strength)
    parameters = drawn(spec, 60, size=10)
    views = augment.apply(images, parameters, size=10, dtype=dtype, **PLAIN)
    assert len(parameters.order.unique(dim=0)) > 18
    assert set(parameters.jitter.tolist()) == {True, False}
    for i in range(60):
        expected = images[i].numpy() / 255
        if parameters.jitter[i]:
            expected = jittered(expected, parameters, i)
        np.testing.assert_allclose(views[i].numpy(), expected, atol=tolerance, rtol=0)


def test_jitter_deviates_from_pillows_eight_bits_by_its_rounding():
    # measured: mean .005, 99th percentile .02, almost all of it Pillow's hue in 256 steps
    images = photographs(60, 24)
    parameters = drawn(whole(24, jitter=1.0, grey=0), 60, size=24)
    views = augment.apply(images, parameters, size=24, **PLAIN)
    deviation = []
    for i in range(60):
        image = Image.fromarray(images[i].permute(1, 2, 0).numpy())
        for operation in parameters.order[i].tolist():
            if operation == HUE:
                h, s, v = image.convert("HSV").split()
                turned = (np.asarray(h).astype(int) + round(float(parameters.hue[i]) * 255)) % 256
                turned = Image.fromarray(turned.astype(np.uint8))
                image = Image.merge("HSV", (turned, s, v)).convert("RGB")
            else:
                name, field = {
                    BRIGHTNESS: ("Brightness", parameters.brightness),
                    CONTRAST: ("Contrast", parameters.contrast),
                    SATURATION: ("Color", parameters.saturation),
                }[operation]
                image = getattr(ImageEnhance, name)(image).enhance(float(field[i]))
        expected = np.asarray(image).transpose(2, 0, 1) / 255
        deviation.append(np.abs(views[i].numpy() - expected))
    deviation = np.stack(deviation)
    assert deviation.shape == (60, 3, 24, 24)
    assert deviation.mean() < 0.007
    assert np.quantile(deviation, 0.99) < 0.03


@given(
    colour=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    shift=st.floats(-0.5, 0.5),
)
@settings(max_examples=200, deadline=None)
def test_hue_is_the_standard_librarys(colour, shift):
    colour = [round(value, 6) for value in colour]
    pixel = torch.tensor(colour, dtype=torch.float64).view(1, 3, 1)
    turned = turn_hue_(pixel, torch.tensor([shift], dtype=torch.float64)).flatten()
    h, s, v = colorsys.rgb_to_hsv(*colour)
    expected = colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
    np.testing.assert_allclose(turned.numpy(), expected, atol=1e-12, rtol=0)


def test_hue_keeps_value_and_chroma_and_returns_after_a_full_turn():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand((9, 3, 50), generator=generator, dtype=torch.float64)
    shift = torch.linspace(-0.5, 0.5, 9, dtype=torch.float64)
    turned = turn_hue_(pixels.clone(), shift)
    torch.testing.assert_close(turned.amax(1), pixels.amax(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(turned.amin(1), pixels.amin(1), rtol=1e-12, atol=1e-12)
    back = turn_hue_(turned, -shift)
    torch.testing.assert_close(back, pixels, rtol=0, atol=1e-11)
    greys = torch.rand((4, 1, 50), generator=generator).expand(4, 3, 50).clone()
    assert torch.equal(turn_hue_(greys.clone(), torch.full((4,), 0.3)), greys)


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
    one = torch.rand(2, 1, 5)
    assert grey(one) is one


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
            expected = expected.clip(0, 1)
        np.testing.assert_allclose(views[i].numpy(), expected, atol=1e-12, rtol=0)


def test_operations_come_in_the_order_crop_jitter_grey_blur_solarise_normalise():
    images = photographs(20, 16)
    spec = whole(16, jitter=1.0, grey=1.0, blur=1.0, solarise=1.0)
    parameters = drawn(spec, 20, size=16)
    mean, std = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
    views = augment.apply(images, parameters, size=16, mean=mean, std=std, dtype=torch.float64)
    step = images
    for name in ("jitter", "grey", "blur", "solarise"):
        only = {
            flag: getattr(parameters, flag) & (flag == name)
            for flag in ("jitter", "grey", "blur", "solarise")
        }
        alone = parameters._replace(**only)
        step = augment.apply(step, alone, size=16, dtype=torch.float64, **PLAIN)
    expected = (step - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(views, expected, atol=2e-7, rtol=0)  # the statistics in float32
