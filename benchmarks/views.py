"""How many views per second: `cognates`, kornia and Pillow image by image.

    python benchmarks/views.py

From a stored uint8 batch to normalised float32 views, one view per image, parameters drawn anew
for each image: resized crop, flip, jitter (.4, .4, .4, .1; p = .8) and grey (p = .2); then the same
with blur or solarise. The pipelines take turns within each repetition, so that whatever else the
machine does meets them alike; the medians over repetitions and the ratios of medians are reported.

kornia runs per sample and batched, in the fastest of its variants (crop by slices or by resampling,
`ColorJitter` or `ColorJiggle`, batches of 64 or 256), found at the start. Pillow runs the
operations of torchvision's Pillow backend, written here because torchvision need not be installed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from PIL import __version__ as pillow_version
from record import write
from torch import Tensor, nn

from cognates.data.augment import make_views
from cognates.data.views import ViewSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = {32: 32, 96: 110}
"""Size of the view and of the stored image."""
EXTRAS: dict[str, dict[str, float]] = {
    "crop, flip, jitter, grey": {},
    "and blur (p = .5)": {"blur": 0.5},
    "and solarise (p = .2)": {"solarise": 0.2},
}
TARGETS = {"kornia": 3.0, "Pillow": 8.0}
Pipeline = Callable[[], int]
"""Makes some views and returns how many."""


def main() -> None:
    """Run the benchmark."""
    options = _options()
    if options.cores:
        os.sched_setaffinity(0, options.cores)
    torch.set_num_threads(options.threads)
    rows, measured = [], []
    for size, (name, extra) in itertools.product(options.sizes, EXTRAS.items()):
        images = _images(options.batch, SIZES[size])
        spec = ViewSpec(size=size, **extra)
        with ProcessPoolExecutor(
            options.threads, get_context("fork"), initializer=_begin, initargs=(images, spec)
        ) as pool:
            pipelines, variant = _pipelines(images, spec, pool, options.threads)
            rates = _interleaved(pipelines, options.repetitions, options.seconds)
        measured.append(
            {"size": size, "stored": SIZES[size], "views": name, "rates": rates, "kornia": variant}
        )
        rows.append(_row(size, name, rates))
        print("  ".join(rows[-1]), flush=True)
    versions = {"kornia": _kornia_version(), "pillow": pillow_version}
    header = ["view", "operations", *rates, "x kornia", "x Pillow", "x Pillow, all cores"]
    table = write(
        "views",
        title="Views per second",
        note=(
            f"Median [lowest, highest] of {options.repetitions} interleaved repetitions; batches "
            f"of {options.batch}, uint8 in, normalised float32 out; 32 px from stored 32, 96 px "
            f"from stored 110. kornia {versions['kornia']} in its fastest variant, Pillow "
            f"{pillow_version} in one process and in {options.threads}. Targets for the first row "
            "of each size: 3 times kornia, 8 times Pillow."
        ),
        header=header,
        rows=rows,
        data={"versions": versions, "targets": TARGETS, "options": vars(options), "rows": measured},
    )
    print(f"\n{table}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="per pipeline and repetition")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cores", type=int, nargs="*", default=[], help="run on these only")
    return parser.parse_args()


def _images(n: int, size: int) -> Tensor:
    """Return smooth colourful images with some noise, (n, 3, size, size) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((n, 3, 6, 6), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    noise = 0.1 * torch.rand((n, 3, size, size), generator=generator)
    return (smooth + noise).clamp(0, 1).mul(255).to(torch.uint8)


def _pipelines(
    images: Tensor, spec: ViewSpec, pool: ProcessPoolExecutor, processes: int
) -> tuple[dict[str, Pipeline], str]:
    counter = itertools.count()

    def ours() -> int:
        make_views(
            images,
            (spec,),
            seed=0,
            step=next(counter),
            n_global=len(images),
            start=0,
            mean=MEAN,
            std=STD,
        )
        return len(images)

    def pillow_in_processes() -> int:
        shares = [range(k, len(images), processes) for k in range(processes)]
        return sum(pool.map(_pillow_share, shares))

    _begin(images, spec)
    variant, kornia = _fastest_kornia(images, spec)
    pipelines = {
        "cognates": ours,
        "kornia": kornia,
        "Pillow": lambda: _pillow_share(range(len(images))),
        "Pillow, all cores": pillow_in_processes,
    }
    return pipelines, variant


def _interleaved(
    pipelines: dict[str, Pipeline], repetitions: int, seconds: float
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    for run in pipelines.values():
        run()  # first calls allocate and start threads
    for _ in range(repetitions):
        for name, run in pipelines.items():
            rates[name].append(_rate(run, seconds))
    return rates


def _rate(run: Pipeline, seconds: float) -> float:
    made, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        made += run()
    return made / (time.perf_counter() - start)


def _row(size: int, name: str, rates: dict[str, list[float]]) -> list[str]:
    medians = {key: statistics.median(values) for key, values in rates.items()}
    cells = [
        f"{medians[key]:,.0f} [{min(values):,.0f}, {max(values):,.0f}]"
        for key, values in rates.items()
    ]
    ratios = [f"{medians['cognates'] / medians[key]:.1f}" for key in list(rates)[1:]]
    return [f"{size} px", name, *cells, *ratios]


def _fastest_kornia(images: Tensor, spec: ViewSpec) -> tuple[str, Pipeline]:
    best: tuple[float, str, Pipeline] | None = None
    for crop, jitter, batch in itertools.product(
        ("slice", "resample"), ("ColorJitter", "ColorJiggle"), (64, 256)
    ):
        run = partial(_kornia_batch, _kornia(spec, crop, jitter), images, batch)
        run()
        rate = max(_rate(run, 0.2) for _ in range(2))
        if best is None or rate > best[0]:
            best = rate, f"crop by {crop}, {jitter}, batches of {batch}", run
    assert best is not None
    return best[1:]


@torch.no_grad()
def _kornia_batch(pipeline: nn.Module, images: Tensor, batch: int) -> int:
    for part in images.split(batch):
        pipeline(part.float() / 255)
    return len(images)


def _kornia(spec: ViewSpec, crop: str, jitter: str) -> nn.Module:
    kornia = _import_kornia()
    strengths = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
    window = max(3, int(0.1 * spec.size) | 1)
    steps = [
        kornia.RandomResizedCrop(
            (spec.size, spec.size), scale=spec.scale, ratio=spec.ratio, cropping_mode=crop
        ),
        kornia.RandomHorizontalFlip(p=spec.flip),
        getattr(kornia, jitter)(*strengths, p=spec.jitter, same_on_batch=False),
        kornia.RandomGrayscale(p=spec.grey),
    ]
    if spec.blur:
        steps.append(kornia.RandomGaussianBlur((window, window), spec.sigma, p=spec.blur))
    if spec.solarise:
        steps.append(kornia.RandomSolarize(thresholds=0.0, additions=0.0, p=spec.solarise))
    steps.append(kornia.Normalize(torch.tensor(MEAN), torch.tensor(STD)))
    return nn.Sequential(*steps)


def _import_kornia() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kornia.augmentation

    return kornia.augmentation


def _kornia_version() -> str:
    import kornia

    return kornia.__version__


_work: dict[str, Any] = {}


def _begin(images: Tensor, spec: ViewSpec) -> None:
    """Keep the images as Pillow's, in this process."""
    _work["spec"], _work["random"] = spec, random.Random(os.getpid())
    _work["images"] = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def _pillow_share(share: Sequence[int]) -> int:
    """Make the views of some images as a batch, as a loader's worker does, and leave it there."""
    spec, source, images = _work["spec"], _work["random"], _work["images"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    views = [_pillow_view(images[i], spec, source) for i in share]
    torch.stack([(view - mean) / std for view in views])
    return len(views)


def _pillow_view(image: Image.Image, spec: ViewSpec, source: random.Random) -> Tensor:
    box = _pillow_box(image.size, spec, source)
    image = image.crop(box).resize((spec.size, spec.size), Image.Resampling.BILINEAR)
    if source.random() < spec.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if source.random() < spec.jitter:
        image = _pillow_jitter(image, spec, source)
    if source.random() < spec.grey:
        image = image.convert("L").convert("RGB")
    if source.random() < spec.blur:
        image = image.filter(ImageFilter.GaussianBlur(source.uniform(*spec.sigma)))
    if source.random() < spec.solarise:
        image = ImageOps.solarize(image, 128)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)


def _pillow_box(
    size: tuple[int, int], spec: ViewSpec, source: random.Random
) -> tuple[int, int, int, int]:
    width, height = size
    for _ in range(10):
        area = width * height * source.uniform(*spec.scale)
        ratio = math.exp(source.uniform(math.log(spec.ratio[0]), math.log(spec.ratio[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            x, y = source.randint(0, width - w), source.randint(0, height - h)
            return x, y, x + w, y + h
    return 0, 0, width, height


def _pillow_jitter(image: Image.Image, spec: ViewSpec, source: random.Random) -> Image.Image:
    operations = ["Brightness", "Contrast", "Color", "hue"]
    strengths = [spec.brightness, spec.contrast, spec.saturation, spec.hue]
    order = list(zip(operations, strengths, strict=True))
    source.shuffle(order)
    for operation, strength in order:
        if operation == "hue":
            h, s, v = image.convert("HSV").split()
            turned = np.array(h)
            turned += np.uint8(int(source.uniform(-strength, strength) * 255) % 256)
            image = Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")
        else:
            enhancer = getattr(ImageEnhance, operation)(image)
            image = enhancer.enhance(source.uniform(1 - strength, 1 + strength))
    return image


if __name__ == "__main__":
    main()
