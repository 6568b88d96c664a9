"""The passes over the encoders that a suite needs, each kept in a file and made once.

A file's name ends in the hash of everything it depends on, so a file that is there is right, and
one that cannot be read is made again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from cognates.data.images import Images
from cognates.data.tokens import Tokenizer
from cognates.data.views import ViewSpec
from cognates.errors import ConfigError, StorageError
from cognates.evaluation import drawn, generation, likelihood
from cognates.evaluation.augmentation import RECIPES, feature_name, view
from cognates.evaluation.augmentation import reference as reference_recipe
from cognates.evaluation.components import reduce
from cognates.evaluation.drawings import as_drawing, draws_images
from cognates.evaluation.features import (
    Transform,
    by_views,
    extract,
    pixels,
    view_pair,
    view_pixels,
)
from cognates.evaluation.knn import DISTANCE
from cognates.evaluation.pairs import pair_passes
from cognates.evaluation.sensitivity import CHANGES, sweep, sweep_name
from cognates.evaluation.store import cache_key, data_digest, load, save, weights_digest
from cognates.evaluation.subjects import TARGET
from cognates.evaluation.uncertainty import DRAWN, LABEL_FREE
from cognates.methods.base import Method
from cognates.random import fold_in
from cognates.types import Features

PIXELS = "pixels"
GENERATIVE = ("reconstruction", "elbo", "generation", "generated-views")
"""Protocols of methods that draw images."""


def drawable(
    method: Method, *, only: Sequence[str] | None, reference: drawn.Reference | None
) -> tuple[str, ...]:
    """Return those protocols of `GENERATIVE` that a method allows.

    Raises:
        ConfigError: one of `only` needs what the method does not have, or the reference is the
            method itself.
    """
    wanted = set(GENERATIVE if only is None or "generative" in only else only) & set(GENERATIVE)
    by_name = set(only or ()) & set(GENERATIVE)
    if not wanted or (only is None and not draws_images(method)):
        return ()
    prior = as_drawing(method).config.prior_of(1)
    if prior.flat:
        if "generation" in by_name:
            drawn.require_samples(as_drawing(method))
        wanted.discard("generation")
    if prior.between == 0:
        if "generated-views" in by_name:
            drawn.require_shared(as_drawing(method))
        wanted.discard("generated-views")
    if reference is not None:
        drawn.require_other(reference, method)
    return tuple(name for name in GENERATIVE if name in wanted)


def part_of(images: Images, most: int | None, *, seed: int) -> Images:
    """Return at most `most` of the images, drawn by the seed, in their order."""
    if most is not None and most < 1:
        raise ConfigError(f"Expected at least 1 image, got {most}.")
    if most is None or len(images) <= most:
        return images
    generator = np.random.default_rng(fold_in(seed, "images", images.split))
    rows = np.sort(generator.choice(len(images), most, replace=False))
    return images.take(rows, digest=f"{data_digest(images)}-{most}-{seed}")


class _Input(TypedDict):
    views: tuple[ViewSpec, ...]
    size: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    device: torch.device | str
    batch_size: int


class _Place(TypedDict):
    device: torch.device | str
    batch_size: int


class _Drawing(TypedDict):
    transform: Transform
    device: torch.device | str
    batch_size: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class FeaturePass:
    """Makes features, or takes them from the run's folder."""

    views: tuple[ViewSpec, ...]
    transform: Transform
    folder: Path | None
    """Where features are kept; None: nowhere."""
    seed: int
    device: torch.device | str
    batch_size: int
    say: Callable[[str], None]

    def features(
        self,
        method: Method,
        untrained: Method | None,
        train: Images,
        test: Images,
        *,
        with_views: bool = True,
        with_sweeps: bool = True,
        with_augmented: bool = False,
        generative: Sequence[str] = (),
        reference: drawn.Reference | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> tuple[dict[str, Features], dict[str, str]]:
        """Return the features that protocols read, and the cache key of every subject.

        Args:
            method: in eval mode.
            untrained: a fresh copy of it in eval mode, or None.
            train: one split.
            test: the other.
            with_views: whether view retrieval will run.
            with_sweeps: whether sensitivity will run.
            with_augmented: whether augmentation will run.
            generative: those protocols of `GENERATIVE` that will run.
            reference: the encoder that samples are compared by; None: a random convolutional one.
            tokenizer: the run's, if caption retrieval will run.
        """
        found, hashes = {}, {}
        at: _Place = {"device": self.device, "batch_size": self.batch_size}
        for subject, owner in _owners(method, untrained).items():
            weights = PIXELS if owner is None else weights_digest(owner)
            prefix = "" if subject == "trained" else f"{subject}-"
            hashes[subject] = self._key(test, weights)
            for split, images in (("train", train), ("test", test)):
                # the eight passes: only where errors are ranked, or where it is the method's score
                needed = TARGET in images.targets or by_views(method)
                disagreement = needed and split == "test" and subject == "trained"
                found[prefix + split] = self._split(
                    f"{subject}-{split}", owner, images, weights, disagreement=disagreement
                )
            if with_views:
                sides = self._views(subject, owner, test, weights)
                found |= {f"{prefix}{name}": side for name, side in sides.items()}
            if with_augmented:
                found |= self._augmented(subject, owner, train, test, weights)
            if tokenizer is not None and owner is not None:
                for name, make in pair_passes(
                    owner, test, tokenizer, transform=self.transform, **at
                ).items():
                    key = self._key(test, weights, pairs=name, tokenizer=tokenizer.digest)
                    found[prefix + name] = self._kept(f"{subject}-{name}", key, make)
        if with_sweeps:
            found |= self._sweeps(method, train, found["train"], test)
        if generative:
            found |= self._drawn(method, train, test, generative, reference)
        return found, hashes

    def hashes(self, method: Method, untrained: Method | None, test: Images) -> dict[str, str]:
        """Return the cache key of every subject, as `features` does."""
        return {
            subject: self._key(test, PIXELS if owner is None else weights_digest(owner))
            for subject, owner in _owners(method, untrained).items()
        }

    def _split(
        self, name: str, owner: Method | None, images: Images, weights: str, *, disagreement: bool
    ) -> Features:
        if owner is None:
            key = self._key(images, weights)
            return self._kept(name, key, lambda: pixels(images, self.transform.size))
        specs = self._specs(1) if disagreement else []
        return self._kept(
            name,
            self._key(images, weights, disagreement=specs),
            lambda: extract(owner, images, view_disagreement=disagreement, **self._input()),
        )

    def _views(
        self, subject: str, owner: Method | None, test: Images, weights: str
    ) -> dict[str, Features]:
        made: list[tuple[Features, Features]] = []

        def side(number: int) -> Features:
            if not made:
                if owner is None:
                    size = self.transform.size
                    pair = view_pixels(test, views=self.views, size=size, seed=self.seed)
                else:
                    pair = view_pair(owner, test, seed=self.seed, **self._input())
                made.append(pair)
            return made[0][number]

        return {
            f"view{number + 1}-test": self._kept(
                f"{subject}-view{number + 1}-test",
                self._key(test, weights, view=number, specs=self._specs(2), seed=self.seed),
                lambda number=number: side(number),
            )
            for number in (0, 1)
        }

    def _augmented(
        self, subject: str, owner: Method | None, train: Images, test: Images, weights: str
    ) -> dict[str, Features]:
        found = {}
        # components are those of the training images
        of = {} if owner is not None else {"components": self._key(train, weights)}
        specs = (self.views[0], reference_recipe(self.transform.size))
        for recipe, spec in zip(RECIPES, specs, strict=True):
            make = functools.cache(
                functools.partial(self._augmented_pair, owner, spec, train, test)
            )
            for number, (split, images) in enumerate((("train", train), ("test", test))):
                key = self._key(images, weights, augmented=repr(spec), seed=self.seed, **of)
                found[feature_name(recipe, split, subject)] = self._kept(
                    f"{subject}-{feature_name(recipe, split)}",
                    key,
                    lambda make=make, number=number: make()[number],
                )
        return found

    def _augmented_pair(
        self, owner: Method | None, spec: ViewSpec, train: Images, test: Images
    ) -> tuple[Features, Features]:
        t = self.transform
        first, second = (
            view(
                owner,
                images,
                spec=spec,
                mean=t.mean,
                std=t.std,
                device=self.device,
                batch_size=self.batch_size,
                seed=self.seed,
            )
            for images in (train, test)
        )
        # pixels are kept as components, which is all that is read of them
        return reduce(first, second) if owner is None else (first, second)

    def _sweeps(
        self, method: Method, train: Images, bank: Features, test: Images
    ) -> dict[str, Features]:
        made: dict[str, Features] = {}

        def one(name: str) -> Features:
            if not made:
                made.update(sweep(method, test, bank=bank, seed=self.seed, **self._input()))
            return made[name]

        weights = weights_digest(method)
        found = {}
        beside = (*LABEL_FREE, *(score for score in DRAWN if score in bank.scores))
        for score in dict.fromkeys((method.default_score, *beside)):
            against = {"bank": self._key(train, weights)} if score == DISTANCE else {}
            for change in CHANGES:
                name = sweep_name(change, score, method.default_score)
                key = self._key(
                    test, weights, sweep=name, specs=self._specs(1), seed=self.seed, **against
                )
                found[name] = self._kept(f"trained-{name}", key, lambda name=name: one(name))
        return found

    def _drawn(
        self,
        method: Method,
        train: Images,
        test: Images,
        names: Sequence[str],
        reference: drawn.Reference | None,
    ) -> dict[str, Features]:
        """Return what the protocols `names` of generative methods read."""
        weights, t, seed = weights_digest(method), self.transform, self.seed
        model: _Drawing = {
            "transform": t, "device": self.device, "batch_size": self.batch_size, "seed": seed,
        }  # fmt: skip
        makers: dict[str, Callable[[], Features]] = {}
        more: dict[str, object] = {"seed": seed}
        if "reconstruction" in names:
            makers[likelihood.RECONSTRUCTION] = lambda: likelihood.reconstruction_pass(
                method, test, **model
            )
        if "elbo" in names:
            more["specs"] = self._specs(len(self.views))
            makers[likelihood.BOUND] = lambda: likelihood.bound_pass(
                method, test, views=self.views, **model
            )
        if "generated-views" in names:
            flat = as_drawing(method).config.prior_of(1).flat
            for source in ("image",) if flat else ("image", "prior"):
                makers[generation.VIEWS[source]] = lambda source=source: drawn.view_pass(
                    method, test, source=source, **model
                )
        found = {
            name: self._kept(f"trained-{name}", self._key(test, weights, drawn=name, **more), make)
            for name, make in makers.items()
        }
        if "generation" in names:
            found |= self._compared(method, train, test, reference)
        return found

    def _compared(
        self, method: Method, train: Images, test: Images, reference: drawn.Reference | None
    ) -> dict[str, Features]:
        """Return a reference's features of samples and of real images."""
        by = reference or drawn.random_reference(test.pixels.shape[1], self.device)
        options = {"batch_size": self.batch_size, "seed": self.seed}
        found = {}
        for name, images in (
            (generation.REFERENCE_TRAIN, train),
            (generation.REFERENCE_TEST, test),
        ):
            key = self._key(images, by.digest, drawn=name, seed=self.seed)
            found[name] = self._kept(
                f"{by.name}-{name}",
                key,
                lambda images=images: drawn.reference_pass(
                    by, images, transform=self.transform, **options
                ),
            )
        for number in range(generation.SEEDS):
            name = generation.generated(number)
            key = self._key(test, weights_digest(method), drawn=name, by=by.digest, seed=self.seed)
            found[name] = self._kept(
                f"trained-{name}",
                key,
                lambda number=number: drawn.sample_pass(method, by, test, number=number, **options),
            )
        return found

    def _input(self) -> _Input:
        return {
            "views": self.views,
            "size": self.transform.size,
            "mean": self.transform.mean,
            "std": self.transform.std,
            "device": self.device,
            "batch_size": self.batch_size,
        }

    def _specs(self, count: int) -> list[str]:
        return [repr(view) for view in self.views[:count]]

    def _key(self, images: Images, weights: str, **more: object) -> str:
        t = self.transform
        transform = {"size": t.size, "mean": t.mean, "std": t.std, **more}
        layer = PIXELS if weights == PIXELS else "backbone"
        return cache_key(images, weights=weights, layer=layer, transform=transform)

    def _kept(self, name: str, key: str, make: Callable[[], Features]) -> Features:
        if self.folder is None:
            return make()
        path = self.folder / f"{name}-{key}.npz"
        if path.is_file():
            try:
                return load(path)
            except StorageError as error:
                self.say(f"Features are made again. {error}")
        self.say(f"Features: {name} ...")
        features = make()
        save(path, features)
        return features


def _owners(method: Method, untrained: Method | None) -> dict[str, Method | None]:
    """Return whose features are made, by subject; None: the pixels."""
    copies = {} if untrained is None else {"untrained": untrained}
    return {"trained": method, **copies, PIXELS: None}
