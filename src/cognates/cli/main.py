"""The program `cognates`: find the command, read its options, and turn errors into sentences."""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Protocol, cast

from cognates.errors import CognatesError, CognatesWarning, ConfigError, StorageError, nearest

COMMANDS = {
    "demo": "The two-minute tour on the embedded data: train, evaluate, report.",
    "train": "Learn a representation of unlabelled images.",
    "fit-uncertainty": "Give a trained encoder an uncertainty, without changing it.",
    "evaluate": "Measure a run beside raw pixels and its own untrained encoder.",
    "embed": "Write the representation and the uncertainty of every image to a Parquet file.",
    "rank": "Order the images of a source by how certain the model is of them.",
    "select": "Choose the images of a source that are worth labelling first.",
    "reject": "Split the images of a source into those to trust and those to look at.",
    "reconstruct": "Draw images again from what a generative method keeps of them.",
    "generate": "Draw new images with a generative method.",
    "report": "Write one self-contained HTML page about one or several runs.",
    "methods": "List the methods, or say what one of them is.",
    "data": "Describe a source: counts, sizes, labels, splits, unreadable files.",
    "doctor": "Report versions and devices, and train ten steps to see that all is well.",
    "export": "Write an encoder's weights for another library.",
}
"""Each command is the module `cognates.cli.NAME` (`_` for `-`) with a dataclass `Command` that has
a `run`."""

_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""What the operating system says when a disk is full, over quota, read-only or not ours."""


class Runnable(Protocol):
    """What every module of this package offers under the name `Command`."""

    def run(self) -> int | None:
        """Do the work; return the exit code, None for 0."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    Args:
        arguments: what follows the program's name; None: the process's own arguments.

    Returns:
        0; 1 for an internal error; 2 for bad input or options; 3 for a non-finite or collapsed run;
        4 for storage; 130 after SIGINT; 143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        _show_own_warnings_as_sentences()
        try:
            return dispatch(arguments)
        except CognatesError as error:
            _say(f"error: {error}")
            return error.exit_code
        except KeyboardInterrupt:
            _say("interrupted")
            return 130
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        except BrokenPipeError:
            # The reader (head, less) has gone: what is still buffered goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            if error.errno not in _STORAGE:
                return _internal(error)
            where = f" '{error.filename}'" if error.filename else ""
            _say(f"error: Cannot use{where}: {os.strerror(error.errno)}.")
            return StorageError.exit_code
        except Exception as error:
            return _internal(error)


def dispatch(arguments: Sequence[str]) -> int:
    """Run the command that `arguments` name.

    Raises:
        ConfigError: there is no such command or option; the nearest one is offered.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    name, *rest = arguments
    if name == "--version":
        from cognates import __version__

        print(f"cognates {__version__}")
        return 0
    if name not in COMMANDS:
        raise ConfigError(f"Expected a command, got '{name}': {nearest(name, COMMANDS)}.")
    command = parse(name, rest)
    return 0 if command is None else command.run() or 0


def overview() -> str:
    """Return what `cognates --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {sentence}" for name, sentence in COMMANDS.items()]
    return "\n".join(
        [
            "usage: cognates COMMAND [OPTIONS]",
            "",
            "Image representations learnt without labels, with an uncertainty for every image.",
            "",
            *lines,
            "",
            "cognates COMMAND --help lists the options of a command.",
            "A SOURCE is folder:DIR, pairs:DIR, idx:DIR, npz:PATH, hub:ORG/NAME or a bare name.",
        ]
    )


def parse(name: str, arguments: Sequence[str]) -> Runnable | None:
    """Read the options of a command; None when only its help was asked for.

    Raises:
        ConfigError: an option is unknown, missing or malformed.
    """
    import tyro

    from cognates.cli.options import gathered

    kind = importlib.import_module(f"cognates.cli.{name.replace('-', '_')}").Command
    complained = StringIO()
    try:
        with redirect_stderr(complained):
            command, unknown = tyro.cli(
                kind,
                prog=f"cognates {name}",
                description=f"{COMMANDS[name]}\n\n{_further(kind)}".strip(),
                args=gathered(kind, arguments),
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            return None
        raise ConfigError(_sentence(complained.getvalue(), name)) from None
    if unknown:
        raise ConfigError(_unknown_option(kind, name, unknown[0]))
    return cast(Runnable, command)


def _further(kind: type) -> str:
    """Return the docstring of a command below its first line, a paragraph to a line."""
    text = "\n".join(line.strip() for line in (kind.__doc__ or "").splitlines()[1:]).strip()
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _unknown_option(kind: type, name: str, given: str) -> str:
    from cognates.cli.options import flags

    if not given.startswith("-"):
        return f"Unexpected argument '{given}' of 'cognates {name}': see cognates {name} --help."
    option = given.split("=")[0]
    return f"Unknown option '{option}' of 'cognates {name}': {nearest(option, flags(kind))}."


def _sentence(complaint: str, name: str) -> str:
    """Reduce the parser's framed message to one sentence."""
    lines = [line.strip(" │╭╮╰╯\t") for line in complaint.splitlines()]
    lines = [line for line in lines if not re.fullmatch(r"[-─ ]*|─.*─", line)]
    text = re.split(r"Argument helptext|For full helptext", "\n".join(lines))[0]
    text = re.sub(r"\A(?!Missing|Error).*\n", "", text)
    missing = re.findall(r"^(--[\w-]+|[A-Z]{2,})(?=[ \n]|$)", text, flags=re.MULTILINE)
    if "Missing from" in text and missing:
        return f"Missing {' and '.join(missing)}: see cognates {name} --help."
    text = (
        re.sub(r"\s+", " ", text).strip().rstrip(".").replace("Expected 1 values", "It needs one")
    )
    return f"{text or 'The options cannot be read'}: see cognates {name} --help."


def _internal(error: Exception) -> int:
    """Keep the traceback in a file and say where it is."""
    text = "".join(traceback.format_exception(error))
    if os.environ.get("COGNATES_DEBUG"):
        _say(text)
        return 1
    handle, path = tempfile.mkstemp(prefix="cognates-", suffix=".log")
    os.close(handle)
    Path(path).write_text(text, encoding="utf8")
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    _say(f"internal error: {summary} (the traceback is in {path}; COGNATES_DEBUG=1 shows it)")
    return 1


def _show_own_warnings_as_sentences() -> None:
    """Print this library's warnings without a source line; leave all others as they are."""
    default = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        *rest: object,
    ) -> None:
        if issubclass(category, CognatesWarning):
            _say(f"warning: {message}")
        else:
            default(message, category, filename, lineno)

    warnings.showwarning = show


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
