"""The passes over the encoders that a suite needs, each kept in a file and made once.

A file's name ends in the hash of everything it depends on, so a file that is there is right, and
one that cannot be read is made again.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from cognates.data.images import Images
from cognates.data.tokens import Tokenizer
from cognates.data.views import ViewSpec, changing
from cognates.errors import StorageError
from cognates.evaluation import drawn, linear, relative
from cognates.evaluation.augmentation import RECIPES, augmented_pair, feature_name
from cognates.evaluation.augmentation import reference as reference_recipe
from cognates.evaluation.corruption import CORRUPTED
from cognates.evaluation.features import (
    Transform,
    by_views,
    extract,
    pixels,
    view_pair,
    view_pixels,
)
from cognates.evaluation.kinds import kind_passes
from cognates.evaluation.knn import DISTANCE
from cognates.evaluation.outsiders import OUTSIDE
from cognates.evaluation.pairs import pair_passes
from cognates.evaluation.relative import Bank
from cognates.evaluation.splits import part_of
from cognates.evaluation.store import cache_key, load, save, weights_digest
from cognates.evaluation.subjects import TARGET, has_labels
from cognates.evaluation.sweeps import Change, sweep, sweep_name
from cognates.evaluation.theory import FIT, LATENTS, has_latents, latent_pair
from cognates.evaluation.uncertainty import DRAWN, LABEL_FREE, MAX_SOFTMAX, with_default
from cognates.methods.base import Method
from cognates.types import Features

PIXELS = "pixels"


class _Input(TypedDict):
    views: tuple[ViewSpec, ...]
    size: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    device: torch.device | str
    batch_size: int


class _Place(TypedDict):
    transform: Transform
    device: torch.device | str
    batch_size: int


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
    bank: Bank | None = None
    """Training images that scores are compared with; None: made of the training features."""
    default_score: str | None = None
    """The uncertainty that the method stands for; None: the method says."""
    grid: int = linear.GRID
    """Penalties of the linear probe behind `max-softmax`."""

    def features(
        self,
        method: Method,
        untrained: Method | None,
        train: Images,
        test: Images,
        *,
        with_views: bool = True,
        sweeps: Sequence[Mapping[str, Change]] = (),
        with_augmented: bool = False,
        with_theory: bool = False,
        outside: Mapping[str, Images] | None = None,
        generative: Sequence[str] = (),
        reference: drawn.Reference | None = None,
        tokenizer: Tokenizer | None = None,
        with_kinds: bool = False,
    ) -> tuple[dict[str, Features], dict[str, str]]:
        """Return the features that protocols read, and the cache key of every subject.

        Args:
            method: in eval mode.
            untrained: a fresh copy of it in eval mode, or None.
            train: one split.
            test: the other.
            with_views: whether view retrieval will run.
            sweeps: the changes of every sweep that will be read.
            with_augmented: whether augmentation will run.
            with_theory: whether theory will run.
            outside: images of other sets, by name.
            generative: those protocols of `GENERATIVE` that will run.
            reference: the encoder that samples are compared by; None: a random convolutional one.
            tokenizer: the run's, if caption retrieval will run.
            with_kinds: whether kind retrieval will run.
        """
        found, hashes = {}, {}
        for subject, owner in _owners(method, untrained).items():
            weights = PIXELS if owner is None else weights_digest(owner)
            prefix = "" if subject == "trained" else f"{subject}-"
            hashes[subject] = self._key(test, weights)
            for split, images in (("train", train), ("test", test)):
                # the eight passes: only where errors are ranked, where it is the method's score, or
                # where other images have it too
                needed = TARGET in images.targets or by_views(method) or bool(outside)
                disagreement = needed and split == "test" and subject == "trained"
                found[prefix + split] = self._split(
                    f"{subject}-{split}", owner, images, weights, disagreement=disagreement
                )
            if with_views or with_theory:
                found |= self._views(subject, owner, test, weights)
            if with_theory:
                some = part_of(train, FIT, seed=self.seed)
                found |= self._views(subject, owner, some, weights, split="train")
            if with_augmented:
                found |= self._augmented(subject, owner, train, test, weights)
            found |= self._paired(subject, owner, test, weights, tokenizer, with_kinds)
        for name, images in (outside or {}).items():
            weights = weights_digest(method)
            found[OUTSIDE + name] = self._split(
                f"trained-{OUTSIDE}{name}", method, images, weights, disagreement=True
            )
        default = self.default_score or method.default_score
        bank = self.bank or relative.bank_of(found["train"], own=method.own, seed=self.seed)
        if bank is not None:
            for name in ("train", "test", *(OUTSIDE + other for other in outside or {})):
                found[name] = self._compared_with(bank, found[name], name, hashes["trained"])
        found["test"] = with_default(found["train"], found["test"], default)
        for changes in sweeps:
            found |= self._sweeps(method, train, test, found, bank, default, changes)
        if with_theory:
            found |= self._latents(method, test)
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
        specs = [repr(changing(self.views))] if disagreement else []
        return self._kept(
            name,
            self._key(images, weights, disagreement=specs),
            lambda: extract(owner, images, view_disagreement=disagreement, **self._input()),
        )

    def _views(
        self,
        subject: str,
        owner: Method | None,
        images: Images,
        weights: str,
        *,
        split: str = "test",
    ) -> dict[str, Features]:
        prefix = "" if subject == "trained" else f"{subject}-"

        @functools.cache
        def pair() -> tuple[Features, Features]:
            if owner is None:
                size = self.transform.size
                return view_pixels(images, views=self.views, size=size, seed=self.seed)
            return view_pair(owner, images, seed=self.seed, **self._input())

        return {
            f"{prefix}view{number + 1}-{split}": self._kept(
                f"{subject}-view{number + 1}-{split}",
                self._key(images, weights, view=number, specs=self._specs(2), seed=self.seed),
                lambda number=number: pair()[number],
            )
            for number in (0, 1)
        }

    def _paired(
        self,
        subject: str,
        owner: Method | None,
        test: Images,
        weights: str,
        tokenizer: Tokenizer | None,
        with_kinds: bool,
    ) -> dict[str, Features]:
        """Return both halves of pairs in the space that they share, where they will be read."""
        makers, of = {}, {}
        if with_kinds:
            makers = kind_passes(owner, test, views=self.views, **self._place())
            of = {"specs": self._specs(2)}
        elif tokenizer is not None and owner is not None:
            makers = pair_passes(owner, test, tokenizer, **self._place())
            of = {"tokenizer": tokenizer.digest}
        prefix = "" if subject == "trained" else f"{subject}-"
        found = {}
        for name, make in makers.items():
            key = self._key(test, weights, pairs=name, **of)
            found[prefix + name] = self._kept(f"{subject}-{name}", key, make)
        return found

    def _latents(self, method: Method, test: Images) -> dict[str, Features]:
        """Return the posteriors of two views where the method has some."""
        if not has_latents(method):
            return {}
        make = functools.cache(lambda: latent_pair(method, test, seed=self.seed, **self._input()))
        found = {}
        for number, name in enumerate(LATENTS):
            more = {"latents": number, "specs": self._specs(2), "seed": self.seed}
            key = self._key(test, weights_digest(method), **more)
            found[name] = self._kept(f"trained-{name}", key, lambda number=number: make()[number])
        return found

    def _augmented(
        self, subject: str, owner: Method | None, train: Images, test: Images, weights: str
    ) -> dict[str, Features]:
        found = {}
        # components are those of the training images
        of = {} if owner is not None else {"components": self._key(train, weights)}
        specs = (changing(self.views), reference_recipe(self.transform.size))
        for recipe, spec in zip(RECIPES, specs, strict=True):
            make = functools.cache(
                functools.partial(
                    augmented_pair,
                    *(owner, train, test),
                    spec=spec,
                    mean=self.transform.mean,
                    std=self.transform.std,
                    device=self.device,
                    batch_size=self.batch_size,
                    seed=self.seed,
                )
            )
            for number, (split, images) in enumerate((("train", train), ("test", test))):
                key = self._key(images, weights, augmented=repr(spec), seed=self.seed, **of)
                found[feature_name(recipe, split, subject)] = self._kept(
                    f"{subject}-{feature_name(recipe, split)}",
                    key,
                    lambda make=make, number=number: make()[number],
                )
        return found

    def _compared_with(self, bank: Bank, features: Features, name: str, key: str) -> Features:
        """Return features with their scores against the bank, if they have what that takes."""
        if bank.own not in features.scores:
            return features
        of = hashlib.sha256(np.ascontiguousarray(features.representation).tobytes()).hexdigest()
        digest = hashlib.sha256(f"{key} {of} {bank.digest}".encode()).hexdigest()[:16]
        kept = self._kept(
            f"trained-{name}-relative", digest, lambda: relative.with_scores(features, bank)
        )
        return replace(features, scores={**features.scores, **kept.scores})

    def _sweeps(
        self,
        method: Method,
        train: Images,
        test: Images,
        known: Mapping[str, Features],
        bank: Bank | None,
        default: str,
        changes: Mapping[str, Change],
    ) -> dict[str, Features]:
        made: dict[str, Features] = {}
        corrupted = all(name.startswith(CORRUPTED) for name in changes)
        seen, predict = known["train"], corrupted and has_labels(train, test)
        probed = linear.learnable(seen)

        def one(name: str) -> Features:
            if not made:
                # the probe of the other protocols: it is remembered
                probe = linear.predict(seen, known["test"], grid=self.grid) if probed else None
                shared = {"seed": self.seed, "compared": bank, "default_score": default}
                kind = {"bank": seen, "probe": probe, "changes": changes, "predict": predict}
                made.update(sweep(method, test, **shared, **kind, **self._input()))
            return made[name]

        weights = weights_digest(method)
        found = {}
        beside = (*LABEL_FREE, *(score for score in DRAWN if score in seen.scores))
        ours = (method.own, *(relative.SCORES if bank is not None else ()))
        ours = (*((MAX_SOFTMAX,) if probed else ()), *ours)
        specs = [repr(changing(self.views))]
        for score in dict.fromkeys((default, *beside, *ours)):
            # what corrupted images are taken for is kept beside their scores
            of_bank = score in (DISTANCE, MAX_SOFTMAX) or corrupted
            # of the default score the name says nothing, and another call may have another
            against: dict[str, object] = {"score": score}
            against |= {"bank": self._key(train, weights)} if of_bank else {}
            against |= {"grid": self.grid} if score == MAX_SOFTMAX else {}
            if bank is not None and score in relative.SCORES:
                against |= {"compared": bank.digest}
            for change, kind in changes.items():
                name = sweep_name(change, score, default)
                more = {**against, **({"strengths": kind.depends} if kind.depends else {})}
                key = self._key(test, weights, sweep=name, specs=specs, seed=self.seed, **more)
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
        weights = weights_digest(method)
        more: dict[str, object] = {"seed": self.seed}
        if "elbo" in names:
            more["specs"] = self._specs(len(self.views))
        kind = {**self._place(), "seed": self.seed}
        makers = drawn.drawn_passes(method, test, names, views=self.views, **kind)
        found = {
            name: self._kept(f"trained-{name}", self._key(test, weights, drawn=name, **more), make)
            for name, make in makers.items()
        }
        if "generation" in names:
            by = reference or drawn.random_reference(test.pixels.shape[1], self.device)
            del kind["device"]  # that of the reference
            of_both = drawn.comparison_passes(method, train, test, by, **kind)
            for name, (images, sampled, make) in of_both.items():
                # of real images the reference is all that the features depend on
                of, beside = (weights, {"by": by.digest}) if sampled else (by.digest, {})
                key = self._key(images, of, drawn=name, seed=self.seed, **beside)
                owner = "trained" if sampled else by.name
                found[name] = self._kept(f"{owner}-{name}", key, make)
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

    def _place(self) -> _Place:
        return {"transform": self.transform, "device": self.device, "batch_size": self.batch_size}

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
