"""Several views of every image through a frozen encoder, kept in one file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cognates.data import augment
from cognates.errors import ConfigError, NonFiniteError
from cognates.evaluation.features import Transform
from cognates.evaluation.many_views import view_features
from cognates.random import generator

TRANSFORM = Transform.of(16, (0.2,), (0.3,))


def made(method, images, spec, folder, **options):
    options = {"views": (spec, spec, spec), "transform": TRANSFORM, **options}
    return view_features(method.encoder, images, folder=folder, **options)


def test_each_view_of_each_image_is_embedded_with_its_own_draw(method, images, spec, tmp_path):
    images = images[0]
    found = made(method, images, spec, tmp_path, batch_size=25, seed=5)
    assert found.shape == (60, 3, 48)
    assert found.dtype == np.float32
    pixels = torch.from_numpy(images.pixels)
    for number in range(3):
        drawn = augment.draw(
            spec, 60, height=16, width=16, generator=generator(5, "many views", number)
        )
        with torch.no_grad():
            expected = method.encoder(TRANSFORM.augmented(pixels, drawn))
        np.testing.assert_allclose(found[:, number], expected.numpy(), rtol=1e-5, atol=1e-6)
    assert np.abs(found[:, 0] - found[:, 1]).max() > 1e-3


def test_the_file_is_found_again_and_only_where_nothing_has_changed(
    method, images, untrained, spec, tmp_path
):
    images, other = images
    calls = []
    said = {"progress": lambda done, count: calls.append((done, count))}
    first = made(method, images, spec, tmp_path, batch_size=25, **said)
    assert calls == [(25, 60), (50, 60), (60, 60)]
    again = made(method, images, spec, tmp_path, batch_size=7, **said)
    assert len(calls) == 3
    assert isinstance(again, np.memmap)
    np.testing.assert_array_equal(first, again)
    assert len(list(tmp_path.iterdir())) == 1
    made(untrained, images, spec, tmp_path)
    made(method, images, spec, tmp_path, seed=1)
    made(method, other, spec, tmp_path)
    made(method, images, spec, tmp_path, views=(spec, spec))
    assert len(list(tmp_path.iterdir())) == 5


def test_a_cut_file_is_made_again(method, images, spec, tmp_path):
    images = images[0]
    first = np.array(made(method, images, spec, tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(made(method, images, spec, tmp_path), first)


def test_what_cannot_be_embedded_is_refused_and_leaves_no_file(method, images, spec, tmp_path):
    images = images[0]
    with pytest.raises(ConfigError, match="at least one view"):
        made(method, images, spec, tmp_path, views=())
    method.train()
    with pytest.raises(ConfigError, match="eval mode"):
        made(method, images, spec, tmp_path)
    method.eval().encoder = nn.Sequential(method.encoder, nn.Threshold(1e9, float("nan"))).eval()
    with pytest.raises(NonFiniteError, match="from the encoder"):
        made(method, images, spec, tmp_path)
    assert not list(tmp_path.iterdir())
