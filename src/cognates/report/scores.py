"""The scores of uncertainty as the page shows them: which of many, and what they are in words."""

from __future__ import annotations

from collections.abc import Iterable

_MEANING = {
    "norm": "minus the length of the representation",
    "knn-distance": "distance to the 20 nearest training images",
    "view-disagreement": "how much eight views differ (several passes)",
    "max-softmax": "one minus the linear probe's confidence (uses labels)",
    "reconstruction": "error of the drawn image",
    "concentration": "how wide a distribution of other views is predicted",
    "relative": "less the level of similar training images",
    "relative-distance": "rank of relative and of knn-distance",
    "distance-ratio": "how little the 20 nearest training images are nearer than the others around",
    "consensus": "rank of the method's own score and of the distance ratio",
    "random": "knows nothing",
}
_COMPARED = (
    "concentration",
    "norm",
    "knn-distance",
    "view-disagreement",
    "max-softmax",
    "reconstruction",
)
"""What stands beside the method's own score in a figure, where more would hide each other."""


def meaning(score: str) -> str:
    """Return a score in a few words; nothing for one that is not known.

    Example:
        >>> meaning("random")
        'knows nothing'
    """
    return _MEANING.get(score, "")


def few(found: Iterable[str], own: str | None) -> list[str]:
    """Return the scores for a figure: the method's own, and those that any method has.

    Example:
        >>> few(["consensus", "relative", "norm", "random"], "relative")
        ['relative', 'norm']
    """
    present = set(found)
    return [s for s in dict.fromkeys([own or "", *_COMPARED]) if s in present]


def explained(shown: Iterable[str]) -> str:
    """Return the scores beside the first one with what they are.

    Example:
        >>> explained(["relative", "norm"])
        ' Beside it: norm, minus the length of the representation.'
    """
    beside = [f"{score}, {meaning(score)}" for score in [*shown][1:] if meaning(score)]
    return f" Beside it: {'; '.join(beside)}." if beside else ""
