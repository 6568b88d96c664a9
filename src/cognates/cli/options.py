"""Kinds of option that several commands share; an option that is not given is None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

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
