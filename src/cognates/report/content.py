"""The part of a page about content and style: what the representation holds beside the class."""

from __future__ import annotations

from cognates.report import readings
from cognates.report.blocks import Cell, Column, Part, Row, Table, cell, difference
from cognates.report.collect import RunRecord
from cognates.types import Result

_COLUMNS = (
    Column("trained", "trained"),
    Column("untrained encoder", "untrained"),
    Column("pixels", "pixels"),
    Column("trained − untrained"),
    Column("trained − pixels"),
)


def part(record: RunRecord) -> Part | None:
    """Return a table for every protocol about content and style that was run."""
    found = readings.content(record)
    tables = []
    for protocol in dict.fromkeys(row.protocol for row in found):
        lines = [
            Row(
                f"{row.metric}, %" if row.fraction else row.metric,
                [
                    *(
                        cell(r, fraction=row.fraction)
                        for r in (row.trained, row.untrained, row.pixels)
                    ),
                    *(
                        _paired(r, fraction=row.fraction)
                        for r in (row.over_untrained, row.over_pixels)
                    ),
                ],
            )
            for row in found
            if row.protocol == protocol
        ]
        tables.append(Table(protocol, _COLUMNS, lines))
    if not tables:
        return None
    text = (
        "Content is what the views of an image share, style what differs between them; both are "
        "read from the same frozen representation by the same probes. r2: share of the variance "
        "explained on test images, below zero where the training mean does better; "
        "mlp-minus-linear and mlp-minus-ridge: what is there but not plainly. Many pixels are "
        "reduced to their leading principal components."
    )
    return Part("Content and style", text, tables)


def _paired(found: Result | None, *, fraction: bool) -> Cell:
    if found is None:
        return Cell("–")
    return difference(found.value, found.low, found.high, fraction=fraction)
