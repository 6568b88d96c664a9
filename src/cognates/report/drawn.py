"""What a generative method draws, as grids on the page, and the figures that go with it."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from cognates.evaluation.grids import grid, in_rows
from cognates.report import figures, readings
from cognates.report.blocks import Column, Drawing, Part, Row, Table, cell
from cognates.report.collect import RunRecord


def part(record: RunRecord) -> Part | None:
    """Return the pictures and figures of a run whose method draws images, None for another."""
    rows = [Row(row.label, [cell(row.result)], row.hint) for row in readings.generative(record)]
    drawings = grids(record)
    if not rows and not drawings:
        return None
    text = (
        "The method models images, so it can draw them. All pictures are expected images, without "
        "the noise that the likelihood adds to every pixel."
    )
    tables = [Table("test images and drawn ones", (Column("value"),), rows)] if rows else []
    return Part("What it draws", text, tables, drawings)


def grids(record: RunRecord) -> list[Drawing]:
    """Return the grids of a run, each with a sentence that says what it is."""
    found = record.drawings
    if not found:
        return []
    shared = bool(found["shared"])
    views = (
        "Each row: one psi, drawn from what the first picture's image tells of it, and eight views "
        "that share it. What changes along a row is style."
        if shared
        else "Views of this method share no latent. Each row: the image, and eight draws from its "
        "own posterior."
    )
    pairs = np.stack([found["images"], found["reconstructions"]])
    beside = np.concatenate([found["images"][:, None], found["views"]], axis=1)
    shown = [
        (
            "Reconstructions",
            pairs,
            (
                "Above: random test images. Below: what the decoder draws at the mean of each "
                "image's posterior."
            ),
        ),
        ("Views of one image", beside, views),
        (
            "Between two images",
            found["mixtures"],
            (
                "Each row: on a straight line from the latent of one test image to that of the "
                "next; the ends are their reconstructions."
            ),
        ),
    ]
    if len(found["samples"]):
        samples = in_rows(found["samples"], found["views"].shape[1])
        shown.insert(2, ("Samples", samples, "Latents drawn from the prior, without any image."))
    return [
        Drawing(title, _image(rows, f"{record.name}: {title}"), caption)
        for title, rows, caption in shown
    ]


def _image(rows: np.ndarray, title: str) -> Markup:
    page = grid(rows)
    # Twice its pixels where it is small: each pixel can be seen, and none is invented.
    width = page.shape[-1] * (2 if rows.shape[-1] < 65 else 1)
    return Markup('<img class="grid-of-pictures" src="{}" alt="{}" width="{}">').format(
        figures.picture(page), title, width
    )
