"""Which records of earlier evaluations stay in results.json beside those of a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

from cognates.types import Result

_ELSE = "of other images, weights or versions"  # all that a cache key tells apart


def staying(
    earlier: Sequence[Result],
    results: Sequence[Result],
    *,
    run: AbstractSet[str],
    now: AbstractSet[str],
    known: AbstractSet[str],
    say: Callable[[str], None],
) -> list[Result]:
    r"""Return the earlier records that stay, and say how many do not and why.

    A protocol that ran again has its new records alone. Of the others those stay that are about
    known features and, where both depend on it, about the same default score: `default-minus-norm`
    of two scores would be two things.

    Args:
        earlier: records of the file.
        results: records of this call.
        run: names of the protocols that ran.
        now: cache keys of the features of this call.
        known: further cache keys that stay: those of all images.
        say: called with one line for each reason, where there is something to say.

    Returns:
        Those of `earlier` that stay, in their order.
    """
    run = run | {result.protocol for result in results}
    replaced = [r for r in earlier if r.protocol in run and r.features not in now]
    if replaced:
        say(f"{_count(replaced)} {_ELSE} gave way to those of {_of(replaced)}.")
    others = [r for r in earlier if r.protocol not in run]
    gone = [r for r in others if r.features not in now | known]
    if gone:
        say(f"{_count(gone)} {_ELSE} left results.json: {_of(gone)}.")
    others = [r for r in others if r.features in now | known]
    here = _defaults(results)
    before = {name: _defaults(r for r in others if r.protocol == name) for name in _names(others)}
    # a call that ranks nothing by the default score contradicts no other one
    stale = {name for name, scores in before.items() if here and not scores <= here}
    mixed = [r for r in others if r.protocol in stale]
    if mixed:
        say(
            f"{_count(mixed)} left results.json, where the default score was "
            f"{_quoted(_defaults(mixed))} and is {_quoted(here)} now: {_of(mixed)}."
        )
    return [r for r in others if r.protocol not in stale]


def _defaults(results: Iterable[Result]) -> set[str]:
    """Return the default scores that records take; none where they do not depend on it."""
    return {
        str(r.settings["score"])
        for r in results
        if "score" in r.settings and ("default" in r.flags or "default-minus" in r.metric)
    }


def _names(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(r.protocol for r in results))


def _of(results: Sequence[Result]) -> str:
    return ", ".join(_names(results))


def _quoted(scores: set[str]) -> str:
    return " and ".join(f"'{score}'" for score in sorted(scores))


def _count(results: Sequence[Result]) -> str:
    return "1 record" if len(results) == 1 else f"{len(results)} records"
