"""Kinds of option that several commands share; an option that is not given is None."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro


def _optional(metavar: str, read: Callable[[str], Any]) -> tuple[Any, ...]:
    """Return the annotations of an option that takes one value and is None when left out."""

    def instance(given: list[str]) -> Any:  # noqa: ANN401  (of any kind of option)
        try:
            return read(given[0])
        except ValueError:
            raise ValueError(f"expected {metavar}, got '{given[0]}'") from None

    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=instance,
        is_instance=lambda value: (
            value is None or isinstance(value, read if isinstance(read, type) else str)
        ),
        str_from_instance=lambda value: ["" if value is None else str(value)],
    )
    return spec, tyro.conf.arg(help_behavior_hint="")


Whole = Annotated[int | None, *_optional("INT", int)]
Number = Annotated[float | None, *_optional("NUMBER", float)]

RunFolder = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
RunFolders = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
Source = Annotated[str, tyro.conf.arg(metavar="SOURCE")]
File = Annotated[str, tyro.conf.arg(metavar="FILE")]
Words = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")]
Sources = Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE ...", help_behavior_hint="")]
OptionalSource = Annotated[str | None, *_optional("SOURCE", str)]
OptionalFolder = Annotated[str | None, *_optional("DIR", str)]
OptionalFile = Annotated[str | None, *_optional("FILE", str)]
OptionalRun = Annotated[str | None, *_optional("RUN", str)]
OptionalImage = Annotated[str | None, *_optional("IMAGE|views", str)]
OptionalPictures = Annotated[str | None, *_optional("FILE.png|DIR", str)]
OptionalName = Annotated[str | None, *_optional("NAME", str)]


def gathered(kind: type, arguments: Sequence[str]) -> list[str]:
    """Return the arguments with each option of several values that is repeated given once.

    Of `--set a=1 --set b=2` the parser keeps the last alone, without a word.

    Args:
        kind: the dataclass of the command.
        arguments: what follows the command's name.

    Returns:
        The arguments as they are if nothing is repeated; otherwise those options stand at the end,
        where no argument without a name can be taken for one of their values.
    """
    lists = _lists(kind)
    others: list[str] = []
    values: dict[str, list[str]] = {}
    repeated, current = False, others
    for word in arguments:
        option, is_equal, value = word.partition("=")
        option = option.replace("_", "-")
        if option in lists:
            repeated |= option in values
            current = values.setdefault(option, [])
            if is_equal:  # --set=a=1 takes this one value, what follows is none of its own
                current.append(value)
                current = others
        elif word.startswith("--"):
            current = others
            current.append(word)
        else:
            current.append(word)
    if not repeated:
        return list(arguments)
    return others + [word for option, given in values.items() for word in (option, *given)]


def flags(kind: type) -> list[str]:
    """Return the options of a command as they are typed, without what has a place and no name.

    Example:
        >>> from cognates.cli.methods import Command
        >>> flags(Command)
        ['--plugin']
    """
    return [
        _flag(field, more)
        for field, _, more in _fields(kind)
        if not any(part is tyro.conf.Positional for part in more)
    ]


def _lists(kind: type) -> set[str]:
    """Return the options of a command that take several values."""
    return {_flag(field, more) for field, of, more in _fields(kind) if get_origin(of) is tuple}


def _fields(kind: type) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield the name, the type and the annotations of each field of a command."""
    for field, hint in get_type_hints(kind, include_extras=True).items():
        of, *more = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        yield field, of, more


def _flag(field: str, annotations: list[Any]) -> str:
    names = [n for part in annotations if isinstance(n := getattr(part, "name", None), str)]
    return "--" + (names or [field])[-1].replace("_", "-")
