from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from cognates.data.corrupt import CORRUPTIONS, SEVERITIES, blur, corrupt, uniform_of
from cognates.errors import ConfigError, DataError


def pictures(n=5, c=3, h=20, w=26, seed=0):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(seed))


def index(n=5):
    return torch.arange(n) + 40


def test_six_corruptions_of_five_severities() -> None:
    assert set(CORRUPTIONS) == {"noise", "blur", "occlusion", "contrast", "pixelation", "jpeg"}
    assert all(len(kind.strengths) == SEVERITIES == 5 for kind in CORRUPTIONS.values())


@pytest.mark.parametrize("name", [*CORRUPTIONS])
def test_images_of_any_kind_and_size_keep_it_and_change_more_with_the_severity(name: str) -> None:
    for shape in ((3, 20, 26), (1, 33, 16), (1, 1, 1)):
        # with structure, as noise has none that coarser blocks could lose
        images = blur(pictures(5, *shape), 0.06)
        stored = (images * 255).round().to(torch.uint8)
        changes = []
        for severity in range(6):
            made = corrupt(images, name, severity, index=index())
            assert made.shape == images.shape
            assert made.dtype == images.dtype
            assert 0 <= made.min() <= made.max() <= 1
            changes.append(float((made - images).square().mean()))
            eight_bit = corrupt(stored, name, severity, index=index())
            assert eight_bit.dtype == torch.uint8
            expected = corrupt(stored.float() / 255, name, severity, index=index())
            # one rounding to 8 bits
            assert float((eight_bit.float() / 255 - expected).abs().max()) <= 0.5 / 255 + 1e-6
        assert changes[0] == 0
        if shape[1] > 1:
            assert changes == sorted(changes)
            assert 1e-5 < changes[1] < changes[5]


@pytest.mark.parametrize("name", [*CORRUPTIONS])
def test_a_corrupted_image_depends_on_seed_and_number_and_not_on_its_batch(name: str) -> None:
    images = pictures()
    whole = corrupt(images, name, 3, index=index(), seed=5)
    rows = torch.tensor([3, 1])
    some = corrupt(images[rows], name, 3, index=index()[rows], seed=5)
    assert torch.allclose(whole[rows], some, atol=1e-6)
    same = images[:1].expand(2, -1, -1, -1)
    one, other = corrupt(same, name, 3, index=index(2), seed=5)
    again = corrupt(same, name, 3, index=index(2), seed=6)
    random = name in ("noise", "occlusion")
    assert torch.equal(one, other) != random
    assert torch.equal(again[0], one) != random
    assert torch.equal(corrupt(same, name, 0, index=index(2)), same)


def test_noise_has_its_deviation_and_grows_by_the_same_field() -> None:
    grey = torch.full((4, 3, 64, 64), 0.5)
    fields = [corrupt(grey, "noise", s, index=index(4)) - 0.5 for s in (1, 2)]
    # 49,152 numbers: a standard error of .3 %; cut at 6 deviations
    assert float(fields[0].std()) == pytest.approx(0.08, rel=0.013)
    inside = fields[1].abs() < 0.5
    assert torch.allclose(fields[1][inside], 1.5 * fields[0][inside], atol=1e-6)


def test_a_larger_patch_covers_the_smaller_one_and_has_its_share_of_the_sides() -> None:
    images = torch.zeros(50, 1, 40, 20)
    covered = [corrupt(images, "occlusion", s, index=index(50)) == 0.5 for s in range(1, 6)]
    for side, patch in zip((0.2, 0.3, 0.4, 0.5, 0.6), covered, strict=True):
        assert set(patch.sum(dim=(1, 2, 3)).tolist()) == {round(side * 40) * round(side * 20)}
    assert all(bool((small <= large).all()) for small, large in pairwise(covered))
    places = covered[0].flatten(1).float().argmax(dim=1)
    assert len(places.unique()) > 30


def test_contrast_shrinks_towards_the_mean_of_each_channel() -> None:
    images = pictures()
    made = corrupt(images, "contrast", 2, index=index())
    mean = images.mean(dim=(2, 3), keepdim=True)
    assert torch.allclose(made, mean + 0.5 * (images - mean), atol=1e-6)


def test_pixelation_makes_blocks_of_means() -> None:
    images = pictures(2, 1, 40, 40)
    made = corrupt(images, "pixelation", 5, index=index(2))  # 10 blocks of 4 x 4
    blocks = made.view(2, 1, 10, 4, 10, 4)
    assert torch.allclose(blocks, blocks[:, :, :, :1, :, :1].expand_as(blocks))
    means = images.view(2, 1, 10, 4, 10, 4).mean(dim=(3, 5))
    assert torch.allclose(blocks[:, :, :, 0, :, 0], means, atol=1e-6)


def test_jpeg_is_what_pillow_writes_and_reads() -> None:
    for channels, mode in ((1, "L"), (3, "RGB")):
        stored = (pictures(1, channels) * 255).to(torch.uint8)
        made = corrupt(stored, "jpeg", 1, index=index(1))
        buffer = io.BytesIO()
        array = stored[0].permute(1, 2, 0).numpy()
        Image.fromarray(array.squeeze() if channels == 1 else array, mode).save(
            buffer, "JPEG", quality=25
        )
        expected = np.array(Image.open(buffer)).reshape(20, 26, channels).transpose(2, 0, 1)
        assert np.array_equal(made[0].numpy(), expected)


def test_the_blur_of_an_oblong_image_is_that_of_scipy() -> None:
    from scipy.ndimage import gaussian_filter

    images = pictures().double()
    expected = gaussian_filter(
        images.numpy(), sigma=(0, 0, 1.04, 1.04), mode="nearest", truncate=4 / 1.04
    )
    assert np.allclose(blur(images, 0.04).numpy(), expected, atol=1e-12)


def test_uniform_numbers_are_uniform_and_belong_to_the_image() -> None:
    numbers = uniform_of(torch.arange(4000), 2, seed=3)
    assert numbers.shape == (4000, 2)
    for column in numbers.T:
        assert float(column.mean()) == pytest.approx(0.5, abs=4 * 0.2887 / 4000**0.5)
        share = float((column < 0.1).double().mean())
        assert share == pytest.approx(0.1, abs=4 * 0.3 / 4000**0.5)
    assert torch.equal(numbers[[7, 3]], uniform_of(torch.tensor([7, 3]), 2, seed=3))
    assert not torch.equal(numbers, uniform_of(torch.arange(4000), 2, seed=4))


def test_what_cannot_be_corrupted_is_said() -> None:
    images = pictures()
    with pytest.raises(ConfigError, match="did you mean 'noise'"):
        corrupt(images, "nois", 1, index=index())
    with pytest.raises(ConfigError, match="severity from 0 to 5, got 6"):
        corrupt(images, "noise", 6, index=index())
    with pytest.raises(DataError, match="n numbers of images"):
        corrupt(images, "noise", 1, index=index(4))
    with pytest.raises(DataError, match=r"n, 1 or 3, h, w"):
        corrupt(images[:, :2], "noise", 1, index=index())
    with pytest.raises(DataError, match="uint8 or floating point"):
        corrupt(images.long(), "noise", 1, index=index())
