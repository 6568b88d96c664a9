"""The report's sentences: what was learnt, what the uncertainty is worth, what to beware of."""

from __future__ import annotations

from cognates.report import readings
from cognates.report.blocks import number, share, signed
from cognates.report.collect import RunRecord
from cognates.training.record import duration

SPREAD = (
    "Mean standard deviation of the projection's dimensions, as a multiple of what an even spread "
    "over the sphere has. Below the dashed line the representation has collapsed."
)
RANK = (
    "Directions in use, by the entropy of the projection's singular values. Dashed: the alarm at 2."
)

_NOT_RUN = "No protocol that needs labels gave a value"


def headline(record: RunRecord) -> str:
    """Return what was learnt, in one sentence."""
    found = readings.accuracies(record)
    method, count = display_name(record.method), training_images(record)
    if not found:
        rows = {(r.trained.protocol, r.trained.metric): r for r in readings.label_free(record)}
        captions = rows.get(("caption-retrieval", "image-to-text-r-at-10"))
        if captions is not None:
            return (
                f"From {count} images with captions, {method} learnt to find one of an image's "
                f"captions among the ten nearest {share(captions.trained.value)} of the "
                f"time{_beside(captions)}."
            )
        kinds = rows.get(("kind-retrieval", "first-to-second-r-at-10"))
        if kinds is not None:
            return (
                f"From {count} unlabelled images, {method} learnt to find an image of one kind "
                "among the ten nearest of the other kind "
                f"{share(kinds.trained.value)} of the time{_beside(kinds)}."
            )
        retrieval = rows.get(("view-retrieval", "r-at-1"))
        if retrieval is None:
            return (
                f"{method} was trained on {count} unlabelled images; evaluate the run to see what "
                "it learnt."
            )
        return (
            f"From {count} unlabelled images, {method} learnt to recognise another view of the "
            f"same image {share(retrieval.trained.value)} of the time{_beside(retrieval)}."
        )
    first = found[0]
    return (
        f"From {count} unlabelled images, {method} learnt a representation from which a "
        f"{first.label.lower()} names {share(first.trained.value)} of the test images "
        f"correctly{_gain(first)}."
    )


def _gain(row: readings.Accuracy) -> str:
    parts = []
    for paired, name in (
        (row.over_pixels, "raw pixels"),
        (row.over_untrained, "the untrained encoder"),
    ):
        if paired is None:
            continue
        points = 100 * paired.value
        word = "more" if points >= 0 else "less"
        parts.append(f"{abs(points):.1f} points {word} than {name}")
    return f", {' and '.join(parts)}" if parts else ""


def _beside(row: readings.LabelFree) -> str:
    parts = [
        f"{name} {share(result.value)}"
        for name, result in (("raw pixels", row.pixels), ("the untrained encoder", row.untrained))
        if result is not None
    ]
    chance = row.trained.settings.get("chance")
    if isinstance(chance, float):
        parts.insert(0, f"chance {share(chance)}")
    return f" ({', '.join(parts)})" if parts else ""


def sentences(record: RunRecord) -> list[str]:
    """Return what follows the headline: how certain the gain is, what the uncertainty is worth."""
    said = []
    found = readings.accuracies(record)
    if found:
        said.append(_certainty_of_gain(found[0]))
    own = readings.own_score(record)
    if own is not None:
        said.append(_worth(own, readings.rival(record)))
    return [sentence for sentence in said if sentence]


def _certainty_of_gain(row: readings.Accuracy) -> str:
    pairs = [
        (name, paired)
        for name, paired in (
            ("raw pixels", row.over_pixels),
            ("the untrained encoder", row.over_untrained),
        )
        if paired is not None and paired.low is not None and paired.high is not None
    ]
    if not pairs:
        return ""
    spans = " and ".join(
        f"{signed(100 * p.low)} to {signed(100 * p.high)} over {name}"
        for name, p in pairs
        if p.low is not None and p.high is not None
    )
    if all(p.low is not None and p.low > 0 for _, p in pairs):
        verdict = "the gain is more than chance"
    elif all(p.value < 0 for _, p in pairs):
        verdict = "this training has made things worse: train for longer or change its settings"
    else:
        verdict = "not every gain is beyond what chance explains"
    return (
        f"95\N{NO-BREAK SPACE}% intervals of the paired difference, in points: {spans}; {verdict}."
    )


def _worth(own: readings.Score, rival: readings.Rival | None) -> str:
    text = (
        f"Its uncertainty ({own.score}) ranks a wrongly answered image above a rightly answered "
        f"one with probability {number(own.result.value)}"
    )
    if rival is None:
        return text + "."
    gap = rival.difference
    if gap.low is None or gap.high is None:
        word = "above" if gap.value > 0 else "not above"
        return (
            f"{text}, {word} the best label-free baseline ({rival.score}, {number(rival.value)})."
        )
    span = (
        f"paired difference {signed(gap.value, 3)}, {signed(gap.low, 3)} to {signed(gap.high, 3)}"
    )
    if gap.low > 0:
        verdict = "better than"
    elif gap.high < 0:
        verdict = "worse than"
    else:
        verdict = "not distinguishable from"
    return (
        f"{text}: {verdict} the best label-free baseline, {rival.score} at "
        f"{number(rival.value)} ({span})."
    )


def warnings(record: RunRecord) -> list[str]:
    """Return what a reader must know before believing the page."""
    said = []
    failed = [r for r in record.results if r.error]
    if failed:
        said.append(
            f"{len(failed)} of {len(record.results)} evaluations failed: "
            f"{failed[0].protocol} ({failed[0].error})."
        )
    spread, rank = readings.last(record, "spread"), readings.last(record, "effective_rank")
    # The alarm of the training monitors: spread below 0.1 or effective rank below 2.
    if (spread is not None and spread < 0.1) or (rank is not None and rank < 2):
        said.append(
            "The representation has collapsed: its projections are nearly constant or lie in one "
            "direction. Try a smaller learning rate, a larger batch or stronger views."
        )
    flags = sorted({flag for r in record.results for flag in r.flags})
    if "edge" in flags:
        said.append("A probe's best penalty lies at the border of its grid.")
    rare = sum("rare-class" in r.flags for r in record.results)
    if rare:
        said.append(
            f"{rare} of {len(record.results)} intervals are too narrow: an attribute is so rare "
            "that many resamples hold no image with it."
        )
    if record.results and not readings.accuracies(record):
        why = "The images have no labels" if _unlabelled(record) else _NOT_RUN
        said.append(f"{why}, so there are no accuracies here: what follows needs none.")
    return said


def _unlabelled(record: RunRecord) -> bool:
    """Return whether the source is known to have no labels."""
    return "classes" in record.data and record.data["classes"] is None


def uncertainty(record: RunRecord) -> str:
    """Return what the section about uncertainty says first."""
    own = readings.own_score(record)
    name = own.score if own else "the default score"
    return (
        f"Every image comes with an uncertainty (here {name}); larger is less certain. It was "
        "learnt without labels. Below, labels only check it: are the images that a probe gets "
        "wrong the ones that the model was unsure of? A learnt score is worth its cost only where "
        "it beats the free ones."
    )


def dashed(accuracy: float | None) -> str:
    """Return what the dashed line of the tenths is."""
    return "" if accuracy is None else f" Dashed: all images, {share(accuracy)}."


def label_free(record: RunRecord) -> str:
    """Return what the label-free section says first."""
    more = ""
    if record.find("kind-retrieval", "first-to-second-r-at-10") is not None:
        more = (
            " Kinds of image are what the two entries of views make of it, for example colour and "
            "grey: each image is looked for among all test images of the other kind."
        )
    if readings.accuracies(record):
        return f"The same run seen without labels, as it would look on a folder of your own.{more}"
    why = "The source has no labels" if _unlabelled(record) else _NOT_RUN
    return (
        f"{why}. View retrieval asks for every test image whether, among all second views, the "
        f"nearest to its first view is its own.{more}"
    )


def loss_caption(record: RunRecord, terms: list[str]) -> str:
    """Return what to know about this method's loss."""
    if record.method == "vi-simsiam":
        # At a collapse the likelihood of a point mass grows without bound (Nakamura et al. 2023).
        return "A log density: it may be negative, and a falling loss alone is no sign of health."
    if len(terms) > 1:
        return "The loss is the sum of its terms."
    return "What is minimised."


def speed(record: RunRecord) -> str:
    """Return how fast the training was."""
    rates = [float(m["images_per_second"]) for m in record.metrics if m.get("images_per_second")]
    waits = [float(m["data_wait"]) for m in record.metrics if m.get("data_wait") is not None]
    parts = []
    if rates:
        parts.append(f"{sorted(rates)[len(rates) // 2]:,.0f} images/s (median)")
    if waits:
        parts.append(f"{100 * sum(waits) / len(waits):.0f} % of the time waiting for data")
    if record.metrics and "time" in record.metrics[-1]:
        parts.append(f"{duration(float(record.metrics[-1]['time']))} in all")
    return ", ".join(parts) + "." if parts else ""


def training_images(record: RunRecord) -> str:
    """Return the number of training images, or "some"."""
    count = record.data.get("splits", {}).get("train")
    count = count.get("images") if isinstance(count, dict) else count
    return f"{count:,}" if isinstance(count, int) else "some"


def data_note(record: RunRecord) -> str:
    """Return how the splits were made and how many files were left out."""
    notes = [str(record.data["note"])] if record.data.get("note") else []
    if record.unreadable:
        notes.append(
            f"{len(record.unreadable)} unreadable files left out, listed in unreadable.txt"
        )
    return "; ".join(notes)


_NAMES = {
    "beta-vae": "beta-VAE",
    "byol": "BYOL",
    "clip": "CLIP",
    "combined": "Combined",
    "cr-vae": "CR-VAE",
    "dino": "DINO",
    "loss-prediction": "Loss-prediction",
    "mc-info-nce": "MC-Info-NCE",
    "post-hoc": "Post-hoc",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
    "simve": "SimVE",
    "ssl-hsic": "SSL-HSIC",
    "vae": "VAE",
    "vi-simsiam": "VI-SimSiam",
    "vicreg": "VICReg",
}


def display_name(method: str) -> str:
    """Return a method's name as it is written in text.

    Example:
        >>> display_name("vi-simsiam"), display_name("my-method")
        ('VI-SimSiam', 'my-method')
    """
    return _NAMES.get(method, method)
