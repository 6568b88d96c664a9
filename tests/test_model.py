import numpy as np
import pytest
import torch

import cognates
from cognates.data.views import changing
from cognates.errors import ConfigError
from cognates.evaluation import features, relative
from tests.small import write_colour


@pytest.fixture(scope="module", params=["vi-simsiam", "simsiam"])
def model(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGNATES_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("colour")
        write_colour(folder, labels=False)
        run = cognates.train(
            request.param,
            data=f"npz:{folder}",
            out=tmp_path_factory.mktemp("runs") / request.param,
            encoder="mlp",
            epochs=1,
            batch_size=16,
            device="cpu",
            settings=("method.dim=16", "method.hidden=16", "method.predictor_hidden=8"),
            progress=False,
        )
        yield cognates.load(run.path)


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (12, 3, 12, 12), dtype=np.uint8)


def without_views(*_):
    raise AssertionError("views of an image were embedded")


def test_scores_that_need_no_views_cost_none_and_keep_their_values(model, pixels, monkeypatch):
    free = ("norm", "knn-distance", "distance-ratio")
    assert {*free} < {*model.scores}
    known = {score: model.embed(pixels, score=score).uncertainty for score in free}
    # as they come with the method's own score, from the views where that is of views
    stored = torch.from_numpy(np.array(next(iter(model._incoming.chunks(pixels, 12)))))
    to = {"spec": changing(model.config.views), "transform": model._transform}
    h, scores = features.score_views(model.method, stored, **to)
    scores |= relative.against(model.bank, h, scores, parts=True)
    monkeypatch.setattr(features, "_disagreement", without_views)
    for score in free:
        assert model.embed(pixels, score=score).uncertainty.equal(known[score])
        assert (known[score].numpy() == scores[score]).all()
    if features.by_views(model.method):
        with pytest.raises(AssertionError, match="views of an image"):
            model.embed(pixels, score="relative")


def test_a_selection_that_reads_no_uncertainty_embeds_no_views(model, pixels, monkeypatch):
    assert len(set(model.select(pixels, 4, strategy="certain", score="norm").tolist())) == 4
    monkeypatch.setattr(features, "_disagreement", without_views)
    for strategy in ("typical", "random"):
        assert len(set(model.select(pixels, 4, strategy=strategy).tolist())) == 4
        with pytest.raises(ConfigError, match=f"certain or spread.*'norm' with '{strategy}'"):
            model.select(pixels, 4, strategy=strategy, score="norm")
    if features.by_views(model.method):
        with pytest.raises(AssertionError, match="views of an image"):
            model.select(pixels, 4, strategy="certain")
