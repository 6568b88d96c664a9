"""Evaluation: frozen features, one file per protocol, and a suite that runs them all.

A protocol is a function `(train, test, *, seed, others) -> list[Result]` of `Features`; it needs no
model, so it is tested on synthetic features with known answers.
"""

from cognates.evaluation.features import extract, pixels
from cognates.evaluation.records import format_result, read_results, table, write_results
from cognates.evaluation.store import load, save
from cognates.evaluation.suite import GROUPS, PROTOCOLS, evaluate, resolve, run_protocols

__all__ = [
    "GROUPS",
    "PROTOCOLS",
    "evaluate",
    "extract",
    "format_result",
    "load",
    "pixels",
    "read_results",
    "resolve",
    "run_protocols",
    "save",
    "table",
    "write_results",
]
