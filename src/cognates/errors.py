"""Every error and warning of the library: one small tree, each class also rooted in a builtin."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CognatesError(Exception):
    """Base of all errors a user can cause; the command line prints its message and no traceback."""

    exit_code = 2


class ConfigError(CognatesError, ValueError):
    """An option, a configuration or an argument cannot be used as given."""


class DataError(CognatesError, ValueError):
    """A data source is missing, empty or malformed."""


class NonFiniteError(CognatesError, ArithmeticError):
    """Training met a NaN or an infinity."""

    exit_code = 3


class CollapseError(CognatesError, ArithmeticError):
    """The representation collapsed and the run was asked to stop on it."""

    exit_code = 3


class StorageError(CognatesError, OSError):
    """Something could not be written to or read back from disk intact."""

    exit_code = 4


class Interrupted(CognatesError):
    """A signal ended the run after its state was saved; the message says how to go on."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        """Keep the exit code: 130 after SIGINT (Ctrl-C), 143 after SIGTERM."""
        super().__init__(message)
        self.exit_code = exit_code


class MissingExtraError(CognatesError, ImportError):
    """An optional dependency is needed and not installed."""


class MethodCheckError(CognatesError, AssertionError):
    """A method breaks a promise that training or evaluation relies on; see `cognates.testing`."""


class CognatesWarning(UserWarning):
    """Base of all warnings."""


class CollapseWarning(CognatesWarning):
    """The representation is close to a constant or to a single direction."""


class UnreadableWarning(CognatesWarning):
    """Some files could not be read and were left out."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error sentence that offers the known name nearest to `name`.

    Example:
        >>> nearest("simsam", ["simsiam", "vi-simsiam"])
        "did you mean 'simsiam'? Known: simsiam, vi-simsiam"
        >>> nearest("other", ["simsiam", "vi-simsiam"])
        'choose one of simsiam, vi-simsiam'
    """
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    listed = ", ".join(choices)
    return f"did you mean '{close[0]}'? Known: {listed}" if close else f"choose one of {listed}"
