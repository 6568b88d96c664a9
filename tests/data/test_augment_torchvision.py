"""Views against torchvision's own functions, image by image, with the same parameters."""

import numpy as np
import pytest
import torch

from cognates.data import augment
from cognates.data.draws import BRIGHTNESS, CONTRAST, HUE, SATURATION
from cognates.data.views import ViewSpec, crop_and_flip

PLAIN = {"mean": None, "std": None}


@pytest.fixture(scope="module")
def functional(torchvision):
    return torchvision.transforms.functional


def noise(n, size):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def drawn(spec, n, size):
    generator = torch.Generator().manual_seed(0)
    return augment.draw(spec, n, height=size, width=size, generator=generator)


@pytest.mark.parametrize(("size", "view"), [(32, 32), (96, 24)])
def test_crop_and_flip_are_torchvisions_antialiased_resize(functional, size, view):
    images = noise(24, size)
    parameters = drawn(crop_and_flip(view), 24, size)
    views = augment.apply(images, parameters, size=view, dtype=torch.float64, **PLAIN)
    for i in range(24):
        box = (int(getattr(parameters, name)[i]) for name in ("top", "left", "height", "width"))
        expected = functional.resized_crop(images[i].double() / 255, *box, [view, view])
        if parameters.flip[i]:
            expected = functional.hflip(expected)
        np.testing.assert_allclose(views[i].numpy(), expected.numpy(), atol=1e-6, rtol=0)


def test_jitter_is_torchvisions_in_each_images_order_where_nothing_clips_and_no_hue_turns(
    functional,
):
    images = noise(40, 8) // 4 + 80  # far enough from both ends for the strengths of this test
    strengths = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0}
    spec = ViewSpec(size=8, scale=(1, 1), flip=0, jitter=1.0, grey=0, **strengths)
    parameters = drawn(spec, 40, 8)
    views = augment.apply(images, parameters, size=8, dtype=torch.float64, **PLAIN)
    assert 0 < float(views.min()) < float(views.max()) < 1
    steps = {
        BRIGHTNESS: (functional.adjust_brightness, parameters.brightness),
        CONTRAST: (functional.adjust_contrast, parameters.contrast),
        SATURATION: (functional.adjust_saturation, parameters.saturation),
        HUE: (functional.adjust_hue, parameters.hue),
    }
    for i in range(40):
        expected = images[i].double() / 255
        for operation in parameters.order[i].tolist():
            adjust, amount = steps[operation]
            expected = adjust(expected, float(amount[i]))
        # torchvision's luma is (.2989, .587, .114), which adds up to .9999
        np.testing.assert_allclose(views[i].numpy(), expected.numpy(), atol=2e-4, rtol=0)
