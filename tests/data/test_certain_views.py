"""The one view of a kind of image: what is certain in a view happens, what is drawn does not."""

import pytest
import torch
from torch.nn import functional

from cognates.data import augment
from cognates.data.views import ViewSpec, crop_and_flip, simsiam_imagenet
from cognates.errors import ConfigError

PLAIN = {"mean": None, "std": None}


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, 32, 32), generator=generator, dtype=torch.uint8)


def seen(images, spec, *, centre=28):
    n, _, height, width = images.shape
    sure = augment.certain(spec, centre=centre, height=height, width=width)
    return augment.apply(images, sure.expand(n), size=spec.size, **PLAIN)


@pytest.mark.parametrize("spec", [simsiam_imagenet(28), crop_and_flip(28), ViewSpec(size=28)])
def test_where_nothing_is_certain_it_is_the_test_view(images, spec):
    # A weight of 1 divided by 255 before the product, not after it.
    torch.testing.assert_close(
        seen(images, spec), augment.test_view(images, size=28, **PLAIN), rtol=2e-6, atol=1e-7
    )


def test_a_kind_of_another_size_is_the_same_centre_resized(images):
    centre = images[:, :, 2:30, 2:30].double() / 255
    want = functional.interpolate(centre, size=(20, 20), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen(images, crop_and_flip(20)).double(), want, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["flip", "grey", "blur", "solarise"])
def test_what_is_certain_is_what_every_draw_does(images, name):
    spec = ViewSpec(size=28, scale=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0, sigma=(1.5, 1.5))
    found = {}
    for chance in (0.0, 0.999, 1.0):
        of = spec.__class__(**{**vars(spec), name: chance})
        found[chance] = seen(images[:, :, 2:30, 2:30], of)
        if chance != 0.999:
            source = torch.Generator().manual_seed(0)
            drawn = augment.draw(of, 5, height=28, width=28, generator=source)
            want = augment.apply(images[:, :, 2:30, 2:30], drawn, size=28, **PLAIN)
            torch.testing.assert_close(found[chance], want, rtol=0, atol=0)
    assert found[0.999].equal(found[0.0])
    assert not found[1.0].allclose(found[0.0], atol=0.05)


def test_the_blur_is_that_of_the_middle_of_its_range():
    spec = ViewSpec(size=28, blur=1.0, sigma=(0.5, 2.0))
    assert augment.certain(spec, centre=28, height=32, width=32).sigma.tolist() == [1.25]


@pytest.mark.parametrize("centre", [0, 33])
def test_a_centre_that_is_not_in_the_image_is_refused(images, centre):
    with pytest.raises(ConfigError, match=r"a centre of 1 to 32 pixels, got"):
        seen(images, crop_and_flip(20), centre=centre)
